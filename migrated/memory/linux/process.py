"""What /proc says about a process and its threads. Imports almost nothing: the holder process uses it."""

import os

__all__ = [
    "comm",
    "cpu_seconds",
    "is_stopped",
    "read_status_field",
    "start_time",
    "state",
    "thread_ids",
    "tracer_of",
]


def start_time(pid: int) -> int:
    """Clock ticks after boot at which the process started: with the pid, its identity on this host.

    Raises ``FileNotFoundError`` or ``ProcessLookupError`` when there is no such process.
    """
    return int(_stat_fields(f"/proc/{pid}/stat")[19])


def cpu_seconds(pid: int) -> float:
    """Processor seconds that the process has taken since its start, its children left out.

    Raises as :func:`start_time` does.
    """
    fields = _stat_fields(f"/proc/{pid}/stat")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def state(pid: int, tid: int | None = None) -> str:
    """The state letter (R S D T t Z X) of a thread, the first one if none is named; "X" when it is gone."""
    try:
        return _stat_fields(f"/proc/{pid}/task/{tid or pid}/stat")[0]
    except OSError:
        return "X"


def is_stopped(pid: int) -> bool:
    """Whether a signal stopped the process (SIGSTOP, Ctrl-Z), other than a tracer's trap."""
    return any(state(pid, tid) == "T" for tid in thread_ids(pid))


def thread_ids(pid: int) -> list[int]:
    """The threads of the process; none when it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]  # noqa: PTH208 - pathlib is slow to load
    except OSError:
        return []


def comm(pid: int) -> str:
    """The name that the process gave itself, at most 15 bytes; empty when it is gone."""
    try:
        return _read(f"/proc/{pid}/comm").decode(errors="replace").rstrip("\n")
    except OSError:
        return ""


def read_status_field(pid: int, tid: int, name: str) -> str:
    """A line of /proc/PID/task/TID/status, e.g. "Seccomp"; empty when there is none or the thread is gone."""
    try:
        text = _read(f"/proc/{pid}/task/{tid}/status").decode(errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def tracer_of(pid: int, tid: int) -> int:
    """The pid that traces the thread, 0 for none."""
    return int(read_status_field(pid, tid, "TracerPid") or 0)


def _stat_fields(path: str) -> list[str]:
    # The second field is the name in brackets, and may itself hold spaces and brackets.
    return _read(path).rpartition(b")")[2].decode().split()


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
