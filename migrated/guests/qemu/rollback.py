"""A move came to nothing: the VM is as it was before."""

import contextlib
import time

from migrated.errors import MigratedError
from migrated.guests.qemu.monitor import Monitor
from migrated.memory.linux.held_threads import held_threads, system_call

__all__ = ["put_back"]

_HOLD_SECONDS = 0.5
_MOST_SECONDS = 0.2
"""Going on and stopping takes 3 ms; a kernel that does not tell what QEMU waits for costs this."""

_SURE_LOOKS = 3
_LOOK_AGAIN_SECONDS = 0.001


def put_back(monitor: Monitor, pid: int, *, was_running: bool) -> None:
    """Let the VM of QEMU ``pid`` go on, or be paused, with its disks its own again."""
    if was_running:
        monitor.go_on()
        return
    monitor.end_migration()
    if monitor.status == "postmigrate":
        _pause_again(monitor, pid)


def _pause_again(monitor: Monitor, pid: int) -> None:
    """From ``postmigrate`` to ``paused``.

    When QEMU has given a VM's devices away its disks are nobody's and it is more than paused, and QEMU (7.2) knows
    no way out but to let the VM go on. So its processors are held by ptrace, it goes on and is stopped, and they
    are let go when QEMU waits for them to stop: not one instruction of the guest runs. Where holding them is not
    allowed they run for an instant, some 0.1 ms.
    """
    processors = [int(each["thread-id"]) for each in monitor.qmp.execute("query-cpus-fast")]
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            held.enter_context(held_threads(processors, _HOLD_SECONDS))
            held.callback(_wait_until_it_waits, pid, processors[0])
        going_on = monitor.qmp.send("cont")
        stopping = monitor.qmp.send("stop")
    try:
        going_on.answer()
    finally:
        with contextlib.suppress(MigratedError):
            stopping.answer()


def _wait_until_it_waits(pid: int, processor: int) -> None:
    """Until QEMU's main thread sleeps as its processors do: on a condition, and not for commands."""
    ending = time.monotonic() + _MOST_SECONDS
    seen = 0
    while seen < _SURE_LOOKS and time.monotonic() < ending:
        time.sleep(_LOOK_AGAIN_SECONDS)
        call = system_call(pid, pid)
        seen = seen + 1 if call.isdigit() and call == system_call(pid, processor) else 0
