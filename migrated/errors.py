"""Every way to fail, and the exit code of each.

    MigratedError                     1   something that should not happen; please report it
    ├── UsageError                    2   the command line or a URI is wrong
    │   └── ConfigError               2   a setting is unknown or has a bad value
    ├── GuestError                    3   the guest cannot be found, opened, paused or started
    │   ├── GuestNotFoundError        3
    │   ├── UnsafeGuestError          3   moving it could lose writes; refused with the way out
    │   └── GuestDiedError            4   the guest ended in the middle
    ├── AccessError                   5   no permission; the text names what is missing
    ├── ResourceError                 6   memory, disk, port or kernel feature that this host lacks
    ├── UnreachableError              7   no connection to the destination
    ├── ConnectionLostError           8   the connection ended or went silent in the middle
    ├── ProtocolError                 9   the peer broke the protocol, or is no migrated at all
    ├── RefusedError                 10   the destination refused, with its reason
    ├── PeerFailedError              11   the other side failed, with its reason
    ├── IntegrityError               12   bytes differ: checksum, digest, codec
    ├── WorkerDiedError              13   a compression worker was killed
    ├── StalledError                 14   rounds stopped helping, and --on-stall says fail
    ├── CancelledByPersonError      130   Ctrl-C or `migrated cancel`; the guest goes on at the source
    └── OutcomeUnknownError          20   COMMIT was sent and no answer came; run `migrated resolve ID`

An error's text names the operation that failed, why, and - in ``hint`` - what to do about it. Foreign
exceptions are translated once, at the boundary where they arise, and kept as ``__cause__``.
"""

from typing import ClassVar

__all__ = [
    "EXIT_CODES",
    "AccessError",
    "CancelledByPersonError",
    "ConfigError",
    "ConnectionLostError",
    "GuestDiedError",
    "GuestError",
    "GuestNotFoundError",
    "IntegrityError",
    "MigratedError",
    "OutcomeUnknownError",
    "PeerFailedError",
    "ProtocolError",
    "RefusedError",
    "ResourceError",
    "StalledError",
    "UnreachableError",
    "UnsafeGuestError",
    "UsageError",
    "WorkerDiedError",
]


class MigratedError(Exception):
    """The root. ``reason`` is a stable word for metrics and JSON; ``hint`` says what to do."""

    exit_code: ClassVar[int] = 1
    reason: ClassVar[str] = "internal"

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


class UsageError(MigratedError):
    """The command line, a URI or a value that a person typed is wrong."""

    exit_code = 2
    reason = "usage"


class ConfigError(UsageError):
    """A setting is unknown or has a bad value; the text names key, line and what is allowed."""

    reason = "config"


class GuestError(MigratedError):
    """The guest cannot be opened, paused, resumed or started."""

    exit_code = 3
    reason = "guest"


class GuestNotFoundError(GuestError):
    """There is no such guest here."""

    reason = "guest-not-found"


class UnsafeGuestError(GuestError):
    """Moving this guest could lose writes."""

    reason = "guest-unsafe"


class GuestDiedError(GuestError):
    """The guest ended while it was being moved."""

    exit_code = 4
    reason = "guest-died"


class AccessError(MigratedError):
    """The operating system said no; the text names the capability or file mode that is missing."""

    exit_code = 5
    reason = "permission"


class ResourceError(MigratedError):
    """This host lacks memory, disk space, a free port or a kernel feature."""

    exit_code = 6
    reason = "resources"


class UnreachableError(MigratedError):
    """No connection to the destination could be made."""

    exit_code = 7
    reason = "unreachable"


class ConnectionLostError(MigratedError):
    """The connection ended or went silent in the middle."""

    exit_code = 8
    reason = "connection-lost"


class ProtocolError(MigratedError):
    """The peer broke the protocol."""

    exit_code = 9
    reason = "protocol"


class RefusedError(MigratedError):
    """The destination refused; ``code`` is its reason word, as in :class:`migrated.protocol.Refuse`."""

    exit_code = 10
    reason = "refused"

    def __init__(self, what: str, hint: str = "", code: str = "") -> None:
        super().__init__(what, hint)
        self.code = code


class PeerFailedError(MigratedError):
    """The other side failed; ``code`` is the ``reason`` word of its own error."""

    exit_code = 11
    reason = "peer-failed"

    def __init__(self, what: str, hint: str = "", code: str = "") -> None:
        super().__init__(what, hint)
        self.code = code


class IntegrityError(MigratedError):
    """Bytes differ from what they should be: a checksum, a digest, or data that a codec cannot read."""

    exit_code = 12
    reason = "integrity"


class WorkerDiedError(MigratedError):
    """A worker of the compression stage ended; its migration fails, the next gets a new pool."""

    exit_code = 13
    reason = "worker-died"


class StalledError(MigratedError):
    """The guest dirties memory faster than it can be sent."""

    exit_code = 14
    reason = "stalled"


class OutcomeUnknownError(MigratedError):
    """COMMIT was sent and no answer came. The guest stays paused here until `migrated resolve`."""

    exit_code = 20
    reason = "outcome-unknown"

    def __init__(self, what: str, hint: str = "", migration_id: str = "") -> None:
        super().__init__(what, hint)
        self.migration_id = migration_id


class CancelledByPersonError(MigratedError):
    """A person cancelled; the guest goes on at the source."""

    exit_code = 130
    reason = "cancelled"


def _tree(root: type[MigratedError]) -> list[type[MigratedError]]:
    return [root] + [cls for child in root.__subclasses__() for cls in _tree(child)]


EXIT_CODES: dict[str, int] = {cls.reason: cls.exit_code for cls in _tree(MigratedError)}
"""The stable reason word of every error, and its exit code."""
