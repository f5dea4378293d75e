"""One operation, on one of the two trees: a list of plain words in, a plain outcome out.

An operation is ``[who, umask, verb, argument...]``. Paths are relative to the tree; ``@N`` or ``@N/name`` is the
descriptor in slot N, or a name below it. An outcome has nothing that may differ: no numbers, no times of today.
"""

# ruff: noqa: D102, FBT001 - the method do_x is the system call x, and its arguments come from a list

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Operation = list[Any]

NOW = "now"
TODAY: Final = range(1_600_000_000 * 10**9, 2_200_000_000 * 10**9)
"""Times in here are the clock's; those that the generator sets are not."""

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
_ERRORS: Final = frozenset(errno.errorcode.values())
_BLOCK: Final = 4096
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class User(NamedTuple):
    """Who does it."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


_SLOT: Final = {"map": 3, "write": 3, "pwrite": 3, "pwritev": 3, "direct": 3, "copy": 4, "sendfile": 4}
"""Where an operation names the descriptor that it writes to."""

USERS: Final = {"root": User(0, 0), "ann": User(12345, 12345, (5555,)), "bob": User(12346, 12346, (5555, 5556))}


def content(length: int, seed: int) -> bytes:
    """Bytes that anybody can make again."""
    return random.Random(seed).randbytes(length)  # noqa: S311 - chance that can be repeated is what is wanted


def moment(nanoseconds: int) -> int | str:
    """A time, if it was set; ``NOW`` if it is the clock's."""
    return NOW if nanoseconds in TODAY else nanoseconds


def described(found: os.stat_result) -> list[Any]:
    """What both trees must agree on of one file."""
    kind = stat.S_IFMT(found.st_mode)
    return [
        oct(found.st_mode),
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        None if kind == stat.S_IFDIR else found.st_size,
        found.st_rdev,
        _modified(found),
    ]


