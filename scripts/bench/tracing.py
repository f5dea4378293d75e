"""How many requests an operation costs, counted by the kernel's own tracepoint, ``fuse:fuse_request_send``."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.bench.micro import HANGS, REQUESTS, SINGLE, in_new_directory
from scripts.bench.processes import Broken, within

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scripts.bench.measuring import Course
    from scripts.bench.micro import Work
    from scripts.bench.peers import Place

SENT: Final = re.compile(r"fuse_request_send: .*\(FUSE_(\w+)\)")
UNSEEN: Final = frozenset({"FORGET", "BATCH_FORGET", "INTERRUPT", "RELEASE", "RELEASEDIR"})
"""What nobody waits for."""

BUFFER_KIB: Final = 8192


class Tracer:
    """A trace instance of its own: whoever else traces on this machine is not disturbed."""

    def __init__(self, tracing: Path) -> None:
        self._instance = Path(tempfile.mkdtemp(prefix="notifyfs-bench-", dir=tracing / "instances"))
        self._event = self._instance / "events" / "fuse" / "fuse_request_send"
        if not self._event.exists():
            self.close()
            raise Broken("this kernel has no tracepoint fuse:fuse_request_send")
        self._set("buffer_size_kb", BUFFER_KIB)

    def close(self) -> None:
        """Remove the instance."""
        self._instance.rmdir()

    @contextlib.contextmanager
    def counting(self, root: Path) -> Iterator[Counter[str]]:
        """Count the requests of the mount at *root* in the block, by their names."""
        count: Counter[str] = Counter()
        connection = os.minor(root.stat().st_dev)
        (self._event / "filter").write_text(f"connection == {connection}", encoding="ascii")
        self._set("trace", "")
        (self._event / "enable").write_text("1", encoding="ascii")
        try:
            yield count
        finally:
            (self._event / "enable").write_text("0", encoding="ascii")
            with (self._instance / "trace").open(encoding="utf-8", errors="replace") as lines:
                count.update(found.group(1) for line in lines if (found := SENT.search(line)))

    def _set(self, name: str, value: object) -> None:
        (self._instance / name).write_text(str(value), encoding="ascii")


@contextlib.contextmanager
def tracer() -> Iterator[Tracer]:
    """A tracer; Broken where the kernel has none for FUSE."""
    with tempfile.TemporaryDirectory(prefix="notifyfs-bench-tracefs-") as directory:
        done = subprocess.run(["/bin/mount", "-t", "tracefs", "tracefs", directory], check=False, capture_output=True)
        if done.returncode:
            raise Broken(f"tracefs cannot be mounted: {done.stderr.decode(errors='replace').strip()}")
        try:
            made = Tracer(Path(directory))
            try:
                yield made
            finally:
                made.close()
        finally:
            subprocess.run(["/bin/umount", directory], check=True)


def count(course: Course, places: Mapping[str, Place]) -> None:
    """Count the requests of each operation: those that its caller waits for, and all, by their names."""
    composed = course.results.about.setdefault("requests", {})
    try:
        with tracer() as traced:
            course.say("requests: counting")
            for work in SINGLE[:2] if course.quick else SINGLE:
                for name, place in places.items():
                    if place.mounted and "turns" not in name:
                        composed.setdefault(work.name, {})[name] = _counted(course, traced, work, place)
            for work in REQUESTS:
                for name in work.peers:
                    composed.setdefault(work.name, {})[name] = _counted(course, traced, work, places[name])
    except Broken as reason:
        course.results.about["requests"] = {}
        course.results.about.setdefault("left out", {})["requests"] = str(reason)


def _counted(course: Course, traced: Tracer, work: Work, place: Place) -> dict[str, float]:
    number = work.quick if course.quick else 100
    place.renew()
    with in_new_directory(place), within(HANGS, place.process):
        prepared = work.prepare(place, number)
        with traced.counting(place.root) as counted:
            work.loop(prepared)
    awaited = sum(counted.values()) - sum(counted[name] for name in UNSEEN)
    course.results.add("request counts", work.name, place.name, awaited / number)
    shares = {opcode: round(times / number, 1) for opcode, times in counted.most_common()}
    return {opcode: share for opcode, share in shares.items() if share}
