"""THE TABLE: what each operation tells, to whom, in which order.

Measured on Linux 6.18 step by step (``docs/parity.md``); the kernel functions
are those of ``include/linux/fsnotify.h``.
"""

from __future__ import annotations

import enum
import functools
import itertools
import operator
from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.core.changes import Change, Operation
    from notifyfs.core.entries import Inode


class To(enum.IntEnum):
    """Who hears of it."""

    PATH = enum.auto()
    """The parent with the name, then the inode: an event of an open file (``fsnotify_file``). An
    unlinked entry is silent for watches with EXCL_UNLINK."""
    DENTRY = enum.auto()
    """The parent with the name, then the inode: a change of the file (``fsnotify_dentry``)."""
    PARENT = enum.auto()
    """The directory alone, with the name (``fsnotify_name``)."""
    OLD_PARENT = enum.auto()
    """The directory that a rename took it from, with the old name."""
    INODE = enum.auto()
    """The inode alone (``fsnotify_inode``)."""
    VICTIM = enum.auto()
    """The inode whose name a rename replaced."""
    DEATH = enum.auto()
    """The inode, where the operation took its last name and its last use; its watches end."""
    VICTIM_DEATH = enum.auto()
    """The same for the inode whose name a rename replaced."""


RULES: Final[dict[Operation, tuple[tuple[To, int], ...]]] = {
    "create": ((To.PARENT, flags.CREATE), (To.PATH, flags.OPEN)),
    "make": ((To.PARENT, flags.CREATE),),  # mkdir, mknod, symlink
    "link": ((To.INODE, flags.ATTRIB), (To.PARENT, flags.CREATE)),
    "unlink": ((To.INODE, flags.ATTRIB), (To.DEATH, flags.DELETE_SELF), (To.PARENT, flags.DELETE)),
    "rmdir": ((To.DEATH, flags.DELETE_SELF), (To.PARENT, flags.DELETE)),
    "rename": (
        (To.OLD_PARENT, flags.MOVED_FROM),
        (To.PARENT, flags.MOVED_TO),
        (To.VICTIM, flags.ATTRIB),
        (To.INODE, flags.MOVE_SELF),
        (To.VICTIM_DEATH, flags.DELETE_SELF),
    ),
    "open": ((To.PATH, flags.OPEN),),
    "open and truncate": ((To.PATH, flags.OPEN), (To.DENTRY, flags.MODIFY)),
    "open, truncate and strip": ((To.PATH, flags.OPEN), (To.DENTRY, flags.MODIFY | flags.ATTRIB)),  # setuid, setgid
    "read": ((To.PATH, flags.ACCESS),),  # also readdir: each call, the last empty one too
    "write": ((To.PATH, flags.MODIFY),),
    "close after writing": ((To.PATH, flags.CLOSE_WRITE),),
    "close": ((To.PATH, flags.CLOSE_NOWRITE),),
    "die": ((To.DEATH, flags.DELETE_SELF),),
    # One setattr is one event, its bits joined (kernel: fsnotify_change).
    "access time": ((To.DENTRY, flags.ACCESS),),
    "size or modification time": ((To.DENTRY, flags.MODIFY),),
    "attributes": ((To.DENTRY, flags.ATTRIB),),  # also setxattr, removexattr, both times at once
    "size and attributes": ((To.DENTRY, flags.MODIFY | flags.ATTRIB),),
    "access time and attributes": ((To.DENTRY, flags.ACCESS | flags.ATTRIB),),
}

TOLD: Final = {operation: functools.reduce(operator.or_, (flag for _, flag in row)) for operation, row in RULES.items()}
"""All that an operation may tell to anybody."""

SILENT: Final = frozenset(
    [
        "lookup",
        "getattr",
        "readlink",
        "statfs",
        "access",
        "flush",
        "fsync",
        "fsyncdir",
        "getxattr",
        "listxattr",
    ]
)
"""FUSE operations that inotify has no event for."""

_NEVER_ISDIR: Final = flags.DELETE_SELF | flags.MOVE_SELF


class Notice(NamedTuple):
    """Something happened at an inode; nobody has asked yet who is watching."""

    mask: int
    parent: Inode | None
    """The directory to tell, with ``name``."""
    name: bytes
    inode: Inode | None
    """The inode itself to tell, without a name."""
    cookie: int = 0
    unlinked: bool = False
    """It came through a name that is gone: EXCL_UNLINK watches do not hear it."""
    death: bool = False
    """The inode's watches end with it."""


def setattr_operation(*, size: bool, atime: bool, mtime: bool, mode_or_owner: bool) -> Operation | None:
    """Name the row for a setattr that changes these; None where Linux is silent (kernel: fsnotify_change)."""
    if atime and mtime:
        atime = mtime = False
        mode_or_owner = True
    modified = size or mtime
    if mode_or_owner:
        if modified:
            return "size and attributes"
        return "access time and attributes" if atime else "attributes"
    if modified:
        return "size or modification time"
    return "access time" if atime else None


SETATTRS: Final = {
    (size, atime, mtime, other): setattr_operation(size=size, atime=atime, mtime=mtime, mode_or_owner=other)
    for size, atime, mtime, other in itertools.product((False, True), repeat=4)
}
"""``setattr_operation``, found faster."""

_PATH, _DENTRY, _PARENT, _OLD_PARENT, _INODE, _VICTIM, _DEATH, _VICTIM_DEATH = To  # found faster than in the class


def notices(change: Change) -> Iterator[Notice]:  # noqa: C901, PLR0912 - a branch for each word of the table
    """What *change* tells: in order."""
    entry, rename = change.entry, change.rename
    inode, parent, name = entry.inode, entry.parent, entry.name
    directory = flags.ISDIR if inode.is_dir else 0
    # What joins the two halves of a rename: as unique as its number, not 0, as long as 32 bits last.
    cookie = (change.number - 1) % 0xFFFFFFFF + 1 if rename else 0
    for to, flag in RULES[change.operation]:
        mask = flag if flag & _NEVER_ISDIR else flag | directory
        if to is _PATH:
            yield Notice(mask, parent, name, inode, 0, not entry.live)
        elif to is _DENTRY:
            if change.others:
                for possible in (entry, *change.others):
                    yield Notice(mask, possible.parent, possible.name, None)
                yield Notice(mask, None, b"", inode)
            else:
                yield Notice(mask, parent, name, inode)
        elif to is _PARENT:
            yield Notice(mask, parent, name, None, cookie)
        elif to is _INODE:
            yield Notice(mask, None, b"", inode)
        elif to is _DEATH:
            if change.dies:
                yield Notice(mask, None, b"", inode, death=True)
        elif rename is None:
            raise TypeError(change.operation)  # a row with a rename's words needs a rename
        elif to is _OLD_PARENT:
            yield Notice(mask, rename.parent, rename.name, None, cookie)
        elif rename.victim is not None:
            if to is _VICTIM:
                isdir = flags.ISDIR if rename.victim.is_dir else 0
                yield Notice(flag | isdir, None, b"", rename.victim)
            elif rename.victim_dies:
                yield Notice(mask, None, b"", rename.victim, death=True)
