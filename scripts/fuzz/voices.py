"""Those who listen: the kernel's inotify and two subscribers, each reading records byte for byte."""

# ruff: noqa: S101 - as in the tests, which these extend
from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from tests.support import kernel, wireclient

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
    made = b"".join(wireclient.encode(*event) for event in events)
    assert made == data, f"padded otherwise than inotify pads: {data!r}"
