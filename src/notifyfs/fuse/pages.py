"""The kernel's pages, and those who watch for reads."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.protocol.flags import ACCESS, X_RECURSIVE

if TYPE_CHECKING:
    from notifyfs.core.entries import Inode
    from notifyfs.core.watches import Watches
    from notifyfs.fuse.notify import Notify
    from notifyfs.passthrough.files import Files

_PATIENCE: Final = 1.0
"""Seconds that a watch waits for reads under way, which keep the kernel from dropping pages."""


_IN_A_ROW: Final = 64
"""Files that are looked at before others have their turn: whether one is watched has to be judged for some."""


class Pages:
    """Lets reads be told of files that were open, and in the page cache, before somebody watched."""

    def __init__(self, notify: Notify, files: Files, watches: Watches) -> None:
        self._notify = notify
        self._files = files
        self._watches = watches

    async def attend(self, inode: Inode, mask: int) -> None:
        """*inode* is watched with *mask*: return when the next read of each open file concerned will be asked for.

        Once more each: what is in memory after that is read without a word (docs/parity.md, R1).
        """
        if not mask & ACCESS or not self._files.tells_reads:
            return
        dropped = False
        for number, file in enumerate(self._open_files(inode, mask), 1):
            if file.in_use and not file.is_dir and self._watches.wanted(file, ACCESS):
                file.pages = None
                self._notify.drop_pages(file.number)
                dropped = True
            if not number % _IN_A_ROW:
                await trio.lowlevel.checkpoint()
        if dropped:
            await self._written()

    async def _written(self) -> None:
        written, token = trio.Event(), trio.lowlevel.current_trio_token()

        def done() -> None:
            with suppress(trio.RunFinishedError):  # the mount has ended: nobody waits
                token.run_sync_soon(written.set)

        self._notify.flush(done)
        with trio.move_on_after(_PATIENCE):
            await written.wait()

    def _open_files(self, inode: Inode, mask: int) -> set[Inode]:
        """Where they may be; not all are open."""
        if mask & X_RECURSIVE:
            return {handle.entry.inode for handle in self._files.handles.values()}
        return {entry.inode for entry in (inode.children or {}).values()} if inode.is_dir else {inode}
