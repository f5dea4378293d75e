"""The table of inodes and entries: who has which name, who is in use, who is dying."""

from __future__ import annotations

import errno
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from notifyfs.core.entries import Entry, Inode

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = 1
"""The node number of the mount's root (``FUSE_ROOT_ID``)."""

_FIRST_SYNTHETIC: Final = 1 << 63
_LATELY: Final = 256
"""Inodes that have left the table and are whole: more than any one operation still uses."""


class Inodes:
    """The table of all inodes. Never awaits: each call is atomic between trio tasks.

    *device* and *ino* are the source root's. *reaped* is called with each inode
    that leaves the table, so that its descriptors can be closed.
    """

    def __init__(self, device: int, ino: int, reaped: Callable[[Inode], None]) -> None:
        self.root = Inode(ROOT, device, ino, is_dir=True)
        self._nowhere = nowhere = Inode(0, 0, 0, is_dir=True)
        nowhere.entry = Entry(nowhere, b"", nowhere)
        self.root.entry = Entry(nowhere, b"", self.root)
        self._by_number = {ROOT: self.root}
        # The inodes whose node number is not their inode number: the root, those of other
        # devices below it, and those whose number was taken.
        self._elsewhere = {(device, ino): self.root}
        self._reaped = reaped
        self._synthetic = _FIRST_SYNTHETIC
        self._gone: deque[Inode] = deque()
        self.moves = 0
        """How often what is above a directory, or what it is called, has become another."""

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
        self.moves += 1
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
            self._let_go(inode)
            inode = entry.parent

    def _let_go(self, inode: Inode) -> None:
        """*inode* has left the table: have it freed without a search for garbage, once nobody can be looking at it."""
        self._gone.append(inode)
        if len(self._gone) > _LATELY:
            old = self._gone.popleft()
            old.names = old.used = None
            old.entry = self._nowhere.entry  # its own refers to it

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
        self.moves += entry.inode.is_dir
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
