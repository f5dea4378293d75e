"""What an operation costs when many listen: its caller's time, the daemon's, and until all have heard of it."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import attrs

from scripts.bench import micro
from scripts.bench.measuring import clocked
from scripts.bench.peers import PEERS, InPlace, Place, notifyfs
from scripts.bench.processes import Broken, cpu_seconds, running, within

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.bench.measuring import Course

CROWD: Final = "scripts.bench.crowd"
OPERATIONS: Final = ("open-read-close", "create-write-close", "chmod", "rename", "mkdir")
MOST: Final = 1000
KERNEL_MOST: Final = 100
"""``fs.inotify.max_user_instances`` is 128."""

MARK: Final = "mark-"
NONE: Final = "none"
NONE_PLAIN: Final = "none, plain directory"
STREAM: Final = "stream"
EVENT_FD: Final = "event descriptor"
KERNEL: Final = "kernel inotify, plain directory"
KINDS: Final = {STREAM: "stream", EVENT_FD: "event-fd", KERNEL: "kernel"}
ONE: Final = f"1, {STREAM}"
ONE_EVENT_FD: Final = f"1, {EVENT_FD}"


@attrs.define
class Crowd(InPlace):
    """So many subscribers of one directory, all in one other process."""

    kind: str
    number: int
    place: Place
    aside: Path
    directory: Path
    _process: subprocess.Popen[bytes] | None = None
    _marks: int = 0

    ours = True

    @property
    def name(self) -> str:
        """What it is called in the results."""
        if self.number:
            return f"{self.number:,}, {self.kind}"
        return NONE if self.place.mounted else NONE_PLAIN

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Connect all, until the block ends."""
        self.directory.mkdir()
        if not self.number:
            yield
            return
        words = [sys.executable, "-m", CROWD, KINDS[self.kind], str(self.directory), str(self.number)]
        with running(*words, log=self.aside / "crowd.log", stdout=subprocess.PIPE) as self._process:
            self._heard()
            yield

    def settle(self) -> None:
        """Wait until every subscriber has heard all that was done."""
        if self.number:
            self._marks += 1
            (self.directory / f"{MARK}{self._marks}").mkdir()
            self._heard()

    def _heard(self) -> None:
        line = self._process.stdout.readline() if self._process and self._process.stdout else b""
        if not line:
            raise Broken(f"the subscribers ended; they said: {(self.aside / 'crowd.log').read_text(encoding='utf-8')}")


def crowded(base: Path, numbers: list[int]) -> Place:
    """A mount that allows so many connections."""
    base.mkdir()
    command = notifyfs(f"max_user_instances={max(numbers) * 4 + 64}")
    return Place(attrs.evolve(PEERS["notifyfs"], command=command), base)


def measure(course: Course, base: Path) -> None:
    """Operations on a mount, and for comparison on the plain directory with the kernel's instances."""
    numbers = [1, 10] if course.quick else [1, 10, 100, MOST]
    mount = crowded(base, numbers)
    plain = Place(PEERS["plain"], base)
    with contextlib.closing(mount), contextlib.ExitStack() as stack:
        mount.renew()
        places = {"notifyfs": mount, "plain": plain}
        wanted = [("none", 0, "notifyfs"), ("none", 0, "plain")]
        wanted += [(STREAM, number, "notifyfs") for number in numbers]
        wanted += [(EVENT_FD, number, "notifyfs") for number in (numbers[0], numbers[-1])]
        wanted += [(KERNEL, number, "plain") for number in numbers if number <= KERNEL_MOST]
        crowds = {}
        for kind, number, where in wanted:
            place = places[where]
            crowd = Crowd(kind, number, place, base, place.root / f"{kind} {number}".replace(" ", "-"))
            stack.enter_context(crowd.listening())
            crowds[crowd.name] = crowd
        for work in micro.SINGLE:
            if work.name in OPERATIONS:
                course.alternate("subscribers", work.name, crowds, functools.partial(_sample, course, work))


def _sample(course: Course, work: micro.Work, crowd: Crowd) -> dict[str, float]:
    count = work.quick if course.quick else max(10, work.count // max(1, crowd.number // 50))
    pid = crowd.place.pid if crowd.place.mounted else None
    with contextlib.chdir(crowd.directory), within(micro.HANGS, crowd.place.process):
        prepared = work.prepare(crowd.place, count)
        crowd.settle()
        used = cpu_seconds(pid) if pid else 0.0
        with clocked() as whole:
            with clocked() as clock:
                work.loop(prepared)
            crowd.settle()
        used = cpu_seconds(pid) - used if pid else 0.0
        for entry in list(os.scandir()):
            if entry.name.startswith(MARK):
                continue  # its removal would be heard as one more
            if entry.is_dir():
                os.rmdir(entry)
            else:
                os.unlink(entry)
        crowd.settle()
    values = {work.name: clock.seconds / count, f"{work.name}, until all have heard": whole.seconds / count}
    if pid:
        values[f"{work.name}, daemon"] = used / count
    return values
