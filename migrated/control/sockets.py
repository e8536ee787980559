"""Where the Unix sockets of running processes are: ``serve-PID.sock``, ``send-ID.sock`` in a folder a user.

A socket whose process was killed is left over; whoever lists the folder finds that nobody listens and removes
it. That is safe because a socket gets its name only when it listens already.
"""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from migrated.errors import AccessError, ResourceError

__all__ = ["SUFFIX", "listen", "live_sockets", "runtime_dir", "runtime_path"]

SUFFIX = ".sock"

_SYSTEM = Path("/run/migrated")
_BACKLOG = 16
_MAX_PATH = 107
"""Bytes of sockaddr_un's path, without its end."""
_PROBE_SECONDS = 0.5
"""A process whose backlog is full for this long lives, but is of no use to who lists."""


def runtime_dir() -> Path:
    """The folder for sockets of this process; made if it is missing, reachable for its owner only.

    AccessError if it belongs to somebody else, or others may write to it.
    """
    return _ours(runtime_path(), mode=0o750 if os.environ.get("RUNTIME_DIRECTORY") else 0o700)


def runtime_path() -> Path:
    """Where :func:`runtime_dir` is or would be: $RUNTIME_DIRECTORY if systemd set it, else /run/migrated for
    root, $XDG_RUNTIME_DIR/migrated, or /tmp/migrated-UID."""
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if given else _usual()


def _usual() -> Path:
    uid = os.geteuid()
    if uid == 0:
        # A daemon of another user may own the system's folder (RuntimeDirectory= of its unit): root then
        # keeps away from it, since that user could replace what root puts there.
        theirs = _SYSTEM.exists() and _SYSTEM.stat().st_uid != 0
        return _SYSTEM.with_name("migrated-root") if theirs else _SYSTEM
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session and os.access(session, os.W_OK | os.X_OK):  # su may have left us another user's
        return Path(session) / "migrated"
    return Path("/tmp") / f"migrated-{uid}"  # noqa: S108  its owner and mode are checked


def _ours(folder: Path, *, mode: int) -> Path:
    hint = "remove it, or set RUNTIME_DIRECTORY to a folder of your own"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=mode, parents=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise AccessError(f"{folder}, the folder for control sockets, is not a folder", hint)
        if found.st_uid != os.geteuid():
            raise AccessError(
                f"{folder}, the folder for control sockets, belongs to user {found.st_uid}", hint
            )
        if stat.S_IMODE(found.st_mode) & ~mode:
            folder.chmod(stat.S_IMODE(found.st_mode) & mode)
    except OSError as error:
        raise AccessError(f"cannot use {folder} for control sockets: {error.strerror}", hint) from error
    return folder


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path`` that only its owner can connect to.

    One that a dead process left there is replaced; a live one is a ResourceError. Whoever closes the socket
    removes the path.
    """
    partial = path.with_name(f".{os.getpid()}.new")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if len(os.fsencode(path)) > _MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, "its path is too long")
        if _alive(path):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        partial.unlink(missing_ok=True)
        made.bind(str(partial))
        partial.chmod(0o600)
        made.listen(_BACKLOG)
        made.setblocking(False)
        partial.rename(path)
    except OSError as error:
        made.close()
        with contextlib.suppress(OSError):
            partial.unlink()
        kind = AccessError if error.errno in (errno.EACCES, errno.EPERM) else ResourceError
        hint = "choose a folder that is there, with a short path, and that you may write to"
        raise kind(f"cannot make the control socket {path}: {error.strerror or error}", hint) from error
    return made


def live_sockets() -> list[Path]:
    """The sockets of all processes that this user can reach; those left over by dead ones are removed.

    With $RUNTIME_DIRECTORY only those there; else this user's and the system daemon's.
    """
    folders = [Path(given) for given in os.environ.get("RUNTIME_DIRECTORY", "").split(":") if given]
    folders = folders or [_usual(), _SYSTEM]
    found: dict[Path, None] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            found.update(dict.fromkeys(sorted(folder.glob(f"*{SUFFIX}"))))
    return [path for path in found if _alive(path)]


def _alive(path: Path) -> bool:
    if not path.is_socket():  # connecting to a plain file is refused too, and it is not ours to remove
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return False
        except OSError:
            return False
    return True
