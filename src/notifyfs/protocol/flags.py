"""Every ``IN_*`` bit: its value, its groups, its spelling.

Values come from ``<sys/inotify.h>`` (inotify(7)) and, for the ``X_`` bits, from
``docs/protocol.md``. Masks travel as plain ``int`` (an ``IntFlag`` operation
costs half a microsecond, and the request path makes many); ``flags`` is what
people and programs read and write.
"""

from __future__ import annotations

import enum
from typing import Final

ACCESS: Final = 0x00000001
MODIFY: Final = 0x00000002
ATTRIB: Final = 0x00000004
CLOSE_WRITE: Final = 0x00000008
CLOSE_NOWRITE: Final = 0x00000010
OPEN: Final = 0x00000020
MOVED_FROM: Final = 0x00000040
MOVED_TO: Final = 0x00000080
CREATE: Final = 0x00000100
DELETE: Final = 0x00000200
DELETE_SELF: Final = 0x00000400
MOVE_SELF: Final = 0x00000800

UNMOUNT: Final = 0x00002000
Q_OVERFLOW: Final = 0x00004000
IGNORED: Final = 0x00008000

X_RECURSIVE: Final = 0x00010000
X_ORIGIN: Final = 0x00020000
X_FILTER: Final = 0x00040000
X_REPLY: Final = 0x00800000

ONLYDIR: Final = 0x01000000
DONT_FOLLOW: Final = 0x02000000
EXCL_UNLINK: Final = 0x04000000
MASK_CREATE: Final = 0x10000000
MASK_ADD: Final = 0x20000000
ISDIR: Final = 0x40000000
ONESHOT: Final = 0x80000000

CLOSE: Final = CLOSE_WRITE | CLOSE_NOWRITE
MOVE: Final = MOVED_FROM | MOVED_TO
ALL_EVENTS: Final = 0x00000FFF
"""Linux's twelve events (``IN_ALL_EVENTS``)."""
EVENTS: Final = ALL_EVENTS
"""Every event that a watch may ask to hear: Linux's, and ours, of which there are none."""

EXTENSIONS: Final = X_RECURSIVE | X_ORIGIN | X_FILTER
"""The extension bits that a watch mask may carry."""

WATCH_BITS: Final = (
    EVENTS
    | UNMOUNT
    | Q_OVERFLOW
    | IGNORED
    | ONLYDIR
    | DONT_FOLLOW
    | EXCL_UNLINK
    | MASK_CREATE
    | MASK_ADD
    | ISDIR
    | ONESHOT
    | EXTENSIONS
)
"""Every bit that ``add`` accepts; any other is EINVAL (a lone ISDIR or IGNORED passes; measured on Linux 6.18)."""


class flags(enum.IntFlag):  # noqa: N801 - the name that inotify_simple's users import
    """Inotify flags, named as in inotify_simple: ``flags.CREATE | flags.DELETE``."""

    ACCESS = ACCESS
    MODIFY = MODIFY
    ATTRIB = ATTRIB
    CLOSE_WRITE = CLOSE_WRITE
    CLOSE_NOWRITE = CLOSE_NOWRITE
    OPEN = OPEN
    MOVED_FROM = MOVED_FROM
    MOVED_TO = MOVED_TO
    CREATE = CREATE
    DELETE = DELETE
    DELETE_SELF = DELETE_SELF
    MOVE_SELF = MOVE_SELF

    UNMOUNT = UNMOUNT
    Q_OVERFLOW = Q_OVERFLOW
    IGNORED = IGNORED

    X_RECURSIVE = X_RECURSIVE
    X_ORIGIN = X_ORIGIN
    X_FILTER = X_FILTER
    X_REPLY = X_REPLY

    ONLYDIR = ONLYDIR
    DONT_FOLLOW = DONT_FOLLOW
    EXCL_UNLINK = EXCL_UNLINK
    MASK_CREATE = MASK_CREATE
    MASK_ADD = MASK_ADD
    ISDIR = ISDIR
    ONESHOT = ONESHOT

    @classmethod
    def from_mask(cls, mask: int) -> list[flags]:
        """The single flags set in *mask*, lowest bit first."""
        return [flag for flag in cls.__members__.values() if flag & mask]


class masks(enum.IntFlag):  # noqa: N801 - the name that inotify_simple's users import
    """Groups of flags, named as in inotify_simple."""

    CLOSE = CLOSE
    MOVE = MOVE
    ALL_EVENTS = ALL_EVENTS


def spell(mask: int) -> str:
    """Name the bits of *mask* as ``CREATE|ISDIR``; unknown bits appear in hexadecimal."""
    known = flags.from_mask(mask)
    rest = mask & ~sum(known)
    return "|".join([flag.name or "" for flag in known] + ([hex(rest)] if rest else [])) or "0"
