"""The few system calls that Python's ``os`` does not have, by ctypes.

Each raises OSError with the errno that the kernel gave. Numbers are those of
``<linux/*.h>``; the calls are the same on every architecture that glibc and
musl wrap, which is why the wrappers are used and not ``syscall(2)``; but for faccessat2(2), and those of
``mount_nowhere``, which glibc has from 2.36 on: their numbers are everywhere the same.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import Final

AT_EMPTY_PATH: Final = 0x1000
AT_STATX_DONT_SYNC: Final = 0x4000
AT_EACCESS: Final = 0x200
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4

_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_SO_PEERGROUPS: Final = 59
_NGROUPS_MAX: Final = 65536
_AT_FDCWD: Final = -100
_UTIME_OMIT: Final = (1 << 30) - 2
_UTIME_NOW: Final = (1 << 30) - 1
_FACCESSAT2: Final = 439
_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_CLOEXEC: Final = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_MOUNT_ATTR_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_CLONE_FS: Final = 0x200
_libc = ctypes.CDLL(None, use_errno=True)
_getdents64 = _libc.getdents64 if hasattr(_libc, "getdents64") else _libc.getdents  # glibc 2.30; musl


def _check(result: int, *about: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *about)
    return result


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    _check(_libc.renameat2(old_fd, old, new_fd, new, ctypes.c_uint(flags)), old, None, new)


def getdents64(fd: int, size: int) -> bytes:
    """getdents64(2) with a buffer of *size* bytes: ``struct linux_dirent64``, one after the other; empty at the end."""
    buffer = ctypes.create_string_buffer(size)
    return bytes(memoryview(buffer)[: _check(_getdents64(fd, buffer, ctypes.c_size_t(size)), fd)])


def utimensat(path: bytes, atime_ns: int | None, mtime_ns: int | None, *, now: bool = False) -> None:
    """utimensat(2), following *path*; None leaves a time as it is (UTIME_OMIT). *now*: UTIME_NOW for any other."""
    times = [
        part
        for ns in (atime_ns, mtime_ns)
        for part in ((0, _UTIME_OMIT) if ns is None else (0, _UTIME_NOW) if now else divmod(ns, 1_000_000_000))
    ]
    _check(_libc.utimensat(_AT_FDCWD, path, (ctypes.c_long * 4)(*times), 0), path)


def may_read(fd: int) -> bool:
    """Whether the calling thread's effective credentials may read the file (faccessat(2))."""
    return _may(fd, os.R_OK)


def may_search(fd: int) -> bool:
    """Whether the calling thread's effective credentials may search the directory."""
    return _may(fd, os.X_OK)


def _may(fd: int, mode: int) -> bool:
    # By its number: glibc emulates AT_EMPTY_PATH wrongly before 2.33.
    if _libc.syscall(_FACCESSAT2, fd, b"", mode, AT_EMPTY_PATH | AT_EACCESS) == 0:
        return True
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        return False
    # Before Linux 5.8, or in a sandbox that has not heard of it. The kernel follows the magic link to the very file,
    # whatever its name is by now; that takes three times as long.
    return bool(_libc.faccessat(_AT_FDCWD, b"/proc/self/fd/%d" % fd, mode, AT_EACCESS) == 0)


def identify(fd: int) -> tuple[int, int, int]:
    """Device major and minor, and inode number, of *fd* by statx(2), without asking its file system.

    With an empty mask and AT_STATX_DONT_SYNC no request is sent to a FUSE daemon (kernel:
    ``fuse_update_get_attr``), so a file of our own mount can be told apart without deadlock.
    """
    return place(fd)[1:]


def place(fd: int) -> tuple[int, int, int, int]:
    """Mount id (mountinfo's), device major and minor, and inode number of *fd*, as ``identify``.

    Together they tell two places apart that are one directory, bound into another.
    """
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, buffer))
    (ino,) = struct.unpack_from("=Q", buffer, 32)
    major, minor = struct.unpack_from("=II", buffer, 136)
    (mount,) = struct.unpack_from("=Q", buffer, 144)
    return mount, major, minor, ino


def file_system_type(fd: int) -> int:
    """``f_type`` of fstatfs(2): a number of ``linux/magic.h``."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(fd, buffer))
    (number,) = struct.unpack_from("@l", buffer)
    return int(number) & 0xFFFFFFFF


def names_made_in(directory: str) -> int:
    """A non-blocking inotify descriptor that becomes readable when a name is made in *directory*; the caller's."""
    fd = _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    try:
        _check(_libc.inotify_add_watch(fd, os.fsencode(directory), _IN_MOVED_TO | _IN_CREATE), directory)
    except OSError:
        os.close(fd)
        raise
    return fd


def mount_nowhere(fstype: str, options: dict[str, str]) -> int:
    """A file system that has no mountpoint: a descriptor of its root, with which it ends (fsmount(2), Linux 5.2)."""
    context = _check(_libc.syscall(_FSOPEN, fstype.encode(), _CLOEXEC))
    try:
        for key, value in options.items():
            words = (_FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
            _check(_libc.syscall(_FSCONFIG, context, *words), f"{fstype}: {key}")
        _check(_libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), fstype)
        return _check(_libc.syscall(_FSMOUNT, context, _CLOEXEC, _MOUNT_ATTR_NOSUID_NODEV_NOEXEC), fstype)
    finally:
        os.close(context)


def unread_by_peer(fd: int) -> int:
    """SIOCOUTQ of a Unix socket: 0 when the peer has read all; else buffer memory, not data bytes."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])


def peer_groups(fd: int) -> tuple[int, ...]:
    """SO_PEERGROUPS: the supplementary groups of the process that connected, as they were then.

    Python's getsockopt stops at 1,024 bytes, which is 256 groups; Linux allows 65,536.
    """
    buffer = (ctypes.c_uint32 * _NGROUPS_MAX)()
    size = ctypes.c_uint32(ctypes.sizeof(buffer))
    _check(_libc.getsockopt(fd, socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size)))
    return tuple(buffer[: size.value // 4])


def prctl(option: int, argument: int | bytes) -> None:
    """prctl(2) with one argument: of the calling thread."""
    _check(_libc.prctl(option, argument, 0, 0, 0))


def unshare_umask() -> None:
    """unshare(2), CLONE_FS: the calling thread has a umask, and a working directory, of its own from now on."""
    _check(_libc.unshare(_CLONE_FS))
