"""Whose turn it is: requests one after the other, yet nobody else waits for long, and nothing is looked for in vain."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

from notifyfs.fuse import readloop
from notifyfs.fuse.readloop import SHARE, TURN, Readiness, ReadLoop
from notifyfs.protocol import flags
from tests.support.wireclient import Wire, readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Mount

BUSY = """
import itertools, os, sys
for mode in itertools.cycle((0o600, 0o640)):
    os.chmod(sys.argv[1], mode)
"""


@pytest.fixture
def device() -> Iterator[tuple[int, int]]:
    """A pipe in place of /dev/fuse: its two ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def busy(tree: Path) -> Iterator[Path]:
    """A file whose mode a process changes as fast as it can, for as long as the test runs."""
    file = tree / "busy"
    file.touch()
    with subprocess.Popen([sys.executable, "-c", BUSY, file]) as worker:
        yield file
        assert worker.poll() is None
        worker.kill()


def test_others_go_on_while_requests_keep_coming(device: tuple[int, int]) -> None:
    out, into = device
    os.write(into, b"requests")
    loop = ReadLoop(Readiness(out), lambda: False)
    rounds = 0

    async def others() -> None:
        nonlocal rounds
        while True:
            await trio.lowlevel.checkpoint()
            rounds += 1

    async def requests() -> tuple[int, float]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            began, count = time.perf_counter(), 0
            while (took := time.perf_counter() - began) < 100 * TURN:
                await loop.wait_readable(out)
                count += 1
            nursery.cancel_scope.cancel()
            return count, took

    count, took = trio.run(requests)
    assert rounds >= 20  # of 100 turns, on a machine that does other things as well
    assert rounds < count / 2, "it goes round the loop for each request"
    assert took < 1000 * TURN


def test_a_long_answer_ends_early_when_others_wait_and_in_time_when_not(
    device: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, into = device
    now = 100.0
    monkeypatch.setattr(readloop, "perf_counter", lambda: now)

    def over(*moments: float) -> list[bool]:
        nonlocal now
        now, answers = 100.0, []
        is_over = Readiness(out).turn()
        for moment in moments:
            now = 100.0 + moment
            answers.append(is_over())
        return answers

    assert over(SHARE / 2, SHARE * 2, TURN - SHARE, TURN + SHARE) == [False, False, False, True]
    os.write(into, b"a request")
    assert over(SHARE / 2, SHARE * 1.1) == [False, True]


def test_a_daemon_that_nobody_asks_sleeps(device: tuple[int, int]) -> None:
    out, into = device
    loop = ReadLoop(Readiness(out), lambda: False)

    async def requests() -> float:
        for _ in range(1000):  # so many that it looks for the next one
            os.write(into, b"r")
            await loop.wait_readable(out)
            os.read(out, 1)
        began = time.process_time()
        with trio.move_on_after(0.5) as nothing:
            await loop.wait_readable(out)
        assert nothing.cancelled_caught
        return time.process_time() - began

    assert trio.run(requests) < 0.1


@pytest.mark.parametrize("event_fd", [False, True], ids=["in band", "descriptor"])
def test_events_are_told_while_operations_go_on(mount: Mount, busy: Path, *, event_fd: bool) -> None:
    with Wire(mount, event_fd=event_fd) as wire:
        wire.add(flags.ATTRIB, busy)
        for _ in range(20):
            if event_fd:
                assert readable(wire.events_fd, 5)
            events = wire.packets() if event_fd else [wire.record()]
            assert {event.mask for event in events} == {flags.ATTRIB}


def test_a_subscriber_is_answered_while_operations_go_on(mount: Mount, busy: Path) -> None:
    with Wire(mount) as wire:
        for _ in range(20):
            wire.add(flags.DELETE_SELF, busy)
