"""The requests of the control socket: every row of the table in ``docs/protocol.md``, and every way to say no."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.kernel import Inotify
from tests.support.wireclient import ADD, HELLO, PENDING, STATISTICS, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount: a test has a directory of its own in it."""
    return shared()


@pytest.fixture
def wire(mount: Mount) -> Iterator[Wire]:
    with Wire(mount) as connection:
        yield connection


# Hello


def test_a_greeting_is_answered_with_the_version_the_mount_and_its_limits(mount: Mount, wire: Wire) -> None:
    greeting = wire.hello()

    assert greeting["version"]
    assert greeting["mountpoint"] == str(mount.root)
    assert greeting["source"] == str(mount.source)
    for limit in ("max_queued_events", "max_user_instances", "max_user_watches"):
        assert greeting[limit] > 0
    assert wire.descriptors == [], "a descriptor was passed that nobody asked for"


@pytest.mark.parametrize("name", [b"notifyfs 2", b"notifyfs", b"notifyfs 10", b""])
def test_a_greeting_in_another_version_is_refused_and_the_connection_goes_on(wire: Wire, name: bytes) -> None:
    assert wire.ask(HELLO, 0, name) == -errno.EINVAL
    assert wire.ask(PENDING) == 0


def test_a_connection_works_without_a_greeting(tree: Path, wire: Wire) -> None:
    assert wire.add(w.CREATE, tree) == 1


def test_a_greeting_after_another_request_is_refused_and_the_connection_goes_on(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE, tree)

    assert wire.ask(HELLO, w.EVENT_FD, w.GREETING) == -errno.EINVAL
    assert wire.descriptors == []
    w.touch(tree / "f")
    assert wire.told() == [(1, w.CREATE, b"f")]


def test_a_second_greeting_is_refused(wire: Wire) -> None:
    wire.hello()

    assert wire.ask(HELLO, 0, w.GREETING) == -errno.EINVAL
    assert wire.ask(PENDING) == 0


# Framing


def test_a_request_may_arrive_byte_by_byte(tree: Path, wire: Wire) -> None:
    for byte in w.encode(ADD, w.CREATE, 77, wire.below(tree)):
        wire.socket.send(bytes([byte]))

    events, reply = wire.until_reply(77)
    assert (events, reply.wd) == ([], 1)


def test_a_descriptor_travels_with_the_first_byte_of_its_request(tree: Path, wire: Wire) -> None:
    path = os.open(tree, os.O_PATH)
    data = w.encode(ADD, w.CREATE, 78)
    wire.send_bytes(data[:1], [path])
    os.close(path)
    for byte in data[1:]:
        wire.socket.send(bytes([byte]))

    assert wire.until_reply(78)[1].wd == 1
    assert wire.add(w.CREATE, tree) == 1


def test_many_requests_in_one_write_are_answered_in_order(tree: Path, wire: Wire) -> None:
    directories = [tree / str(number) for number in range(100)]
    for directory in directories:
        directory.mkdir()
    requests, expected = b"", []
    for number, directory in enumerate(directories, start=1):
        requests += w.encode(ADD, w.CREATE, 4 * number, wire.below(directory))
        requests += w.encode(-77, 0, 4 * number + 1)
        requests += w.encode(number, 0, 4 * number + 2)
        requests += w.encode(ADD, w.CREATE, 4 * number + 3, b"absent")
        for offset, result in enumerate((number, -errno.EINVAL, 0, -errno.ENOENT)):
            expected.append((4 * number + offset, result))

    wire.socket.sendall(requests)

    replies, events = [], []
    while len(replies) < len(expected):
        record = wire.record()
        if record.mask & w.REPLY:
            replies.append((record.cookie, record.wd))
        else:
            events.append(record.brief)
    events += wire.told()
    assert replies == expected
    assert events == [(number, w.IGNORED, b"") for number in range(1, 101)]


