"""An inode, and an entry: one name of it in one directory, what Linux calls a dentry.

It is the entry, not the inode, that a file is opened through; it follows renames, and it outlives its
unlink for as long as something uses it. That is what makes the parent hear the right name, and
``DELETE_SELF`` come at the right moment (kernel: ``dentry_unlink_inode``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections import OrderedDict

    from notifyfs.core.instances import Instance, Watch

_ENDS: Final = 8  # of so many answers in a row, which cross the same write, all may be dropped


class Entry:
    """One name of one inode, in one directory."""

    __slots__ = ("inode", "live", "name", "parent", "uses")

    def __init__(self, parent: Inode, name: bytes, inode: Inode) -> None:
        self.parent = parent
        self.name = name
        self.inode = inode
        self.live = True
        """False once the name was unlinked or replaced."""
        self.uses = 0
        """Open handles that came through it, and dead entries below it that are still in use."""

    def __repr__(self) -> str:
        return f"<Entry {self.name!r} of {self.inode.number} in {self.parent.number}>"


class Inode:
    """One file, directory, link or node of the source that the kernel or a watch remembers."""

    __slots__ = (
        "acl",
        "children",
        "device",
        "doubted",
        "ends",
        "entry",
        "generation",
        "gone",
        "ino",
        "is_dir",
        "lookups",
        "names",
        "number",
        "pages",
        "told",
        "used",
        "verdicts",
        "walked",
        "watches",
        "way",
    )

    def __init__(self, number: int, device: int, ino: int, *, is_dir: bool) -> None:
        self.number = number
        """FUSE's node number and the ``st_ino`` that the mount shows."""
        self.device, self.ino = device, ino
        self.is_dir = is_dir
        self.generation = 0
        """Raised when the number may belong to another file than before."""
        self.gone = False
        """Its numbers find it no more: its last link was removed, or it left the table."""
        self.lookups = 0
        """How often the kernel was told of it (FUSE's lookup count)."""
        self.entry: Entry
        """One of its names, a live one if there is any: a removed file keeps its last. The root's is empty."""
        self.names: OrderedDict[Entry, None] | None = None
        """All entries, when there are several: those that are live, and those removed but still in use."""
        self.used: dict[Entry, None] | None = None
        """Those of ``names`` that are in use."""
        self.children: dict[bytes, Entry] | None = None
        self.pages: tuple[int, int, int] | None = None
        """Size, mtime and ctime of the content that the kernel's page cache was filled from."""
        self.told: tuple[int, int, int, int] | None = None
        """ctime, mode, user and group as the kernel was told last: what it judges permissions by."""
        self.way: tuple[tuple[int, int, int, int], float] | None = None
        """What ``told`` should be, where the kernel has been made to ask since it is so, and when that was."""
        self.walked = 0.0
        """When the directories above were last found to be as told."""
        self.doubted = 0.0
        """Since when the kernel may judge by other attributes; 0: it does not; inf: and it was not made to ask."""
        self.ends: tuple[int, ...] = ()
        """Sizes that the kernel may believe it has, the likeliest first: an answer may be dropped, a write may not."""
        self.acl: bytes | None = None
        """The access list that the kernel was told last: b"" that there is none; None: it has not asked."""
        self.watches: dict[Instance, Watch] | None = None
        self.verdicts: dict[int, tuple[float, int]] | None = None
        """Of a directory: what users may do there and when that was judged, by their judges' numbers."""

    def told_size(self, size: int) -> None:
        """Note that the kernel is told this size."""
        if self.ends[:1] != (size,):
            self.ends = (size, *self.ends[: _ENDS - 1])

    def written_to(self, end: int) -> None:
        """Note that the kernel has written up to there: whatever it believed, it is no less now."""
        if end > min(self.ends, default=-1):
            self.ends = tuple(dict.fromkeys(max(end, size) for size in self.ends or (end,)))

    @property
    def in_use(self) -> bool:
        """Whether an open handle came through any of its names (of a directory also: see ``Entry.uses``)."""
        return self.entry.uses > 0 if self.used is None else bool(self.used)

    def __repr__(self) -> str:
        return f"<Inode {self.number} {self.entry.name!r}>"
