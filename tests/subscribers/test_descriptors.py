"""What a subscriber costs: descriptors of the daemon, and memory for what was sent to it."""

from __future__ import annotations

import contextlib
import gc
import os
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import trio

from notifyfs.core.queue import Queue
from notifyfs.protocol.records import Record
from notifyfs.subscribers.delivery import Packets
from tests.support import wireclient as w
from tests.support.wireclient import PENDING, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

SUBSCRIBERS = 10


@pytest.mark.parametrize(("event_fd", "each"), [(False, 1), (True, 2)], ids=["stream", "event descriptor"])
def test_a_subscriber_costs_its_connection_and_our_end_of_its_event_descriptor(
    mounted: Callable[..., Mount],
    event_fd: bool,  # noqa: FBT001 - pytest's
    each: int,
) -> None:
    mount = mounted()
    with Wire(mount) as witness, contextlib.ExitStack() as stack:
        witness.ask(PENDING)
        before = len(w.descriptors_of(mount.pid))
        for _ in range(SUBSCRIBERS):
            stack.enter_context(Wire(mount, event_fd=event_fd)).add(w.CREATE)
        assert len(w.descriptors_of(mount.pid)) == before + SUBSCRIBERS * each
        (mount.root / "d").mkdir()
        stack.close()
        w.wait_until(lambda: len(w.descriptors_of(mount.pid)) == before, "all of them are closed")


def test_who_never_takes_its_event_descriptor_leaves_nothing_behind(mounted: Callable[..., Mount]) -> None:
    mount = mounted()
    with Wire(mount) as witness:
        witness.ask(PENDING)
        before = len(w.descriptors_of(mount.pid))
        with Wire(mount) as wire:
            wire.send(w.HELLO, w.EVENT_FD, w.GREETING)
            w.wait_until(lambda: len(w.descriptors_of(mount.pid)) == before + 2, "it is on its way")
        w.wait_until(lambda: len(w.descriptors_of(mount.pid)) == before, "all of them are closed")


@pytest.mark.parametrize("unread", [0, 3])
def test_who_closes_the_event_descriptor_hears_no_more_and_may_go_on_asking(
    mounted: Callable[..., Mount], unread: int
) -> None:
    mount = mounted("debug", max_queued_events=10)
    with Wire(mount, event_fd=True) as wire, Wire(mount) as other:
        wd = wire.add(w.CREATE)
        other.add(w.CREATE)
        for number in range(unread):
            (mount.root / f"unread{number}").mkdir()
        assert wire.ask(PENDING) == 0
        os.close(wire.descriptors.pop())
        for number in range(100):
            (mount.root / f"d{number}").mkdir()
            if not number % 5:
                other.events()
        assert wire.ask(PENDING) == 0, "nothing waits"
        counted = wire.statistics()["instance"]
        assert (counted["queued_events"], counted["dropped"], counted["watches"]) == (0, 0, 1)
        assert wire.ask(wd) == 0
        assert wire.add(w.CREATE) == wd + 1
        (mount.root / "last").mkdir()
        assert other.told()[-1][2] == b"last"
    assert "ERROR" not in mount.log
    assert "WARNING" not in mount.log


def test_what_was_sent_and_read_takes_no_memory() -> None:
    """No event of these equals the one before and the queue is far from full, so nobody asks what was read."""
    packets = Packets()
    queue = Queue(1 << 30, packets.unread)
    theirs = packets.give()

    async def send_and_read(count: int) -> int:
        for number in range(count):
            queue.append(Record(1, w.CREATE, 0, b"%d" % number))
            await packets.send(queue)
            assert os.read(theirs, 4096)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = trio.run(send_and_read, 5000)
        assert trio.run(send_and_read, 50000) - before < 100_000
    finally:
        tracemalloc.stop()
        os.close(theirs)
        packets.close()
