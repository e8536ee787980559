"""Running one system call inside another process, and taking the descriptor that it made. x86-64 only.

The thread is held (:mod:`.tracee`). Its registers and signal mask are saved, it is sent to a ``syscall``
instruction that it has anyway (its vDSO), and after the call everything is put back. Traps at the entry and
exit of the call stop it, not single-stepping: a SIGTRAP would reset the target's own handling of that signal.
"""

import ctypes
import os
import platform
import struct

from migrated.memory.linux import process, ptrace
from migrated.memory.linux.libc import LIBC, raise_errno
from migrated.memory.linux.tracee import DiedError, Tracee, TraceeError
from migrated.memory.linux.userfaultfd import SYS_USERFAULTFD, USERFAULTFD_FLAGS

__all__ = ["inject_userfaultfd"]

_SYSCALL_INSTRUCTION = b"\x0f\x05"
_SYS_CLOSE = 3
_SYS_PIDFD_GETFD = 438
_USER_CODE_64 = 0x33  # the code segment of 64-bit user code
_ALL_SIGNALS = (1 << 64) - 1
_NO_SYSCALL = (1 << 64) - 1
_SEARCH_BYTES = 1 << 20


def inject_userfaultfd(tracee: Tracee, deadline: float) -> int:
    """A userfaultfd of the held process's address space, as a descriptor of ours; the target keeps no copy.

    Afterwards the thread that was used is trapped as before, its registers, signals and the system call in
    which it slept unchanged. If we are killed in between (some 100 us), the target goes astray: the caller
    blocks every signal that can be blocked.
    """
    if platform.machine() != "x86_64":
        raise TraceeError(f"running a call inside a process is not known for {platform.machine()}")
    tid = tracee.threads[0]
    registers = ptrace.get_registers(tid)
    if registers is None or registers.cs != _USER_CODE_64:
        raise TraceeError(f"process {tracee.pid} runs 32-bit code")
    instruction = _find_syscall_instruction(tracee.pid)
    mask = ptrace.get_signal_mask(tid)
    resume = _copy(registers)
    _leave_restartable_sequence(tracee.pid, tid, resume)
    ptrace.set_signal_mask(tid, _ALL_SIGNALS)
    try:
        theirs = _run(tracee, tid, registers, instruction, deadline, SYS_USERFAULTFD, USERFAULTFD_FLAGS)
        if theirs < 0:
            raise TraceeError(f"userfaultfd() inside process {tracee.pid}: {os.strerror(-theirs)}")
        try:
            ours = _take_descriptor(tracee.pidfd, theirs)
        finally:
            _run(tracee, tid, registers, instruction, deadline, _SYS_CLOSE, theirs)
    finally:
        if tid in tracee.threads:
            ptrace.set_registers(tid, resume)
            ptrace.set_signal_mask(tid, mask)
            tracee.back_to_trap(tid, deadline)
    for number in tracee.held_back:
        tracee.send_signal(number)
    tracee.held_back.clear()
    return ours


def _run(
    tracee: Tracee,
    tid: int,
    registers: ptrace.Registers,
    instruction: int,
    deadline: float,
    number: int,
    argument: int,
) -> int:
    """Run system call ``number`` and return its result; the thread is at the exit of the call afterwards."""
    changed = _copy(registers)
    changed.rip = instruction
    changed.rax = number
    changed.rdi = argument
    changed.orig_rax = _NO_SYSCALL  # no restart of the interrupted call now
    ptrace.set_registers(tid, changed)
    tracee.step_to_syscall_stop(tid, deadline)
    tracee.step_to_syscall_stop(tid, deadline)
    after = ptrace.get_registers(tid)
    if after is None:
        raise DiedError(f"process {tracee.pid} replaced its program")
    return int(ctypes.c_int64(after.rax).value)


def _take_descriptor(pidfd: int, theirs: int) -> int:
    ours = int(LIBC.syscall(_SYS_PIDFD_GETFD, pidfd, theirs, 0))
    if ours < 0:
        raise_errno("pidfd_getfd")
    return ours


def _copy(registers: ptrace.Registers) -> ptrace.Registers:
    return ptrace.Registers.from_buffer_copy(registers)


def _find_syscall_instruction(pid: int) -> int:
    """The address of a ``syscall`` instruction: in the vDSO, else in any code that the process has."""
    with open(f"/proc/{pid}/maps", "rb") as file:  # noqa: PTH123 - pathlib is slow to load
        lines = file.read().splitlines()
    code = [line.split() for line in lines if line.split()[1][2:3] == b"x"]
    code.sort(key=lambda fields: fields[-1] != b"[vdso]")
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for fields in code:
            start, stop = (int(part, 16) for part in fields[0].split(b"-"))
            if start >= 1 << 63:  # [vsyscall] can't be read
                continue
            try:
                found = os.pread(memory, min(stop - start, _SEARCH_BYTES), start).find(_SYSCALL_INSTRUCTION)
            except OSError:
                continue
            if found >= 0:
                return start + found
    finally:
        os.close(memory)
    raise TraceeError(f"process {pid} ({process.comm(pid)}) has no syscall instruction in its code")


def _leave_restartable_sequence(pid: int, tid: int, registers: ptrace.Registers) -> None:
    """If the thread is within an rseq critical section, send it to the section's abort handler.

    The kernel would do so itself on the way back, but running our call elsewhere clears its note of it.
    """
    area = ptrace.get_rseq_area(tid)
    if not area:
        return
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        (section,) = struct.unpack("<Q", os.pread(memory, 8, area + 8))
        if not section:
            return
        _, _, start, length, abort = struct.unpack("<IIQQQ", os.pread(memory, 32, section))
    except OSError:
        return  # the thread will find the same, and get its SIGSEGV from the kernel
    finally:
        os.close(memory)
    if start <= registers.rip < start + length:
        registers.rip = abort
