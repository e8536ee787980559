"""The whole way as another user without any capability: holding, injecting, tracking, reading."""

import os
import pwd
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import ctypes, mmap, os, subprocess, sys, time
import numpy as np
from migrated.errors import AccessError
from migrated.memory.hold import Holder
from migrated.memory.region import ProcessRegion
from migrated.memory.trackers.base import TrackTarget
from migrated.memory.trackers.pagemap_scan import PagemapScanTracker

# Everything is imported: the user may not be able to read our interpreter's own directories.
os.setgroups([])
os.setgid({gid})
os.setuid({uid})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, lost by setuid
assert "CapEff:\\t0000000000000000" in open("/proc/self/status").read()
sys.executable = {interpreter!r}

guest = subprocess.Popen(
    [sys.executable, "-I", "-S", "-c", {guest!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
)
start = int(guest.stdout.readline())
target = TrackTarget(guest.pid, start, start + 64 * 4096, 0, 0)
holder = Holder(guest.pid)
with PagemapScanTracker([target], [64], holders={{guest.pid: holder}}) as tracker:
    tracker.arm()
    guest.stdin.write("3\\n"); guest.stdin.flush(); guest.stdout.readline()
    holder.hold()
    print(tracker.last()[0].runs().tolist())
    into = memoryview(bytearray(4096))
    ProcessRegion(guest.pid, [(start, start + 64 * 4096)]).read(np.array([[3, 1]]), into)
    print(into[0])
    holder.close()
guest.kill()
guest.communicate()
try:
    with Holder({root_pid}) as holder:
        holder.hold()
except AccessError as error:
    print(error)
"""

GUEST = """
import ctypes, mmap, sys
memory = mmap.mmap(-1, 64 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
for line in sys.stdin:
    memory[int(line) * 4096] = 42
    print(flush=True)
"""


@pytest.mark.root
@pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to become another user; without root all tests are this"
)
def test_as_nobody() -> None:
    nobody = pwd.getpwnam("nobody")
    interpreter = shutil.which("python3", path="/usr/bin:/bin")
    if interpreter is None:
        pytest.skip("no interpreter that every user can run")
    program = PROGRAM.format(
        uid=nobody.pw_uid,
        gid=nobody.pw_gid,
        interpreter=interpreter,
        guest=textwrap.dedent(GUEST),
        root_pid=os.getpid(),
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    dirty, content, refusal = done.stdout.splitlines()
    assert dirty == "[[3, 1]]"
    assert content == "42"
    assert "not allowed to trace" in refusal
    assert "CAP_SYS_PTRACE" in refusal
