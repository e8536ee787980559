"""What a dirty tracker is, and what it watches."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self

from migrated.pages import PAGE_SIZE, PageSet

__all__ = ["TrackTarget", "Tracker"]


@dataclass(frozen=True, slots=True)
class TrackTarget:
    """Addresses [start, stop) of a process, and where they lie in which region.

    One region may have several targets: parts of it, or several processes that map the same memory.
    """

    pid: int
    start: int
    stop: int
    region_index: int
    first_page: int

    def __post_init__(self) -> None:
        if self.start % PAGE_SIZE or self.stop % PAGE_SIZE or not 0 <= self.start < self.stop:
            raise ValueError(f"a tracked interval begins and ends on a page: {self.start:#x}-{self.stop:#x}")

    @property
    def pages(self) -> int:
        """How many pages the interval has."""
        return (self.stop - self.start) // PAGE_SIZE


class Tracker(ABC):
    """Finds written pages. Calls block, so they belong in a thread; one call at a time.

    The order that loses nothing: ``arm``, then ``populated`` of the regions and the first copy, then per
    round ``collect`` before the round's first page is read, and with the guest paused ``last``. A page that
    is written while it is read, or any time after ``arm``, is in a later answer. After an error the tracker
    is of no use any more: close it. What a failed ``collect`` had found is lost, so the migration fails.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    """Whether every page reported was written; otherwise the caller compares contents."""
    sees_discards: ClassVar[bool] = False
    """Whether a private page that its owner gave back is still reported after somebody has read it: a read puts the
    kernel's page of zeros in its place, which is no write."""

    @abstractmethod
    def arm(self) -> None:
        """From now on writes are seen. Raises a ``MigratedError`` that says why this can't be had."""

    @abstractmethod
    def collect(self) -> list[PageSet]:
        """The pages written since ``arm`` or the last ``collect``, one set a region, and watch them again.

        Raises ``GuestDiedError`` (exit, exec) or ``GuestError`` (the mappings changed).
        """

    def last(self) -> list[PageSet]:
        """As ``collect``, with the guest paused and not running again until the migration is decided."""
        return self.collect()

    @abstractmethod
    def close(self) -> None:
        """Leave the guest without any protection, whether it runs or not. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
