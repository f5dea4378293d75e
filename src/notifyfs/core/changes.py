"""A ``Change``: one thing that was done. The only door into the core, and who stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from notifyfs.core.entries import Entry, Inode
    from notifyfs.core.instances import Actor

Operation = Literal[
    "create",
    "make",  # mkdir, mknod, symlink
    "link",
    "unlink",
    "rmdir",
    "rename",
    "open",
    "open and truncate",
    "open, truncate and strip",
    "read",  # also readdir: each call, the last empty one too
    "write",
    "close after writing",
    "close",
    "die",
    "access time",
    "size or modification time",
    "attributes",  # also setxattr, removexattr, both times at once
    "size and attributes",
    "access time and attributes",
]
"""What can be done: the rows of ``rules.RULES``."""


class Rename(NamedTuple):
    """What a rename adds to the entry that moved."""

    parent: Inode
    """The directory that it was in, with ``name``."""
    name: bytes
    victim: Inode | None = None
    """The inode whose name it took."""
    victim_dies: bool = False


class Change(NamedTuple):
    """One thing that was done to one entry."""

    operation: Operation
    entry: Entry
    actor: Actor
    rename: Rename | None = None
    dies: bool = False
    """It took the inode's last name and use (``Inodes.remove``)."""
    others: tuple[Entry, ...] = ()
    """Names that it may have been done through instead of ``entry``; their directories hear of it as well."""
    locked: tuple[tuple[int, bytes], ...] = ()
    """What its caller's system call may hold locked, by node number, and the name in a directory that it is about:
    until that has ended, the kernel shows them as they were."""
    number: int = 0
    """Of this mount, from 1 and without gaps, whether anybody listens or not; 0 until it has come through the door."""


class Sink(Protocol):
    """Who hears of every change: the watch sets; a journal."""

    @property
    def listening(self) -> bool:
        """Whether it wants to hear of changes at this time."""
        ...

    def tell(self, change: Change) -> None:
        """Take in *change*, which was done."""
        ...

    def lose(self, change: Change, error: Exception) -> None:
        """``tell`` raised *error*: whoever should have heard of *change* must learn that something is lost."""
        ...


class Changes:
    """The door: gives each change its number, and tells every sink, in order.

    *start*: the number of the first. Never awaits, so each call is atomic between the tasks of a loop.
    """

    def __init__(self, start: int = 1) -> None:
        self.last = start - 1
        """The number of the last change."""
        self._sinks: list[Sink] = []

    def attach(self, sink: Sink) -> None:
        """Let *sink* hear of every change from now on."""
        self._sinks.append(sink)

    def tell(self, change: Change) -> None:
        """*change* was done. So a fault in telling it is no error of its caller's: the sink says that it is lost."""
        number = self.last = self.last + 1
        for sink in self._sinks:
            if sink.listening:
                numbered = Change(*change[:-1], number)
                try:
                    sink.tell(numbered)
                except Exception as error:  # noqa: BLE001 - it is the sink's, who tells everybody concerned
                    sink.lose(numbered, error)
