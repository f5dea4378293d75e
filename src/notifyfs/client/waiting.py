"""Waiting: until when, and several threads for one descriptor."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
import time
from typing import Final, Protocol

LONGEST_WAIT: Final = 2_000_000.0
"""Seconds: poll(2) counts milliseconds in an int."""


def deadline_in(seconds: float | None) -> float | None:
    """When *seconds* will have passed, on the monotonic clock; None (never) for None and for negative ones."""
    return None if seconds is None or seconds < 0 else time.monotonic() + seconds


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines; None is never."""
    return min((deadline for deadline in (one, other) if deadline is not None), default=None)


def seconds_left(deadline: float | None) -> float | None:
    """How long it is until *deadline*: 0 or more, at most ``LONGEST_WAIT``; None when there is none."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT)


class File(Protocol):
    """What can be polled and closed: a socket, an epoll instance."""

    def fileno(self) -> int:
        """Return its descriptor."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Waiting:
    """Threads that wait for one file: one of them polls it, and the others wait for that one.

    What they wait for is guarded by *lock*, which every method but ``close_copy`` needs. poll(2) would go on with a
    descriptor that is closed meanwhile, and with the next file that has its number: so who polls is the one who closes.

    Args:
        lock: may be shared with others of this kind.
        file: closed by ``close``.

    """

    def __init__(self, lock: threading.RLock, file: File) -> None:
        self._file = file
        self._changed = threading.Condition(lock)
        self._waker: io.FileIO | None = None  # an eventfd(2): ends a poll
        self._woken = False
        self._polled = False
        self._closed = False

    def wait(self, deadline: float | None, what: int = select.POLLIN) -> bool:
        """Let go of the lock until the file is ready or ``changed`` was called; False: *deadline* has passed before.

        *what*: that of poll(2).
        """
        left = seconds_left(deadline)
        if self._polled:
            return self._changed.wait(left)
        if self._waker is None:
            self._waker = io.FileIO(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), "r+")
        poll = select.poll()
        poll.register(self._file.fileno(), what)
        poll.register(self._waker.fileno(), select.POLLIN)
        self._polled = True
        self._changed.release()
        try:
            return bool(poll.poll(None if left is None else left * 1000))
        finally:
            self._changed.acquire()
            self._polled = False
            self._changed.notify_all()  # somebody else has to poll now
            if self._closed:
                self.close_copy()
            elif self._woken:
                self._waker.read(8)
                self._woken = False

    def changed(self) -> None:
        """Let every thread that waits look again."""
        self._changed.notify_all()
        if self._polled and self._waker is not None and not self._woken:
            self._woken = True
            self._waker.write((1).to_bytes(8, sys.byteorder))

    def close(self) -> None:
        """Close the file, and end every wait."""
        self._closed = True
        self.changed()
        if not self._polled:
            self.close_copy()

    def close_copy(self) -> None:
        """Close the file in this process, whatever threads of its parent were doing at the fork."""
        self._file.close()
        if self._waker is not None:
            self._waker.close()
