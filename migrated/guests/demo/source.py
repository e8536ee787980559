"""``demo:FILE`` at the source: finds the guest's process by its memory file."""

from pathlib import Path
from typing import ClassVar

from migrated.errors import AccessError, GuestError, GuestNotFoundError, MigratedError, UnsafeGuestError
from migrated.guests.base import After, GuestOptions
from migrated.guests.demo.layout import read_header, read_runner
from migrated.guests.source import HeldGuest, guest_name
from migrated.memory.linux import process
from migrated.memory.maps import find_writers, mappings_of_file
from migrated.memory.region import FileRegion
from migrated.memory.trackers.base import TrackTarget
from migrated.pages import PAGE_SIZE

__all__ = ["DemoSource"]


class DemoSource(HeldGuest):
    """A demo guest that runs here. When it has moved, its process is ended; its memory file stays as it
    is."""

    kind: ClassVar[str] = "demo"
    _on_moved = After.KILL

    def __init__(self, path: Path, options: GuestOptions) -> None:
        super().__init__(f"demo:{path}", guest_name(path.stem), options)
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        region = FileRegion(path, name="memory")
        self.regions = (region,)
        read_header(region.fileno())
        pid, start = read_runner(region.fileno())
        try:
            if pid == 0 or process.start_time(pid) != start:
                raise GuestError("that process has ended")
            mappings = [each for each in mappings_of_file(pid, region.fileno()) if each.writable]
        except AccessError:
            raise
        except (OSError, MigratedError) as error:
            raise GuestNotFoundError(
                f"no guest runs on {path}" + (f": process {pid}, which did, has ended" if pid else ""),
                f"start it again with: migrated demo --file {path} --resume",
            ) from error
        if not mappings:
            raise GuestNotFoundError(
                f"process {pid} does not have {path} as its memory", "was the file replaced?"
            )
        self._hold([(pid, start)])
        for writer in find_writers(region.fileno(), ignore=(pid,)).writers:
            raise UnsafeGuestError(
                f"process {writer.pid} ({writer.comm}) can write to the guest's memory, too: {writer.how}",
                "end it first",
            )
        targets = [
            TrackTarget(pid, each.start, each.stop, 0, each.offset // PAGE_SIZE)
            for each in mappings
            if each.offset + each.size <= region.size
        ]
        self._track(self._options.tracker, targets)
