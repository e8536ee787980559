"""A guest for the memory tests: a real process that does what the test tells it."""

import ast
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PROGRAM = r"""
import ctypes, mmap, os, signal, sys, threading, time

PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)


def address_of(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def private(pages):
    return mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def shared(path):
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def touch(memory, *numbers):
    for number in numbers:
        memory[number * PAGE] = (memory[number * PAGE] + 1) % 256


def spin(memory, count):
    # count threads of machine code that increment a word each: inc qword [rdi]; jmp back
    code = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code[:5] = b"\x48\xff\x07\xeb\xfb"
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address_of(code))
    for number in range(count):
        threading.Thread(target=run, args=(address_of(memory) + 64 * number,), daemon=True).start()
    globals().setdefault("keep", []).append((code, run))


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


half_a_second = ctypes.byref(Timespec(0, 500_000_000))


def timed(call, *arguments):
    # a raw call of the C library: Python's own wrappers hide EINTR
    began = time.monotonic()
    result = call(*arguments)
    return result, ctypes.get_errno() if result < 0 else 0, time.monotonic() - began


print("ready", flush=True)
for line in sys.stdin:
    line = line.rstrip("\n")
    try:
        answer = eval(line)
    except SyntaxError:
        exec(line)
        answer = None
    print(repr(answer), flush=True)
"""


class Guest:
    """Answers ``ask("expression or statement")`` with its value; see PROGRAM for the words it knows."""

    def __init__(self, *prefix: str) -> None:
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.answer()

    def tell(self, line: str) -> None:
        """Send a line and go on; ``answer`` takes the value later."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        line = self.process.stdout.readline()
        return None if line == "ready\n" else ast.literal_eval(line)

    def ask(self, line: str) -> Any:
        self.tell(line)
        return self.answer()

    def state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def close(self) -> None:
        for each in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                for child in each.read_text().split():  # they have its pipes, too, and would keep them open
                    os.kill(int(child), signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_guest() -> Iterator[Callable[..., Guest]]:
    guests = []

    def start(*prefix: str) -> Guest:
        guests.append(Guest(*prefix))
        return guests[-1]

    yield start
    for guest in guests:
        guest.close()


@pytest.fixture
def guest(start_guest: Callable[..., Guest]) -> Guest:
    return start_guest()


@pytest.fixture
def shared_file(tmp_path: Path) -> Iterator[str]:
    """A shared-memory file of 1024 pages, all holes."""
    path = Path(f"/dev/shm/migrated-test-{os.getpid()}-{tmp_path.name}")
    with path.open("wb") as file:
        file.truncate(1024 * 4096)
    yield str(path)
    path.unlink()
