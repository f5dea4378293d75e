"""Closing what may take its time, in threads: close(2) may write back, free a large file, or never return."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

_THREADS: Final = 16
"""Of one user at once: what else that user has to close waits."""
_MOST: Final = 256
"""Descriptors of one user that may be under way before no more are taken."""
_IDLE: Final = 10.0  # seconds that a thread waits for the next descriptor, before it ends


@attrs.define
class _User:
    """One user's descriptors that are not closed yet."""

    user: int
    threads: int = 0
    waiting: deque[int] = attrs.Factory(deque)


class _Closers:
    """Threads that close descriptors. One that hangs holds up nobody but its user: there is always another.

    To wake a thread takes a fifth of what it takes to start one (30 and 160 us, Linux 6.18).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[_User] = SimpleQueue()
        self._idle = 0  # threads that wait, less the tasks that are for them
        self._users: dict[int, _User] = {}

    def room(self, user: int) -> bool:
        """Whether less than ``_MOST`` of *user*'s are under way."""
        whose = self._users.get(user)
        return whose is None or whose.threads + len(whose.waiting) < _MOST

    def close(self, fds: Iterable[int], user: int) -> None:
        """Close *fds* in a thread. RuntimeError: there can be no more threads."""
        with self._lock:
            whose = self._users.setdefault(user, _User(user))
            whose.waiting.extend(fds)
            if whose.threads >= _THREADS:
                return
            whose.threads += 1
            wakes = self._idle > 0
            self._idle -= wakes
        if wakes:
            self._tasks.put(whose)
            return
        try:
            threading.Thread(target=self._run, args=(whose,), name="closing", daemon=True).start()
        except RuntimeError:
            with self._lock:
                whose.threads -= 1
            if not whose.threads:
                raise

    def _run(self, whose: _User | None) -> None:
        while whose is not None:
            while (fd := self._following(whose)) is not None:
                # It is closed even where that fails (close(2)), and who would hear of it has been answered.
                with suppress(OSError):
                    os.close(fd)
            whose = self._next()

    def _following(self, whose: _User) -> int | None:
        with self._lock:
            if whose.waiting:
                return whose.waiting.popleft()
            whose.threads -= 1
            if not whose.threads:
                del self._users[whose.user]
            self._idle += 1
            return None

    def _next(self) -> _User | None:
        try:
            return self._tasks.get(timeout=_IDLE)
        except Empty:
            with self._lock:
                if not self._idle:  # a task is on its way
                    return self._tasks.get()
                self._idle -= 1
                return None


_closers: Final = _Closers()


def close_apart(user: int, *fds: int) -> None:
    """Close *fds*, which are on *user*'s account (-1: our own), in a thread. RuntimeError: there can be no more."""
    _closers.close(fds, user)


def room_for_more(user: int) -> bool:
    """Whether descriptors of *user* may be taken: not while very many of that user's do not come to an end."""
    return _closers.room(user)
