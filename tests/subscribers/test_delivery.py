"""What reaches a subscriber, and when: descriptors, order, the barrier, what can be seen by then."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.kernel import Inotify, rename
from tests.support.wireclient import PENDING, Record, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

UNREAD_EVENTS = 300
"""How many events a descriptor must hold before its reader needs to read ("at least a few hundred")."""


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount: a test has a directory of its own in it."""
    return shared()


@pytest.fixture
def wire(mount: Mount) -> Iterator[Wire]:
    with Wire(mount) as connection:
        yield connection


@pytest.fixture
def split_wire(mount: Mount) -> Iterator[Wire]:
    """A connection whose events come on a descriptor of their own."""
    with Wire(mount, event_fd=True) as connection:
        yield connection


@pytest.fixture(params=["in band", "descriptor"])
def either(request: pytest.FixtureRequest, mount: Mount) -> Iterator[Wire]:
    """A connection of each kind."""
    with Wire(mount, event_fd=request.param == "descriptor") as connection:
        yield connection


def append(path: Path) -> None:
    """One write(2) of one byte through a descriptor of its own."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(descriptor, b"x")
    os.close(descriptor)


# The event descriptor


def test_the_event_descriptor_is_a_packet_socket_with_one_whole_record_a_packet(tree: Path, split_wire: Wire) -> None:
    with socket.socket(fileno=os.dup(split_wire.events_fd)) as descriptor:
        assert descriptor.family == socket.AF_UNIX
        assert descriptor.type == socket.SOCK_SEQPACKET
    wd = split_wire.add(w.CREATE, tree)
    for name in ("a", "b" * 16, "c" * 255):
        w.touch(tree / name)
    split_wire.ask(PENDING)

    packets = [os.read(split_wire.events_fd, 4096) for _ in range(3)]
    assert [len(packet) for packet in packets] == [32, 48, 272]
    assert [w.parse(packet)[0].brief for packet in packets] == [
        (wd, w.CREATE, b"a"),
        (wd, w.CREATE, b"b" * 16),
        (wd, w.CREATE, b"c" * 255),
    ]


def test_the_event_descriptor_can_be_polled_and_read_without_blocking(tree: Path, split_wire: Wire) -> None:
    descriptor = split_wire.events_fd
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    wd = split_wire.add(w.CREATE, tree)
    with pytest.raises(BlockingIOError):
        os.read(descriptor, 4096)
    assert not w.readable(descriptor)
    with select.epoll() as epoll:
        epoll.register(descriptor, select.EPOLLIN)
        assert epoll.poll(0) == []
        w.touch(tree / "f")
        assert epoll.poll(w.PATIENCE) == [(descriptor, select.EPOLLIN)]

    assert w.unread(descriptor) == 32
    assert [record.brief for record in w.parse(os.read(descriptor, 4096))] == [(wd, w.CREATE, b"f")]
    assert w.unread(descriptor) == 0
    assert not w.readable(descriptor)


def test_a_blocking_read_of_the_event_descriptor_waits_for_an_event(tree: Path, split_wire: Wire) -> None:
    wd = split_wire.add(w.CREATE, tree)
    os.set_blocking(split_wire.events_fd, True)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(os.read(split_wire.events_fd, 4096)), daemon=True)
    reader.start()
    w.touch(tree / "f")
    reader.join(w.PATIENCE)

    assert read == [w.encode(wd, w.CREATE, 0, b"f")]


def test_beside_an_event_descriptor_the_connection_carries_replies_only(tree: Path, split_wire: Wire) -> None:
    split_wire.add(w.CREATE | w.DELETE, tree)
    for number in range(50):
        w.touch(tree / str(number)).unlink()
    replies = [split_wire.until_reply(split_wire.send(PENDING)) for _ in range(3)]
    assert split_wire.ask(1) == 0
    split_wire.ask(PENDING)

    assert [events for events, _ in replies] == [[], [], []]
    assert not w.readable(split_wire.socket.fileno())
    assert len(split_wire.packets()) == 101, "50 times CREATE and DELETE, and IGNORED"


def test_events_of_before_a_request_can_be_read_from_the_descriptor_once_the_reply_is_there(
    tree: Path, split_wire: Wire
) -> None:
    wd = split_wire.add(w.CREATE, tree)
    names = [b"%d" % number for number in range(UNREAD_EVENTS)]
    for name in names:
        os.mkdir(os.fsencode(tree) + b"/" + name)

    split_wire.ask(PENDING)

    assert w.unread(split_wire.events_fd) == 32 * UNREAD_EVENTS
    assert [event.brief for event in split_wire.packets()] == [(wd, w.CREATE | w.ISDIR, name) for name in names]


def test_a_full_event_descriptor_loses_nothing(tree: Path, split_wire: Wire) -> None:
    wd = split_wire.add(w.CREATE, tree)
    names = [b"%d" % number for number in range(5000)]
    for name in names:
        os.mkdir(os.fsencode(tree) + b"/" + name)

    received: list[Record] = []
    while len(received) < len(names):
        assert w.readable(split_wire.events_fd, w.PATIENCE)
        received += split_wire.packets()
    assert [event.brief for event in received] == [(wd, w.CREATE | w.ISDIR, name) for name in names]
    assert split_wire.told() == []


# Order and the barrier


def random_operations(tree: Path, count: int, seed: int) -> Iterator[Callable[[], object]]:
    """*count* operations that succeed, or fail in a way that a program would expect.

    No hard links: which of its names a file is used by is another subject (``docs/parity.md``).
    """
    choose = random.Random(seed)  # noqa: S311 - repeatable, not secret
    names = [tree / name for name in "abcdefgh"]

    def write(path: Path) -> None:
        with path.open("ab", buffering=0) as file:
            file.write(b"x")

    for _ in range(count):
        path, other = choose.sample(names, 2)
        yield choose.choice(
            [
                lambda path=path: w.touch(path),
                lambda path=path: write(path),
                lambda path=path: path.unlink(),
                lambda path=path: path.mkdir(),
                lambda path=path: path.rmdir(),
                lambda path=path: path.chmod(0o700),
                lambda path=path: os.truncate(path, 3),
                lambda path=path: os.utime(path),
                lambda path=path, other=other: path.rename(other),
                lambda path=path, other=other: rename(os.fsencode(path), os.fsencode(other), "exchange"),
            ]
        )


def with_numbered_cookies(events: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Events as (mask, cookie, name), the cookies replaced by the order of their appearance."""
    seen: dict[int, int] = {0: 0}
    return [(mask, seen.setdefault(cookie, len(seen)), name) for mask, cookie, name in events]


