"""Who may send what when: two tables, one for each role, from which both sides follow the same session.

    OPENING      source       Query → QUERYING
                              Offer → NEGOTIATING
                              Commit → COMMITTING
                              Join → JOINING
                              Cancel → CANCELLING
                 destination  Refuse → REFUSED; Failed → FAILED; Aborted → ABORTED
    QUERYING     source       Cancel → CANCELLING
                 destination  Capabilities → DONE; Refuse → REFUSED; Failed → FAILED; Aborted → ABORTED
    NEGOTIATING  source       Cancel → CANCELLING
                 destination  Accept → COPYING
                              Refuse → REFUSED; Failed → FAILED; Aborted → ABORTED
    COPYING      source       BatchHeader, Copies, RoundEnd, Estimate, DeviceState, DeviceStateEnd → COPYING
                              Digest → SWITCHING
                              Cancel → CANCELLING
                 destination  Progress, RoundDone → COPYING
                              Failed → FAILED; Aborted → ABORTED
    SWITCHING    source       DeviceState, DeviceStateEnd → SWITCHING
                              Cancel → CANCELLING
                 destination  Progress, RoundDone → SWITCHING
                              Ready → READY
                              Failed → FAILED; Aborted → ABORTED
    READY        source       Commit → COMMITTING
                              Cancel → CANCELLING
                 destination  Failed → FAILED; Aborted → ABORTED
    COMMITTING   destination  Running → DONE; Failed → FAILED; Aborted → ABORTED
    JOINING      destination  Joined → STREAMING
                              Refuse → REFUSED; Failed → FAILED; Aborted → ABORTED
    STREAMING    source       BatchHeader → STREAMING
                 destination  Failed → FAILED; Aborted → ABORTED
    CANCELLING   destination  Capabilities, Accept, Progress, RoundDone, Ready → CANCELLING
                              Refuse → REFUSED; Failed → FAILED; Aborted → ABORTED
    DONE         final
    ABORTED      final
    REFUSED      final
    FAILED       final

``Ping`` and ``Pong`` are allowed to both in every state that is not final, and change none. A message that
the table lacks is an error of the one who sent it. Messages cross on the wire, and the tables allow for it:
the destination's may still arrive after the source cancelled, and what arrives after a final state is not
read at all (:mod:`migrated.protocol.connection`).
"""

from collections.abc import Mapping
from enum import Enum

from migrated.protocol.batch import BatchHeader
from migrated.protocol.messages import (
    Aborted,
    Accept,
    Cancel,
    Capabilities,
    Commit,
    Copies,
    DeviceState,
    DeviceStateEnd,
    Digest,
    Estimate,
    Failed,
    Join,
    Joined,
    Message,
    Offer,
    Ping,
    Pong,
    Progress,
    Query,
    Ready,
    Refuse,
    RoundDone,
    RoundEnd,
    Running,
)

__all__ = ["FINAL_STATES", "TRANSITIONS", "EventType", "Role", "State", "next_state", "render"]

EventType = type[Message] | type[BatchHeader]


class Role(Enum):
    """Which end of the connection."""

    SOURCE = "source"
    DESTINATION = "destination"

    @property
    def peer(self) -> "Role":
        """The other end."""
        return Role.DESTINATION if self is Role.SOURCE else Role.SOURCE


class State(Enum):
    """Where a session stands, as far as this side has sent and received."""

    OPENING = "opening"  # nothing was said yet
    QUERYING = "querying"  # the source asked for capabilities
    NEGOTIATING = "negotiating"  # the source made its offer
    COPYING = "copying"  # rounds of batches; the last one with the guest paused
    SWITCHING = "switching"  # the digest was sent; no more pages
    READY = "ready"  # the destination has all and waits for the decision
    COMMITTING = "committing"  # COMMIT was sent; the destination's durable record decides
    JOINING = "joining"  # the source asked to send batches of its migration over this connection, too
    STREAMING = "streaming"  # it does; the migration's first connection says all else
    CANCELLING = "cancelling"  # the source takes everything back
    DONE = "done"  # the guest runs at the destination, or the query was answered
    ABORTED = "aborted"  # the guest did not and will not run at the destination
    REFUSED = "refused"  # the destination refused the offer
    FAILED = "failed"  # the destination failed; in COMMITTING this decides nothing

    def __str__(self) -> str:
        return self.name


