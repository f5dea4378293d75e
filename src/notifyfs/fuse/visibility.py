"""What the kernel has not finished when an operation is answered, and waiting for it.

The kernel side notes what it has just answered; the subscriber side waits before it sends.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.fuse.readloop import several_processors

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.inodes import Inode
    from notifyfs.core.watches import Watches
    from notifyfs.fuse.notify import Notify

_PATIENCE: Final = 1.0
"""Seconds that events wait for an operation that the kernel does not finish (its lock is held elsewhere)."""
_MOMENT: Final = 0.0001
"""Seconds that the loop stands still for the kernel's answer."""
_HELD: Final = 0.2
"""Seconds without a FORGET after which a removed inode counts as held by something."""


class Settling:
    """Changes that were answered and that the kernel may not have finished.

    A subscriber that acts on an event must find the change; but until its caller has run, an
    unlinked name stays hashed, and a file keeps its old size and mode in the kernel's cache.
    """

    def __init__(self) -> None:
        self.notes: Notify | None = None
        """Set once mounted; nothing is waited for before."""
        self.busy: Callable[[], bool] = lambda: False
        """Whether a request waits to be read: what it is about may be locked until it is answered."""
        self._marked: set[int] = set()
        self._generation = 0
        self._settled = 0
        self._round: _Round | None = None

    def mark(self, *inodes: int) -> None:
        """These (node numbers) were changed under their locks, and the operation will now be answered."""
        self._marked.update(inodes)
        self._generation += 1

    @property
    def waiting(self) -> bool:
        """Whether the kernel was asked and has not answered."""
        return self._round is not None and not self._round.ended

    def begin(self) -> None:
        """Ask the kernel about what is marked. Answers were sent, and nobody is waiting for another."""
        if self._round is not None and self._round.ended:
            self._end(self._round)
        if self._round is None and self._settled < self._generation and self.notes is not None:
            marked, self._marked = self._marked, set()
            self._round = _Round(self._generation, len(marked) + 1)
            for number in marked:
                self.notes.ask(number, self._round.end)
            self.notes.flush(self._round.end)

    async def wait(self) -> None:
        """Return when all that was marked until now has ended; at once if nothing was."""
        target = self._generation
        while self._settled < target and self.notes is not None:
            self.begin()
            if self._round is not None:
                round_ = self._round
                await round_.wait(self.busy)
                self._end(round_)

    def _end(self, round_: _Round) -> None:
        self._settled = max(self._settled, round_.generation)
        if self._round is round_:
            self._round = None


class _Round:
    """One question to the kernel, about all that was marked up to a *generation*; answered in the notes' thread."""

    def __init__(self, generation: int, parts: int) -> None:
        self.generation = generation
        self.ended = False
        self._left = [None] * parts  # a list: each part is taken by another thread
        self._event: trio.Event | None = None
        self._token = trio.lowlevel.current_trio_token()

    def end(self) -> None:
        """The kernel has answered one part."""
        self._left.pop()
        self.ended = not self._left
        if self.ended and self._event is not None:
            with suppress(trio.RunFinishedError):  # the mount has ended: nobody waits
                self._token.run_sync_soon(self._event.set)

    async def wait(self, busy: Callable[[], bool]) -> None:
        """Return when it has, or will not. While not *busy* with requests the whole loop waits, for a moment."""
        # Mostly the caller is just running: to sleep and be woken would take longer than that.
        until = perf_counter() + (_MOMENT if several_processors() else 0)
        while not self.ended and perf_counter() < until:
            if busy():
                await trio.lowlevel.checkpoint()
        if self.ended:
            return
        if self._event is None:
            self._event = trio.Event()
        if not self.ended:  # asked after the event is there for ``end`` to see
            with trio.move_on_after(_PATIENCE):
                await self._event.wait()


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
