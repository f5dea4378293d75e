"""What is merged with the last unread event, and what is lost when the queue is full."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.subscribers.test_delivery import append, either, mount, split_wire, wire
from tests.support import wireclient as w
from tests.support.kernel import Inotify
from tests.support.wireclient import PENDING, Record, Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["either", "mount", "split_wire", "wire"]


def test_an_event_equal_to_the_last_unread_one_is_coalesced_even_when_that_has_been_sent(
    mount: Mount, tree: Path, either: Wire
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


def test_only_the_last_unread_event_is_compared(mount: Mount, tree: Path, either: Wire) -> None:
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


def test_the_kernel_and_we_coalesce_alike_when_readers_stop_and_go(mount: Mount, tree: Path, either: Wire) -> None:
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
