"""How long after the system call has returned an event is in a reader's hands; in peace, and at a rate.

Writer and reader are two processes. A negative time is an event that came before the system call had returned.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from scripts.bench.micro import HANGS
from scripts.bench.peers import InPlace
from scripts.bench.processes import Broken, cpu_seconds, running, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from scripts.bench.measuring import Course
    from scripts.bench.peers import Place

READER: Final = "scripts.bench.reader"
PAUSE: Final = 0.002
"""Seconds between two operations: the reader has long read the last."""

KERNEL: Final = "kernel inotify on the mount"
EVENT_FD: Final = "event descriptor"
STREAM: Final = "stream"
WATCH: Final = "notifyfs watch"
INOTIFYWAIT: Final = "inotifywait, plain directory"

PATIENCE: Final = 60.0
"""Seconds that a reader may take to begin."""

RATES: Final = (100, 1000, 0)
"""Operations a second; 0: as fast as they go."""

SECONDS: Final = 0.5


@attrs.frozen
class Listener(InPlace):
    """A kind of reader, and where it listens."""

    name: str
    kind: str
    place: Place
    aside: Path
    ours: bool = True

    @contextlib.contextmanager
    def listening(self, path: Path, *, recursive: bool = False) -> Iterator[Reading]:
        """A reader that watches *path*."""
        words = [sys.executable, "-m", READER, self.kind, str(path), *(["recursive"] if recursive else [])]
        log = self.aside / f"{self.kind}.log"
        with running(*words, log=log, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            yield Reading(process, log)


class Reading:
    """The reader's process; *seconds* is what it took to begin."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        first = self._line().split()
        self.seconds = float(first[1])

    def heard(self, count: int) -> dict[str, int]:
        """What it has heard, and when: *count* things, unless some are lost."""
        if self.process.stdin is None:
            raise Broken("the reader has no input")
        self.process.stdin.write(b"%d\n" % count)
        self.process.stdin.flush()
        told: dict[str, int] = json.loads(self._line())
        return told

    def _line(self) -> bytes:
        stdout = self.process.stdout
        if stdout is None:
            raise Broken("the reader has no output")
        ready, _, _ = select.select([stdout], [], [], PATIENCE)
        line = stdout.readline() if ready else b""
        if not line:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            state = "ended" if ready else f"said nothing for {PATIENCE:.0f} s"
            raise OSError(f"the reader {state}: {said[-1] if said else 'no message'}")
        return line


def listeners(mount: Place, plain: Place, aside: Path) -> dict[str, Listener]:
    """Every kind of reader that is installed."""
    packages = [
        Listener("watchdog, plain directory", "watchdog", plain, aside, ours=False),
        Listener("watchfiles, plain directory", "watchfiles", plain, aside, ours=False),
    ]
    every = [
        Listener(KERNEL, "kernel", mount, aside),
        Listener(EVENT_FD, "event-fd", mount, aside),
        Listener(STREAM, "stream", mount, aside),
        Listener("notifyfs.INotify", "drop-in", mount, aside),
        Listener(WATCH, "notifyfs-watch", mount, aside),
        Listener("kernel inotify, plain directory", "kernel", plain, aside),
        *([Listener(INOTIFYWAIT, "inotifywait", plain, aside)] if shutil.which("inotifywait") else []),
        *(package for package in packages if installed(package.kind)),
    ]
    return {listener.name: listener for listener in every}


def installed(package: str) -> bool:
    """Whether Python finds it."""
    import importlib.util  # noqa: PLC0415 - only here

    return importlib.util.find_spec(package) is not None


def measure(course: Course, subjects: Mapping[str, Listener]) -> None:
    """The latency of four operations; the median and the 99th percentile of each round."""
    count = 5 if course.quick else 100

    def sample(listener: Listener) -> dict[str, float]:
        with _directory(listener, count) as (directory, operations), listener.listening(directory) as reading:
            made = {name: _paced(operation, count, PAUSE) for name, operation in operations.items()}
            heard = reading.heard(count * len(operations))
        values: dict[str, float] = {}
        for name, times in made.items():
            late = [(heard[key] - when) / 1e9 for key, when in times.items() if key in heard]
            values |= _summary(name, late, len(times))
        return values

    course.alternate("latency", "events", subjects, sample)


def rates(course: Course, subjects: Mapping[str, Listener]) -> None:
    """The latency of mkdir at several rates, and the daemon's processor time for each."""

    def sample(listener: Listener) -> dict[str, float]:
        values: dict[str, float] = {}
        for rate in RATES:
            count = 10 if course.quick else int((rate or 2000) * SECONDS)
            with _directory(listener, count) as (directory, operations), listener.listening(directory) as reading:
                used = cpu_seconds(listener.place.pid)
                times = _paced(operations["mkdir"], count, 1 / rate if rate else 0)
                heard = reading.heard(count)
                used = cpu_seconds(listener.place.pid) - used
            late = [(heard[key] - when) / 1e9 for key, when in times.items() if key in heard]
            label = f"{rate:,} a second" if rate else "as fast as it goes"
            values |= _summary(label, late, count)
            values[f"{label}, daemon"] = used / count
        return values

    course.alternate("rates", "mkdir", subjects, sample)


def _summary(name: str, late: list[float], count: int) -> dict[str, float]:
    if not late:
        raise OSError(f"{name}: none of {count} events was heard")
    ordered = sorted(late)
    return {
        f"{name}, median": statistics.median(ordered),
        f"{name}, p99": ordered[math.ceil(len(ordered) * 0.99) - 1],
        f"{name}, lost": count - len(late),
    }


@contextlib.contextmanager
def _directory(listener: Listener, count: int) -> Iterator[tuple[Path, dict[str, Callable[[int], str]]]]:
    """A new directory, and operations in it.

    Each gives what a reader should hear of its number's turn: a letter and a name, which come only once.
    """
    directory = Path(tempfile.mkdtemp(prefix="events-", dir=listener.place.root))
    top = os.fspath(directory)
    descriptors: list[int] = []

    def mkdir(number: int) -> str:
        os.mkdir(f"{top}/m{number}")
        return f"cm{number}"

    def rename(number: int) -> str:
        os.rename(f"{top}/m{number}", f"{top}/r{number}")
        return f"tr{number}"

    def rmdir(number: int) -> str:
        os.rmdir(f"{top}/r{number}")
        return f"dr{number}"

    def write(number: int) -> str:
        os.write(descriptors[number], b"x")
        return f"ww{number}"

    with within(HANGS, listener.place.process):
        try:
            files = (f"{top}/w{number}" for number in range(count))
            descriptors.extend(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600) for file in files)
            yield directory, {"mkdir": mkdir, "rename": rename, "rmdir": rmdir, "write": write}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        shutil.rmtree(directory)


def _paced(operation: Callable[[int], str], count: int, pause: float) -> dict[str, int]:
    """Do it *count* times, so many seconds apart; when each had returned."""
    done, clock, sleep = {}, time.monotonic_ns, time.sleep
    begun = clock()
    for number in range(count):
        wait = (begun - clock()) / 1e9 + number * pause
        if wait > 0:
            sleep(wait)
        key = operation(number)
        done[key] = clock()
    return done
