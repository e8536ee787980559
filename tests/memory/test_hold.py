"""Holding real processes: nothing runs while held, everything runs afterwards, whoever dies."""

import errno
import mmap
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from migrated.errors import AccessError, GuestDiedError, GuestError, GuestNotFoundError, UsageError
from migrated.memory.hold import Holder

DEADLINE = 20.0


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for something that the kernel or another process does and that tells nobody."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


class Counters:
    """Words in shared memory that a guest's threads increment without a pause."""

    def __init__(self, guest: Any, path: str, threads: int) -> None:
        with Path(path).open("r+b") as file:
            self._memory = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self._threads = threads
        guest.ask(f"memory = shared({path!r})")
        guest.ask(f"spin(memory, {threads})")
        self.wait_until_running()

    def read(self) -> list[int]:
        return [self._memory[8 * number] for number in range(self._threads)]

    def wait_until_running(self) -> None:
        before = self.read()
        wait_for(lambda: all(now != then for now, then in zip(self.read(), before, strict=True)))

    def assert_standing(self) -> None:
        before = self.read()
        time.sleep(0.05)
        assert self.read() == before


@pytest.fixture
def holder(guest: Any) -> Iterator[Holder]:
    with Holder(guest.pid) as holder:
        yield holder


@pytest.fixture
def counters(guest: Any, shared_file: str) -> Counters:
    return Counters(guest, shared_file, 3)


class TestHold:
    def test_no_thread_runs_until_released(self, holder: Holder, counters: Counters) -> None:
        holder.hold()
        assert holder.held
        counters.assert_standing()
        holder.hold()  # again: nothing to do
        holder.release()
        assert not holder.held
        counters.wait_until_running()
        holder.release()

    def test_many_times(self, holder: Holder, counters: Counters, guest: Any) -> None:
        for _ in range(50):
            holder.hold()
            holder.release()
        counters.wait_until_running()
        assert guest.ask("1 + 1") == 2

    def test_close_releases(self, guest: Any, counters: Counters) -> None:
        holder = Holder(guest.pid)
        holder.hold()
        holder.close()
        holder.close()
        counters.wait_until_running()

    def test_threads_that_create_threads(self, guest: Any, holder: Holder) -> None:
        guest.ask(
            "exec('def breed():\\n while True:\\n  t = threading.Thread(target=int); t.start(); t.join()')"
        )
        guest.ask("[threading.Thread(target=breed, daemon=True).start() for _ in range(3)] and None")
        for _ in range(20):
            holder.hold()
            assert states(guest.pid) <= {"t", "Z", "X"}
            holder.release()

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            ("libc.nanosleep, half_a_second, None", (0, 0)),
            ("libc.syscall, 202, word, 0, 0, half_a_second, None, 0", (-1, errno.ETIMEDOUT)),  # futex wait
            ("libc.read, reader, word, 1", (1, 0)),
            ("libc.ppoll, word, 1, None, no_signals", (1, 0)),
        ],
        ids=["nanosleep", "futex", "read", "ppoll"],
    )
    def test_sleeping_calls_go_on(self, guest: Any, call: str, expected: tuple[int, int]) -> None:
        """Held, used for an injection and let go in the middle of a system call: nobody sees an EINTR."""
        guest.ask("reader, writer = os.pipe()")
        guest.ask("word = ctypes.create_string_buffer(reader.to_bytes(4, 'little') + b'\\1\\0\\0\\0', 64)")
        if "202" in call:
            guest.ask("word = ctypes.create_string_buffer(64)")
        guest.ask("no_signals = ctypes.create_string_buffer(128)")
        guest.ask("held_back = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])")
        before = signals(guest.pid)
        number = syscall_of(guest.pid)
        guest.tell(f"timed({call})")
        wait_for(lambda: guest.state() == "S" and syscall_of(guest.pid) not in (number, "running"))
        with Holder(guest.pid) as holder:
            for _ in range(3):
                holder.hold()
                os.close(holder.inject_userfaultfd())
                holder.release()
        if expected == (1, 0):
            writer = Path(f"/proc/{guest.pid}/fd/{max(int(fd.name) for fd in fds(guest.pid))}")
            writer.write_bytes(b"x")
        *result, elapsed = guest.answer()
        assert tuple(result) == expected
        if expected != (1, 0):
            assert 0.5 <= elapsed < 5
        assert signals(guest.pid) == before

    def test_signals_that_arrive_while_held_come_later(self, guest: Any, holder: Holder) -> None:
        guest.ask("seen = []")
        guest.ask("old = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))")
        holder.hold()
        os.kill(guest.pid, signal.SIGUSR1)
        holder.release()
        assert guest.ask("len(seen)") == 1

    def test_stopped_before_stays_stopped(self, guest: Any, holder: Holder) -> None:
        os.kill(guest.pid, signal.SIGSTOP)
        wait_for(lambda: guest.state() == "T")
        holder.hold()
        assert holder.was_stopped
        assert guest.state() == "t"
        holder.release()
        wait_for(lambda: guest.state() == "T")
        os.kill(guest.pid, signal.SIGCONT)
        assert guest.ask("2 + 2") == 4

    def test_stopped_before_is_known_also_when_held_again_at_once(self, guest: Any, holder: Holder) -> None:
        """After a hold a stopped process goes back into its stop by itself, and is seen running until then."""
        os.kill(guest.pid, signal.SIGSTOP)
        wait_for(lambda: guest.state() == "T")
        ours = os.sched_getaffinity(0)
        try:  # so that it gets back only when nobody else wants our CPU
            os.sched_setaffinity(0, {min(ours)})
            os.sched_setaffinity(guest.pid, {min(ours)})
            os.sched_setscheduler(guest.pid, os.SCHED_IDLE, os.sched_param(0))
            for fraction in (0.0, 0.5) * 50:
                holder.throttle(fraction)
                holder.hold()
                assert holder.was_stopped
                holder.release()
        finally:
            os.sched_setaffinity(0, ours)
        os.kill(guest.pid, signal.SIGCONT)
        holder.hold()
        assert not holder.was_stopped

    def test_two_holders_exclude_each_other(self, guest: Any, holder: Holder) -> None:
        holder.hold()
        with Holder(guest.pid) as other, pytest.raises(AccessError, match="traced by process"):
            other.hold()
        assert holder.held
        holder.release()
        assert guest.ask("1") == 1

    def test_guest_ends_while_held(self, guest: Any, holder: Holder) -> None:
        holder.hold()
        guest.close()
        with pytest.raises(GuestDiedError):
            holder.check()
        with pytest.raises(GuestDiedError):
            holder.to_sigstop()
        holder.release()

    def test_no_such_process_and_reused_pid(self, guest: Any) -> None:
        with pytest.raises(GuestNotFoundError):
            Holder(2**22 + 1)
        with pytest.raises(GuestDiedError, match="another one has its number"):
            Holder(guest.pid, start_time=1)

    def test_thread_that_cannot_stop_fails_the_attempt(
        self, guest: Any, holder: Holder, counters: Counters
    ) -> None:
        """A vfork parent waits uninterruptibly for its child."""
        # clone(CLONE_VFORK | SIGCHLD): a plain fork whose parent waits; the child sleeps in pause()
        guest.ask("fork = lambda: libc.syscall(56, 0x4000 | 17, 0, 0, 0, 0) or signal.pause()")
        guest.ask("threading.Thread(target=fork).start()")
        # A thread may wait uninterruptibly for something else, for an instant, before there is a child.
        wait_for(lambda: bool(children(guest.pid)) and "D" in states(guest.pid))
        (child,) = children(guest.pid)
        try:
            with pytest.raises(GuestError, match="uninterruptible"):
                holder.hold(timeout=0.2)
            assert not holder.held
            counters.wait_until_running()
            assert tracer_of(guest.pid) == 0
        finally:
            os.kill(child, signal.SIGKILL)
        wait_for(lambda: "D" not in states(guest.pid))
        holder.hold()
        holder.release()