@pytest.mark.parametrize("seed", range(3))
def test_after_a_thousand_random_operations_every_event_precedes_the_reply_as_the_kernel_tells_them(
    tree: Path, either: Wire, seed: int
) -> None:
    # CLOSE alone is late, because FUSE's RELEASE is asynchronous; reads depend on the page cache.
    mask = w.ALL_EVENTS & ~(w.CLOSE_WRITE | w.CLOSE_NOWRITE | w.ACCESS)
    with contextlib.closing(Inotify(os.fsencode(tree))) as kernel:
        either.add(mask, tree)
        kernel.add(b"", mask)
        # A barrier's reply comes when the events before it can be read: so many as an event descriptor holds.
        count = 100 if either.events_fd >= 0 else 1000
        for start in range(0, 1000, count):
            for operation in random_operations(tree, count, seed * 1000 + start):
                with contextlib.suppress(OSError):
                    operation()
            ours = [(event.mask, event.cookie, event.name) for event in either.events()]
            theirs = [(event.mask, event.cookie, event.name) for event in kernel.drain()]
            assert with_numbered_cookies(ours) == with_numbered_cookies(theirs)


def test_a_thousand_operations_and_one_request_in_band(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.DELETE | w.MOVED_FROM | w.MOVED_TO, tree)
    expected = []
    for number in range(250):
        name, other = b"%d" % number, b"%d.moved" % number
        path, moved = tree / os.fsdecode(name), tree / os.fsdecode(other)
        w.touch(path)
        path.rename(moved)
        os.link(moved, path)
        path.unlink()
        expected += [(wd, w.CREATE, name), (wd, w.MOVED_FROM, name), (wd, w.MOVED_TO, other)]
        expected += [(wd, w.CREATE, name), (wd, w.DELETE, name)]

    assert wire.told() == expected


