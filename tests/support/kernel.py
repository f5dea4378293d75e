"""What the tests need of the kernel and Python's os module does not offer: inotify, first of all.

Everything goes through the C library by ctypes, so that the judge shares no code with what it judges.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import mmap
import os
import select
import struct
import termios
from typing import TYPE_CHECKING, NamedTuple

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
HEADER = struct.Struct("=iIII")
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
MS_SYNC = 4
RENAME_FLAGS = {"noreplace": 1, "exchange": 2, "whiteout": 4}
UTIME = {"now": (1 << 30) - 1, "omit": (1 << 30) - 2}
CAPABILITY_VERSION_3 = 0x20080522


def call(function: str, *arguments: object) -> int:
    """Call *function* of the C library; a negative result raises OSError with its errno."""
    result: int = getattr(LIBC, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)
    return result


class Event(NamedTuple):
    """One ``struct inotify_event``; *name* without its padding."""

    wd: int
    mask: int
    cookie: int = 0
    name: bytes = b""

    def __str__(self) -> str:
        cookie = f" cookie={self.cookie}" if self.cookie else ""
        name = f" {self.name.decode(errors='backslashreplace')}" if self.name else ""
        return f"wd{self.wd} {flags.spell(self.mask)}{name}{cookie}"


def parse(data: bytes) -> list[Event]:
    """Cut what one read(2) gave into events; it must end with a whole one."""
    events = []
    while data:
        wd, mask, cookie, size = HEADER.unpack_from(data)
        name, data = data[HEADER.size : HEADER.size + size], data[HEADER.size + size :]
        assert len(name) == size, f"a truncated event: {name!r} is not {size} bytes long"
        events.append(Event(wd, mask, cookie, name.rstrip(b"\0")))
    return events


class Inotify:
    """One instance of the kernel's inotify. Paths are relative to *base*."""

    def __init__(self, base: bytes) -> None:
        self._base = base
        self.fd = call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, path: bytes, mask: int) -> int:
        """Watch *path* (no leading ``/``; empty is the base itself); the watch descriptor."""
        return call("inotify_add_watch", self.fd, os.path.join(self._base, path), ctypes.c_uint32(mask))

    def add_fd(self, descriptor: int, mask: int) -> int:
        """Watch the file that *descriptor* refers to, whatever its names are now."""
        return call("inotify_add_watch", self.fd, b"/proc/self/fd/%d" % descriptor, ctypes.c_uint32(mask))

    def remove(self, wd: int) -> None:
        """Remove the watch *wd*."""
        call("inotify_rm_watch", self.fd, wd)

    def pending(self) -> int:
        """How many bytes of events wait to be read."""
        return int.from_bytes(fcntl.ioctl(self.fd, termios.FIONREAD, bytes(4)), "little")

    def wait(self, seconds: float) -> bool:
        """Whether an event is there to be read, or comes within *seconds*."""
        return bool(select.select([self.fd], [], [], seconds)[0])

    def drain(self) -> list[Event]:
        """Every event that is queued now."""
        events = []
        with contextlib.suppress(BlockingIOError):
            while True:
                events += parse(os.read(self.fd, 1 << 16))
        return events

    def another(self) -> Inotify:
        """Start a second instance beside this one."""
        return Inotify(self._base)

    def close(self) -> None:
        """End the instance."""
        os.close(self.fd)


class Map:
    """A page of a file in memory; unlike ``mmap.mmap`` it keeps no descriptor of the file."""

    def __init__(self, descriptor: int, *, shared: bool) -> None:
        LIBC.mmap.restype = ctypes.c_void_p
        protection, how = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        address = LIBC.mmap(None, ctypes.c_size_t(mmap.PAGESIZE), protection, how, descriptor, ctypes.c_long(0))
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "mmap")
        self._address = ctypes.c_void_p(address)
        self._bytes = (ctypes.c_char * mmap.PAGESIZE).from_address(address)

    def peek(self) -> bytes:
        """Read the first byte."""
        return self._bytes[0]

    def poke(self) -> None:
        """Write the first byte."""
        self._bytes[0] = b"!"

    def sync(self) -> None:
        """msync(2), waiting."""
        call("msync", self._address, ctypes.c_size_t(mmap.PAGESIZE), MS_SYNC)

    def close(self) -> None:
        """munmap(2)."""
        call("munmap", self._address, ctypes.c_size_t(mmap.PAGESIZE))


def rename(old: bytes, new: bytes, how: str = "") -> None:
    """renameat2(2); *how* is empty or a key of RENAME_FLAGS."""
    call("renameat2", AT_FDCWD, old, AT_FDCWD, new, RENAME_FLAGS.get(how, 0))


def utimes(target: bytes | int, times: tuple[str, str], *, follow: bool = True) -> None:
    """utimensat(2) or futimens(3); each time is ``now``, ``omit`` or seconds since 1970."""
    pairs = [(0, UTIME[time]) if time in UTIME else (int(time), 0) for time in times]
    timespecs = struct.pack("=qqqq", *pairs[0], *pairs[1])
    if isinstance(target, int):
        call("futimens", target, timespecs)
    else:
        call("utimensat", AT_FDCWD, target, timespecs, 0 if follow else AT_SYMLINK_NOFOLLOW)


def getdents(descriptor: int) -> int:
    """One getdents64(2) with a 32 KiB buffer: the bytes it filled, 0 at the end."""
    return call("getdents64", descriptor, ctypes.create_string_buffer(32768), ctypes.c_size_t(32768))


class Dirent(NamedTuple):
    """What getdents64(2) says of one name."""

    ino: int
    following: int
    """The position after it."""
    name: bytes


def entries(descriptor: int, size: int = 32768) -> list[Dirent]:
    """One getdents64(2) with a buffer of *size* bytes; nothing at the end."""
    buffer, found, at = ctypes.create_string_buffer(size), [], 0
    end = call("getdents64", descriptor, buffer, ctypes.c_size_t(size))
    while at < end:
        ino, following, length = struct.unpack_from("=QqH", buffer, at)
        found.append(Dirent(ino, following, bytes(buffer[at + 19 : at + length]).split(b"\0")[0]))
        at += length
    return found


def all_entries(descriptor: int, size: int = 32768) -> list[Dirent]:
    """Those from its position to the end."""
    return list(itertools.chain.from_iterable(iter(lambda: entries(descriptor, size), [])))


@contextlib.contextmanager
def no_capabilities() -> Iterator[None]:
    """Without any effective capability: root is then an owner like any other.

    ``capset`` concerns the calling thread alone, unlike glibc's setuid().
    """
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    held = ctypes.create_string_buffer(24)
    call("capget", header, held)
    words = struct.unpack("=6I", held.raw)
    call("capset", header, struct.pack("=6I", 0, *words[1:3], 0, *words[4:]))
    try:
        yield
    finally:
        call("capset", header, held.raw)


def keep_capabilities(uid: int, *numbers: int) -> None:
    """Become this user, for good, with those of these capabilities that the process has, and no others."""
    call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    header, held = struct.pack("=Ii", CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    call("capget", header, held)
    _, low, _, _, high, _ = struct.unpack("=6I", held.raw)
    low &= sum(1 << number for number in numbers if number < 32)
    high &= sum(1 << number - 32 for number in numbers if number >= 32)
    call("capset", header, struct.pack("=6I", low, low, 0, high, high, 0))
