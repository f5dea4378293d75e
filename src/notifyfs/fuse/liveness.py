"""Waiting for a source that may hang, so that only those who asked for it wait.

A local disk answers, and a handler's system calls are done at once. A network or FUSE file system
may stop for as long as it likes, and with it the main loop: there each handler first waits until
the source has answered a question put from a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

import trio

from notifyfs.system import syscalls

# statfs(2) and linux/magic.h; virtiofs and most others that are not in the kernel are FUSE.
_REMOTE: Final = {
    0x65735546: "fuse",
    0x00006969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x0000517B: "smb",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x0BD00BD0: "lustre",
    0x0000564C: "ncp",
}


class Patience:
    """*fd* is on the file system in question."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._round: trio.Event | None = None
        self._thread = trio.CapacityLimiter(1)

    async def wait(self) -> None:
        """Return when the source has answered a statfs(2), which no cache answers on FUSE and NFS."""
        if self._round is not None:
            await self._round.wait()
            return
        ended = self._round = trio.Event()
        try:
            with suppress(OSError):  # an answer is an answer: the operation will get the error itself
                await trio.to_thread.run_sync(os.fstatvfs, self._fd, abandon_on_cancel=True, limiter=self._thread)
        finally:
            self._round = None
            ended.set()


def may_hang(fd: int) -> bool:
    """Whether *fd* is on a file system that another machine or a daemon answers for.

    Asked with statfs(2), for the mount table shows nothing of what lies outside a chroot.
    """
    try:
        return syscalls.file_system_type(fd) in _REMOTE
    except OSError:  # a local one knows its own type; a FUSE server may not
        return True
