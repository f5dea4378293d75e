"""What the kernel is told of an inode, of a name that is not there, and of an open file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo

if TYPE_CHECKING:
    import os

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.handles import Opened


def attributes(inode: Inode, found: os.stat_result, timeout: float) -> EntryAttributes:
    """*inode*, *found* like this, good for *timeout* seconds."""
    answer = EntryAttributes()
    answer.st_ino = inode.number
    answer.generation = inode.generation
    answer.st_mode = found.st_mode
    answer.st_nlink = found.st_nlink
    answer.st_uid = found.st_uid
    answer.st_gid = found.st_gid
    answer.st_rdev = found.st_rdev
    answer.st_size = found.st_size
    answer.st_blksize = found.st_blksize
    answer.st_blocks = found.st_blocks
    answer.st_atime_ns = found.st_atime_ns
    answer.st_mtime_ns = found.st_mtime_ns
    answer.st_ctime_ns = found.st_ctime_ns
    answer.attr_timeout = timeout
    # A file with several names is looked up again at each use: that tells which name is used.
    several = (found.st_nlink > 1 or inode.names is not None) and not inode.is_dir
    answer.entry_timeout = 0 if several else timeout
    return answer


def absent(seconds: float) -> EntryAttributes:
    """There is no such name, and so it is for so long (FUSE: an entry with inode 0)."""
    answer = EntryAttributes()
    answer.st_ino = pyfuse3.InodeT(0)
    answer.entry_timeout = seconds
    return answer


def information(opened: Opened) -> FileInfo:
    """What an open gave."""
    handle = opened.handle
    return FileInfo(fh=pyfuse3.FileHandleT(handle.fd), keep_cache=opened.keep, direct_io=handle.direct)