FINAL_STATES = frozenset({State.DONE, State.ABORTED, State.REFUSED, State.FAILED})

_Table = Mapping[State, Mapping[EventType, State]]

_ENDINGS: Mapping[EventType, State] = {Failed: State.FAILED, Aborted: State.ABORTED}
_CANCEL: Mapping[EventType, State] = {Cancel: State.CANCELLING}


def _staying(state: State, *types: EventType) -> Mapping[EventType, State]:
    return dict.fromkeys(types, state)


_SOURCE: _Table = {
    State.OPENING: {
        Query: State.QUERYING,
        Offer: State.NEGOTIATING,
        Commit: State.COMMITTING,
        Join: State.JOINING,
        **_CANCEL,
    },
    State.QUERYING: _CANCEL,
    State.NEGOTIATING: _CANCEL,
    State.COPYING: {
        **_staying(State.COPYING, BatchHeader, Copies, RoundEnd, Estimate, DeviceState, DeviceStateEnd),
        Digest: State.SWITCHING,
        **_CANCEL,
    },
    State.SWITCHING: {**_staying(State.SWITCHING, DeviceState, DeviceStateEnd), **_CANCEL},
    State.READY: {Commit: State.COMMITTING, **_CANCEL},
    State.COMMITTING: {},
    State.JOINING: {},
    State.STREAMING: _staying(State.STREAMING, BatchHeader),
    State.CANCELLING: {},
}

_DESTINATION: _Table = {
    State.OPENING: {Refuse: State.REFUSED, **_ENDINGS},
    State.QUERYING: {Capabilities: State.DONE, Refuse: State.REFUSED, **_ENDINGS},
    State.NEGOTIATING: {Accept: State.COPYING, Refuse: State.REFUSED, **_ENDINGS},
    State.COPYING: {**_staying(State.COPYING, Progress, RoundDone), **_ENDINGS},
    State.SWITCHING: {
        **_staying(State.SWITCHING, Progress, RoundDone),
        Ready: State.READY,
        **_ENDINGS,
    },
    State.READY: _ENDINGS,
    State.COMMITTING: {Running: State.DONE, **_ENDINGS},
    State.JOINING: {Joined: State.STREAMING, Refuse: State.REFUSED, **_ENDINGS},
    State.STREAMING: _ENDINGS,
    State.CANCELLING: {
        **_staying(State.CANCELLING, Capabilities, Accept, Progress, RoundDone, Ready),
        Refuse: State.REFUSED,
        **_ENDINGS,
    },
}

_KEEPALIVE: tuple[EventType, ...] = (Ping, Pong)


def _complete(table: _Table) -> _Table:
    return {
        state: {**table[state], **_staying(state, *_KEEPALIVE)} if state not in FINAL_STATES else {}
        for state in State
    }


TRANSITIONS: Mapping[Role, _Table] = {
    Role.SOURCE: _complete(_SOURCE),
    Role.DESTINATION: _complete(_DESTINATION),
}
"""What each role may send in each state, and the state that follows."""


def next_state(sender: Role, state: State, event: EventType) -> State | None:
    """The state after ``sender`` sent ``event`` in ``state``; None if it may not."""
    return TRANSITIONS[sender][state].get(event)


def render() -> str:
    """The tables as text, as this module's docstring shows them."""
    lines = []
    for state in State:
        label = str(state)
        if state in FINAL_STATES:
            lines.append(f"{label:<13}final")
        for role in Role:
            sender = role.value
            for text in _moves(role, state):
                lines.append(f"{label:<13}{sender:<13}{text}")
                label = sender = ""
    return "\n".join(f"    {line}" for line in lines)


def _moves(role: Role, state: State) -> list[str]:
    """What ``role`` may send in ``state``: a line for each state that follows, and one for the final ones."""
    names: dict[State, list[str]] = {}
    for event, after in TRANSITIONS[role][state].items():
        if event not in _KEEPALIVE:
            names.setdefault(after, []).append(event.__name__)
    texts = {after: f"{', '.join(events)} → {after}" for after, events in names.items()}
    lines = [text for after, text in texts.items() if after not in FINAL_STATES]
    endings = [text for after, text in texts.items() if after in FINAL_STATES]
    return [*lines, "; ".join(endings)] if endings else lines
