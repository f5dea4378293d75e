"""Whether a subscriber could walk to the mountpoint: search permission on every directory above it.

They are found by ``..`` from a descriptor of the lowest, at the time of each request: a path would be wrong after a
rename of any of them, and permissions change. Opening ``..`` takes search permission on the directory where it is
looked up, so the kernel judges as it goes.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.system import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notifyfs.subscribers.resolve import Peer

_MOST: Final = 2048
"""Directories above the mountpoint: a path of 4,095 bytes leads through no more."""
_O_PATH: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Way:
    """The directories above the mountpoint. *lowest* is an ``O_PATH`` descriptor of the one that it lies in.

    *may_hang*: whether a descriptor is on a file system that may not answer.
    """

    def __init__(self, lowest: int, may_hang: Callable[[int], bool]) -> None:
        self._lowest = lowest
        self._mounts: set[int] = set()  # those on the way that never hang, by their ids
        self._thread = trio.CapacityLimiter(1)
        try:
            for fd, mount in _upwards(lowest):
                if not may_hang(fd):
                    self._mounts.add(mount)
        except OSError:
            pass  # no permission, or a file system that fails: what is above has to be asked from a thread

    async def refusal(self, peer: Peer) -> int:
        """0 if *peer* may go from the root of the file system to the mountpoint, else the errno: EACCES."""
        try:
            if not peer.may(self._answering, self._lowest):
                return errno.EACCES
        except _MayHangError:
            return await trio.to_thread.run_sync(self._judged, peer, abandon_on_cancel=True, limiter=self._thread)
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _judged(self, peer: Peer) -> int:
        try:
            return 0 if peer.may(_climb, self._lowest) else errno.EACCES
        except OSError as error:
            return error.errno or errno.EIO

    def _answering(self, lowest: int) -> bool:
        """As ``_climb``, only where no directory can hang."""

        def known(mount: int) -> None:
            if mount not in self._mounts:
                raise _MayHangError

        return _climb(lowest, known)


class _MayHangError(Exception):
    """A directory is on another file system than those that were there when the mount was made, or may hang."""


def _climb(lowest: int, look: Callable[[int], None] = lambda _mount: None) -> bool:
    """Whether the calling thread's credentials may search *lowest* and all above; *look* sees the mount of each before.

    By its id.
    """
    try:
        for _, mount in _upwards(lowest):
            look(mount)
    except PermissionError:
        return False
    return True


def _upwards(lowest: int) -> Iterator[tuple[int, int]]:
    """Yield each directory from *lowest* to the root: a descriptor, good until the next, and the id of its mount.

    EACCES: the last one may not be searched.
    """
    fd = os.dup(lowest)
    try:
        place = syscalls.place(fd)
        for _ in range(_MOST):
            yield fd, place[0]
            above = os.open("..", _O_PATH, dir_fd=fd)
            os.close(fd)
            fd, below = above, place
            place = syscalls.place(fd)
            if place == below:
                return
    finally:
        os.close(fd)
    raise OSError(errno.ENAMETOOLONG, "no path is so long")
