"""The table of inodes, called as the shells call it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notifyfs.core.inodes import Inodes

if TYPE_CHECKING:
    from notifyfs.core.entries import Entry, Inode

DEVICE, ROOT_INO = 7, 2


class Table(Inodes):
    """The table, called as the shells call it: every name that is seen is looked up by the kernel as well."""

    def __init__(self) -> None:
        self.left: list[Inode] = []
        super().__init__(DEVICE, ROOT_INO, self.left.append)

    def see(self, parent: Inode, name: bytes, ino: int, *, is_dir: bool = False, device: int = DEVICE) -> Entry:
        entry = self.enter(parent, name, device, ino, is_dir=is_dir)
        entry.inode.lookups += 1
        return entry

    def close(self, entry: Entry) -> list[Inode]:
        """The last close of a descriptor that came through *entry*."""
        died = self.drop(entry)
        self.reap(entry.inode)
        self.reap(entry.parent)
        return died

    def forget_all(self, *inodes: Inode) -> None:
        for inode in inodes:
            assert self.forget(inode, inode.lookups)


def above(inode: Inode) -> list[Inode]:
    """The directories above *inode*, up to the root; AssertionError where they lead round in a circle."""
    places: list[Inode] = []
    while inode.entry.name:
        inode = inode.entry.parent
        assert inode not in places, f"{inode} is above itself"
        places.append(inode)
    return places
