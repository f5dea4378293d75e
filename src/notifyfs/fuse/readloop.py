"""Whose turn it is: the kernel's requests, or everybody else on the loop.

For each request pyfuse3 asks trio twice to wait, for its lock and for the device, and each time
trio goes round to all its other tasks. Yet the next request is usually there when the last has been
answered, or comes as soon as its caller has woken up. ``ReadLoop`` stands in for the module that
pyfuse3 calls ``trio``, as ``pyfuse3.asyncio`` does, and looks before it waits: a simple request
takes half the time (Linux 6.18).

It looks for as long as requests are likely to come: to wake a sleeping processor takes longer than
most answers, above all in a virtual machine (a failing stat: 40 instead of 90 microseconds,
Linux 6.18). The kernel does the same before it halts a processor of a guest, and adapts in the same
way for how long (Documentation/virt/guest-halt-polling.rst).
"""

from __future__ import annotations

import functools
import os
import select
import types
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator

TURN: Final = 0.002
"""Seconds for which requests are read one after the other, before subscribers and timers have their turn."""

SHARE: Final = 0.00003
"""Seconds for which one request may keep another waiting, if what is answered by then is an answer."""

_MOST: Final = 0.0002
"""Seconds for which at most a request is looked for, before sleeping until one comes."""
_FIRST: Final = 0.00001

_ALONE: Final = 0.00005
"""Seconds after which the processor is offered to others: the caller may be waiting for this very one."""

_LOST: Final = 0.001
"""Seconds between two looks after which somebody else must have had the processor, and wants it."""
_REST: Final = 0.02
"""Seconds for which it is theirs then: to be woken up is no dearer than to be let back."""

_ROUNDS: Final = 2
"""How often all other tasks have a turn, for what was told to be sent: once to be woken, and once to run."""

_BULK: Final = 4
"""After so many requests that did not wait for what was told of the one before, events may wait for a turn's end."""


@functools.cache
def several_processors() -> bool:
    """Whether others can run while this process looks for what they do."""
    return len(os.sched_getaffinity(0)) > 1


class Lock:
    """What the one of pyfuse3's workers holds that waits for a request.

    Who lets go of it wakes nobody: it is usually back before another could run. ``Workers`` wake one
    when it is not.
    """

    def __init__(self) -> None:
        self._held = False
        self._lot = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._lot.park()
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False

    def pass_on(self) -> None:
        """Wake a worker, unless one is waiting for a request already."""
        if not self._held:
            self._lot.unpark()


class Workers:
    """The nursery of pyfuse3's workers."""

    def __init__(self, nursery: trio.Nursery, lock: Lock) -> None:
        self._nursery = nursery
        self._lock = lock

    def start_soon(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str) -> None:
        """As trio's."""
        self._nursery.start_soon(self._run, work(*args), name=name)

    async def _run(self, worker: Coroutine[Any, Any, None]) -> None:
        await self._drive(worker)

    @types.coroutine
    def _drive(self, worker: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
        # What any awaitable does with its steps; in between, other requests may be read.
        step, value = worker.send, None
        try:
            while True:
                waits_for = step(value)
                self._lock.pass_on()
                try:
                    step, value = worker.send, (yield waits_for)
                except BaseException as error:  # noqa: BLE001 - it is the worker's
                    step, value = worker.throw, error
        except StopIteration:
            return
        finally:
            self._lock.pass_on()


class Readiness:
    """Whether the FUSE device *fuse*, a descriptor, has a request."""

    def __init__(self, fuse: int) -> None:
        poll = select.poll()
        poll.register(fuse, select.POLLIN)
        self.poll = poll.poll
        self.asked = 0.0
        """When the last request but one was done, by ``perf_counter``."""

    def busy(self) -> bool:
        """Whether there is a request now."""
        return bool(self.poll(0))

    def turn(self) -> Callable[[], bool]:
        """Begin one; what is returned says whether it is over: after ``SHARE`` if there is a request, else ``TURN``."""
        look = perf_counter() + SHARE
        end = look - SHARE + TURN

        def over() -> bool:
            nonlocal look
            now = perf_counter()
            if now < look:
                return False
            look = now + SHARE
            return now > end or self.busy()

        return over

    def pressed(self) -> bool:
        """Whether there is a request now, or was one a moment ago."""
        return perf_counter() - self.asked < TURN or bool(self.poll(0))


class ReadLoop:
    """What pyfuse3 uses of trio: ``binding.session`` puts it there.

    *idle* is called when all requests that were there are answered, and says whether
    others on the loop wait for their turn.
    """

    ClosedResourceError = trio.ClosedResourceError
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, readiness: Readiness, idle: Callable[[], bool]) -> None:
        self._idle = idle
        self.lowlevel = self
        self._lock = Lock()
        self._poll = readiness.poll
        self._readiness = readiness
        self._end = 0.0
        self._most = _MOST if several_processors() else 0.0
        self._look = 0.0
        self._rest = 0.0
        self._bulk = 0

    def Lock(self) -> Lock:  # noqa: N802 - trio's name
        """The one lock that there is."""
        return self._lock

    @asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[Workers]:
        """The nursery of the workers."""
        async with trio.open_nursery() as nursery:
            yield Workers(nursery, self._lock)

    async def wait_readable(self, fd: int) -> None:
        """Return when the FUSE device *fd* has a request: at once if it has one now, and the turn is not over."""
        poll = self._poll
        self._readiness.asked = began = perf_counter()
        over = began >= self._end
        if not over:
            if poll(0):
                return
            if self._bulk >= _BULK:
                if self._finds():
                    return
                self._bulk = 0
        waiting = self._idle()
        if waiting or over:
            for _ in range(_ROUNDS):
                await trio.lowlevel.checkpoint()
            self._end = perf_counter() + TURN
            if poll(0):
                self._bulk += 1
                return
            if not over:
                self._bulk = 0
            waiting = self._idle()
        if not waiting and self._finds():
            return
        await trio.lowlevel.wait_readable(fd)
        now = perf_counter()
        self._end = now + TURN
        self._adapt(now - began, now)

    def _finds(self) -> bool:
        """Look for a request for a while, unless somebody else wants the processor."""
        if not self._look:
            return False
        poll, now = self._poll, perf_counter()
        until, polite = now + self._look, now + _ALONE
        while now < until:
            if poll(0):
                return True
            if now > polite:
                os.sched_yield()
                polite = until
            before, now = now, perf_counter()
            if now - before > _LOST:
                self._look, self._rest = 0.0, now + _REST
                break
        return False

    def _adapt(self, waited: float, now: float) -> None:
        """Look for longer if that would have been enough; for less if it never is."""
        if waited > self._most:
            self._look = self._look / 2 if self._look > _FIRST else 0.0
        elif waited > self._look and now > self._rest:
            self._look = min(max(_FIRST, self._look * 2), self._most)