class TestToSigstop:
    def test_not_one_instruction_runs(self, guest: Any, holder: Holder, counters: Counters) -> None:
        for _ in range(20):
            holder.hold()
            held = counters.read()
            holder.to_sigstop()
            assert guest.state() == "T"
            assert tracer_of(guest.pid) == 0
            assert counters.read() == held
            assert holder.frozen
            os.kill(guest.pid, signal.SIGCONT)
            counters.wait_until_running()
            holder.release()

    def test_outlives_the_holder(self, guest: Any, counters: Counters) -> None:
        with Holder(guest.pid) as holder:
            holder.hold()
            holder.to_sigstop()
        assert guest.state() == "T"
        counters.assert_standing()

    def test_release_undoes_it(self, holder: Holder, counters: Counters) -> None:
        holder.hold()
        holder.to_sigstop()
        holder.release()
        counters.wait_until_running()

    def test_paused_before_stays_paused(self, guest: Any, holder: Holder) -> None:
        os.kill(guest.pid, signal.SIGSTOP)
        wait_for(lambda: guest.state() == "T")
        holder.hold()
        holder.to_sigstop()
        assert guest.state() == "T"
        holder.release()
        assert guest.state() == "T"

    def test_only_when_held(self, holder: Holder) -> None:
        with pytest.raises(GuestError, match="not held"):
            holder.to_sigstop()


class TestThrottle:
    def test_takes_time_away(self, holder: Holder, counters: Counters) -> None:
        holder.throttle(0.9)
        wait_for(lambda: states(holder.pid) == {"t"})
        counters.wait_until_running()
        holder.throttle(0.0)
        wait_for(lambda: "t" not in states(holder.pid))
        counters.wait_until_running()

    def test_hold_ends_it(self, holder: Holder, counters: Counters) -> None:
        holder.throttle(0.5)
        counters.wait_until_running()
        holder.hold()
        time.sleep(0.15)  # more than a period
        counters.assert_standing()
        holder.throttle(0.5)
        counters.assert_standing()
        holder.release()
        counters.wait_until_running()

    def test_share(self, guest: Any, holder: Holder, counters: Counters) -> None:
        """Of the time that passes, whatever share of it this machine gives to the guest's threads."""
        holder.throttle(0.8)
        held = 0
        for _ in range(300):
            held += states(guest.pid) == {"t"}
            time.sleep(0.002)
        assert 0.6 < held / 300 < 1
        counters.wait_until_running()

    @pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
    def test_bad_fraction(self, holder: Holder, fraction: float) -> None:
        with pytest.raises(UsageError):
            holder.throttle(fraction)


