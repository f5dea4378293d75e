"""Those who listen: the kernel's inotify and two subscribers, each reading records byte for byte."""

# ruff: noqa: S101 - as in the tests, which these extend
from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from tests.support import kernel, subscriber

if TYPE_CHECKING:
    from tests.support.scenario import Subscriber


class Heard(NamedTuple):
    """One event; its cookie is the order of appearance, as in a scenario."""

    wd: int
    mask: int
    cookie: int = 0
    name: bytes = b""

    def __str__(self) -> str:
        return str(kernel.Event(*self))


class Kernel(kernel.Inotify):
    """The kernel's instance; what is read must be what ``record`` makes of it, padding included."""

    def drain(self) -> list[kernel.Event]:
        """Read every event that is queued now."""
        events = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data = os.read(self.fd, 1 << 16)
                events += (found := kernel.parse(data))
                _check(found, data)
        return events


class Socket(subscriber.Subscriber):
    """A connection to the control socket, held to the same padding."""

    _raw = b""

    def _receive(self) -> None:
        before = len(self._stream)
        super()._receive()
        self._raw += self._stream[before:]
        while len(self._raw) >= subscriber.HEADER.size:
            *_, size = subscriber.HEADER.unpack_from(self._raw)
            whole = subscriber.HEADER.size + size
            if len(self._raw) < whole:
                break
            data, self._raw = self._raw[:whole], self._raw[whole:]
            _check(kernel.parse(data), data)

    def _read_event_fd(self) -> None:
        while self._event_fd is not None:
            try:
                packet = os.read(self._event_fd, 8192)
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.ECONNRESET}:
                    raise
                break
            if not packet:
                break
            found = kernel.parse(packet)
            _check(found, packet)
            assert len(found) == 1, f"not one record a packet: {found}"
            self._events += found


class Voice:
    """One who listens, and what was heard so far."""

    def __init__(self, name: str, subscriber: Subscriber) -> None:
        self.name = name
        self.subscriber = subscriber
        self.heard: list[Heard] = []
        self._cookies: dict[int, int] = {}

    def read(self) -> list[Heard]:
        """All that is queued now."""
        news = [
            Heard(wd, mask, self._cookies.setdefault(cookie, len(self._cookies) + 1) if cookie else 0, name)
            for wd, mask, cookie, name in self.subscriber.drain()
        ]
        self.heard += news
        return news


def _check(events: list[kernel.Event], data: bytes) -> None:
    made = b"".join(subscriber.record(*event) for event in events)
    assert made == data, f"padded otherwise than inotify pads: {data!r}"
