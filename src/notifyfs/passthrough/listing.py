"""Listings of directories: the source's names, in its order, at its own positions."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.system import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.handles import Handle
    from notifyfs.passthrough.source import Source

OWN: Final = (b".", b"..")
"""What a directory lists of itself; the kernel does not count them as lookups."""

BUFFER: Final = 32 << 10
"""Bytes that are read of a directory at once: what the C library asks for."""

MOST_LEFT: Final = 256
"""Listings of which something is kept that was read and is not listed yet; the others read it again."""

_ENTRY: Final = struct.Struct("=8xqHx")  # linux_dirent64: inode, d_off, length, type; then the name, ended by 0
_NAME: Final = _ENTRY.size


Listed = tuple[bytes, "Inode", os.stat_result, int]
"""A name, what it is, and the position after it: the source's own (``d_off``, readdir(3))."""


@attrs.define(eq=False)
class _Left:
    """What was read of a directory and is not listed yet; behind it goes on where its descriptor stands."""

    position: int
    data: bytes = b""
    at: int = 0
    """Where in ``data``."""


class Listings:
    """The listings of open directories.

    The source says what a position means and keeps it while the directory changes; here is only what lies between the
    descriptor's position and the kernel's. A listing has ``BUFFER`` bytes at most, and none after its end.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left: OrderedDict[Handle, _Left] = OrderedDict()

    def __len__(self) -> int:
        """How many of them keep something."""
        return len(self._left)

    def end(self, handle: Handle) -> None:
        """*handle* is going to be closed."""
        self._left.pop(handle, None)

    def names(self, handle: Handle, start: int, enough: Callable[[], bool] = lambda: False) -> Iterator[Listed]:
        """The names from position *start* on; 0: from the beginning, as it is now. *enough*, asked after each: stop.

        OSError of the first one only: what comes before an error is whole, and a listing that goes on behind it
        begins with it. The next listing goes on behind the last name after which another was asked for; what is not
        taken is the caller's to reap.
        """
        left, listed = self._left_at(handle, start), False
        data, at, directory, fd = left.data, left.at, handle.entry.inode, handle.fd
        unpack, enter = _ENTRY.unpack_from, self._source.enter
        while True:
            try:
                if at == len(data):
                    data = left.data = syscalls.getdents64(fd, BUFFER)
                    at = left.at = 0
                    if not data:
                        self.end(handle)
                        return
                following, length = unpack(data, at)
                name = data[at + _NAME : data.index(0, at + _NAME)]
                if name in OWN:
                    inode, found = self._own(directory, fd, name)
                else:
                    found = _stat(name, fd)
                    inode = directory if found is None else enter(directory, name, found).inode
            except OSError:
                if not listed:
                    raise
                return
            if found is not None:
                listed = True
                yield name, inode, found, following
            at = left.at = at + length
            left.position = following
            if listed and enough():
                return

    def _left_at(self, handle: Handle, position: int) -> _Left:
        left = self._left.get(handle)
        if left is None or not position or left.position != position:
            self.end(handle)
            os.lseek(handle.fd, position, os.SEEK_SET)
            left = self._left[handle] = _Left(position)
            if len(self._left) > MOST_LEFT:
                self._left.popitem(last=False)
        self._left.move_to_end(handle)
        return left

    def _own(self, directory: Inode, fd: int, name: bytes) -> tuple[Inode, os.stat_result | None]:
        if name == b".":
            return directory, os.fstat(fd)
        # The mount's root is its own parent, whatever the source has above it.
        root = self._source.inodes.root
        above = root if directory is root else directory.entry.parent
        return above, self._source.stat(above)


def _stat(name: bytes, fd: int) -> os.stat_result | None:
    """What *name* is in the directory *fd*; None when it was removed since it was read."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
