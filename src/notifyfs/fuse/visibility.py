"""When a change that was answered can be seen through the mount, and waiting for that.

A subscriber that acts on an event must find the change. But until its caller has run, an unlinked
name stays hashed, and a file keeps its old size and mode in the kernel's cache. So the kernel is
asked about each node that was changed, and the events about it wait at a gate.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.fuse.readloop import several_processors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PATIENCE: Final = 1.0
"""Seconds that an event waits for an operation that the kernel does not finish (its lock is held elsewhere)."""
_MOMENT: Final = 0.0001
"""Seconds that the loop stands still for the kernel's answer."""
_STUCK: Final = 0.005
"""Seconds without an answer after which another writer is asked for: what blocks one need not block all."""


class Visibility:
    """Which nodes were changed, which of them the kernel was asked about, and the gates that wait for it.

    *ask*, given a node's number, names in it and what to call, calls that (from any thread, once) when the
    operations on the node have ended in the kernel too, or nobody finds it, and those names, as they were.
    *relieve*: it seems to be blocked. *busy*: whether a request waits to be read; what it is about may be locked
    until it is answered. To ask that lets other threads run.
    """

    def __init__(
        self,
        ask: Callable[[int, Sequence[bytes], Callable[[], None]], None],
        relieve: Callable[[], None],
        busy: Callable[[], bool],
    ) -> None:
        self.relieve = relieve
        self.busy = busy
        self._ask = ask
        self._marked: dict[int, _Gate] = {}  # changed, and not asked about since
        self._asked: dict[int, float] = {}  # and when, oldest first; what is here may be marked again
        self._answered: deque[int] = deque()  # filled by other threads
        self._token: trio.lowlevel.TrioToken | None = None

    def hide(self, locked: tuple[tuple[int, bytes], ...]) -> tuple[_Gate, ...]:
        """What was changed under its lock (``Change.locked``), by an operation that will now be answered: the gates."""
        marked = self._marked
        gates: list[_Gate] = []
        for number, name in locked:
            gate = marked.get(number)
            if gate is None or not gate.shut:
                gate = marked[number] = _Gate(self)
            if name:
                gate.names.append(name)
            if gate not in gates:
                gates.append(gate)
        return tuple(gates)

    def begin(self) -> None:
        """Ask about all that is marked and not being asked about. Answers were sent, or somebody waits."""
        if self._answered:
            self._take_answers()
        if not self._marked:
            return
        if self._token is None:
            self._token = trio.lowlevel.current_trio_token()
        # One after the other: ``_answer`` must find what is marked twice.
        for number in [each for each in self._marked if each not in self._asked]:
            self._asked[number] = trio.current_time()
            gate = self._marked.pop(number)
            gate.asked = True
            self._ask(number, gate.names, partial(self._answer, number, gate))

    @property
    def waiting(self) -> bool:
        """Whether the kernel was asked, and will answer in a moment."""
        if self._answered:
            self._take_answers()
        if not self._asked:
            return False
        return trio.current_time() - next(reversed(self._asked.values())) < _STUCK

    def soon(self, act: Callable[[], object]) -> None:
        """Let the loop *act*; from any thread."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):  # the mount has ended: nobody waits
                self._token.run_sync_soon(act)

    def _answer(self, number: int, gate: _Gate) -> None:
        self._answered.append(number)
        gate.open()
        if number in self._marked:  # who waits for that has found it being asked about
            self.soon(self.begin)

    def _take_answers(self) -> None:
        while self._answered:
            self._asked.pop(self._answered.popleft(), None)


class _Gate:
    """Shut until the changes of one node that were made up to a question to the kernel can be seen."""

    __slots__ = ("_event", "_looked", "_made", "_visibility", "asked", "names", "shut")

    def __init__(self, visibility: Visibility) -> None:
        self.shut = True
        self.asked = False
        """Whether the kernel was asked."""
        self.names: list[bytes] = []
        """Names in the directory that were changed."""
        self._visibility = visibility
        self._made = trio.current_time()
        self._looked = False
        self._event: trio.Event | None = None

    def open(self) -> None:
        """The kernel has answered, or will not; from any thread."""
        self.shut = False
        if self._event is not None:
            self._visibility.soon(self._event.set)

    async def opened(self) -> None:
        """Return when it is open: ``_PATIENCE`` after it was made, if nothing else comes about."""
        self._visibility.begin()
        if self.asked and not self._looked:
            await self._look()
        if not self.shut:
            return
        if self._event is None:
            self._event = trio.Event()
        until = self._made + _PATIENCE
        while self.shut and (now := trio.current_time()) < until:  # after the event is there for ``open`` to see
            with trio.move_on_at(min(now + _STUCK, until)):
                await self._event.wait()
            if self.shut:
                self._visibility.relieve()
        if self.shut:
            self.open()

    async def _look(self) -> None:
        # Mostly the caller is just running: to sleep and be woken would take longer than that. While no
        # request is there the whole loop stands still; once for each gate, however many wait at it.
        self._looked = True
        until = perf_counter() + (_MOMENT if several_processors() else 0)
        while self.shut and perf_counter() < until:
            if self._visibility.busy():
                await trio.lowlevel.checkpoint()
