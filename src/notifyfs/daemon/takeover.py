"""Noticing that a later daemon has taken this one's socket path.

It happens where a mount lives on out of sight: in the mount namespace of a container, or with its users after a lazy
unmount. Who is connected to the old daemon would hear nothing more, and nobody would tell.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import trio

from notifyfs.system import syscalls

log = logging.getLogger(__name__)

_LOOK: Final = 60.0
"""Seconds between two looks besides the kernel's word: the directory itself may be replaced."""
_LOOK_ALONE: Final = 2.0
"""The same where the kernel's inotify cannot be had (``max_user_instances``, ``max_user_watches``)."""


async def taken(path: str, made: os.stat_result) -> None:
    """Return when *path* leads to another file than *made*; not when it merely leads nowhere."""
    try:
        fd = syscalls.names_made_in(os.path.dirname(path))
    except OSError as error:
        log.info("%s: looking every %d s who has this socket: inotify: %s", path, _LOOK_ALONE, error.strerror)
        fd = None
    try:
        another = _is_another(path, made)  # before the kernel was told to look
        while not another:
            if fd is None:
                await trio.sleep(_LOOK_ALONE)
            else:
                with trio.move_on_after(_LOOK):
                    await trio.lowlevel.wait_readable(fd)
                    os.read(fd, 65536)
            another = await trio.to_thread.run_sync(_is_another, path, made, abandon_on_cancel=True)
    finally:
        if fd is not None:
            os.close(fd)


def _is_another(path: str, made: os.stat_result) -> bool:
    try:
        return not os.path.samestat(made, os.lstat(path))
    except OSError:
        return False
