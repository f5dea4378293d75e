"""Closing in threads: one that hangs holds nobody up, and one user has so many of them."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from notifyfs.system import closing
from notifyfs.system.closing import close_apart, room_for_more
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER, OTHER = 4000, 4001


@pytest.fixture(autouse=True)
def closers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of this test's own."""
    monkeypatch.setattr(closing, "_closers", closing._Closers())  # noqa: SLF001 - as it is when the daemon starts


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Give a function that lets close(2) of a descriptor hang until the test ends; as on a dead NFS server's file."""
    over = threading.Event()
    hung: set[int] = set()

    def close(fd: int) -> None:
        if fd in hung:
            over.wait()
        os.close(fd)

    monkeypatch.setattr(closing, "os", SimpleNamespace(close=close))
    yield hung.add
    over.set()
    wait_until(lambda: room_for_more(USER) and not closers_at_work(), what="all are closed")


def closers_at_work() -> int:
    return len(closing._closers._users)  # noqa: SLF001 - nobody else wants to know


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "closing"}


def test_it_is_closed() -> None:
    reader, writer = os.pipe()
    close_apart(USER, writer)
    assert os.read(reader, 1) == b"", "the other end is closed"
    os.close(reader)


def test_one_that_hangs_holds_up_no_other(hanging: Callable[[int], None]) -> None:
    for _ in range(3):
        stuck = os.open("/dev/null", os.O_RDONLY)
        hanging(stuck)
        close_apart(USER, stuck)
        reader, writer = os.pipe()
        close_apart(USER, writer)
        assert os.read(reader, 1) == b""
        os.close(reader)


def test_a_user_of_whom_very_many_hang_may_send_no_more(hanging: Callable[[int], None]) -> None:
    before = threads()
    for number in range(256):
        assert room_for_more(USER), number
        fd = os.open("/dev/null", os.O_RDONLY)
        hanging(fd)
        close_apart(USER, fd)
    assert not room_for_more(USER)
    assert len(threads() - before) == 16
    assert room_for_more(OTHER)
    reader, writer = os.pipe()
    close_apart(OTHER, writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_there_is_room_again_when_they_have_ended() -> None:
    for _ in range(1000):
        close_apart(USER, os.open("/dev/null", os.O_RDONLY))
    wait_until(lambda: not closers_at_work(), what="all are closed")
    assert room_for_more(USER)


def test_a_thread_is_used_again_and_ends_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads()
    for _ in range(20):
        close_apart(USER, os.open("/dev/null", os.O_RDONLY))
        wait_until(lambda: not closers_at_work(), what="it is closed")
    assert len(threads() - before) == 1
    monkeypatch.setattr(closing, "_IDLE", 0.01)
    close_apart(USER, os.open("/dev/null", os.O_RDONLY))
    wait_until(lambda: not threads() - before, what="it ends")


def test_a_descriptor_that_cannot_be_closed_harms_nobody() -> None:
    close_apart(USER, 1 << 20)
    wait_until(lambda: not closers_at_work(), what="it was tried")
    reader, writer = os.pipe()
    close_apart(USER, writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
