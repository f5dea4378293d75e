"""Events that are read before the answer to the add of their watch: a daemon of this test's own takes its time."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from notifyfs import Event, INotify, flags
from notifyfs.client import inotify as subject
from tests.conftest import wait_until
from tests.support import wireclient as w

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Daemon(threading.Thread):
    """Greets one client and answers its adds with 1, 2, ...: each *early* event first, and the reply when told to."""

    def __init__(self, path: str, early: list[tuple[int, int]]) -> None:
        super().__init__(daemon=True)
        self._early = early
        self.go_on = threading.Semaphore(0)
        self._packets, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self.start()

    def dies(self) -> None:
        """Say no more, as one that is killed."""
        self._packets.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        with self._listener, self._listener.accept()[0] as stream, self._packets as ours:
            rest, added = b"", 0
            while data := stream.recv(1 << 16):
                requests, rest = w.split(rest + data)
                for request in requests:
                    if request.wd == w.HELLO:
                        hello = w.encode(0, w.REPLY, request.cookie, b'{"max_queued_events": 9}')
                        with self._theirs as theirs:
                            socket.send_fds(stream, [hello], [theirs.fileno()])
                    elif request.wd == w.ADD:
                        added += 1
                        for wd, mask in self._early:
                            if wd == added:
                                ours.send(w.encode(wd, mask))
                        self.go_on.acquire()
                        stream.send(w.encode(added, w.REPLY, request.cookie))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(subject, "find_socket", lambda _: str(tmp_path / "socket"))
    return str(tmp_path / "socket")


@pytest.fixture
def inotify() -> Iterator[INotify]:
    with INotify(nonblocking=True) as instance:
        yield instance


def added(inotify: INotify, place: Path) -> list[int]:
    """Make a list that will hold the watch descriptor of a new watch."""
    wds: list[int] = []
    threading.Thread(target=lambda: wds.append(inotify.add_watch(place, flags.ATTRIB)), daemon=True).start()
    return wds


@pytest.mark.parametrize("ends", [False, True])
def test_they_have_the_number_that_the_adder_gets(path: str, inotify: INotify, tmp_path: Path, ends: bool) -> None:  # noqa: FBT001 - a parameter of the test
    early = [flags.ATTRIB, *([flags.IGNORED] if ends else [])]
    daemon = Daemon(path, [(2, int(mask)) for mask in early])
    daemon.go_on.release()
    assert inotify.add_watch(tmp_path, flags.ATTRIB) == 1
    wds = added(inotify, tmp_path)
    told: list[Event] = []
    while len(told) < len(early):
        told += inotify.read(10_000)
    assert told == [Event(2, mask, 0, "") for mask in early]
    assert wds == []
    daemon.go_on.release()
    wait_until(lambda: wds == [2])
    daemon.go_on.release()
    assert inotify.add_watch(tmp_path, flags.ATTRIB) == 3


def test_a_watch_that_was_known_by_its_events_ends_as_a_directory(path: str, inotify: INotify, tmp_path: Path) -> None:
    """A killed daemon says nothing; that it was a directory is what the adder knew."""
    daemon = Daemon(path, [(1, int(flags.ATTRIB))])
    wds = added(inotify, tmp_path)
    assert inotify.read(10_000) == [Event(1, flags.ATTRIB, 0, "")]
    daemon.go_on.release()
    wait_until(lambda: wds == [1])
    daemon.dies()
    assert inotify.read(10_000) == [Event(1, flags.UNMOUNT | flags.ISDIR, 0, ""), Event(1, flags.IGNORED, 0, "")]
