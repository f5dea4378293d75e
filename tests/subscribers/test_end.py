"""The end: of a mount, of its daemon, of what was queued by then."""

from __future__ import annotations

import os
import signal
import stat
from typing import TYPE_CHECKING

import pytest

from tests.subscribers.test_delivery import mount, wire
from tests.support import wireclient as w
from tests.support.wireclient import ADD, Record, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

__all__ = ["mount", "wire"]


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
