"""What the kernel has not finished when an operation is answered, and waiting for it.

The kernel side notes what it has just answered; the subscriber side waits before it sends.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from notifyfs.core.inodes import Inode
    from notifyfs.core.watches import Watches
    from notifyfs.notes import Notes

_PATIENCE: Final = 1.0
"""Seconds that events wait for an operation that the kernel does not finish (its lock is held elsewhere)."""
_HELD: Final = 0.2
"""Seconds without a FORGET after which a removed inode counts as held by something."""


class Settling:
    """Changes that were answered and that the kernel may not have finished.

    A subscriber that acts on an event must find the change; but until its caller has run, an
    unlinked name stays hashed, and a file keeps its old size and mode in the kernel's cache.
    """

    def __init__(self) -> None:
        self.notes: Notes | None = None
        """Set once mounted; nothing is waited for before."""
        self._marked: set[int] = set()
        self._generation = 0
        self._settled = 0
        self._round: trio.Event | None = None

    def mark(self, *inodes: int) -> None:
        """These (node numbers) were changed under their locks, and the operation will now be answered."""
        self._marked.update(inodes)
        self._generation += 1

    async def wait(self) -> None:
        """Return when all that was marked until now has ended; at once if nothing was."""
        target = self._generation
        while self._settled < target:
            if self._round is None:
                await self._settle()
            else:
                await self._round.wait()

    async def _settle(self) -> None:
        ended = self._round = trio.Event()
        generation, inodes = self._generation, frozenset(self._marked)
        self._marked.clear()
        token = trio.lowlevel.current_trio_token()

        def done() -> None:
            with suppress(trio.RunFinishedError):  # the mount has ended: nobody waits
                token.run_sync_soon(ended.set)

        try:
            if self.notes is not None:
                self.notes.settle(inodes, done)
                # Shielded: others count on this round when the subscriber that began it is gone.
                with trio.move_on_after(_PATIENCE, shield=True):
                    await ended.wait()
        finally:
            self._settled = max(self._settled, generation)
            self._round = None
            ended.set()


class Deaths:
    """Inodes of which only the kernel knows whether they died (``Watches.undecided``)."""

    def __init__(self, watches: Watches) -> None:
        self._watches = watches
        self._doubted = trio.Event()
        self._round: trio.Event | None = None
        self._doubts: frozenset[Inode] = frozenset()
        watches.doubted = self._doubt

    def _doubt(self) -> None:
        self._doubted.set()

    def forgotten(self) -> None:
        """A FORGET was handled: perhaps all is decided now."""
        if self._round is not None and not self._doubts & self._watches.undecided:
            self._round.set()

    async def wait(self) -> None:
        """Return when what is undecided now is decided: the kernel has forgotten the inode, or had time to."""
        doubts = frozenset(self._watches.undecided)
        while doubts & self._watches.undecided:
            if self._round is None:
                await self._decide()
            else:
                await self._round.wait()

    async def _decide(self) -> None:
        self._doubts = frozenset(self._watches.undecided)
        ended = self._round = trio.Event()
        try:
            with trio.move_on_after(_HELD):
                await ended.wait()
        finally:
            self._watches.give_up(self._doubts)
            self._round = None
            ended.set()

    async def keep(self) -> None:
        """See to it that no event is held back for long; until cancelled."""
        while True:
            await self._doubted.wait()
            self._doubted = trio.Event()
            await self.wait()
