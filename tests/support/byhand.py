"""A FUSE connection that a thread of the test serves, and in which an operation can be left unanswered.

Two directories of one file each, ``a/file`` and ``b/file``; what is held keeps its locks in the kernel, as an operation
that a daemon has not answered.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import struct
import threading
import time
from typing import TYPE_CHECKING, Final

from notifyfs.fuse import device
from notifyfs.fuse.device import Device, Request
from notifyfs.mounts.throwaway import throwaway
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notifyfs.mounts.throwaway import Throwaway

A: Final = 2
B: Final = 3
FILES: Final = {A: 4, B: 5}
"""Each directory's."""
_NAMES: Final = {(device.ROOT, b"a"): A, (device.ROOT, b"b"): B, **{(at, b"file"): file for at, file in FILES.items()}}
READ: Final = 15
WRITE: Final = 16


class ByHand:
    """*fuse* is for notes; files are named from *root*."""

    def __init__(self, made: Throwaway) -> None:
        self.fuse = made.fuse
        self.root = made.root
        self.seen: list[Request] = []
        """What the kernel has asked, in order."""
        self.gone: set[tuple[int, bytes]] = set()
        """Names that a LOOKUP does not find any more."""
        self._server = Device(made.fuse)
        self._hold: int | None = None
        self._held: list[Request] = []
        self._handles = itertools.count()
        self._over = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def path(self, name: str) -> str:
        """*name* from anywhere."""
        return f"/proc/self/fd/{self.root}/{name}"

    @contextlib.contextmanager
    def unanswered(self, opcode: int, work: Callable[[], object]) -> Iterator[None]:
        """*work*'s request of this kind has come, and is not answered before the end; *work* has ended then."""
        self._hold = opcode
        worker = threading.Thread(target=work)
        worker.start()
        wait_until(lambda: self._held)
        self._hold = None
        try:
            yield
        finally:
            self._answer(self._held.pop())
            worker.join()

    def asked(self, opcode: int, node: int) -> int:
        """How many such requests have come."""
        return sum((request.opcode, request.node) == (opcode, node) for request in self.seen)

    def end(self) -> None:
        self._over = True
        self._thread.join()

    def _serve(self) -> None:
        while not self._over:
            with contextlib.suppress(TimeoutError):
                request = self._server.take(time.monotonic() + 0.05)
                self.seen.append(request)
                if request.opcode == self._hold:
                    self._held.append(request)
                else:
                    self._answer(request)

    def _answer(self, request: Request) -> None:
        at = (request.node, request.body.rstrip(b"\0"))
        if request.opcode == device.INIT:
            self._server.greet(request, 1000, 5)
        elif request.opcode == device.LOOKUP and at not in _NAMES.keys() - self.gone:
            self._server.refuse(request, errno.ENOENT)
        elif (answer := self._answered(request)) is not None:
            self._server.answer(request, answer)
        elif request.opcode not in device.UNANSWERED:
            self._server.refuse(request, errno.ENOSYS)

    def _answered(self, request: Request) -> bytes | None:
        """With what, if at all, and not with an error."""
        node, name = request.node, request.body.rstrip(b"\0")
        if request.opcode == device.UNLINK:
            self.gone.add((node, name))
        answers: dict[int, Callable[[], bytes]] = {
            device.LOOKUP: lambda: entry(_NAMES[node, name]),
            device.GETATTR: lambda: struct.pack("=QII", 3600, 0, 0) + attributes(node),
            device.OPEN: lambda: device.opened(next(self._handles)),
            device.UNLINK: lambda: b"",
            device.RELEASE: lambda: b"",
            READ: lambda: b"data",
            WRITE: lambda: struct.pack("=II", struct.unpack_from("=QQI", request.body)[2], 0),
        }
        answer = answers.get(request.opcode)
        return None if answer is None else answer()


def attributes(node: int) -> bytes:
    directory = node not in FILES.values()
    mode = stat.S_IFDIR | 0o755 if directory else stat.S_IFREG | 0o644
    size = 0 if directory else 4
    owner = (os.geteuid(), os.getegid())
    return struct.pack("=6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1 + directory, *owner, 0, 4096, 0)


def entry(node: int) -> bytes:
    return struct.pack("=QQQQII", node, 0, 3600, 3600, 0, 0) + attributes(node)


@contextlib.contextmanager
def by_hand() -> Iterator[ByHand]:
    """Connect and serve."""
    with throwaway() as made:
        served = ByHand(made)
        try:
            yield served
        finally:
            served.end()
