"""Closing what may take its time, in threads: close(2) may write back, free a large file, or never return."""

from __future__ import annotations

import os
import threading
from collections import Counter
from queue import Empty, SimpleQueue
from typing import Final

_MOST: Final = 256
_IDLE: Final = 10.0  # seconds that a thread waits for the next descriptor, before it ends


class _Closers:
    """Threads that close descriptors. One that hangs holds up nobody else: there is always another.

    To wake a thread takes a fifth of what it takes to start one (30 and 160 us, Linux 6.18).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[tuple[int, int]] = SimpleQueue()
        self._idle = 0  # threads that wait, less the tasks that are for them
        self._closing: Counter[int] = Counter()  # of each user's

    def room(self, user: int) -> bool:
        """Whether less than ``_MOST`` of *user*'s are under way."""
        return self._closing[user] < _MOST

    def close(self, fd: int, user: int) -> None:
        """Close *fd* in a thread. RuntimeError: there can be no more threads."""
        with self._lock:
            self._closing[user] += 1
            wakes = self._idle > 0
            self._idle -= wakes
        if wakes:
            self._tasks.put((fd, user))
        else:
            threading.Thread(target=self._run, args=(fd, user), name="closing", daemon=True).start()

    def _run(self, fd: int, user: int) -> None:
        task: tuple[int, int] | None = (fd, user)
        while task is not None:
            self._close(*task)
            task = self._next()

    def _close(self, fd: int, user: int) -> None:
        try:
            os.close(fd)
        except OSError:
            pass  # it is closed all the same (close(2)), and who would hear of it has been answered
        finally:
            with self._lock:
                self._closing[user] -= 1
                if not self._closing[user]:
                    del self._closing[user]
                self._idle += 1

    def _next(self) -> tuple[int, int] | None:
        try:
            return self._tasks.get(timeout=_IDLE)
        except Empty:
            with self._lock:
                if not self._idle:  # a task is on its way
                    return self._tasks.get()
                self._idle -= 1
                return None


_closers: Final = _Closers()


def close_apart(fd: int, user: int = -1) -> None:
    """Close *fd*, which *user* has sent (-1: it is our own), in a thread. RuntimeError: there can be no more."""
    _closers.close(fd, user)


def room_for_more(user: int) -> bool:
    """Whether descriptors of *user* may be taken: not while very many of that user's do not come to an end."""
    return _closers.room(user)
