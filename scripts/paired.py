"""``python -m scripts.paired REVISION``: what an operation costs now, beside what it cost then.

Both are mounted at the same time and asked in turn, on one processor: each round gives one ratio per operation, and
chance of the machine meets both alike. A figure is the median and the upper quartile of those ratios. Needs root and
an idle machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from scripts import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER = struct.Struct("=iIII")
CREATE, RECURSIVE = 0x100, 0x10000


class Side:
    """One of the two: a mount of *sources*, and files to work on."""

    def __init__(self, sources: Path, place: Path) -> None:
        self.root = place / "mount"
        for made in (place, place / "source", self.root):
            made.mkdir()
        module = "notifyfs" if (sources / "notifyfs/__main__.py").exists() else "notifyfs.cli"
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, "mount", "-f", str(place / "source"), str(self.root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(sources)},
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        self.socket = self._process.stdout.readline().decode().rstrip("\n")
        if not self.socket:
            raise SystemExit(f"{sources}: does not mount")
        self.file = str(self.root / "file")
        Path(self.file).write_bytes(bytes(1 << 16))
        self.number = 0

    def end(self) -> None:
        """Unmount."""
        subprocess.run(["umount", self.root], check=True)  # noqa: S607 - where PATH says
        self._process.wait(20)

    @property
    def new(self) -> str:
        """A name that was not there yet."""
        self.number += 1
        return f"{self.root}/{self.number}"


def created(side: Side) -> None:
    """create, write, close."""
    fd = os.open(side.new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, b"x" * 100)
    os.close(fd)


def read(side: Side) -> None:
    """open, read, close."""
    fd = os.open(side.file, os.O_RDONLY)
    os.read(fd, 4096)
    os.close(fd)


def looked(side: Side) -> None:
    """Stat of a name that is not there: each is a request."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(side.root / "absent")


def changed(side: Side) -> None:
    """Chmod."""
    os.chmod(side.file, 0o600)


def moved(side: Side) -> None:
    """Rename, there and back."""
    os.rename(side.file, side.file + ".old")
    os.rename(side.file + ".old", side.file)


@contextlib.contextmanager
def writing(side: Side) -> Iterator[Callable[[], None]]:
    """4 KiB written into an open file."""
    fd = os.open(side.file, os.O_WRONLY)
    data = bytes(4096)
    try:
        yield lambda: os.pwrite(fd, data, 0) and None
    finally:
        os.close(fd)


@contextlib.contextmanager
def removing(side: Side, count: int) -> Iterator[Callable[[], None]]:
    """Unlink of files made before."""
    names = [side.new for _ in range(count)]
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644))
    yield lambda: os.unlink(names.pop())


@contextlib.contextmanager
def listening(side: Side) -> Iterator[Callable[[], None]]:
    """mkdir, until its event is here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(side.socket)
        connection.sendall(HEADER.pack(0, CREATE, 1, 0))
        connection.recv(HEADER.size)

        def one() -> None:
            os.mkdir(side.new)
            size = HEADER.unpack(connection.recv(HEADER.size, socket.MSG_WAITALL))[3]
            connection.recv(size, socket.MSG_WAITALL)

        yield one


@contextlib.contextmanager
def plainly(work: Callable[[Side], None], side: Side) -> Iterator[Callable[[], None]]:
    """Nothing to prepare."""
    yield lambda: work(side)


def works(count: int) -> dict[str, Callable[[Side], contextlib.AbstractContextManager[Callable[[], None]]]]:
    """What is measured, by name; each gives what to repeat."""
    return {
        "create, write, close": lambda side: plainly(created, side),
        "open, read, close": lambda side: plainly(read, side),
        "stat": lambda side: plainly(looked, side),
        "chmod": lambda side: plainly(changed, side),
        "rename": lambda side: plainly(moved, side),
        "unlink": lambda side: removing(side, count),
        "4 KiB write": writing,
        "one event": listening,
    }


def main() -> int:
    """Measure, and print a line for each operation."""
    parser = argparse.ArgumentParser(prog="paired", description=__doc__)
    parser.add_argument("revision", help="what git calls the other one")
    parser.add_argument("--rounds", type=int, default=40, help="ratios for each operation (default: 40)")
    parser.add_argument("--count", type=int, default=300, help="operations in each (default: 300)")
    parser.add_argument("--only", nargs="+", metavar="OPERATION", help="of those that are printed")
    parser.add_argument("--json", action="store_true", help="print the ratios, too")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="notifyfs-paired-") as base, contextlib.ExitStack() as stack:
        then = Path(base) / "then"
        command = ["git", "-C", ROOT, "worktree"]
        subprocess.run([*command, "add", "-q", "--detach", then, arguments.revision], check=True)
        stack.callback(subprocess.run, [*command, "remove", "--force", then], check=True)
        sides = [Side(then / "src", Path(base) / "a"), Side(ROOT / "src", Path(base) / "b")]
        for side in sides:
            stack.callback(side.end)
        for name, work in works(arguments.count).items():
            if arguments.only and name not in arguments.only:
                continue
            ratios = [ratio(work, sides, arguments.count) for _ in range(arguments.rounds)]
            quartiles = statistics.quantiles(ratios, n=4)
            print(f"{name:22} median {quartiles[1]:.3f}  upper quartile {quartiles[2]:.3f}", flush=True)
            if arguments.json:
                print(json.dumps(ratios))
    return 0


def ratio(
    work: Callable[[Side], contextlib.AbstractContextManager[Callable[[], None]]], sides: list[Side], count: int
) -> float:
    """What *count* operations take now, as a multiple of what they took then; half of them, then the others."""
    seconds = [0.0, 0.0]
    for order in ((0, 1), (1, 0)):
        for which in order:
            with work(sides[which]) as one:
                select.select([], [], [], 0.001)  # let what the last one left be done
                began = perf_counter()
                for _ in range(count // 2):
                    one()
                seconds[which] += perf_counter() - began
    return seconds[1] / seconds[0]


if __name__ == "__main__":
    sys.exit(main())