class Side:
    """One of the two trees, and the descriptors that are open there; *without* is as in ``known``."""

    def __init__(self, root: str, without: frozenset[str]) -> None:
        self.root = root
        self.without = without
        self.slots: dict[int, int] = {}

    def do(self, operation: Operation) -> Any:
        """The outcome: an errno's name, or what the verb gives."""
        verb: Callable[..., Any] = getattr(self, "do_" + operation[2])
        try:
            if "appended" in self.without and self._is_privileged_log(operation):
                return "left out"
            return verb(*operation[3:])
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        except ValueError as error:  # mmap's own checks
            return str(error)

    def _is_privileged_log(self, operation: Operation) -> bool:
        """Whether it maps what was opened with O_APPEND, or writes to it what may clear setuid."""
        if operation[2] not in _SLOT:
            return False
        fd = self.fd(operation[_SLOT[operation[2]]])
        return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND) and (
            operation[2] == "map" or bool(os.fstat(fd).st_mode & (stat.S_ISUID | stat.S_ISGID))
        )

    def close(self) -> None:
        """Close all that is open."""
        for fd in self.slots.values():
            os.close(fd)
        self.slots.clear()

    def path(self, path: str) -> str:
        """The path for the system."""
        if path.startswith("@"):
            slot, slash, rest = path[1:].partition("/")
            return f"/proc/self/fd/{self.slots.get(int(slot), 999999)}{slash}{rest}"
        return f"{self.root}/{path}"

    def fd(self, slot: int) -> int:
        """The descriptor in a slot; EBADF when it is empty."""
        if slot not in self.slots:
            raise OSError(errno.EBADF, "empty slot")
        return self.slots[slot]

    # Names

    def do_mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.path(path), mode)

    def do_rmdir(self, path: str) -> None:
        os.rmdir(self.path(path))

    def do_unlink(self, path: str) -> None:
        os.unlink(self.path(path))

    def do_rename(self, old: str, new: str, flags: int) -> None:
        arguments = (os.fsencode(self.path(old)), _AT_FDCWD, os.fsencode(self.path(new)), ctypes.c_uint(flags))
        _call("renameat2", _AT_FDCWD, *arguments)

    def do_link(self, old: str, new: str, follow: bool) -> None:
        os.link(self.path(old), self.path(new), follow_symlinks=_following(old, follow))

    def do_symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.path(path))

    def do_readlink(self, path: str) -> str:
        return os.readlink(self.path(path)).removeprefix(self.root)  # of a descriptor's link it is a whole path

    def do_mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(self.path(path), mode, device)

    def do_list(self, path: str, mine: str) -> list[str]:
        """Names, sorted; of a shared directory those that begin with *mine* only."""
        place: str | int = self.path(path)
        if path.startswith("@") and "/" not in path:
            place = self.fd(int(path[1:]))
        return sorted(name for name in os.listdir(place) if name.startswith(mine))

    # Attributes

    def do_stat(self, path: str, follow: bool) -> list[Any]:
        return described(os.stat(self.path(path), follow_symlinks=_following(path, follow)))

    def do_fstat(self, slot: int) -> list[Any]:
        return described(os.fstat(self.fd(slot)))

    def do_access(self, path: str, mode: int) -> bool:
        return os.access(self.path(path), mode, effective_ids=True)

    def do_chmod(self, path: str, mode: int) -> None:
        os.chmod(self.path(path), mode)

    def do_fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self.fd(slot), mode)

    def do_chown(self, path: str, uid: int, gid: int, follow: bool) -> None:
        os.chown(self.path(path), uid, gid, follow_symlinks=_following(path, follow))

    def do_fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self.fd(slot), uid, gid)

    def do_utimes(self, path: str, times: list[int], follow: bool) -> list[Any]:
        """Set the times and say what they are now; *times* has seconds and nanoseconds of each (utimensat(2))."""
        flags = 0 if _following(path, follow) else _AT_SYMLINK_NOFOLLOW
        whole = self.path(path)
        _call("utimensat", _AT_FDCWD, os.fsencode(whole), (ctypes.c_long * 4)(*times), flags)
        found = os.stat(whole, follow_symlinks=_following(path, follow))
        return _times_of(found, times)

    def do_futimes(self, slot: int, times: list[int]) -> list[Any]:
        fd = self.fd(slot)
        _call("futimens", fd, (ctypes.c_long * 4)(*times))
        found = os.fstat(fd)
        return _times_of(found, times)

    def do_setxattr(self, path: str, name: str, value: str, flags: int, follow: bool) -> None:
        os.setxattr(self.path(path), name, bytes.fromhex(value), flags, follow_symlinks=_following(path, follow))

    def do_getxattr(self, path: str, name: str, follow: bool) -> str:
        return os.getxattr(self.path(path), name, follow_symlinks=_following(path, follow)).hex()

    def do_removexattr(self, path: str, name: str, follow: bool) -> None:
        os.removexattr(self.path(path), name, follow_symlinks=_following(path, follow))

    def do_listxattr(self, path: str, follow: bool) -> list[str]:
        return sorted(os.listxattr(self.path(path), follow_symlinks=_following(path, follow)))

    # Files

    def do_open(self, slot: int, path: str, flags: int, mode: int) -> None:
        """Open into a slot; what is there is closed first."""
        if slot in self.slots:
            os.close(self.slots.pop(slot))
        self.slots[slot] = os.open(self.path(path), flags, mode)

    def do_close(self, slot: int) -> None:
        os.close(self.fd(slot))
        del self.slots[slot]

    def do_dup(self, slot: int, other: int) -> None:
        fd = os.dup(self.fd(slot))
        if other in self.slots:
            os.close(self.slots[other])
        self.slots[other] = fd

    def do_read(self, slot: int, length: int) -> str:
        return _digest(os.read(self.fd(slot), length))

    def do_pread(self, slot: int, length: int, offset: int) -> str:
        return _digest(os.pread(self.fd(slot), length, offset))

    def do_write(self, slot: int, length: int, seed: int) -> int:
        return os.write(self.fd(slot), content(length, seed))

    def do_pwrite(self, slot: int, length: int, seed: int, offset: int) -> int:
        return os.pwrite(self.fd(slot), content(length, seed), offset)

    def do_pwritev(self, slot: int, length: int, seed: int, offset: int, flags: int) -> int:
        data = content(length, seed)
        return os.pwritev(self.fd(slot), [data[: length // 3], data[length // 3 :]], offset, flags)

    def do_direct(self, slot: int, blocks: int, seed: int, offset: int, writing: bool) -> Any:
        """Read or write whole aligned blocks, as O_DIRECT wants it."""
        with mmap.mmap(-1, blocks * _BLOCK) as memory:
            if writing:
                memory[:] = content(blocks * _BLOCK, seed)
                return os.pwrite(self.fd(slot), memory, offset * _BLOCK)
            count = os.preadv(self.fd(slot), [memory], offset * _BLOCK)
            return _digest(memory[:count])

    def do_seek(self, slot: int, offset: int, whence: int) -> int:
        fd = self.fd(slot)
        if stat.S_ISDIR(os.fstat(fd).st_mode):  # offsets in a directory are the file system's own
            return os.lseek(fd, 0, os.SEEK_SET)
        return os.lseek(fd, offset, whence)

    def do_truncate(self, path: str, size: int) -> None:
        os.truncate(self.path(path), size)

    def do_ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self.fd(slot), size)

    def do_fsync(self, slot: int, data: bool) -> None:
        (os.fdatasync if data else os.fsync)(self.fd(slot))

    def do_map(self, slot: int, places: list[int], seed: int, writing: bool, flush: bool) -> Any:
        """Map the whole file shared; read or write a few bytes at each place that it has."""
        fd = self.fd(slot)
        if writing and "mapped" in self.without and _is_capable(fd):
            return "left out"
        size = os.fstat(fd).st_size
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writing else 0)
        with mmap.mmap(fd, min(size, 1 << 22), mmap.MAP_SHARED, protection) as memory:
            there = [place for place in places if place + 8 <= len(memory)]
            if not writing:
                return [memory[place : place + 8].hex() for place in there]
            for place in there:
                memory[place : place + 8] = content(8, seed + place)
            if flush:
                memory.flush()
            return len(there)

    def do_copy(self, source: int, target: int, length: int, source_offset: int, target_offset: int) -> int:
        return os.copy_file_range(self.fd(source), self.fd(target), length, source_offset, target_offset)

    def do_sendfile(self, source: int, target: int, length: int, offset: int) -> int:
        return os.sendfile(self.fd(target), self.fd(source), offset, length)

    def do_append(self, path: str, record: str) -> int:
        """Append a record that is known to be whole in a log that all processes write."""
        fd = os.open(self.path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            return os.write(fd, record.encode())
        finally:
            os.close(fd)

    def do_namelen(self, path: str) -> int:
        return os.statvfs(self.path(path)).f_namemax


def failed(outcome: Any) -> bool:
    """Whether it is an errno's name."""
    return isinstance(outcome, str) and outcome in _ERRORS


def acting(who: str) -> None:
    """Be this user, with its permissions, until ``acting("root")``."""
    user = USERS[who]
    if os.geteuid() == user.uid:
        return
    if user.uid:
        os.setgroups(user.groups)
        os.setegid(user.gid)
        os.seteuid(user.uid)
    else:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def becoming(who: str) -> None:
    """Be this user for good."""
    user = USERS[who]
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def acl(*entries: tuple[int, int, int]) -> str:
    """The value of system.posix_acl_*, as hex digits: (tag, permissions, id) each (linux/posix_acl_xattr.h)."""
    return (struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)).hex()


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _is_capable(fd: int) -> bool:
    try:
        return bool(os.getxattr(fd, "security.capability"))
    except OSError:
        return False


def _following(path: str, follow: bool) -> bool:
    """Whether to follow the last link: a slot's always, because that link itself is /proc's."""
    return follow or (path.startswith("@") and "/" not in path)


def _times_of(found: os.stat_result, times: list[int]) -> list[Any]:
    """Both times; the access time only where it was set, because cached reads do not move the mount's."""
    return [moment(found.st_atime_ns) if times[1] != UTIME_OMIT else None, _modified(found)]


def _modified(found: os.stat_result) -> int | str | None:
    """The modification time; not a FIFO's, because writing to one goes through the kernel only."""
    return None if stat.S_ISFIFO(found.st_mode) else moment(found.st_mtime_ns)


def _digest(data: bytes) -> str:
    """Short data as it is; of long data the length and a checksum."""
    return data.hex() if len(data) <= 32 else f"{len(data)} bytes, {zlib.crc32(data):08x}"  # noqa: PLR2004
