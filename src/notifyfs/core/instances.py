"""Who listens: an instance and its watches; and who did what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notifyfs.core.entries import Inode
    from notifyfs.core.filters import Matcher
    from notifyfs.core.queue import Queue
    from notifyfs.protocol.records import Origin

_LAST_WD: Final = 2**31 - 1  # INT_MAX


class Actor(Protocol):
    """Who did an operation; asked only when somebody wants to know."""

    uid: int

    @property
    def process(self) -> int:
        """Process id; 0 when it is not known."""
        ...

    def look(self) -> None:
        """Find out now what ``origin`` will say."""
        ...

    def origin(self, number: int) -> Origin:
        """The origin of the change with this number."""
        ...


class Reach(NamedTuple):
    """From how far above what happens in a directory could be heard, had somebody a watch on each that lets him."""

    above: int
    """So many directories above it; 0: in itself only; -1: nowhere."""
    sure: bool = True
    """False: whether also from further above is not known yet."""


class Judge(Protocol):
    """What the users behind some instances may read and search, at this moment."""

    def reach(self, places: Sequence[Inode]) -> Reach:
        """How far what happens in the first of *places* reaches; the others are those above it, up to the root."""
        ...


class Watch:
    """What one instance wants to hear of one inode."""

    __slots__ = ("by_path", "filter", "inode", "instance", "mask", "wd")

    def __init__(self, instance: Instance, inode: Inode, wd: int, mask: int, chosen: Matcher | None) -> None:
        self.instance = instance
        self.inode = inode
        self.wd = wd
        self.mask = mask
        self.filter = chosen
        self.by_path = False
        """Whether its user has to be able to walk to it from the root, too: it was not set by a descriptor."""


class Instance:
    """One subscriber: the counterpart of one inotify file descriptor."""

    def __init__(self, uid: int, queue: Queue, ring: Callable[[], None], judge: Judge | None = None) -> None:
        self.uid = uid
        self.judge = judge
        """Says what its recursive watches may hear; None: everything."""
        self.queue = queue
        self.ring = ring
        """Called after each event: there may be something to send."""
        self.watches: dict[int, Watch] = {}
        self.last_wd = 0
        self.drafted = 0
        """What its draft of a filter costs."""
        self.large = False
        """Whether its event descriptor has a large buffer."""

    def next_wd(self) -> int:
        """The next watch descriptor that is free: when all were used, the lowest (kernel: idr_alloc_cyclic)."""
        wd = self.last_wd % _LAST_WD + 1
        while wd in self.watches:
            wd = wd % _LAST_WD + 1
        return wd

    def overflow(self) -> None:
        """Say once, until it is read, that something was lost."""
        self.queue.overflow()
        self.ring()