class TestWhoeverDies:
    def test_helper_killed(self, guest: Any, holder: Holder, counters: Counters) -> None:
        holder.hold()
        os.kill(tracer_of(guest.pid), signal.SIGKILL)
        counters.wait_until_running()
        wait_for(lambda: not holder.held)
        with pytest.raises(GuestError, match="was killed"):
            holder.check()
        with pytest.raises(GuestError):
            holder.to_sigstop()
        holder.release()
        holder.hold()
        counters.assert_standing()

    def test_parent_killed(self, guest: Any, counters: Counters) -> None:
        program = textwrap.dedent(f"""
            import os, time
            from migrated.memory.hold import Holder
            holder = Holder({guest.pid})
            holder.hold()
            if os.fork() == 0:   # a copy of the socket stays open
                time.sleep(60)
            print("held", flush=True)
            time.sleep(60)
        """)
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout.readline() == "held\n"
            counters.assert_standing()
            helper = tracer_of(guest.pid)
            child = next(pid for pid in children(parent.pid) if pid != helper)
            parent.kill()
            counters.wait_until_running()
            assert tracer_of(guest.pid) == 0
            os.kill(child, signal.SIGKILL)

    def test_ctrl_c_does_not_reach_the_helper(self, guest: Any, holder: Holder, counters: Counters) -> None:
        holder.hold()
        helper = tracer_of(guest.pid)
        assert os.getpgid(helper) != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(helper, number)
        counters.assert_standing()
        holder.check()


class TestInjection:
    def test_target_is_as_before(self, guest: Any, holder: Holder, counters: Counters) -> None:
        guest.ask("old = signal.signal(signal.SIGTRAP, signal.SIG_IGN)")
        before = fds(guest.pid), signals(guest.pid)
        descriptor = holder.inject_userfaultfd()
        try:
            assert str(Path(f"/proc/self/fd/{descriptor}").readlink()) == "anon_inode:[userfaultfd]"
            assert not os.get_inheritable(descriptor)
        finally:
            os.close(descriptor)
        assert not holder.held
        counters.wait_until_running()
        assert (fds(guest.pid), signals(guest.pid)) == before

    def test_while_held_stays_held(self, holder: Holder, counters: Counters) -> None:
        holder.hold()
        os.close(holder.inject_userfaultfd())
        assert holder.held
        counters.assert_standing()

    def test_into_a_stopped_process(self, guest: Any, holder: Holder) -> None:
        os.kill(guest.pid, signal.SIGSTOP)
        wait_for(lambda: guest.state() == "T")
        os.close(holder.inject_userfaultfd())
        wait_for(lambda: guest.state() == "T")

    def test_under_a_storm_of_signals(self, guest: Any, holder: Holder) -> None:
        guest.ask("seen = []")
        guest.ask("old = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))")
        guest.ask("signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)")
        for _ in range(100):
            os.close(holder.inject_userfaultfd())
        assert guest.ask("signal.setitimer(signal.ITIMER_REAL, 0)")
        assert guest.ask("len(seen) > 0")

    def test_no_descriptor_left(self, guest: Any, holder: Holder) -> None:
        guest.ask("import resource")
        guest.ask("resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))")
        with pytest.raises(GuestError, match="Too many open files"):
            holder.inject_userfaultfd()
        assert guest.ask("5") == 5


def tracer_of(pid: int) -> int:
    return int(status_of(pid, "TracerPid"))


def signals(pid: int) -> list[str]:
    return [status_of(pid, name) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd")]


def status_of(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(name + ":"))


def states(pid: int) -> set[str]:
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.add((task / "stat").read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            found.add("X")
    return found


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def syscall_of(pid: int) -> str:
    """The number of the system call in which the first thread sleeps, and its first argument."""
    return Path(f"/proc/{pid}/syscall").read_text().rsplit(" ", 2)[0].strip()


def fds(pid: int) -> list[Path]:
    return sorted(Path(f"/proc/{pid}/fd").iterdir())


def test_a_process_of_several_threads_that_is_killed_while_held_can_be_reaped() -> None:
    """None of its threads is gone for its own parent before the one who traces them took note."""
    code = (
        "import threading, time\n"
        "[threading.Thread(target=time.sleep, args=(60,)).start() for _ in range(3)]\n"
        "print('ready', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with Holder(child.pid) as holder:
            holder.hold()
            child.kill()
            child.wait(5)
            with pytest.raises(GuestDiedError):
                holder.check()
