"""The whole run: the ground, the peers, the groups of works, and what the figures are of."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Final

import attrs

from scripts.bench import growth, latency, machine, material, micro, real, recursive, subscribers, tracing
from scripts.bench.ground import ground
from scripts.bench.measuring import Course, Results
from scripts.bench.peers import PEERS, places
from scripts.bench.processes import one_processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from scripts.bench.peers import Place

GROUPS: Final = ("real", "micro", "requests", "latency", "subscribers", "recursive", "growth")
REAL: Final = ("plain", "notifyfs", "notifyfs-always", "bindfs", "bindfs-tuned", "passthrough")
QUICK: Final = ("plain", "notifyfs", "notifyfs-always", "bindfs")
"""Of the peers of real work, those that its targets name; the others are tried by the small operations."""

SMALL_ONLY: Final = "loggedfs"
LEAKS: Final = "it keeps the memory of what it reads: 20 GiB in three minutes of real work"
"""So small operations are all that it can be asked for."""

MICRO: Final = (*REAL, SMALL_ONLY, "null")
REQUESTS: Final = (*MICRO, "notifyfs-never", "null-never", "null-turns", "null-turns-never")
INODES: Final = 1_000_000
"""What the file system has room for, besides the largest tree."""


@attrs.frozen
class Settings:
    """What was asked for: see ``--help``."""

    under: Path
    groups: Sequence[str]
    rounds: int
    quick: bool
    in_place: bool
    largest: int
    command: str


def measure(settings: Settings) -> Results:
    """Measure; Broken if that cannot be done."""
    largest = settings.largest
    results = Results()
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        say = stack.enter_context(progress())
        base = stack.enter_context(ground(settings.under.resolve(), 0 if settings.in_place else INODES + 2 * largest))
        results.about |= machine.describe(base)
        results.about |= {"command": settings.command, "rounds": settings.rounds, "largest": largest}
        results.about["left out"] = {name: lacks for name, peer in PEERS.items() if (lacks := peer.lacks())}
        results.about["left out"].setdefault(f"{SMALL_ONLY}, real work, reading and writing", LEAKS)
        course = Course(results, settings.rounds, settings.quick, say)
        work(course, base, settings)
        results.about["load after"] = machine.load()
    results.about["minutes"] = round((time.monotonic() - began) / 60, 1)
    return results


def work(course: Course, base: Path, settings: Settings) -> None:
    """Measure each group that was asked for, in *base*."""
    groups, quick = settings.groups, settings.quick
    if "real" in groups:
        with _places(course, base / "real", QUICK if quick else REAL) as found:
            real.measure(course, found, material.make(base / "material", quick=quick))
    if "micro" in groups:
        with _places(course, base / "micro", MICRO) as found:
            micro.single(course, found)
            micro.listing(course, found)
            micro.blocks(course, {name: place for name, place in found.items() if name != SMALL_ONLY})
    if "requests" in groups:
        with one_processor(), _places(course, base / "requests", REQUESTS) as found:
            micro.requests(course, found)
            tracing.count(course, found)
    if "latency" in groups:
        aside = base / "listeners"
        aside.mkdir()
        with _places(course, base / "latency", ("plain", "notifyfs")) as found:
            listeners = latency.listeners(found["notifyfs"], found["plain"], aside)
            latency.measure(course, listeners)
            latency.rates(
                course, {name: listeners[name] for name in (latency.KERNEL, latency.EVENT_FD, latency.STREAM)}
            )
    if "subscribers" in groups:
        subscribers.measure(course, base / "subscribers")
    if "recursive" in groups:
        recursive.measure(course, base / "recursive")
    if "growth" in groups:
        with one_processor():
            growth.measure(course, base / "growth", settings.largest)


@contextlib.contextmanager
def _places(course: Course, base: Path, names: Sequence[str]) -> Iterator[dict[str, Place]]:
    with places(base, names) as (found, broken):
        course.results.about["left out"] |= broken
        yield found


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """How far it is: one line that changes on a terminal, one for each thing that is measured elsewhere."""
    began = time.monotonic()
    terminal = sys.stderr.isatty()
    last = ""

    def say(text: str) -> None:
        nonlocal last
        what = text if terminal else text.partition(", round")[0].partition(", warm-up")[0].partition(": walking")[0]
        if what != last:
            line = f"{time.monotonic() - began:6.0f} s  {what}"
            print(f"\r{line:100.100}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
        last = what

    yield say
    if terminal:
        print(file=sys.stderr)
