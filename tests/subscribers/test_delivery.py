"""What reaches a subscriber, and when: descriptors, the barrier, coalescing, overflow, recursion, origins, the end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import select
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.kernel import Inotify, rename
from tests.support.wireclient import ADD, PENDING, Record, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def test_a_reader_that_acts_on_an_event_finds_the_change(mount: Mount, tree: Path) -> None:
    rounds = 150
    surprises: list[str] = []

    def reader(wire: Wire) -> None:
        for number in range(rounds):
            path, moved = tree / f"{number}", tree / f"{number}.moved"
            event = wire.record()
            if event.mask != w.CREATE or not path.exists():
                surprises.append(f"{number}: told {event}, but it is not there")
            with contextlib.suppress(FileNotFoundError):
                os.close(os.open(moved, os.O_PATH))  # a negative entry in the kernel's cache
            go.release()
            event = wire.record()
            if event.mask != w.MODIFY or path.read_bytes() != b"content":
                surprises.append(f"{number}: told {event}, but it cannot be read")
            go.release()
            wire.record()
            event = wire.record()
            if event.mask != w.MOVED_TO or path.exists() or not moved.exists():
                surprises.append(f"{number}: told {event}, but the names are as they were")
            go.release()
            event = wire.record()
            try:
                os.close(os.open(moved, os.O_RDONLY))
                surprises.append(f"{number}: told {event}, but it can still be opened")
            except FileNotFoundError:
                pass
            go.release()

    go = threading.Semaphore(0)
    with Wire(mount) as wire:
        wire.add(w.CREATE | w.DELETE | w.MODIFY | w.MOVED_FROM | w.MOVED_TO, tree)
        thread = threading.Thread(target=reader, args=[wire], daemon=True)
        thread.start()
        for number in range(rounds):
            path, moved = tree / f"{number}", tree / f"{number}.moved"
            descriptor = os.open(path, os.O_CREAT | os.O_WRONLY)
            assert go.acquire(timeout=w.PATIENCE), surprises
            os.write(descriptor, b"content")
            os.close(descriptor)
            assert go.acquire(timeout=w.PATIENCE), surprises
            path.rename(moved)
            assert go.acquire(timeout=w.PATIENCE), surprises
            moved.unlink()
            assert go.acquire(timeout=w.PATIENCE), surprises
        thread.join(w.PATIENCE)
    assert surprises == []


# Coalescing


def test_an_event_equal_to_the_last_unread_one_is_coalesced_even_when_that_has_been_sent(
    tree: Path, either: Wire
) -> None:
    file = w.touch(tree / "f")
    wd = either.add(w.MODIFY, file)
    for _ in range(3):
        append(file)
        # Wait until it has been sent: it then lies unread in the socket.
        assert w.readable(either.events_fd if either.events_fd >= 0 else either.socket.fileno(), w.PATIENCE)

    assert either.told() == [(wd, w.MODIFY, b"")]
    append(file)
    assert either.told() == [(wd, w.MODIFY, b"")], "once it is read it is no longer equal to an unread one"


def test_only_the_last_unread_event_is_compared(tree: Path, either: Wire) -> None:
    f, g = w.touch(tree / "f"), w.touch(tree / "g")
    wd = either.add(w.MODIFY, tree)
    for file in (f, g, f, f):
        append(file)

    assert either.told() == [(wd, w.MODIFY, b"f"), (wd, w.MODIFY, b"g"), (wd, w.MODIFY, b"f")]


def test_what_follows_the_reading_of_an_event_is_told_again(tree: Path, either: Wire) -> None:
    """However soon: the daemon must know that the first was read."""
    file = w.touch(tree / "f")
    expected = (either.add(w.ATTRIB, tree), w.ATTRIB, b"f")
    either.socket.settimeout(w.PATIENCE)
    for number in range(2000):
        file.chmod(0o600 | number & 1)
        if either.events_fd < 0:
            assert either.record().brief == expected
        else:
            assert w.readable(either.events_fd, w.PATIENCE)
            assert [record.brief for record in either.packets()] == [expected]


def test_two_watches_on_one_file_keep_each_other_from_coalescing(tree: Path, either: Wire) -> None:
    file = w.touch(tree / "f")
    directory, itself = either.add(w.MODIFY, tree), either.add(w.MODIFY, file)
    for _ in range(3):
        append(file)

    assert either.told() == [(directory, w.MODIFY, b"f"), (itself, w.MODIFY, b"")] * 3


def test_coalescing_keeps_the_first_cookie(mount: Mount, tree: Path, either: Wire) -> None:
    (tree / "from").mkdir()
    (tree / "to").mkdir()
    with Wire(mount) as witness:
        either.add(w.MOVED_FROM, tree / "from")
        witness.add(w.MOVED_TO, tree / "to")
        for number in range(3):
            w.touch(tree / "from" / "a").rename(tree / "to" / str(number))
        cookies = [event.cookie for event in witness.events()]
        assert [(event.mask, event.cookie) for event in either.events()] == [(w.MOVED_FROM, cookies[0])]


def test_reading_the_event_but_not_the_reply_behind_it_still_counts_as_reading_the_event(
    tree: Path, wire: Wire
) -> None:
    file = w.touch(tree / "f")
    wd = wire.add(w.MODIFY, file)
    for _ in range(20):
        append(file)
        cookie = wire.send(PENDING)
        event = wire.socket.recv(16, socket.MSG_WAITALL)
        assert w.parse(event)[0].brief == (wd, w.MODIFY, b"")
        assert w.readable(wire.socket.fileno(), w.PATIENCE), "the reply, unread"
        append(file)

        events, _ = wire.until_reply(cookie)
        assert [*events, *wire.events()] == [Record(wd, w.MODIFY, 0, b"")], "an event was swallowed"


def test_an_event_behind_the_first_one_read_is_still_unread(tree: Path, split_wire: Wire) -> None:
    file = w.touch(tree / "f")
    wd = split_wire.add(w.MODIFY | w.ATTRIB, file)
    append(file)
    file.chmod(0o600)
    split_wire.ask(PENDING)
    first = w.parse(os.read(split_wire.events_fd, 4096))
    file.chmod(0o640)

    assert [record.brief for record in first] == [(wd, w.MODIFY, b"")]
    assert split_wire.told() == [(wd, w.ATTRIB, b"")]


def test_the_kernel_and_we_coalesce_alike_when_readers_stop_and_go(tree: Path, either: Wire) -> None:
    choose = random.Random(7)  # noqa: S311 - repeatable, not secret
    files = [w.touch(tree / name) for name in "fg"]
    with contextlib.closing(Inotify(os.fsencode(tree))) as kernel:
        either.add(w.MODIFY | w.ATTRIB, tree)
        kernel.add(b"", w.MODIFY | w.ATTRIB)
        for _ in range(40):
            for _ in range(choose.randrange(8)):
                file = choose.choice(files)
                choose.choice([append, lambda file: file.chmod(0o600)])(file)
            assert either.told() == [(1, event.mask, event.name) for event in kernel.drain()]


# Overflow


LIMIT = 8


@pytest.fixture
def small(mounted: Callable[..., Mount]) -> Mount:
    """A mount whose queues hold LIMIT events."""
    return mounted(max_queued_events=LIMIT)


@pytest.mark.parametrize("event_fd", [False, True], ids=["in band", "descriptor"])
def test_a_queue_holds_the_limit_then_one_overflow_record_and_recovers(small: Mount, *, event_fd: bool) -> None:
    with Wire(small, event_fd=event_fd) as wire, Wire(small, event_fd=event_fd) as reading:
        wire.add(w.CREATE)
        reading.add(w.CREATE)
        for start in (0, 1000):
            names = [b"%d" % number for number in range(start, start + 50)]
            for name in names:
                os.mkdir(os.fsencode(small.root) + b"/" + name)
                assert reading.told() == [(1, w.CREATE | w.ISDIR, name)], "another's overflow is not mine"
            *queued, overflow = wire.events()

            assert [event.brief for event in queued] == [(1, w.CREATE | w.ISDIR, name) for name in names[:LIMIT]]
            assert overflow == Record(-1, w.Q_OVERFLOW, 0, b"")
        assert wire.told() == []


def test_a_queue_that_is_exactly_full_has_not_overflowed(small: Mount) -> None:
    with Wire(small) as wire:
        wire.add(w.CREATE)
        names = [b"%d" % number for number in range(LIMIT)]
        for name in names:
            os.mkdir(os.fsencode(small.root) + b"/" + name)

        assert wire.told() == [(1, w.CREATE | w.ISDIR, name) for name in names]


def test_in_a_full_queue_even_an_event_that_could_be_coalesced_overflows(small: Mount) -> None:
    with Wire(small) as wire:
        wire.add(w.ATTRIB)
        paths = [small.root / f"{number}" for number in range(LIMIT)]
        for path in paths:
            path.mkdir()
            path.chmod(0o700)
        paths[-1].chmod(0o700)

        *queued, last = wire.told()
        assert queued == [(1, w.ATTRIB | w.ISDIR, b"%d" % number) for number in range(LIMIT)]
        assert last == (-1, w.Q_OVERFLOW, b"")


def test_an_overflow_swallows_the_ignored_record_of_a_removed_watch(small: Mount) -> None:
    with Wire(small, event_fd=True) as wire:
        wire.add(w.CREATE)
        for number in range(LIMIT + 5):
            (small.root / f"{number}").mkdir()
        assert wire.ask(1) == 0
        assert wire.ask(1) == -errno.EINVAL

        told = wire.told()
        assert len(told) == LIMIT + 1
        assert told[-1] == (-1, w.Q_OVERFLOW, b"")


def test_a_stalled_reader_holds_up_neither_the_mount_nor_anyone_else(mount: Mount, tree: Path) -> None:
    with Wire(mount) as stalled, Wire(mount) as reading:
        stalled.add(w.CREATE, tree)
        reading.add(w.CREATE, tree)
        names = [b"%05d" % number for number in range(3000)]
        for name in names:
            os.mkdir(os.fsencode(tree) + b"/" + name)

        expected = [(1, w.CREATE | w.ISDIR, name) for name in names]
        assert reading.told() == expected
        assert stalled.told() == expected, "nothing is lost below the limit"


# Recursion


def test_a_recursive_watch_misses_nothing_in_directories_made_a_moment_ago(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.RECURSIVE, tree)
    expected = []
    for number in range(100):
        base = f"{number}"
        (tree / base / "b" / "c").mkdir(parents=True)
        w.touch(tree / base / "b" / "c" / "f")
        for name, kind in ((base, w.ISDIR), (f"{base}/b", w.ISDIR), (f"{base}/b/c", w.ISDIR), (f"{base}/b/c/f", 0)):
            expected.append((wd, w.CREATE | kind, name.encode()))

    assert wire.told() == expected


def test_a_recursive_watch_sees_directories_that_were_there_before(tree: Path, wire: Wire) -> None:
    (tree / "old" / "older").mkdir(parents=True)
    wd = wire.add(w.CREATE | w.DELETE | w.ATTRIB | w.RECURSIVE, tree)
    w.touch(tree / "old" / "older" / "f")
    (tree / "old").chmod(0o700)
    (tree / "old" / "older" / "f").unlink()
    (tree / "old" / "older").rmdir()

    assert wire.told() == [
        (wd, w.CREATE, b"old/older/f"),
        (wd, w.ATTRIB | w.ISDIR, b"old"),
        (wd, w.DELETE, b"old/older/f"),
        (wd, w.DELETE | w.ISDIR, b"old/older"),
    ]


def test_a_recursive_watch_tells_opening_a_directory_below_once(tree: Path, wire: Wire) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    wd = wire.add(w.OPEN | w.RECURSIVE, tree)
    os.close(os.open(tree / "d" / "e", os.O_RDONLY))
    os.close(os.open(tree, os.O_RDONLY))

    assert wire.told() == [(wd, w.OPEN | w.ISDIR, b"d/e"), (wd, w.OPEN | w.ISDIR, b"")]


def test_moving_within_a_recursive_watch_is_a_pair_and_later_names_are_the_new_ones(tree: Path, wire: Wire) -> None:
    (tree / "a" / "x").mkdir(parents=True)
    (tree / "b").mkdir()
    wd = wire.add(w.CREATE | w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE, tree)
    (tree / "a" / "x").rename(tree / "b" / "y")
    w.touch(tree / "b" / "y" / "f")

    gone, come, made = wire.events()
    assert [event.brief for event in (gone, come, made)] == [
        (wd, w.MOVED_FROM | w.ISDIR, b"a/x"),
        (wd, w.MOVED_TO | w.ISDIR, b"b/y"),
        (wd, w.CREATE, b"b/y/f"),
    ]
    assert gone.cookie == come.cookie != 0


def test_what_moves_out_of_a_recursive_watch_falls_silent_and_what_moves_in_is_heard(tree: Path, wire: Wire) -> None:
    (tree / "in" / "d" / "e").mkdir(parents=True)
    (tree / "out" / "n" / "m").mkdir(parents=True)
    wd = wire.add(w.CREATE | w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE, tree / "in")
    (tree / "in" / "d").rename(tree / "out" / "d")
    w.touch(tree / "out" / "d" / "e" / "silent")
    (tree / "out" / "n").rename(tree / "in" / "n")
    w.touch(tree / "in" / "n" / "m" / "heard")

    assert wire.told() == [
        (wd, w.MOVED_FROM | w.ISDIR, b"d"),
        (wd, w.MOVED_TO | w.ISDIR, b"n"),
        (wd, w.CREATE, b"n/m/heard"),
    ]


def test_a_recursive_watch_follows_its_own_directory_through_a_rename(tree: Path, wire: Wire) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    wd = wire.add(w.CREATE | w.MOVE_SELF | w.RECURSIVE, tree / "d")
    (tree / "d").rename(tree / "moved")
    (tree / "d" / "e").mkdir(parents=True)
    w.touch(tree / "d" / "e" / "decoy")
    w.touch(tree / "moved" / "e" / "f")

    assert wire.told() == [(wd, w.MOVE_SELF, b""), (wd, w.CREATE, b"e/f")]


def test_self_events_of_a_recursive_watch_are_the_watched_directorys_own(tree: Path, wire: Wire) -> None:
    (tree / "d" / "e" / "f").mkdir(parents=True)
    wd = wire.add(w.DELETE_SELF | w.MOVE_SELF | w.DELETE | w.RECURSIVE, tree / "d")
    (tree / "d" / "e" / "f").rename(tree / "d" / "g")
    (tree / "d" / "g").rmdir()
    (tree / "d" / "e").rmdir()
    (tree / "d").rename(tree / "h")
    (tree / "h").rmdir()

    assert wire.told() == [
        (wd, w.DELETE | w.ISDIR, b"g"),
        (wd, w.DELETE | w.ISDIR, b"e"),
        (wd, w.MOVE_SELF, b""),
        (wd, w.DELETE_SELF, b""),
        (wd, w.IGNORED, b""),
    ]


def test_a_recursive_watch_of_the_root_covers_the_mount(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.CREATE | w.RECURSIVE)
    w.touch(tree / "d" / "f")

    assert wire.told() == [(wd, w.CREATE, wire.below(tree) + b"/d/f")]


def test_nested_recursive_and_plain_watches_each_have_their_say(tree: Path, wire: Wire) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    outer = wire.add(w.CREATE | w.RECURSIVE, tree)
    inner = wire.add(w.CREATE | w.RECURSIVE, tree / "a")
    plain = wire.add(w.CREATE, tree / "a" / "b")
    w.touch(tree / "a" / "b" / "f")

    assert sorted(wire.told()) == [(outer, w.CREATE, b"a/b/f"), (inner, w.CREATE, b"b/f"), (plain, w.CREATE, b"f")]


def test_a_recursive_watch_tells_long_paths(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.RECURSIVE, tree)
    deep = tree
    for _ in range(10):
        deep /= "n" * 200
        deep.mkdir()
    relative = os.fsencode(deep.relative_to(tree))

    assert wire.told()[-1] == (wd, w.CREATE | w.ISDIR, relative)


def test_only_a_directory_can_be_watched_recursively(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to(".")

    assert wire.watch(w.CREATE | w.RECURSIVE, tree / "f") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.RECURSIVE | w.DONT_FOLLOW, tree / "link") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.RECURSIVE, tree / "link") == wire.watch(w.CREATE | w.RECURSIVE, tree) > 0


# Origins


def paired(records: list[Record]) -> list[tuple[w.Origin, Record]]:
    """Each event with the origin before it; they must alternate and belong together."""
    assert len(records) % 2 == 0, records
    pairs = []
    for before, event in zip(records[::2], records[1::2], strict=True):
        assert not event.mask & w.ORIGIN, records
        assert (before.wd, before.cookie) == (event.wd, event.cookie)
        pairs.append((w.origin_of(before), event))
    return pairs


def test_an_origin_precedes_each_event_and_says_who_did_it(tree: Path, either: Wire) -> None:
    wd = either.add(w.CREATE | w.MODIFY | w.MOVED_FROM | w.MOVED_TO | w.DELETE | w.ORIGIN, tree)
    before = time.time_ns()
    w.touch(tree / "f")
    append(tree / "f")
    (tree / "f").rename(tree / "g")
    (tree / "g").unlink()
    after = time.time_ns()

    pairs = paired(either.events())
    assert [event.brief for _, event in pairs] == [
        (wd, w.CREATE, b"f"),
        (wd, w.MODIFY, b"f"),
        (wd, w.MOVED_FROM, b"f"),
        (wd, w.MOVED_TO, b"g"),
        (wd, w.DELETE, b"g"),
    ]
    name = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    for origin, _ in pairs:
        assert (origin.pid, origin.uid, origin.gid, origin.comm) == (os.getpid(), os.getuid(), os.getgid(), name)
    sequences = [origin.sequence for origin, _ in pairs]
    times = [origin.time_ns for origin, _ in pairs]
    assert sequences == sorted(sequences)
    assert len(set(sequences)) >= 4, "four operations"
    assert times == sorted(times)
    # The daemon's clock may be the kernel's coarse one, a tick behind.
    assert before - 20_000_000 <= times[0] <= times[-1] <= after + 20_000_000


def test_an_origin_names_the_child_process_that_did_it(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE | w.ORIGIN, tree)
    child, _ = w.in_child(lambda: w.touch(tree / "f"))

    ((origin, event),) = paired(wire.events())
    assert event.name == b"f"
    assert origin.pid == child


def test_an_origin_names_the_process_and_not_its_thread(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE | w.ORIGIN, tree)
    thread = threading.Thread(target=w.touch, args=[tree / "f"])
    thread.start()
    thread.join()

    ((origin, _),) = paired(wire.events())
    assert origin.pid == os.getpid()


def test_a_write_carries_the_origin_of_the_process_that_opened_the_file(tree: Path, wire: Wire) -> None:
    file = w.touch(tree / "f")
    wire.add(w.MODIFY | w.ORIGIN, file)
    descriptor = os.open(file, os.O_WRONLY)
    child, written = w.in_child(lambda: os.write(descriptor, b"x"))
    os.close(descriptor)

    assert written == 1
    ((origin, event),) = paired(wire.events())
    assert event.mask == w.MODIFY
    assert origin.pid == os.getpid() != child


def test_the_same_event_by_two_processes_is_two_events_on_a_watch_with_origins(
    mount: Mount, tree: Path, either: Wire
) -> None:
    file = w.touch(tree / "f")
    with Wire(mount) as without:
        either.add(w.ATTRIB | w.ORIGIN, file)
        without.add(w.ATTRIB, file)
        file.chmod(0o600)
        file.chmod(0o640)
        child, _ = w.in_child(lambda: file.chmod(0o600))
        file.chmod(0o640)

        assert [origin.pid for origin, _ in paired(either.events())] == [os.getpid(), child, os.getpid()]
        assert without.told() == [(1, w.ATTRIB, b"")]


def test_deletion_and_the_ignored_record_have_an_origin_too(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.DELETE_SELF | w.ORIGIN, tree / "d")
    (tree / "d").rmdir()

    pairs = paired(wire.events())
    assert [event.brief for _, event in pairs] == [(wd, w.DELETE_SELF, b""), (wd, w.IGNORED, b"")]
    assert [origin.pid for origin, _ in pairs] == [os.getpid()] * 2


def test_only_the_watch_that_asks_for_origins_gets_them(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    plain = wire.add(w.CREATE, tree)
    told = wire.add(w.CREATE | w.ORIGIN, tree / "d")
    w.touch(tree / "f")
    w.touch(tree / "d" / "f")

    records = wire.events()
    assert [(record.wd, bool(record.mask & w.ORIGIN)) for record in records] == [
        (plain, False),
        (told, True),
        (told, False),
    ]


def test_origins_and_recursion_go_together(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.ORIGIN | w.RECURSIVE, tree)
    (tree / "a" / "b").mkdir(parents=True)

    pairs = paired(wire.events())
    assert [event.brief for _, event in pairs] == [
        (wd, w.CREATE | w.ISDIR, b"a"),
        (wd, w.CREATE | w.ISDIR, b"a/b"),
    ]
    assert pairs[0][0].sequence < pairs[1][0].sequence


# The end


@pytest.fixture
def doomed(mounted: Callable[..., Mount]) -> Mount:
    """A mount that its test ends."""
    return mounted()


def test_an_unmount_tells_every_watch_newest_inode_first_and_then_ends_the_connection(doomed: Mount) -> None:
    root = doomed.root
    (root / "d").mkdir()
    w.touch(root / "f")
    w.touch(root / "g")
    with Wire(doomed) as wire, Wire(doomed, event_fd=True) as split, Wire(doomed) as idle:
        for connection in (wire, split):
            connection.add(w.CREATE, root / "f")
            connection.add(w.CREATE | w.ONESHOT, root / "g")
            connection.add(w.CREATE, root / "d")
            connection.add(w.CREATE)
        w.unmount(root)

        expected = []
        for wd, kind in ((2, 0), (1, 0), (3, w.ISDIR), (4, w.ISDIR)):
            expected += [(wd, w.UNMOUNT | kind, b""), (wd, w.IGNORED, b"")]
        assert [record.brief for record in wire.until_end()] == expected
        assert idle.until_end() == []
        assert split.until_end() == []
        packets: list[Record] = []
        while w.readable(split.events_fd, w.PATIENCE) and (packet := os.read(split.events_fd, 4096)):
            packets += w.parse(packet)
        assert [record.brief for record in packets] == expected
    assert doomed.process.wait(w.PATIENCE) == 0


def test_what_was_queued_comes_before_the_unmount(doomed: Mount) -> None:
    with Wire(doomed) as wire:
        wd = wire.add(w.CREATE)
        names = [b"%d" % number for number in range(2000)]
        for name in names:
            os.mkdir(os.fsencode(doomed.root) + b"/" + name)
        w.unmount(doomed.root)

        assert [record.brief for record in wire.until_end()] == [
            *((wd, w.CREATE | w.ISDIR, name) for name in names),
            (wd, w.UNMOUNT | w.ISDIR, b""),
            (wd, w.IGNORED, b""),
        ]


def test_stopping_the_daemon_is_an_unmount(doomed: Mount) -> None:
    with Wire(doomed) as wire:
        wd = wire.add(w.CREATE)
        doomed.process.send_signal(signal.SIGTERM)

        assert [record.brief for record in wire.until_end()] == [
            (wd, w.UNMOUNT | w.ISDIR, b""),
            (wd, w.IGNORED, b""),
        ]
    assert doomed.process.wait(w.PATIENCE) == 0
    assert not os.path.ismount(doomed.root)
    with pytest.raises(FileNotFoundError):
        os.stat(doomed.socket)


def test_a_watch_by_descriptor_does_not_keep_the_mount_busy(doomed: Mount) -> None:
    with Wire(doomed) as wire:
        path = os.open(w.touch(doomed.root / "f"), os.O_PATH)
        assert wire.add_descriptor(w.MODIFY, path) == 1
        assert wire.ask(ADD, w.MODIFY, b"absent", descriptors=[path]) < 0
        os.close(path)
        w.unmount(doomed.root)

        assert [record.brief for record in wire.until_end()] == [(1, w.UNMOUNT, b""), (1, w.IGNORED, b"")]
    assert stat.S_ISDIR(doomed.root.stat().st_mode)
