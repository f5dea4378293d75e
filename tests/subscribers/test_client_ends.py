"""What a client says when its mount ends, is made anew, or has reached a limit."""

from __future__ import annotations

import errno
import select
from typing import TYPE_CHECKING

import pytest

from notifyfs import Connection, Event, INotify, flags
from notifyfs.client import find_socket
from notifyfs.protocol.records import Record
from tests.conftest import Mount, wait_until
from tests.support.killing import dead, dies_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def inotify() -> Iterator[INotify]:
    with INotify() as instance:
        yield instance


def error_of(call: Callable[[], object]) -> object:
    """Return what *call* does, or its errno."""
    try:
        return call()
    except OSError as error:
        return error.errno


def test_an_unmount_is_told_and_then_nothing_happens(mount: Mount, inotify: INotify) -> None:
    (mount.root / "f").touch()
    inotify.add_watch(mount.root, flags.CREATE)
    inotify.add_watch((mount.root / "f"), flags.MODIFY)
    mount.unmount()
    told: list[Event] = []
    while len(told) < 4:
        told += inotify.read(10_000)
    assert told == [
        (2, flags.UNMOUNT, 0, ""),
        (2, flags.IGNORED, 0, ""),
        (1, flags.UNMOUNT | flags.ISDIR, 0, ""),
        (1, flags.IGNORED, 0, ""),
    ]
    assert inotify.read(timeout=50) == []
    assert not select.select([inotify], [], [], 0)[0], "an ended mount must not keep a loop busy"
    with pytest.raises(OSError, match="Invalid argument"):
        inotify.rm_watch(1)


def test_a_killed_daemon_ends_the_watches_all_the_same(mounted: Callable[..., Mount], inotify: INotify) -> None:
    mount, other = mounted(), mounted()
    (mount.root / "f").touch()
    with dies_with(mount):
        assert inotify.add_watch(mount.root, flags.CREATE) == 1
        assert inotify.add_watch(other.root, flags.CREATE) == 2
        assert inotify.add_watch((mount.root / "f"), flags.MODIFY) == 3
        (mount.root / "s").mkdir()
        assert [event.name for event in inotify.read(timeout=0)] == ["s"]
    told: list[Event] = []
    while len(told) < 4:
        told += inotify.read(10_000)
    assert told == [
        (3, flags.UNMOUNT, 0, ""),
        (3, flags.IGNORED, 0, ""),
        (1, flags.UNMOUNT | flags.ISDIR, 0, ""),
        (1, flags.IGNORED, 0, ""),
    ]
    (other.root / "s").mkdir()
    assert [event.wd for event in inotify.read(10_000)] == [2]


def test_a_path_can_be_watched_again_after_its_mount_was_made_anew(
    mounted: Callable[..., Mount], inotify: INotify
) -> None:
    first = mounted()
    assert inotify.add_watch(first.root, flags.CREATE) == 1
    (first.root / "a").mkdir()
    first.finish()
    second = mounted(source=first.source, root=first.root)
    assert second.socket == first.socket
    assert inotify.add_watch(second.root, flags.CREATE) == 2
    (second.root / "b").mkdir()
    told = inotify.read(10_000)
    assert [(event.wd, event.name) for event in told] == [(1, "a"), (1, ""), (1, ""), (2, "b")]


def test_several_mounts_share_an_instance(mounted: Callable[..., Mount], inotify: INotify) -> None:
    roots = [mounted().root, mounted().root]
    assert [inotify.add_watch(root, flags.CREATE) for root in roots] == [1, 2]
    for root in roots:
        (root / "s").mkdir()
    assert sorted(event.wd for event in inotify.read(timeout=0)) == [1, 2]
    inotify.rm_watch(2)
    assert inotify.read(timeout=0) == [(2, flags.IGNORED, 0, "")]
    (roots[1] / "t").mkdir()
    (roots[0] / "t").mkdir()
    assert [event.wd for event in inotify.read(timeout=0)] == [1]


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_connection_ends_with_an_eoferror_once_all_is_read(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd) as connection:
        connection.add_watch(flags.CREATE)
        mount.unmount()
        told: list[Record] = []
        while len(told) < 2:
            told += connection.read(10)
        with pytest.raises(EOFError, match="the mount has ended"):
            connection.read(10)
        assert told == [Record(1, flags.UNMOUNT | flags.ISDIR), Record(1, flags.IGNORED)]
        with pytest.raises(ConnectionResetError, match="the mount has ended"):
            connection.add_watch(flags.CREATE)


def test_a_dead_mount_is_named_as_such(mounted: Callable[..., Mount]) -> None:
    mount = mounted()
    with dies_with(mount):
        dead(mount)
        with pytest.raises(OSError, match="daemon is gone; `notifyfs umount") as caught:
            find_socket(str(mount.root))
        assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(ConnectionRefusedError, match="cannot reach the mount's daemon: Connection refused"):
            Connection(mount.socket)


# Limits


def test_an_overflow_is_told_once(mounted: Callable[..., Mount], inotify: INotify) -> None:
    mount = mounted(max_queued_events=10)
    inotify.add_watch(mount.root, flags.CREATE)
    for number in range(40):
        (mount.root / f"s{number}").mkdir()
    told = inotify.read(timeout=0)
    assert [event.name for event in told[:-1]] == [f"s{number}" for number in range(10)]
    assert told[-1] == (-1, flags.Q_OVERFLOW, 0, "")


def test_too_many_instances_are_emfile_with_the_option_to_raise(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_user_instances=1)
    with INotify() as first, INotify() as second:
        first.add_watch(mount.root, flags.CREATE)
        with pytest.raises(OSError, match="max_user_instances") as caught:
            second.add_watch(mount.root, flags.CREATE)
        assert caught.value.errno == errno.EMFILE
        first.close()
        wait_until(lambda: error_of(lambda: second.add_watch(mount.root, flags.CREATE)) == 1)


def test_too_many_watches_are_enospc_with_the_option_to_raise(mounted: Callable[..., Mount], inotify: INotify) -> None:
    mount = mounted(max_user_watches=1)
    (mount.root / "s").mkdir()
    inotify.add_watch(mount.root, flags.CREATE)
    with pytest.raises(OSError, match="max_user_watches") as caught:
        inotify.add_watch((mount.root / "s"), flags.CREATE)
    assert caught.value.errno == errno.ENOSPC
