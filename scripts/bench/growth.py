"""How costs grow: with the tree that the kernel remembers, open files, watches, and depth; and memory for each.

The sizes are measured side by side, each on a mount of its own, by the same operations in a new directory.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.client.blocking import Connection, find_socket
from notifyfs.protocol.flags import ALL_EVENTS
from scripts.bench import micro, seeding
from scripts.bench.latency import Listener
from scripts.bench.measuring import clocked
from scripts.bench.peers import PEERS, InPlace, Place
from scripts.bench.processes import memory, run, within
from scripts.bench.subscribers import crowded

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from scripts.bench.measuring import Course

OPERATIONS: Final = ("stat, first time", "open-read-close", "create-write-close", "rename", "unlink")
DEPTHS: Final = (1, 10, 100)
OPEN: Final = (0, 1000, 10_000)
HANGS: Final = 1800.0
SPARE: Final = 500
"""Descriptors that the benchmark needs besides the open files."""


@attrs.frozen
class State(InPlace):
    """One size of something: a mount in that state, and where in it to work."""

    name: str
    place: Place
    below: str = ""

    ours = True
    mounted = True
    stored = True

    @property
    def root(self) -> Path:
        """Where the work is done."""
        return self.place.root / self.below

    @property
    def backing(self) -> Path:
        """The same in the source."""
        return self.place.backing / self.below

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The daemon's."""
        return self.place.process

    def renew(self) -> None:
        """A new mount would not have the state: there is none."""


def measure(course: Course, base: Path, largest: int) -> None:
    """All of them; *largest*: files in the largest tree."""
    base.mkdir()
    source = base / "source"
    course.say(f"growth: making {largest:,} files")
    seeding.files(source, largest)
    sizes = [size for size in (1000, 10_000, 100_000, 1_000_000, 2_000_000) if size < largest] + [largest]
    kinds: dict[str, Callable[[contextlib.ExitStack], Iterator[State]]] = {
        "tree": lambda stack: _trees(course, stack, base, source, sizes),
        "watches": lambda stack: _watches(course, stack, base, source, [0, *sizes]),
        "open files": lambda stack: _open(course, stack, base, source),
        "depth": lambda stack: _depths(stack, base),
    }
    for what, states in kinds.items():
        with contextlib.ExitStack() as stack:
            _operations(course, what, {state.name: state for state in states(stack)})
    _instances(course, base)


def _operations(course: Course, what: str, states: Mapping[str, State]) -> None:
    for work in micro.SINGLE:
        if work.name in (OPERATIONS[:2] if course.quick else OPERATIONS):
            course.alternate(
                f"growth: {what}",
                work.name,
                states,
                functools.partial(micro.sample, work, quick=course.quick),
            )


def _mount(stack: contextlib.ExitStack, base: Path, name: str, source: Path) -> Place:
    directory = base / name
    directory.mkdir()
    place = Place(PEERS["notifyfs"], directory, source=source)
    stack.callback(place.close)
    place.renew()
    return place


def _trees(course: Course, stack: contextlib.ExitStack, base: Path, source: Path, sizes: list[int]) -> Iterator[State]:
    """Mounts of which the kernel remembers so many files."""
    for size in sizes:
        place = _mount(stack, base, f"tree-{size}", source)
        course.say(f"growth: tree: walking {size:,} files")
        before = memory(place.pid)
        tops = [place.root / part for part in seeding.parts(size)]
        with clocked() as clock, within(HANGS, place.process):
            run("find", *tops, "-size", "+1", directory=base, seconds=HANGS)
        counters = statistics(place)
        course.results.add("memory", "inode", f"{size:,}", (memory(place.pid) - before) / counters["inodes"])
        course.results.add("memory", "inodes remembered", f"{size:,}", counters["inodes"])
        course.results.add("memory", "descriptors", f"{size:,}", counters["descriptors"])
        course.results.add("growth: tree", "find, per file", f"{size:,}", clock.seconds / size)
        yield State(f"{size:,}", place)


def _watches(
    course: Course, stack: contextlib.ExitStack, base: Path, source: Path, sizes: list[int]
) -> Iterator[State]:
    """Mounts with so many watches, each of another file, all of one subscriber."""
    for size in sizes:
        place = _mount(stack, base, f"watches-{size}", source)
        connection = stack.enter_context(Connection(find_socket(str(place.root)), timeout=HANGS))
        course.say(f"growth: watches: adding {size:,}")
        before = memory(place.pid)
        with clocked() as clock:
            for number in range(size):
                connection.add_watch(ALL_EVENTS, seeding.name(number).encode())
        if size:
            course.results.add("memory", "watch", f"{size:,}", (memory(place.pid) - before) / size)
            course.results.add("growth: watches", "add a watch", f"{size:,}", clock.seconds / size)
        yield State(f"{size:,}", place)


def _open(course: Course, stack: contextlib.ExitStack, base: Path, source: Path) -> Iterator[State]:
    """Mounts with so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
    room = hard - SPARE
    for size in OPEN:
        number = min(size, len(os.listdir(source)) * seeding.A_DIRECTORY)
        if number > room:
            course.results.about.setdefault("left out", {})[f"{size:,} open files"] = (
                f"the limit of descriptors is {hard}"
            )
            continue
        room -= number
        place = _mount(stack, base, f"open-{size}", source)
        before = memory(place.pid)
        with within(HANGS, place.process):
            for each in range(number):
                stack.callback(os.close, os.open(place.root / seeding.name(each), os.O_RDONLY))
        if number:
            course.results.add("memory", "open file", f"{size:,}", (memory(place.pid) - before) / number)
        yield State(f"{size:,}", place)


def _depths(stack: contextlib.ExitStack, base: Path) -> Iterator[State]:
    """Directories so deep in one mount, whose root is watched with all that is below."""
    source = base / "deep"
    source.mkdir()
    place = _mount(stack, base, "depths", source)
    reader = Listener("", "stream", place, base)
    stack.enter_context(reader.listening(place.root, recursive=True))
    for depth in DEPTHS:
        below = "/".join([f"depth{depth}"] + ["d"] * (depth - 1))
        (source / below).mkdir(parents=True)
        yield State(f"{depth}", place, below)


def _instances(course: Course, base: Path) -> None:
    """What a connection costs."""
    number = 5 if course.quick else 1000
    place = crowded(base / "instances", [number])
    with contextlib.closing(place), contextlib.ExitStack() as stack:
        place.renew()
        socket = find_socket(str(place.root))
        for event_fd in (False, True):
            before = memory(place.pid)
            with clocked() as clock:
                for _ in range(number):
                    stack.enter_context(Connection(socket, event_fd=event_fd))
            kind = "event descriptor" if event_fd else "stream"
            course.results.add("memory", "instance", kind, (memory(place.pid) - before) / number)
            course.results.add("growth: instances", "connect", kind, clock.seconds / number)


def statistics(place: Place) -> dict[str, int]:
    """The daemon's counters of the mount."""
    with Connection(find_socket(str(place.root))) as connection:
        counters: dict[str, int] = connection.statistics()["mount"]
    return counters
