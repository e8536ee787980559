"""ptrace(2) in the SEIZE way, one function a request. Registers are those of x86-64.

All calls raise ``OSError``; ``ProcessLookupError`` means that the thread is gone, or not stopped.
"""

import ctypes

from migrated.memory.linux.libc import LIBC, raise_errno

__all__ = [
    "EVENT_STOP",
    "SYSCALL_STOP_SIGNAL",
    "Registers",
    "cont",
    "detach",
    "get_registers",
    "get_rseq_area",
    "get_signal_mask",
    "interrupt",
    "run_to_syscall_stop",
    "seize",
    "set_registers",
    "set_signal_mask",
]

_CONT = 7
_DETACH = 17
_SYSCALL = 24
_GETREGSET = 0x4204
_SETREGSET = 0x4205
_SEIZE = 0x4206
_INTERRUPT = 0x4207
_GETSIGMASK = 0x420A
_SETSIGMASK = 0x420B
_GET_RSEQ_CONFIGURATION = 0x420F

_OPTION_TRACESYSGOOD = 1
_NT_PRSTATUS = 1
_SIGSET_BYTES = 8

EVENT_STOP = 128
"""The event of a stop by INTERRUPT, or of a group stop: ``status >> 16`` of waitpid."""

SYSCALL_STOP_SIGNAL = 5 | 0x80
"""The stop signal at the entry and exit of a system call (SIGTRAP, marked by TRACESYSGOOD)."""


class Registers(ctypes.Structure):
    """``struct user_regs_struct``."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
            *("rax", "rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "eflags"),
            *("rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
        )
    ]


class _IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _RseqConfiguration(ctypes.Structure):
    _fields_ = [
        ("pointer", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    ]


_ptrace = LIBC.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def seize(tid: int) -> None:
    """Attach without stopping. ``PermissionError`` also when the thread is a zombie or traced already."""
    _call(_SEIZE, tid, 0, _OPTION_TRACESYSGOOD, "seizing")


def interrupt(tid: int) -> None:
    """Ask for a stop, which waitpid then reports with ``EVENT_STOP``; a sleeping system call is restarted."""
    _call(_INTERRUPT, tid, 0, 0, "interrupting")


def cont(tid: int, signal: int = 0) -> None:
    """Let a stopped thread run, delivering ``signal`` first."""
    _call(_CONT, tid, 0, signal, "continuing")


def run_to_syscall_stop(tid: int) -> None:
    """Let a stopped thread run to the next entry or exit of a system call."""
    _call(_SYSCALL, tid, 0, 0, "continuing")


def detach(tid: int) -> None:
    """Let a stopped thread go for good; a group stop that is in force takes hold of it."""
    _call(_DETACH, tid, 0, 0, "detaching")


def get_registers(tid: int) -> Registers | None:
    """The registers of a stopped thread, or ``None`` if it runs 32-bit code."""
    registers = Registers()
    vector = _IoVec(ctypes.addressof(registers), ctypes.sizeof(registers))
    _call(_GETREGSET, tid, _NT_PRSTATUS, ctypes.addressof(vector), "reading registers")
    return registers if vector.length == ctypes.sizeof(registers) else None


def set_registers(tid: int, registers: Registers) -> None:
    """Replace the registers of a stopped thread."""
    vector = _IoVec(ctypes.addressof(registers), ctypes.sizeof(registers))
    _call(_SETREGSET, tid, _NT_PRSTATUS, ctypes.addressof(vector), "writing registers")


def get_signal_mask(tid: int) -> int:
    """The signals that a stopped thread blocks, bit n-1 for signal n."""
    mask = ctypes.c_uint64()
    _call(_GETSIGMASK, tid, _SIGSET_BYTES, ctypes.addressof(mask), "reading the signal mask")
    return mask.value


def set_signal_mask(tid: int, mask: int) -> None:
    """Replace the signal mask of a stopped thread."""
    word = ctypes.c_uint64(mask)
    _call(_SETSIGMASK, tid, _SIGSET_BYTES, ctypes.addressof(word), "writing the signal mask")


def get_rseq_area(tid: int) -> int:
    """The address of the thread's ``struct rseq``; 0 if it has none, or the kernel is older than 5.13."""
    configuration = _RseqConfiguration()
    size = ctypes.sizeof(configuration)
    try:
        _call(_GET_RSEQ_CONFIGURATION, tid, size, ctypes.addressof(configuration), "reading rseq")
    except OSError:
        return 0
    return int(configuration.pointer)


def _call(request: int, tid: int, address: int, data: int, doing: str) -> None:
    if _ptrace(request, tid, address, data) == -1:
        raise_errno(f"{doing} thread {tid}")
