"""What this kernel does, tried out: docs/architecture.md, "Kernels", has the sources and what follows from it.

On a connection of its own (``mounts.throwaway``), which no user can see, before anything is mounted: so nobody waits
for it, and what it finds is known to whoever is built with it. Each step is a system call of a helper thread, whose
requests are answered here, by hand.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.fuse import device
from notifyfs.fuse.device import Device, Request
from notifyfs.mounts import MountError
from notifyfs.mounts.throwaway import throwaway

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.mounts.throwaway import Throwaway

log = logging.getLogger(__name__)

_WITHIN: Final = 1.0
"""Seconds for all of it; it takes some 3 ms (measured on Linux 6.18)."""
_ENDED_BY_KERNEL: Final = 1
"""Seconds without an answer after which the kernel may end the connection: if we are killed in the midst of it."""
_CLOSES: Final = 16
"""More than the 12 RELEASEs that may be under way if nothing else is said."""
_BACKGROUND: Final = 65535
_STEP: Final = 0.0002
"""Seconds between two looks at whether a thread sleeps."""

_FILE: Final = 2
_NAME: Final = "file"
_END: Final = "end"
_NO_NAME: Final = b"/"


@attrs.frozen
class Kernel:
    """What may be relied on. Where it is false, there is a second best."""

    waits_for_lock: bool = False
    """An invalidation in an inode waits until the operation that holds its lock has ended (``Notify.ask``)."""
    expire_only: bool = False
    """A name can be made to be asked for again without being unhashed (``Notify.expire``)."""
    release_in_order: bool = False
    """A RELEASE arrives before what was done after the close(2), if many may be under way."""


def examine() -> Kernel:
    """Try it: for some milliseconds. Where it cannot be tried nothing is relied on, and the log says so."""
    try:
        return attempt()
    except (OSError, MountError) as error:
        log.warning("what this kernel does could not be tried, so nothing is relied on: %s", error)
        return Kernel()


def attempt() -> Kernel:
    """Try it. OSError or MountError: that cannot be done."""
    trial = _Trial()
    try:
        with throwaway() as made:
            return trial.run(made)
    finally:
        trial.clean()


class _Trial:
    """The steps; each is a *work* of a helper thread."""

    def __init__(self) -> None:
        self._until = monotonic() + _WITHIN
        self._handles = itertools.count()
        self._descriptors: list[int] = []
        self._threads: list[threading.Thread] = []

    def run(self, made: Throwaway) -> Kernel:
        self._root = made.root
        self._server = Device(made.fuse)
        self._server.greet(self._server.take(self._until), _BACKGROUND, _ENDED_BY_KERNEL)
        self._serve(lambda: self._descriptors.extend(self._open() for _ in range(_CLOSES)))
        expires = self._expires()
        in_order = self._closes_in_order()
        return Kernel(self._waits(), expires, in_order)

    def clean(self) -> None:
        """Once the connection has ended, and with it what a thread was doing there."""
        for thread in self._threads:
            thread.join(_WITHIN)
        self._close()

    def _open(self) -> int:
        return os.open(_NAME, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._root)

    def _close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop(0))

    def _expires(self) -> bool:
        """Whether FUSE_EXPIRE_ONLY is more than padding, for which an open file's name would be unhashed."""
        device.expire_entry(self._server.fuse, device.ROOT, os.fsencode(_NAME))
        return not os.readlink(f"/proc/self/fd/{self._descriptors[0]}").endswith(" (deleted)")

    def _closes_in_order(self) -> bool:
        """Whether the RELEASEs of all descriptors, none of which is answered, come before what is asked then."""
        came: list[Request] = []

        def heard(request: Request) -> bool:
            if request.opcode == device.RELEASE:
                came.append(request)
            return request.opcode == device.RELEASE

        self._serve(self._close, heard)
        for request in came:
            self._server.answer(request)
        return [device.released(request) for request in came] == list(range(_CLOSES))

    def _waits(self) -> bool:
        """Whether invalidations in a directory and in a file wait for an unlink(2), which holds the locks of both."""
        notes: list[_Note] = []
        found: list[bool] = []

        def held(request: Request) -> bool:
            if request.opcode != device.UNLINK:
                return False
            with contextlib.ExitStack() as stack:
                stack.callback(self._server.answer, request)
                notes.extend(_Note(self._server.fuse, number) for number in (device.ROOT, _FILE))
                found.extend(note.waits(self._until) for note in notes)
            return True

        self._serve(lambda: os.unlink(_NAME, dir_fd=self._root), held)
        for note in notes:  # not before: what the helper asks next has the lock, too, until it is answered
            note.join(max(0.0, self._until - monotonic()))
        return found == [True, True]

    def _serve(self, work: Callable[[], object], heard: Callable[[Request], bool] = lambda _request: False) -> None:
        """Answer what *work* asks, until it is done. *heard*: whether it has taken a request for its own."""
        worker = _Worker(work, self._root)
        self._threads.append(worker)
        while not _is_lookup(request := self._server.take(self._until), _END):
            if not heard(request):
                self._answer(request)
        self._answer(request)
        worker.join()
        if worker.error is not None:
            raise worker.error

    def _answer(self, request: Request) -> None:
        """A directory with one file in it."""
        server = self._server
        if _is_lookup(request, _NAME):
            server.answer(request, device.entry(_FILE))
        elif request.opcode == device.LOOKUP:
            server.refuse(request, errno.ENOENT)
        elif request.opcode == device.GETATTR:
            server.answer(request, device.attributes_out(request.node))
        elif request.opcode == device.OPEN:
            server.answer(request, device.opened(next(self._handles)))
        elif request.opcode not in device.UNANSWERED:
            server.refuse(request, errno.ENOSYS)


def _is_lookup(request: Request, name: str) -> bool:
    return request.opcode == device.LOOKUP and request.body == os.fsencode(name) + b"\0"


class _Worker(threading.Thread):
    """Does *work*, and then asks for a name that is not there."""

    def __init__(self, work: Callable[[], object], root: int) -> None:
        super().__init__(name="probe", daemon=True)
        self.error: OSError | None = None
        self._work = work
        self._root = root
        self.start()

    def run(self) -> None:
        try:
            self._work()
        except OSError as error:
            self.error = error
        with contextlib.suppress(OSError):
            os.stat(_END, dir_fd=self._root)


class _Note(threading.Thread):
    """Invalidates a name that cannot be, in the node *number*."""

    def __init__(self, fuse: int, number: int) -> None:
        super().__init__(name="probe", daemon=True)
        self._fuse = fuse
        self._number = number
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):  # there is none
            device.expire_entry(self._fuse, self._number, _NO_NAME)

    def waits(self, until: float) -> bool:
        """Whether it sleeps in the kernel, as who waits for a lock does; seen twice, or it may have been for memory."""
        seen = 0
        while self.is_alive() and monotonic() < until:
            seen = seen + 1 if _state(self.native_id) == "D" else 0
            if seen == 2:  # noqa: PLR2004 - twice
                return True
            sleep(_STEP)
        return False


def _state(thread: int | None) -> str:
    """``D``: in an uninterruptible sleep (proc_pid_stat(5)); nothing once the thread is gone."""
    try:
        with open(f"/proc/self/task/{thread}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""
