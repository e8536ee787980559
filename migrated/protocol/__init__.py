"""The protocol, without a socket: frames, messages, negotiation, states, connection.

    source                                     destination
      │  preamble ────────────────────────────────▶│
      │◀─────────────────────────────── preamble   │
      │  Offer ───────────────────────────────────▶│  versions, guest, regions, codecs, features
      │◀───────────────── Accept (or Refuse)       │  what both will use; limits of every batch follow
      │                                            │
      │  batch, batch, ... ───────────────────────▶│  round 1: every page
      │◀─────────────────────────────── Progress   │  now and then
      │  RoundEnd(1) ─────────────────────────────▶│  a barrier
      │◀─────────────────────────── RoundDone(1)   │
      │  Copies, batch, ... RoundEnd(n) ──────────▶│  rounds 2 to n: what was written meanwhile; in the
      │                                            │  second, what is there twice
      │                                            │
      │  (pauses the guest)                        │
      │  batch, ... RoundEnd(n + 1) ──────────────▶│  the last round
      │  DeviceState, ... DeviceStateEnd ─────────▶│  for guests that have one
      │  Digest(terms, was_running) ──────────────▶│  compares, loads the device state
      │◀────────────────────────────────── Ready   │  the guest is paused here, too
      │  (writes "committing" to disk)             │
      │  Commit ──────────────────────────────────▶│  writes RUN to disk, then resumes the guest
      │◀──────────────────────────────── Running   │
      │  (gives up its copy)                       │

Instead, the source may send ``Cancel`` before ``Commit``, and is answered ``Aborted``; the destination may
send ``Failed`` or ``Aborted`` before ``Running``. After ``Commit`` only ``Running`` and ``Aborted`` decide: a
source that lost the answer opens a new connection and sends ``Commit`` first, as often as it takes. ``Query``
instead of ``Offer`` asks for ``Capabilities`` only. With ``Join`` as its first message a connection carries batches of
a migration whose offer was accepted on another one, in step with that: ``RoundEnd`` says how many batches a round has,
whichever way they came, and each connection counts its own. ``Ping`` and ``Pong`` go either way at any time.

**Versions.** The preamble carries the wire format, which changes only if frames themselves do. What messages
mean is the version: ``Offer`` carries the range that the source speaks, and the destination takes the highest
that it speaks too, or refuses. A release speaks its own version and the one before (N-1). New keys and new
features need no new version: unknown keys are ignored, and a feature is used only if both name it. An unknown
message type is an error. Value 0 is never a valid type, codec, version, round or sequence.

Modules, imports run downward: ``connection`` (bytes in, events out), ``states`` (who may send what when),
``negotiate``, ``batch`` (a batch's header and limits), ``messages``, ``records`` (their values), ``frames``.
"""

from migrated.protocol.batch import (
    BLOCK_BYTES,
    DELTA,
    FIRST_CODEC,
    HEADER_BYTES,
    RAW_CODEC,
    BatchHeader,
    BatchLimits,
    block_count,
    data_size,
    delta_table_size,
    max_payload,
)
from migrated.protocol.connection import READ_BYTES, Connection, LocalProtocolError
from migrated.protocol.messages import (
    COPIES,
    MAX_BATCH_BYTES,
    MAX_COPIES,
    MAX_DEVICE_STATE_CHUNK,
    MAX_REGIONS,
    MAX_STREAMS,
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
    RegionInfo,
    RoundDone,
    RoundEnd,
    Running,
)
from migrated.protocol.negotiate import MIN_VERSION, VERSION, Support, limits_of, negotiate
from migrated.protocol.states import FINAL_STATES, Role, State

__all__ = [
    "BLOCK_BYTES",
    "COPIES",
    "DELTA",
    "FINAL_STATES",
    "FIRST_CODEC",
    "HEADER_BYTES",
    "MAX_BATCH_BYTES",
    "MAX_COPIES",
    "MAX_DEVICE_STATE_CHUNK",
    "MAX_REGIONS",
    "MAX_STREAMS",
    "MIN_VERSION",
    "RAW_CODEC",
    "READ_BYTES",
    "VERSION",
    "Aborted",
    "Accept",
    "BatchHeader",
    "BatchLimits",
    "Cancel",
    "Capabilities",
    "Commit",
    "Connection",
    "Copies",
    "DeviceState",
    "DeviceStateEnd",
    "Digest",
    "Estimate",
    "Failed",
    "Join",
    "Joined",
    "LocalProtocolError",
    "Message",
    "Offer",
    "Ping",
    "Pong",
    "Progress",
    "Query",
    "Ready",
    "Refuse",
    "RegionInfo",
    "Role",
    "RoundDone",
    "RoundEnd",
    "Running",
    "State",
    "Support",
    "block_count",
    "data_size",
    "delta_table_size",
    "limits_of",
    "max_payload",
    "negotiate",
]
