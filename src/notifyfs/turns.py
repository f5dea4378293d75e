"""Whose turn it is: the kernel's requests, or everybody else on the loop.

For each request pyfuse3 asks trio twice to wait, for its lock and for the device, and each time
trio goes round to all its other tasks. Yet the next request is usually there when the last has been
answered. ``Turns`` stands in for the module that pyfuse3 calls ``trio``, as ``pyfuse3.asyncio``
does, and looks before it waits: a simple request takes half the time (measured).
"""

from __future__ import annotations

import select
import types
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Generator

TURN: Final = 0.001
"""Seconds for which requests are read one after the other, before subscribers and timers have their turn."""


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


class Turns:
    """What pyfuse3 uses of trio. Assign it to ``pyfuse3.trio`` before ``pyfuse3.main`` is called.

    *fuse* is the device. *idle* is called before each wait: all requests that were read at once are answered.
    """

    ClosedResourceError = trio.ClosedResourceError
    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, fuse: int, idle: Callable[[], None]) -> None:
        self._idle = idle
        self.lowlevel = self
        self._lock = Lock()
        self._poll = select.poll()
        self._poll.register(fuse, select.POLLIN)
        self._end = 0.0

    def Lock(self) -> Lock:  # noqa: N802 - trio's name
        """The one lock that there is."""
        return self._lock

    @asynccontextmanager
    async def open_nursery(self) -> AsyncIterator[Workers]:
        """The nursery of the workers."""
        async with trio.open_nursery() as nursery:
            yield Workers(nursery, self._lock)

    def busy(self) -> bool:
        """Whether there is a request now."""
        return bool(self._poll.poll(0))

    async def wait_readable(self, fd: int) -> None:
        """Return when the FUSE device *fd* has a request: at once if it has one now, and the turn is not over."""
        if perf_counter() < self._end and self._poll.poll(0):
            return
        self._idle()
        await trio.lowlevel.wait_readable(fd)
        self._end = perf_counter() + TURN
