"""Who listens: an instance and its watches; and who did what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.filters import Matcher
    from notifyfs.core.inodes import Inode
    from notifyfs.core.queue import Queue
    from notifyfs.protocol.records import Origin


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


class Watch:
    """What one instance wants to hear of one inode."""

    __slots__ = ("filter", "inode", "instance", "mask", "wd")

    def __init__(self, instance: Instance, inode: Inode, wd: int, mask: int, chosen: Matcher | None) -> None:
        self.instance = instance
        self.inode = inode
        self.wd = wd
        self.mask = mask
        self.filter = chosen


class Instance:
    """One subscriber: the counterpart of one inotify file descriptor."""

    def __init__(self, uid: int, queue: Queue, ring: Callable[[], None]) -> None:
        self.uid = uid
        self.queue = queue
        self.ring = ring
        """Called after each event: there may be something to send."""
        self.watches: dict[int, Watch] = {}
        self.last_wd = 0
        self.drafted = 0
        """What its draft of a filter costs."""

    def overflow(self) -> None:
        """Say once, until it is read, that something was lost."""
        self.queue.overflow()
        self.ring()
