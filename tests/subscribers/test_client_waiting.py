"""Threads that wait for one socket: who polls, who wakes whom, and who closes it."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs import Connection
from notifyfs.client.waiting import Waiting, deadline_in
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Mount


class Reader(threading.Thread):
    """Waits once; whether that was in vain is its ``outcome``."""

    def __init__(self, waiting: Waiting, lock: threading.RLock, seconds: float | None = None) -> None:
        super().__init__(daemon=True)
        self._seconds = seconds
        self._waiting = waiting
        self._lock = lock
        self.outcome: bool | None = None
        self.start()

    def run(self) -> None:
        with self._lock:
            self.outcome = self._waiting.wait(deadline_in(self._seconds))

    def sleeps(self, where: str) -> None:
        wait_until(lambda: where in Path(f"/proc/self/task/{self.native_id}/wchan").read_text("ascii"))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def lock() -> threading.RLock:
    return threading.RLock()


@pytest.fixture
def waiting(ends: tuple[socket.socket, socket.socket], lock: threading.RLock) -> Iterator[Waiting]:
    made = Waiting(lock, ends[0])
    yield made
    with lock:
        made.close()


def test_the_file_is_closed_by_who_polls_it_and_not_before(
    ends: tuple[socket.socket, socket.socket], lock: threading.RLock, waiting: Waiting
) -> None:
    """Until poll(2) has returned nobody else may get its number."""
    number = ends[0].fileno()
    reader = Reader(waiting, lock)
    reader.sleeps("poll")
    with lock:
        waiting.close()
        assert ends[0].fileno() == number
        other = os.open("/dev/null", os.O_RDONLY)
        os.close(other)
        assert other != number
    reader.join(10)
    assert reader.outcome is True
    assert ends[0].fileno() == -1


def test_one_polls_and_the_others_wait_for_it(
    ends: tuple[socket.socket, socket.socket], lock: threading.RLock, waiting: Waiting
) -> None:
    first = Reader(waiting, lock)
    first.sleeps("poll")
    others = [Reader(waiting, lock) for _ in range(3)]
    for other in others:
        other.sleeps("futex")
    ends[1].send(b"x")
    for reader in (first, *others):
        reader.join(10)
        assert reader.outcome is True


def test_who_waits_for_the_one_that_polls_is_told_when_that_one_goes(
    ends: tuple[socket.socket, socket.socket], lock: threading.RLock, waiting: Waiting
) -> None:
    """Somebody has to poll: it is woken, and looks, and may wait again."""
    first = Reader(waiting, lock, seconds=0.5)
    first.sleeps("poll")
    other = Reader(waiting, lock)
    other.sleeps("futex")
    first.join(10)
    other.join(10)
    assert (first.outcome, other.outcome) == (False, True)
    again = Reader(waiting, lock)
    again.sleeps("poll")
    ends[1].send(b"x")
    again.join(10)
    assert again.outcome is True


def test_a_change_wakes_who_polls_and_once(lock: threading.RLock, waiting: Waiting) -> None:
    for _ in range(3):
        reader = Reader(waiting, lock)
        reader.sleeps("poll")
        with lock:
            waiting.changed()
            waiting.changed()
        reader.join(10)
        assert reader.outcome is True
        with lock:
            assert waiting.wait(deadline_in(0)) is False, "the change was for those who waited"


def test_a_wait_ends_with_its_deadline(lock: threading.RLock, waiting: Waiting) -> None:
    with lock:
        start = time.monotonic()
        assert waiting.wait(deadline_in(0.05)) is False
        assert time.monotonic() - start >= 0.05
    reader = Reader(waiting, lock)
    reader.sleeps("poll")
    with lock:  # the reader polls, this one waits for it
        start = time.monotonic()
        assert waiting.wait(deadline_in(0.05)) is False
        assert time.monotonic() - start >= 0.05
        waiting.changed()
    reader.join(10)
    assert reader.outcome is True


@pytest.mark.parametrize("event_fd", [False, True])
def test_an_answer_that_another_thread_took_in_is_not_waited_for(mount: Mount, *, event_fd: bool) -> None:
    """Who polls may be too late for it: the bytes are gone before poll(2) looks."""
    over = threading.Event()
    with Connection(mount.socket, event_fd=event_fd, timeout=5) as connection:

        def take() -> None:
            while not over.is_set():
                connection.read(0)

        takers = [threading.Thread(target=take, daemon=True) for _ in range(2)]
        for taker in takers:
            taker.start()
        try:
            for _ in range(1000):
                assert connection.pending() == 0
        finally:
            over.set()
            for taker in takers:
                taker.join(10)
