"""A process whose memory file has few different pages, many times each."""

import os
from pathlib import Path

from e2e_host import Host
from e2e_processes import Running

PAGE = 4096
PAGES = 32768
DIFFERENT = 3000
"""Enough of them that each worker sees that leaving pages out pays: after some 8192."""

SHUFFLER = """
import ctypes, mmap, os, random, sys, time
path, pages, different, how = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
libc = ctypes.CDLL(None, use_errno=True)
fallocate = libc.fallocate
fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
fd = os.open(path, os.O_RDWR)
memory = mmap.mmap(fd, 0)
draw = random.Random(1)
some = [draw.randbytes(4096) for _ in range(different)]
for page in range(pages):
    memory[4096 * page:4096 * page + 4096] = some[page % different]
print("ready", flush=True)
while True:
    for _ in range(0 if how == "idle" else 20):
        page = 4096 * draw.randrange(pages)
        what = draw.randrange(4 if how == "holes" else 3)
        if what == 0:
            memory[page:page + 4096] = draw.choice(some)
        elif what == 1:
            memory[page:page + 8] = draw.randbytes(8)
        elif what == 2:
            memory[page:page + 4096] = bytes(4096)
        else:
            assert fallocate(fd, 3, page, 4096) == 0
    time.sleep(0.002)
"""


def shuffler(host: Host, path: Path, how: str) -> Running:
    path.write_bytes(b"")
    os.truncate(path, PAGES * PAGE)
    host.kept |= {path, host.there / path.name}
    running = host.other("python3", "-c", SHUFFLER, path, str(PAGES), str(DIFFERENT), how)
    running.out.wait("ready")
    return running