def test_the_two_halves_of_a_rename_share_a_cookie_in_every_instance(mount: Mount, tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    with Wire(mount) as other:
        wire.add(w.MOVED_FROM, tree)
        other.add(w.MOVED_TO, tree / "d")
        cookies = []
        for name in "ab":
            w.touch(tree / name).rename(tree / "d" / name)
            ((gone,), (come,)) = wire.events(), other.events()
            assert gone.cookie == come.cookie != 0
            cookies.append(gone.cookie)
        assert cookies[0] != cookies[1]


def test_events_come_without_being_asked_for(tree: Path, either: Wire) -> None:
    wd = either.add(w.CREATE, tree)
    w.touch(tree / "f")

    if either.events_fd >= 0:
        assert w.readable(either.events_fd, w.PATIENCE)
        (record,) = either.packets()
    else:
        record = either.record()
    assert record.brief == (wd, w.CREATE, b"f")


def test_a_close_is_told_although_late(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CLOSE_WRITE, tree)
    w.touch(tree / "f")

    assert wire.record().brief == (wd, w.CLOSE_WRITE, b"f")


# Visibility


def surprises(wire: Wire, tree: Path, rounds: int, go: threading.Semaphore) -> Iterator[str]:
    """Act on each event as soon as it is read, then say *go*; yield what was not as the event said."""
    for number in range(rounds):
        path, moved = tree / f"{number}", tree / f"{number}.moved"
        event = wire.record()
        if event.mask != w.CREATE or not path.exists():
            yield f"{number}: told {event}, but it is not there"
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(moved, os.O_PATH))  # a negative entry in the kernel's cache
        go.release()
        event = wire.record()
        if event.mask != w.MODIFY or path.read_bytes() != b"content":
            yield f"{number}: told {event}, but it cannot be read"
        go.release()
        wire.record()
        event = wire.record()
        if event.mask != w.MOVED_TO or path.exists() or not moved.exists():
            yield f"{number}: told {event}, but the names are as they were"
        go.release()
        event = wire.record()
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(moved, os.O_RDONLY))
            yield f"{number}: told {event}, but it can still be opened"
        go.release()


def test_a_reader_that_acts_on_an_event_finds_the_change(mount: Mount, tree: Path) -> None:
    rounds = 150
    found: list[str] = []
    go = threading.Semaphore(0)
    with Wire(mount) as wire:
        wire.add(w.CREATE | w.DELETE | w.MODIFY | w.MOVED_FROM | w.MOVED_TO, tree)
        thread = threading.Thread(target=lambda: found.extend(surprises(wire, tree, rounds, go)), daemon=True)
        thread.start()
        for number in range(rounds):
            path, moved = tree / f"{number}", tree / f"{number}.moved"
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
            assert go.acquire(timeout=w.PATIENCE), found
            os.write(descriptor, b"content")
            os.close(descriptor)
            assert go.acquire(timeout=w.PATIENCE), found
            path.rename(moved)
            assert go.acquire(timeout=w.PATIENCE), found
            moved.unlink()
            assert go.acquire(timeout=w.PATIENCE), found
        thread.join(w.PATIENCE)
    assert found == []
