"""Waiting for a source that may hang, so that only those who asked for it wait.

A local disk answers, and a handler's system calls are done at once. A network or FUSE file system
may stop for as long as it likes, and with it the main loop: there each handler first waits until
the source has answered a question put from a thread.
"""

from __future__ import annotations

import os
from contextlib import suppress

import trio


class Liveness:
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
