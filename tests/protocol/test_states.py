from migrated.protocol import states
from migrated.protocol.batch import BatchHeader
from migrated.protocol.messages import MESSAGES, Aborted, Cancel, Commit, Failed, Ping, Pong
from migrated.protocol.states import FINAL_STATES, TRANSITIONS, Role, State, next_state, render

STREAMS = {State.JOINING, State.STREAMING}
"""Of a connection that only carries batches: the migration's first one says all else."""

BEFORE_COMMIT = set(State) - FINAL_STATES - STREAMS - {State.COMMITTING, State.CANCELLING}


def test_docstring_is_drawn_from_the_tables() -> None:
    assert states.__doc__ is not None
    drawn = [paragraph for paragraph in states.__doc__.split("\n\n") if paragraph.startswith("    OPENING")]
    assert drawn == [render()]


def test_tables_cover_every_state_and_know_every_message() -> None:
    for role in Role:
        assert set(TRANSITIONS[role]) == set(State)
    named = {event for table in TRANSITIONS.values() for row in table.values() for event in row}
    assert named == {*MESSAGES.values(), BatchHeader}


def test_only_keepalive_is_sent_by_both() -> None:
    sent = {role: {event for row in TRANSITIONS[role].values() for event in row} for role in Role}
    assert sent[Role.SOURCE] & sent[Role.DESTINATION] == {Ping, Pong}


def test_final_states_are_those_that_nothing_leaves() -> None:
    leaving = {state for role in Role for state in State if TRANSITIONS[role][state]}
    assert set(State) - leaving == FINAL_STATES


def test_every_state_is_reached_and_every_one_can_end() -> None:
    after = {state: {new for role in Role for new in TRANSITIONS[role][state].values()} for state in State}

    def reachable(state: State) -> set[State]:
        seen, new = {state}, [state]
        while new:
            found = after[new.pop()] - seen
            seen |= found
            new += found
        return seen

    assert reachable(State.OPENING) == set(State)
    assert all(reachable(state) & FINAL_STATES for state in State)


def test_source_may_cancel_until_it_commits() -> None:
    for state in State:
        expected = State.CANCELLING if state in BEFORE_COMMIT else None
        assert next_state(Role.SOURCE, state, Cancel) is expected


def test_destination_may_fail_or_abort_until_it_runs() -> None:
    for state in set(State) - FINAL_STATES:
        assert next_state(Role.DESTINATION, state, Failed) is State.FAILED
        assert next_state(Role.DESTINATION, state, Aborted) is State.ABORTED


def test_commit_decides_or_asks_for_the_outcome() -> None:
    allowed = {state for state in State if next_state(Role.SOURCE, state, Commit) is State.COMMITTING}
    assert allowed == {State.OPENING, State.READY}
    ends = {state for state in State if State.DONE in TRANSITIONS[Role.DESTINATION][state].values()}
    assert ends == {State.COMMITTING, State.QUERYING}


def test_after_commit_the_source_can_only_wait() -> None:
    assert set(TRANSITIONS[Role.SOURCE][State.COMMITTING]) == {Ping, Pong}


def test_batches_flow_only_while_copying() -> None:
    flowing = {state for state in State if BatchHeader in TRANSITIONS[Role.SOURCE][state]}
    assert flowing == {State.COPYING, State.STREAMING}


def test_a_stream_carries_nothing_but_batches() -> None:
    assert set(TRANSITIONS[Role.SOURCE][State.JOINING]) == {Ping, Pong}
    assert set(TRANSITIONS[Role.SOURCE][State.STREAMING]) == {BatchHeader, Ping, Pong}
    ways = {
        (state, event)
        for state in State
        for event, after in TRANSITIONS[Role.SOURCE][state].items()
        if after in STREAMS
    }
    assert {state for state, _ in ways} == {State.OPENING, *STREAMS}


def test_keepalive_changes_nothing() -> None:
    for role in Role:
        for state in State:
            for event in (Ping, Pong):
                assert next_state(role, state, event) is (None if state in FINAL_STATES else state)


def test_peers() -> None:
    assert Role.SOURCE.peer is Role.DESTINATION
    assert Role.DESTINATION.peer is Role.SOURCE
