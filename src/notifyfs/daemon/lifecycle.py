"""One mount while it lives: both sides on one loop, what keeps them going, and their end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from typing import TYPE_CHECKING, Final

import attrs
import trio

from notifyfs import mounts
from notifyfs.daemon.takeover import taken
from notifyfs.fuse import binding
from notifyfs.fuse.readloop import ReadLoop
from notifyfs.mounts import mountinfo
from notifyfs.system.callers import Caller

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from notifyfs.daemon.compose import KernelSide
    from notifyfs.subscribers.delivery import Bell
    from notifyfs.subscribers.server import Server

log = logging.getLogger(__name__)

_GRACE: Final = 2.0  # seconds that requests under way have after SIGTERM
_DETACHING: Final = 10.0  # seconds that fusermount3 has then
_SIGALRM_SECONDS: Final = 0.1
_SWEEPING: Final = 0.001


@attrs.frozen
class Place:
    """What is mounted where, and the path of its control socket."""

    source: str
    mountpoint: str
    socket: str

    def device(self) -> str:
        """The mount's device, as ``0:45``; MountError when it is not there any more."""
        line = mountinfo.top(self.mountpoint, mountinfo.read())
        if line is None:
            raise mounts.MountError(f"{self.mountpoint}: unmounted before it could be served; mount it again")
        return line.device


class Daemon:
    """The rooms of one mount, at work. *removed* rings when something that was removed is to be freed."""

    def __init__(
        self, place: Place, kernel: KernelSide, server: Server, guard: mounts.Guard | None, removed: Bell
    ) -> None:
        self._place = place
        self._device = place.device()
        self._kernel = kernel
        self._visibility = kernel.visibility
        self._watches = kernel.watches
        self._server = server
        self._guard = guard
        self._removed = removed
        self._heard = 0
        self.loop = ReadLoop(kernel.readiness, self._idle)

    def _idle(self) -> bool:
        """All requests that were there are answered: ask the kernel about them; whether there are events to send."""
        visibility, heard = self._visibility, self._watches.heard
        visibility.begin()
        before, self._heard = self._heard, heard
        return heard != before or visibility.waiting

    async def run(self, listener: socket.socket, made: os.stat_result, ready: Callable[[], None]) -> None:
        """Serve both sides until the mount is gone; *made* is what the socket's path leads to."""
        # Within trio's run: a signal after it would find trio's wakeup socket closed.
        with _never_frozen():
            await self._serve(listener, made, ready)

    async def _serve(self, listener: socket.socket, made: os.stat_result, ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as servers:
            servers.start_soon(self._server.accept, listener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._give_way, made)
                nursery.start_soon(self._tell_ready, ready)
                nursery.start_soon(self._heed_guard)
                await binding.serve()
                nursery.cancel_scope.cancel()
            await self._end_subscribers()
            servers.cancel_scope.cancel()

    async def _end_subscribers(self) -> None:
        self._watches.unmount(Caller(os.getpid(), os.geteuid(), os.getegid()))
        await self._server.finish()

    async def _give_way(self, made: os.stat_result) -> None:
        """Once a later daemon has the socket: end those who are here, for the mount that they mean is the later one."""
        path = self._place.socket
        await taken(path, made)
        log.warning("%s: a later daemon has this socket now; the subscribers of this one are ended", path)
        self._server.take_no_more()
        await self._end_subscribers()

    async def _sweep(self) -> None:
        while True:
            await self._removed.wait_rung()
            await trio.sleep(_SWEEPING)  # the events of the removal go first
            self._kernel.source.sweep()

    async def _heed_guard(self) -> None:
        while self._guard is not None:
            await trio.lowlevel.wait_readable(self._guard.news)
            if not self._guard.look():
                return

    async def _tell_ready(self, ready: Callable[[], None]) -> None:
        # From a thread: the answer comes from this very loop.
        await trio.to_thread.run_sync(os.stat, self._place.mountpoint, abandon_on_cancel=True)
        reason = await trio.to_thread.run_sync(mounts.raise_background, self._device, abandon_on_cancel=True)
        if reason is not None:
            log.warning("a close may be told after later operations when many come at once: %s", reason)
            self._kernel.facts["release_in_order"] = False
        ready()

    async def _end_on_signal(self, serving: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                log.info("ending on %s", signal.Signals(number).name)
                # In a thread: fusermount3 may take its time.
                with trio.move_on_after(_DETACHING):
                    await trio.to_thread.run_sync(detach, self._place.mountpoint, self._device, abandon_on_cancel=True)
                binding.terminate()
                await trio.sleep(_GRACE)
                serving.cancel()  # a request under way does not come to an end


def device_of(mountpoint: str) -> str | None:
    """The device of the notifyfs mount there, as ``0:45``; None where there is none."""
    line = mountinfo.top(mountpoint, mountinfo.read())
    return line.device if line is not None and line.fstype == mountinfo.NOTIFYFS else None


def detach(mountpoint: str, device: str | None) -> None:
    """Unmount our own mount, if it is still there: not what somebody has mounted on top or after it."""
    if device_of(mountpoint) == device:
        with contextlib.suppress(mounts.MountError):  # unmounted meanwhile
            mounts.detach(mountpoint, lazy=True)


@contextlib.contextmanager
def _never_frozen() -> Iterator[None]:
    """Interrupt blocking reads of /dev/fuse ten times a second.

    pyfuse3 reads it blocking, GIL held, once it is readable; when the caller was killed in between,
    the read sleeps until the next request (21 of 150 times, Linux 6.18). A signal makes it return.
    """
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, _SIGALRM_SECONDS, _SIGALRM_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
