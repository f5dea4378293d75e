"""Inodes and entries: who has which name, who is in use, who is dying.

An ``Entry`` is what Linux calls a dentry: one name of one inode. It is the
entry, not the inode, that a file is opened through; it follows renames, and
it outlives its unlink for as long as something uses it. That is what makes
the parent hear the right name, and ``DELETE_SELF`` come at the right moment
(kernel: ``dentry_unlink_inode``).
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.instances import Instance, Watch

ROOT: Final = 1
"""The node number of the mount's root (``FUSE_ROOT_ID``)."""

_FIRST_SYNTHETIC: Final = 1 << 63
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


class Inodes:
    """The table of all inodes. Never awaits: each call is atomic between trio tasks.

    *device* and *ino* are the source root's. *reaped* is called with each inode
    that leaves the table, so that its descriptors can be closed.
    """

    def __init__(self, device: int, ino: int, reaped: Callable[[Inode], None]) -> None:
        self.root = Inode(ROOT, device, ino, is_dir=True)
        nowhere = Inode(0, 0, 0, is_dir=True)
        nowhere.entry = Entry(nowhere, b"", nowhere)
        self.root.entry = Entry(nowhere, b"", self.root)
        self._by_number = {ROOT: self.root}
        # The inodes whose node number is not their inode number: the root, those of other
        # devices below it, and those whose number was taken.
        self._elsewhere = {(device, ino): self.root}
        self._reaped = reaped
        self._synthetic = _FIRST_SYNTHETIC

    def __len__(self) -> int:
        return len(self._by_number)

    def __getitem__(self, number: int) -> Inode:
        """The inode with this node number; ESTALE when there is none."""
        try:
            return self._by_number[number]
        except KeyError:
            raise OSError(errno.ESTALE, "unknown node", str(number)) from None

    def get(self, number: int) -> Inode | None:
        """The inode with this node number, or None."""
        return self._by_number.get(number)

    def newest_first(self) -> list[Inode]:
        """All inodes, the youngest in the table first."""
        return list(reversed(self._by_number.values()))

    def find(self, device: int, ino: int) -> Inode | None:
        """The inode with this identity, unless its last link is known to be gone."""
        if device == self.root.device:
            inode = self._by_number.get(ino)
            if inode is not None and inode.ino == ino and inode.device == device and not inode.gone:
                return inode
        return self._elsewhere.get((device, ino))

    def enter(  # noqa: PLR0913 - what stat(2) says of a name
        self, parent: Inode, name: bytes, device: int, ino: int, *, is_dir: bool, links: int = 0
    ) -> Entry:
        """Note what *name* in *parent* is, as just seen in the source; *links*: how many it has, 0 if not known."""
        children = parent.children
        if children is None:
            children = parent.children = {}
        entry = children.get(name)
        if entry is not None:
            inode = entry.inode
            if inode.ino == ino and inode.device == device and inode.is_dir == is_dir:
                return entry
            self._lose(entry)  # replaced behind the mount's back
        found = self.find(device, ino)
        if found is not None and found.is_dir != is_dir:
            # The source reused the number of something that was removed behind the mount's back.
            self._unkey(found)
            found = None
        if found is not None and is_dir and self._above(parent, found):
            # A directory in itself: it was moved into its child behind the mount's back, or the source
            # has a bind mount of itself. Here it is another one, or every walk up would be endless.
            found = None
        if found is None:
            found = self._create(device, ino, is_dir=is_dir)
            found.entry = children[name] = Entry(parent, name, found)
            return found.entry
        if is_dir or (links == 1 and found.entry.live):
            # Its one name was elsewhere until now.
            self._moved_behind(found, parent, name)
            return found.entry
        entry = children[name] = Entry(parent, name, found)
        self._name(found, entry)
        return entry

    def renew(self, device: int, ino: int) -> None:
        """Note that (device, ino) has just been made: whoever had this number before was another file."""
        old = self.find(device, ino)
        if old is not None:
            self._unkey(old)

    def check_move(self, entry: Entry, parent: Inode) -> None:
        """ESTALE where moving *entry* into *parent* would put a directory into itself.

        The kernel refuses that by itself; so what this table knows is older than the source is.
        """
        if entry.inode.is_dir and entry.parent is not parent and self._above(parent, entry.inode):
            self._lose(entry)
            raise OSError(errno.ESTALE, "moved behind the mount", entry.name)

    def peek(self, parent: Inode, name: bytes) -> Entry | None:
        """The entry known under this name, or None; the source is not asked."""
        return parent.children.get(name) if parent.children else None

    def vanish(self, parent: Inode, name: bytes) -> None:
        """Note that *parent* has no *name* any more, as just seen in the source."""
        entry = self.peek(parent, name)
        if entry is not None:
            self._lose(entry)

    def remove(self, entry: Entry, links: int) -> bool:
        """Note that *entry* was unlinked and *links* links are left; say whether its inode dies now.

        It does when no link is left and nothing uses this very entry: a file that is open
        through an entry removed earlier does not keep it (measured: U6).
        """
        inode = entry.inode
        if entry.live:  # or it was found missing behind the mount while it was being removed
            self._detach(entry)
        if links == 0 or inode.is_dir:
            self._unkey(inode)
        return inode.gone and not entry.uses

    def move(self, entry: Entry, parent: Inode, name: bytes) -> None:
        """Note that *entry* was renamed. Whatever had the new name must have been removed before."""
        self._relocate(entry, parent, name)

    def exchange(self, one: Entry, two: Entry) -> None:
        """Note that two entries changed places (``RENAME_EXCHANGE``)."""
        one.parent, two.parent = two.parent, one.parent
        one.name, two.name = two.name, one.name
        for entry in (one, two):
            if entry.parent.children is not None:
                entry.parent.children[entry.name] = entry

    def use(self, entry: Entry) -> None:
        """Begin a use of *entry*: a handle was opened through it."""
        while True:
            entry.uses += 1
            if (used := entry.inode.used) is not None:
                used[entry] = None
            if entry.uses > 1 or entry.live:
                break
            entry = entry.parent.entry  # a dead entry in use holds the directory it was in (measured: U9)

    def drop(self, entry: Entry) -> list[Inode]:
        """End one use of *entry*; return the inodes that die of it, in the order of their deaths."""
        died, dropped = [], []
        while True:
            dropped.append(inode := entry.inode)
            entry.uses -= 1
            if not entry.uses and inode.used is not None:
                del inode.used[entry]
            if entry.uses or entry.live:
                break
            self._unname(entry)
            if inode.gone:
                died.append(inode)
            entry = entry.parent.entry
        for inode in dropped:
            self.reap(inode)
        return died

    def forget(self, inode: Inode, lookups: int) -> bool:
        """Take back *lookups* of the kernel's lookups; say whether it remembers the inode no more."""
        inode.lookups -= lookups
        if inode.lookups > 0:
            return False
        self.reap(inode)
        return True

    def reap(self, inode: Inode) -> None:
        """Drop *inode*, and then its ancestors, from the table if nothing remembers them any more."""
        while not (inode.lookups > 0 or inode.watches or inode.children or inode.number == ROOT or inode.in_use):
            if self._by_number.get(inode.number) is not inode:
                break  # reaped before
            del self._by_number[inode.number]
            self._unkey(inode)
            self._reaped(inode)
            entry = inode.entry
            for name in inode.names or (entry,):
                self._unhash(name)
                if name is not entry:
                    self.reap(name.parent)
            inode = entry.parent

    def _create(self, device: int, ino: int, *, is_dir: bool) -> Inode:
        number = ino
        # The root has number 1 on every FUSE mount; a tmpfs has an inode 1 of its own.
        if device != self.root.device or ino <= ROOT or ino in self._by_number:
            while (number := self._synthetic) in self._by_number:
                self._synthetic += 1
            self._synthetic += 1
        inode = Inode(number, device, ino, is_dir=is_dir)
        self._by_number[number] = inode
        if number != ino:
            self._elsewhere.setdefault((device, ino), inode)
        return inode

    def _unkey(self, inode: Inode) -> None:
        if inode.number != inode.ino and self._elsewhere.get((inode.device, inode.ino)) is inode:
            del self._elsewhere[inode.device, inode.ino]
        inode.gone = True

    def _lose(self, entry: Entry) -> None:
        self._detach(entry)
        self.reap(entry.inode)

    def _moved_behind(self, inode: Inode, parent: Inode, name: bytes) -> None:
        if not (inode.is_dir or inode.in_use or inode.watches):
            # Or it was removed and its number used again: nothing holds it, so it can be another file.
            # The kernel takes an inode with another generation for a new one.
            inode.generation += 1
            inode.pages = None
        for other in list(inode.names or ()):
            if other is not inode.entry and other.live:
                self._detach(other)
        self._relocate(inode.entry, parent, name)

    def _relocate(self, entry: Entry, parent: Inode, name: bytes) -> None:
        old = entry.parent
        if entry.live:
            self._unhash(entry)
        elif entry.uses:
            self.drop(old.entry)
        if parent.children is None:
            parent.children = {}
        entry.parent, entry.name, entry.live = parent, name, True
        parent.children[name] = entry
        if old is not parent:
            self.reap(old)

    def _above(self, place: Inode, inode: Inode) -> bool:
        while place is not inode and place.entry.name:
            place = place.entry.parent
        return place is inode

    @staticmethod
    def _name(inode: Inode, entry: Entry) -> None:
        old = inode.entry
        if not old.live:
            inode.entry = entry
            if not old.uses:
                return
        if inode.names is None:
            inode.names, inode.used = OrderedDict.fromkeys((old,)), {old: None} if old.uses else {}
        inode.names[entry] = None

    def _detach(self, entry: Entry) -> None:
        self._unhash(entry)
        entry.live = False
        if not entry.uses:
            self._unname(entry)
            return
        self.use(entry.parent.entry)
        if entry.inode.names is not None:
            entry.inode.names.move_to_end(entry)  # the live ones are found first
        if entry.inode.entry is entry:
            self._choose(entry.inode)

    def _unname(self, entry: Entry) -> None:
        """*entry* is neither live nor in use any more."""
        inode = entry.inode
        if inode.names is None or inode.names.pop(entry, entry) is entry:
            return
        if inode.entry is entry:
            self._choose(inode)
        if len(inode.names) == 1:
            inode.names = inode.used = None

    @staticmethod
    def _choose(inode: Inode) -> None:
        if inode.names:
            inode.entry = next((name for name in inode.names if name.live), next(reversed(inode.names)))

    @staticmethod
    def _unhash(entry: Entry) -> None:
        children = entry.parent.children
        if children is not None and children.get(entry.name) is entry:
            del children[entry.name]
