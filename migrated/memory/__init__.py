"""Memory of running processes: regions to read and write, holding a process, finding its dirty pages.

The only ctypes, ioctl and ptrace of the project live below :mod:`migrated.memory.linux`. This package imports
nothing by itself: the holder process starts in milliseconds because of that.
"""
