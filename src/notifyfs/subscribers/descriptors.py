"""Descriptors that clients send with their requests."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct

from notifyfs.system.closing import close_apart


class Descriptors(contextlib.ExitStack):
    """The descriptors that came with one request: the first is kept, and all are closed in the end."""

    def __init__(self, user: int) -> None:
        super().__init__()
        self._user = user
        self._first = -1
        self._count = 0
        self._truncated = False

    def __bool__(self) -> bool:
        return bool(self._count) or self._truncated

    def take(self, ancillary: list[tuple[int, int, bytes]], *, truncated: bool) -> None:
        """Take over what recvmsg(2) received."""
        self._truncated |= truncated
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                for (fd,) in struct.iter_unpack("i", data[: len(data) // 4 * 4]):
                    self._count += 1
                    if self._count == 1 and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
                        self._first = fd
                        self.callback(os.close, fd)
                    else:  # no request takes it, and one that never ends must not hold it: the client's own end, say
                        close_safely(fd, self._user)

    def only(self) -> int:
        """The one descriptor; EINVAL for several, EMFILE where the kernel had no room for it."""
        if self._truncated:
            raise OSError(errno.EMFILE, "no room for the descriptor")
        if self._count > 1:
            raise OSError(errno.EINVAL, "more than one descriptor")
        if self._first < 0:
            raise OSError(errno.EINVAL, "not an O_PATH descriptor")
        return self._first


def close_safely(fd: int, user: int) -> None:
    """Close a descriptor that *user* has sent.

    close(2) of anything but an ``O_PATH`` one may send a FLUSH, to this very daemon if the file is
    on our mount, and wait for its answer: a thread can, the main loop cannot.
    """
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        os.close(fd)
    else:
        close_apart(user, fd)
