"""As whom the calling thread touches the source: whose permissions, whose files, whose share of the disk.

setfsuid(2), setfsgid(2) and capset(2) are of one thread; glibc's setgroups is not, so that is made by its
number. A user id other than 0 takes the file capabilities away, and 0 brings them back (capabilities(7)).
Nothing here may be held across an ``await``: the thread serves others in between.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from notifyfs.system import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

P = ParamSpec("P")
T = TypeVar("T")

CAP_CHOWN: Final = 1 << 0
CAP_DAC_OVERRIDE: Final = 1 << 1
CAP_FOWNER: Final = 1 << 3
CAP_FSETID: Final = 1 << 4
CAP_SYS_ADMIN: Final = 1 << 21
_CAP_SYS_RESOURCE: Final = 1 << 24

_WORD: Final = 32
_HEADER: Final = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0), 8)  # _LINUX_CAPABILITY_VERSION_3
_PR_SET_NO_NEW_PRIVS: Final = 38
_ASK: Final = (1 << _WORD) - 1  # nobody's: setfsuid(2) then says whose the thread is, and changes nothing
_SYS_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "loongarch64": 159}.get(os.uname().machine)
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.setfsuid.argtypes = _libc.setfsgid.argtypes = (ctypes.c_uint32,)
_libc.setfsuid.restype = _libc.setfsgid.restype = ctypes.c_uint32


class _Thread(threading.local):
    resources: bool | None = None
    """Whether CAP_SYS_RESOURCE is effective; None: not known yet."""


_thread: Final = _Thread()


@contextmanager
def acting_as(uid: int, gid: int, groups: Sequence[int] = (), capabilities: int = 0) -> Iterator[None]:
    """Act on files as this user does, judged by the source, with no capabilities of ours but these (a mask).

    OSError: EPERM where the daemon may not take this identity; nothing was done then.
    """
    own = os.getgroups()
    _setgroups(groups)
    try:
        with _owning(uid, gid):
            _set_effective(_permitted() & capabilities)
            yield
    finally:
        _set_effective(_permitted())
        _thread.resources = True
        _setgroups(own)


@contextmanager
def creating_as(uid: int, gid: int) -> Iterator[None]:
    """Create files that belong to this user, and count as its; permissions have been checked already.

    The kernel checks the caller under ``default_permissions``, supplementary groups and CAP_MKNOD
    included. What the user id takes away is raised again, so that the source does not check a second
    time, but for the right to root's reserve. OSError as for ``acting_as``.
    """
    with _owning(uid, gid):
        _claim(resources=uid == 0, anyway=True)
        yield


def charged(uid: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *call* does while what it takes of the disk is this user's: only 0 finds root's reserve.

    OSError as for ``acting_as``.
    """
    if uid == 0:
        as_root()
        return call(*args, **kwargs)
    _take(uid)
    try:
        _claim(resources=False, anyway=True)
        return call(*args, **kwargs)
    finally:
        _libc.setfsuid(os.geteuid())


def as_root() -> None:
    """Have what root has, root's reserve included, until a user is charged."""
    _claim(resources=True)


def uncharged(_uid: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what *call* does: ``charged`` where the daemon is not root and all is its own."""
    return call(*args, **kwargs)


def keep_capabilities(kept: Iterable[int]) -> None:
    """Give up every capability (capabilities(7), by number) but *kept*, for good: programs started gain none either."""
    mask = sum(1 << number for number in kept)
    _capset(_packed(*(held & mask for held in _capget())))
    _permitted.cache_clear()
    _with_effective.cache_clear()
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)


@contextmanager
def _owning(uid: int, gid: int) -> Iterator[None]:
    try:
        _libc.setfsgid(gid)
        if _libc.setfsgid(_ASK) != gid:
            raise PermissionError(errno.EPERM, f"the daemon may not become group {gid}: it lacks CAP_SETGID")
        _take(uid)
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def _take(uid: int) -> None:
    # It does not say when it fails, and what followed would be judged as root (setfsuid(2), BUGS).
    _libc.setfsuid(uid)
    if _libc.setfsuid(_ASK) != uid:
        raise PermissionError(errno.EPERM, f"the daemon may not become user {uid}: it lacks CAP_SETUID")


def _claim(*, resources: bool, anyway: bool = False) -> None:
    """Have all capabilities; CAP_SYS_RESOURCE only with *resources*. *anyway*: even if it seems so already."""
    if anyway or _thread.resources is not resources:
        _set_effective(_permitted() if resources else _permitted() & ~_CAP_SYS_RESOURCE)
        _thread.resources = resources


def _set_effective(mask: int) -> None:
    _capset(_with_effective(mask))


@functools.cache
def _permitted() -> int:
    """What every thread of the daemon may make effective."""
    return _capget()[1]


@functools.cache
def _with_effective(mask: int) -> ctypes.Array[ctypes.c_char]:
    _, permitted, inheritable = _capget()
    return _packed(mask, permitted, inheritable)


def _capget() -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities of the calling thread."""
    data = ctypes.create_string_buffer(24)
    if _libc.capget(_HEADER, data):
        raise OSError(ctypes.get_errno(), "capget")
    words = struct.unpack("=6I", data.raw)
    effective, permitted, inheritable = (words[n] | words[n + 3] << _WORD for n in range(3))
    return effective, permitted, inheritable


def _capset(data: ctypes.Array[ctypes.c_char]) -> None:
    if _libc.capset(_HEADER, data):
        raise OSError(ctypes.get_errno(), "capset")


def _packed(*masks: int) -> ctypes.Array[ctypes.c_char]:
    words = [mask & _ASK for mask in masks] + [mask >> _WORD for mask in masks]
    return ctypes.create_string_buffer(struct.pack("=6I", *words), 24)


def _setgroups(groups: Sequence[int]) -> None:
    if _SYS_SETGROUPS is None:
        raise OSError(errno.ENOSYS, f"setgroups(2) has no known number on {os.uname().machine}")
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if _libc.syscall(_SYS_SETGROUPS, len(groups), array):
        raise OSError(ctypes.get_errno(), "setgroups")