@pytest.mark.parametrize("cookie", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_reply_carries_whatever_number_the_client_chose(wire: Wire, cookie: int) -> None:
    assert wire.until_reply(wire.send(PENDING, cookie=cookie))[1].cookie == cookie


def test_a_reply_has_the_reply_bit_and_a_plain_result_has_no_name(tree: Path, wire: Wire) -> None:
    _, reply = wire.until_reply(wire.send(ADD, w.CREATE, wire.below(tree)))

    assert reply.mask & w.REPLY
    assert reply.field == b""


@pytest.mark.parametrize("number", [-4, -5, -100, -(2**31)])
def test_an_unknown_request_is_refused_and_the_connection_goes_on(wire: Wire, number: int) -> None:
    assert wire.ask(number) == -errno.EINVAL
    assert wire.ask(PENDING) == 0


# Watch descriptors


def test_watch_descriptors_count_from_one_in_each_instance_and_are_never_reused(mount: Mount, tree: Path) -> None:
    for name in "abc":
        (tree / name).mkdir()
    with Wire(mount) as first, Wire(mount) as second:
        assert [first.add(w.CREATE, tree / name) for name in "abc"] == [1, 2, 3]
        assert first.ask(3) == 0
        assert first.ask(1) == 0
        assert first.add(w.CREATE, tree / "a") == 4
        assert first.add(w.CREATE, tree / "b") == 2
        assert first.add(w.CREATE, tree / "c") == 5
        assert second.add(w.CREATE, tree / "c") == 1


def test_hard_links_are_one_inode_and_have_one_watch_descriptor(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    os.link(tree / "f", tree / "g")

    assert wire.add(w.MODIFY, tree / "f") == wire.add(w.MODIFY, tree / "g") == 1


def test_a_file_made_anew_under_an_old_name_is_another_inode(tree: Path, wire: Wire) -> None:
    assert wire.add(w.MODIFY, w.touch(tree / "f")) == 1
    (tree / "f").unlink()
    assert wire.add(w.MODIFY, w.touch(tree / "f")) == 2


# Removing


def test_removing_a_watch_sends_what_was_queued_and_then_ignored(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE, tree)
    w.touch(tree / "f")
    assert wire.ask(wd) == 0
    w.touch(tree / "g")

    assert wire.told() == [(wd, w.CREATE, b"f"), (wd, w.IGNORED, b"")]


def test_removing_a_watch_leaves_the_others_alone(mount: Mount, tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    with Wire(mount) as other:
        wire.add(w.CREATE, tree)
        wire.add(w.CREATE, tree / "d")
        other.add(w.CREATE, tree)
        assert wire.ask(1) == 0
        w.touch(tree / "f")
        w.touch(tree / "d" / "f")
        assert wire.told() == [(1, w.IGNORED, b""), (2, w.CREATE, b"f")]
        assert other.told() == [(1, w.CREATE, b"f")]


def test_a_watch_that_is_not_there_cannot_be_removed(mount: Mount, tree: Path, wire: Wire) -> None:
    with Wire(mount) as other:
        other.add(w.CREATE, tree)
        assert wire.ask(1) == -errno.EINVAL, "another instance's"
    assert wire.ask(2**31 - 1) == -errno.EINVAL
    wd = wire.add(w.CREATE, tree)
    assert wire.ask(wd) == 0
    assert wire.ask(wd) == -errno.EINVAL


def test_the_watch_of_a_deleted_directory_is_gone_already(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.CREATE, tree / "d")
    (tree / "d").rmdir()

    assert wire.ask(wd) == -errno.EINVAL
    assert wire.told() == [(wd, w.IGNORED, b"")]


# Statistics and pending


def test_statistics_count_this_instance_and_the_mount(mount: Mount, tree: Path) -> None:
    (tree / "d").mkdir()
    with Wire(mount) as wire, Wire(mount) as other:
        wire.add(w.CREATE, tree)
        wire.add(w.CREATE, tree / "d")
        other.add(w.CREATE, tree)
        counters = wire.statistics()

    assert counters["instance"]["watches"] == 2
    assert counters["instance"]["dropped"] == 0
    assert counters["mount"]["watches"] >= 3
    assert counters["mount"]["instances"] >= 2


def test_nothing_is_pending_on_an_idle_connection(tree: Path, wire: Wire) -> None:
    wire.add(w.CREATE, tree)
    w.touch(tree / "f")

    assert wire.told() == [(1, w.CREATE, b"f")]
    assert wire.ask(PENDING) == 0


@pytest.mark.parametrize("count", [1, 200, 4000])
def test_pending_and_the_descriptors_own_count_make_what_inotify_would_say(
    mount: Mount, tree: Path, count: int
) -> None:
    with Wire(mount, event_fd=True) as wire, contextlib.closing(Inotify(os.fsencode(tree))) as kernel:
        wire.add(w.CREATE, tree)
        kernel.add(b"", w.CREATE)
        for number in range(count):
            os.mkdir(tree / f"{number:0{1 + number % 60}}")
        queued = wire.ask(PENDING)

        assert queued + w.unread(wire.events_fd) == kernel.pending()


# Finding the socket


def test_the_socket_is_named_by_an_attribute_of_every_inode_that_is_not_listed(mount: Mount, tree: Path) -> None:
    w.touch(tree / "f")
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("absent")
    for path in (mount.root, tree, tree / "f", tree / "fifo", tree / "link"):
        assert os.getxattr(path, "notifyfs.socket", follow_symlinks=False) == os.fsencode(mount.socket)
        assert "notifyfs.socket" not in os.listxattr(path, follow_symlinks=False)


def test_the_socket_is_a_stream_socket_that_is_ready_at_once(mount: Mount, wire: Wire) -> None:
    assert stat.S_ISSOCK(os.stat(mount.socket).st_mode)
    wire.send(STATISTICS)
    poll = select.poll()
    poll.register(wire.socket, select.POLLIN)
    assert poll.poll(w.PATIENCE * 1000)
