"""Records and their bytes: Linux's ``struct inotify_event``, both ways.

Requests, replies and events share this one format (``docs/protocol.md``):
``int32 wd; uint32 mask; uint32 cookie; uint32 len; char name[len]`` in native
byte order. ``len`` is 0 without a name, else the name and at least one NUL,
padded to a multiple of 16 (kernel: ``round_event_name_len``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER: Final = struct.Struct("=iIII")
MAX_LEN: Final = 4112
"""The longest name field: PATH_MAX bytes and their NUL, padded."""


class Record(NamedTuple):
    """One record: an event, a reply (``X_REPLY`` in its mask) or a request."""

    wd: int
    mask: int
    cookie: int = 0
    name: bytes = b""

    def __bytes__(self) -> bytes:
        """The record as it travels; FramingError for a name that no reader would take."""
        wd, mask, cookie, name = self
        if not name:
            return HEADER.pack(wd, mask, cookie, 0)
        size = len(name) if carries_origin(wd, mask) else field_size(name)
        check_size(size, cookie)
        return HEADER.pack(wd, mask, cookie, size) + name.ljust(size, b"\0")

    def __str__(self) -> str:
        """The record as people write it: ``wd1 CREATE|ISDIR s``."""
        cookie = f" cookie={self.cookie}" if self.cookie else ""
        name = f" {self.name.decode(errors='backslashreplace')}" if self.name else ""
        return f"wd{self.wd} {flags.spell(self.mask)}{cookie}{name}"


def carries_origin(wd: int, mask: int) -> bool:
    """Whether a record's name field is an ``Origin`` (binary) and not a name.

    A request to add a watch may have ``X_ORIGIN`` in its mask too, but its wd is 0.
    """
    return wd > 0 and mask & (flags.X_ORIGIN | flags.X_REPLY) == flags.X_ORIGIN


def field_size(name: bytes) -> int:
    """How many bytes the name field of *name* takes: 0, or a multiple of 16."""
    return (len(name) + 16) & ~15 if name else 0


class Origin(NamedTuple):
    """Who did it: the payload of an ``X_ORIGIN`` record (48 bytes)."""

    sequence: int
    """Number of the change that this tells of, from 1; all its records have it. An UNMOUNT, and the IGNORED
    after a removal, have that of the last change."""
    time_ns: int
    """CLOCK_REALTIME, nanoseconds since 1970."""
    pid: int
    """Process (thread group) id as the daemon sees it; 0 when it is not visible."""
    uid: int
    gid: int
    flags: int = 0
    """Reserved: 0."""
    comm: bytes = b""
    """Command name, at most 15 bytes (``TASK_COMM_LEN``)."""

    def __bytes__(self) -> bytes:
        """The payload as it travels."""
        return ORIGIN.pack(*self)

    @classmethod
    def parse(cls, payload: bytes) -> Origin:
        """The origin in a record's name field; ``struct.error`` when it is not 48 bytes."""
        whole = cls._make(ORIGIN.unpack(payload))
        return whole._replace(comm=whole.comm.rstrip(b"\0"))


ORIGIN: Final = struct.Struct("=QqIIII16s")


class FramingError(ValueError):
    """The bytes are no records: a length over ``MAX_LEN`` or not a multiple of 16. Its argument is the cookie."""


def check_size(size: int, cookie: int = 0) -> None:
    """Raise FramingError, with the record's *cookie*, unless *size* can be the length of a name field."""
    if size > MAX_LEN or size % 16:
        raise FramingError(cookie)


class Parser:
    """Bytes in, in pieces of any size; whole records out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Append *data*, as received."""
        self._buffer += data

    def __iter__(self) -> Iterator[Record]:
        """Yield each whole record that has arrived; raise FramingError on a broken one."""
        buffer = self._buffer
        start = 0
        try:
            while len(buffer) - start >= HEADER.size:
                wd, mask, cookie, size = HEADER.unpack_from(buffer, start)
                check_size(size, cookie)
                end = start + HEADER.size + size
                if end > len(buffer):
                    break
                name = bytes(buffer[start + HEADER.size : end])
                start = end
                if not carries_origin(wd, mask):
                    name = name.partition(b"\0")[0]
                yield Record(wd, mask, cookie, name)
        finally:
            del buffer[:start]

    @property
    def waiting(self) -> int:
        """How many bytes of an unfinished record are held."""
        return len(self._buffer)
