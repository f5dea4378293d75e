"""Listings of directories."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.core.inodes import Inode
    from notifyfs.passthrough.files import Handle
    from notifyfs.passthrough.source import Source

OWN: tuple[bytes, bytes] = (b".", b"..")
"""What a directory lists of itself; the kernel does not count them as lookups."""


class Listed(NamedTuple):
    """One name of a listing."""

    name: bytes
    inode: Inode
    found: os.stat_result
    following: int
    """Where to go on after it."""


def listing(source: Source, handle: Handle, start: int) -> Iterator[Listed]:
    """The names from position *start* on; 0 takes a new listing.

    OSError of the first one only: what comes before an error is whole, and a listing that goes on behind it
    begins with it. What is not taken is the caller's to reap.
    """
    directory = handle.entry.inode
    if start == 0:
        handle.names = [*OWN, *map(os.fsencode, os.listdir(handle.fd))]
    listed = False
    for position in range(start, len(handle.names)):
        name = handle.names[position]
        try:
            inode, found = _listed(source, directory, handle.fd, name)
        except FileNotFoundError:
            continue  # removed since the listing was taken
        except OSError:
            if not listed:
                raise
            return
        listed = True
        yield Listed(name, inode, found, position + 1)


def _listed(source: Source, directory: Inode, fd: int, name: bytes) -> tuple[Inode, os.stat_result]:
    if name == b".":
        return directory, os.fstat(fd)
    if name == b"..":
        # The mount's root is its own parent, whatever the source has above it.
        above = source.inodes.root if directory is source.inodes.root else directory.entry.parent
        return above, source.stat(above)
    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    return source.enter(directory, name, found).inode, found
