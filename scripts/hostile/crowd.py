"""A thousand subscribers at once, some of which behave badly; and how much one that does not read can cost."""

# ruff: noqa: S101 - tests run this

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support import wireclient as w
from tests.support.posix import collect, start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

DIRECTORIES = 1000
DYING = 10
QUEUED = 500
"""max_queued_events of a crowd's mount: the stalled subscriber's queue is full early."""
EACH = w.CREATE | w.DELETE
PER_FILE = 2
"""Events that one who watches a directory for EACH hears of a file that comes and goes."""


class Speed(NamedTuple):
    """What an operation in a directory that nobody watches costs."""

    wall: float
    """Microseconds until it returned."""
    daemon: float
    """Microseconds of the daemon's main thread, which nobody else's work makes more."""


def speed(mount: Mount, operations: int = 400) -> Speed:
    """The best of three: an operation is half a ``mkdir && rmdir`` in the mount's root."""

    def once() -> Speed:
        ran, wall = cpu(mount), time.perf_counter_ns()
        for number in range(operations // 2):
            os.mkdir(mount.root / f"speed{number}")
            os.rmdir(mount.root / f"speed{number}")
        return Speed((time.perf_counter_ns() - wall) / operations / 1e3, (cpu(mount) - ran) / operations / 1e3)

    runs = [once() for _ in range(3)]
    return Speed(min(run.wall for run in runs), min(run.daemon for run in runs))


def cpu(mount: Mount) -> int:
    """Nanoseconds that the main thread has run (kernel: Documentation/scheduler/sched-stats.rst)."""
    return int(Path(f"/proc/{mount.pid}/task/{mount.pid}/schedstat").read_text("ascii").split()[0])


def resident(mount: Mount) -> int:
    """Bytes of memory that the daemon has (VmRSS in proc(5))."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{mount.pid}/status").read_text("ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


# A thousand at once


class Report(NamedTuple):
    """What a crowd cost."""

    alone: Speed
    beside: Speed
    """With all of the crowd connected, the stalled and the mute one among them, and nobody busy."""
    flooded: Speed
    """And while one subscriber floods requests."""
    requests: int
    """Replies that the flooding one has got."""
    events: int
    """Those that were read, each as expected."""
    memory: int
    """Bytes that the daemon has grown by while all were connected."""


def play(mount: Mount, instances: int, watches: int) -> Report:
    """*instances* subscribers with *watches* each, and five kinds that harm themselves only; AssertionError if not.

    *mount* is new, with QUEUED and room for the instances.
    """
    for number in range(DIRECTORIES):
        (mount.source / f"{number}").mkdir()
    alone, memory = speed(mount), resident(mount)
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(w.Wire(mount))
        control.ask(w.PENDING)
        sockets = _sockets(mount)
        stalled = stack.enter_context(w.Wire(mount))
        stalled.add(w.ALL_EVENTS | w.RECURSIVE)
        stack.enter_context(_mute(mount))
        wires = [stack.enter_context(w.Wire(mount, event_fd=number % 10 == 0)) for number in range(instances)]
        places = [[(number + step * 7) % DIRECTORIES for step in range(watches)] for number in range(instances)]
        _watch(wires, places)
        assert control.statistics()["mount"]["watches"] == instances * watches + 1
        beside = speed(mount)
        with _flooding(mount) as replies, _dying(mount, control):
            flooded = speed(mount)
            for name in (b"first", b"second"):
                _make(mount, name)
            requests = replies()
        for wire, place in zip(wires, places, strict=True):
            _heard_all(wire, place)
        _heard_the_beginning(stalled)
        memory = resident(mount) - memory
        for wire in wires:
            wire.close()
        w.wait_until(lambda: control.statistics()["mount"]["watches"] == 1, "the crowd's watches freed")
        w.wait_until(lambda: _sockets(mount) == sockets + 2, "all sockets but those of the mute and the stalled closed")
    return Report(alone, beside, flooded, requests, instances * watches * 2 * PER_FILE, memory)


def _sockets(mount: Mount) -> int:
    return len({target for target in w.descriptors_of(mount.pid) if target.startswith("socket:")})


def _watch(wires: list[w.Wire], places: list[list[int]]) -> None:
    for wire, place in zip(wires, places, strict=True):
        wire.socket.sendall(b"".join(w.encode(w.ADD, EACH, 0, b"%d" % number) for number in place))
    for wire, place in zip(wires, places, strict=True):
        assert [wire.record().wd for _ in place] == list(range(1, len(place) + 1))


def _make(mount: Mount, name: bytes) -> None:
    """In each directory a file that comes and goes."""
    for number in range(DIRECTORIES):
        path = os.fsencode(mount.root) + b"/%d/" % number + name
        os.mknod(path)
        os.unlink(path)


def _heard_all(wire: w.Wire, place: list[int]) -> None:
    descriptors = {number: wd for wd, number in enumerate(place, 1)}
    expected = [
        (descriptors[number], mask, name)
        for name in (b"first", b"second")
        for number in sorted(descriptors)
        for mask in (w.CREATE, w.DELETE)
    ]
    assert wire.told() == expected


def _heard_the_beginning(stalled: w.Wire) -> None:
    """It has all that was told before its queue was full, then that it was, and may go on from here."""
    statistics = stalled.statistics()["instance"]
    assert statistics["high_water"] <= QUEUED + 1
    assert statistics["dropped"] > QUEUED, "it did not stall for long enough"
    told = stalled.told()
    assert told[-1] == (-1, w.Q_OVERFLOW, b"")
    assert told[0] == (1, w.CREATE | w.ISDIR, b"speed0")
    assert QUEUED <= len(told) - 1 < 2 * QUEUED
    os.mkdir(stalled.root / "later")
    assert stalled.told() == [(1, w.CREATE | w.ISDIR, b"later")]


@contextlib.contextmanager
def _mute(mount: Mount) -> Iterator[None]:
    """Ask and never read the answers, until the daemon takes no more questions."""
    with w.Wire(mount) as wire:
        wire.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                wire.socket.sendall(w.encode(w.STATISTICS) * 100)
        yield


@contextlib.contextmanager
def _flooding(mount: Mount) -> Iterator[Callable[[], int]]:
    """Ask in another process, as fast as answers come; the function ends that: how many came."""
    stop, end = os.pipe()

    def flood() -> int:
        answered = 0
        with w.Wire(mount) as wire:
            wire.socket.settimeout(None)
            while not w.readable(stop):
                wire.socket.sendall(w.encode(w.PENDING) * 100)
                answered += len([wire.record() for _ in range(100)])
        return answered

    child = start_child(flood)
    ended = False

    def replies() -> int:
        nonlocal ended
        ended = True
        os.write(end, b"x")
        return collect(child)

    try:
        yield replies
    finally:
        os.close(stop)
        os.close(end)
        if not ended:
            _kill(child)


@contextlib.contextmanager
def _dying(mount: Mount, control: w.Wire) -> Iterator[None]:
    """Some who watch everything, have asked half a question, and are killed when a lot has been told to them."""

    def live() -> None:
        with w.Wire(mount, event_fd=bool(os.getpid() % 2)) as wire:
            wire.add(w.ALL_EVENTS | w.RECURSIVE)
            wire.send_bytes(w.encode(w.ADD, w.CREATE, 1, b"1")[:19])
            signal.pause()

    before = control.statistics()["mount"]["watches"]
    children = [start_child(live) for _ in range(DYING)]
    try:
        w.wait_until(lambda: control.statistics()["mount"]["watches"] == before + DYING, "all who will die watch")
        yield
    finally:
        for child in children:
            _kill(child)
    w.wait_until(lambda: control.statistics()["mount"]["watches"] == before, "the watches of the dead freed")


def _kill(child: tuple[int, int]) -> None:
    number, pipe = child
    os.kill(number, signal.SIGKILL)
    os.close(pipe)
    os.waitpid(number, 0)


# One that does not read


class Growth(NamedTuple):
    """What a subscriber that does not read has cost, in bytes of the daemon's memory."""

    events: int
    """Those that wait for it."""
    wire: int
    """Bytes that they would be as records."""
    full: int
    """Growth until its queue was full."""
    beyond: int
    """Growth since, with as many events again ten times."""
    filling: float
    """Microseconds of the daemon's main thread that an event took until then."""
    losing: float
    """The same, since."""


def deep(mount: Mount, length: int) -> tuple[int, int]:
    """Make a directory so deep that paths of *length* end in it: opened, and how long the names in it are."""
    place, below = mount.source, length
    while below > 255:  # noqa: PLR2004 - NAME_MAX
        place /= "d" * 127
        below -= 128
        place.mkdir()
    return os.open(mount.root / place.relative_to(mount.source), os.O_PATH), below


def stall(mount: Mount, events: int, length: int, mask: int = 0, *, event_fd: bool = False) -> Growth:
    """Tell a subscriber that does not read of ten times *events*, the most that wait for it, with paths of *length*.

    *mount* is new and has ``max_queued_events=`` *events*. *mask* is added to the watch's.
    """
    directory, below = deep(mount, length)
    # Two names in turn: nothing is told that equals the last, and no file is left behind.
    names = [letter * below for letter in (b"a", b"b")]
    os.mknod(names[0], dir_fd=directory)

    def tell(count: int) -> None:
        for number in range(count // 2):
            old, new = names[number % 2], names[1 - number % 2]
            os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)

    with w.Wire(mount, event_fd=event_fd) as stalled, w.Wire(mount) as control:
        # What others make the daemon grow by is grown already.
        control.add(w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE)
        for _ in range(20):
            tell(20)
            control.told()
        control.ask(1)
        stalled.add(w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE | mask)
        before, began = resident(mount), cpu(mount)
        tell(events + 40)
        full, filled = resident(mount), cpu(mount)
        tell(10 * events)
        beyond, ended = resident(mount), cpu(mount)
        statistics = stalled.statistics()["instance"]
        told = [event for event in stalled.events() if not event.mask & w.ORIGIN]
        assert statistics["high_water"] <= events + 1
        assert statistics["dropped"] >= 10 * events
        assert told[-1].mask == w.Q_OVERFLOW
        size = sum(event.size for event in told)
    os.close(directory)
    filling, losing = (filled - began) / events / 1e3, (ended - filled) / 10 / events / 1e3
    return Growth(len(told), size, full - before, beyond - full, filling, losing)
