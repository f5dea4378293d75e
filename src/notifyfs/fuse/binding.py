"""pyfuse3's one session: begun, served, ended."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyfuse3

from notifyfs.fuse.handlers import MOST_TASKS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.fuse.handlers import Handlers
    from notifyfs.fuse.readloop import ReadLoop


@contextmanager
def session(handlers: Handlers, fuse: int, loop: ReadLoop, *, allow_root: bool) -> Iterator[None]:
    """Answer requests of the mounted device *fuse* by *handlers*, when ``serve`` is called, read by *loop*."""
    pyfuse3.init(handlers, f"/dev/fd/{fuse}", {"allow_root"} if allow_root else set())
    pyfuse3.trio = loop  # type: ignore[attr-defined]  # as pyfuse3.asyncio does
    try:
        yield
    finally:
        pyfuse3.close(unmount=False)


async def serve() -> None:
    """Answer requests until the mount is gone, or ``terminate`` is called."""
    await pyfuse3.main(max_tasks=MOST_TASKS)


def terminate() -> None:
    """Let ``serve`` return when the requests under way are answered."""
    pyfuse3.terminate()
