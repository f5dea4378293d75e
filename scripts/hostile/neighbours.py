"""``python -m scripts.hostile neighbours``: what one user does, and how long another waits meanwhile.

Each row of the table is one attack on a fresh mount: processes of one unprivileged user repeat it as fast as they
can. A bystander, who is another user in another process, does something small and is timed: as long before the attack,
meanwhile, and after it. His median may be twice what it is without, his longest wait 100 ms longer. Where the kernel's
own lock on one directory is said to be why he waits, the same is done on the plain source, and he must wait there too.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scripts.hostile import files, hanging, sockets, trees
from scripts.hostile.ground import ATTACKER, BYSTANDER, LONGEST, MEBIBYTE, ROWS, Crew, Ground, Row, Work, timed

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from tests.conftest import Mount

__all__ = ["files", "hanging", "sockets", "trees"]  # their rows

TIMES = 2
"""How much worse the median may be."""
MORE = 0.1
"""Seconds that the longest wait may be longer."""


class Waits(NamedTuple):
    """How long the bystander has waited, in seconds."""

    median: float
    p99: float
    longest: float
    count: int

    def __str__(self) -> str:
        return " / ".join(f"{each * 1000:.3g}" for each in self[:3])


def waits(taken: array[int]) -> Waits:
    """Sum up nanoseconds."""
    ordered = sorted(taken)
    last = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return Waits(statistics.median(ordered) / 1e9, last / 1e9, ordered[-1] / 1e9, len(ordered))


class Held(NamedTuple):
    """What the daemon has."""

    memory: int
    """Bytes (VmRSS in proc(5))."""
    threads: int
    descriptors: int


def held(mount: Mount) -> Held:
    """What it has now."""
    status = Path(f"/proc/{mount.pid}/status").read_text("ascii")
    numbers = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    # The size of that directory is the number of descriptors (since Linux 6.2).
    return Held(
        int(numbers.get("VmRSS", 0)) * 1024, int(numbers.get("Threads", 0)), os.stat(f"/proc/{mount.pid}/fd").st_size
    )


class Outcome(NamedTuple):
    """What became of one row."""

    row: Row
    rounds: int
    took: float
    """Seconds that the attack was watched."""
    without: Waits
    during: Waits
    grown: Held
    """At the most, more than before."""

    @property
    def broken(self) -> list[str]:
        """The bounds that are: none if all is well."""
        found = [] if self.rounds else ["the attack has done nothing"]
        if self.during.median > TIMES * self.without.median:
            found.append(f"median {self.during.median / self.without.median:.1f} times")
        if self.during.longest > self.without.longest + MORE:
            found.append(f"longest {(self.during.longest - self.without.longest) * 1000:.0f} ms more")
        if self.grown.memory > self.row.memory:
            found.append(f"{self.grown.memory / MEBIBYTE:.0f} MiB")
        if self.grown.threads > self.row.threads:
            found.append(f"{self.grown.threads} threads")
        return found


# One row


class Options(NamedTuple):
    """What was asked for."""

    seconds: float = 5
    size: float = 1
    large: bool = False
    base: str | None = None
    plain: bool = False
    processes: int = 1


@contextlib.contextmanager
def ground_of(row: Row, options: Options, *, plain: bool) -> Iterator[Ground]:
    """A fresh mount that every user can reach, with a directory for each of the two."""
    from tests.conftest import Mount  # noqa: PLC0415 - `--help` needs no pytest

    place = Path(tempfile.mkdtemp(prefix="notifyfs-neighbours-", dir=options.base))
    place.chmod(0o755)
    with contextlib.ExitStack() as last:
        last.callback(subprocess.run, ["rm", "-rf", "--one-file-system", place], check=True)  # however deep
        source = row.source(place, last) if row.source else None
        mount = Mount(place / "mount", ("allow_other",), source)
        # Before the unmount, but after what the row has set up is gone.
        try:
            with contextlib.ExitStack() as stack:
                for name, user in (("attacker", ATTACKER), ("bystander", BYSTANDER)):
                    (mount.source / name).mkdir()
                    os.chown(mount.source / name, *user[:2])
                yield Ground(
                    mount, mount.source if plain else mount.root, stack, options.size, options.large, options.processes
                )
            mount.check()
        except BaseException:
            mount.process.kill()  # it may hang, and so would who unmounts
            mount.unmount()
            raise
        mount.finish(60)


def watched(ground: Ground, row: Row, works: Sequence[Work], seconds: float) -> tuple[array[int], int, Held]:
    """What the bystander has waited while *works* are done, how many rounds, and the most that the daemon had."""
    bystander = Crew([Work(functools.partial(timed, ground, row.bystander), BYSTANDER)])
    attackers = Crew(works)
    most, began = held(ground.mount), time.monotonic()
    end, given_up = began + seconds, began + LONGEST
    try:
        while not (bystander.failed or attackers.failed) and (now := time.monotonic()) < min(end, given_up):
            if works and not attackers.rounds:  # it is not at work yet
                end = now + seconds
            most = Held(*map(max, most, held(ground.mount)))
            time.sleep(min(0.05, seconds / 4))
    finally:
        attackers.stop()
        bystander.stop()
        try:
            attackers.end(ground.mount.process.kill)
        finally:
            (taken,) = bystander.end(ground.mount.process.kill)
    return taken, attackers.rounds, most


def run(row: Row, options: Options, *, plain: bool = False) -> Outcome:
    """Play one row; AssertionError when somebody failed, or the daemon did."""
    seconds = options.seconds
    with ground_of(row, options, plain=plain) as ground:
        works = list(row.attack(ground))
        taken, _, before = watched(ground, row, [], seconds)
        began = time.monotonic()
        during, rounds, most = watched(ground, row, works, seconds)
        took = time.monotonic() - began
        taken += watched(ground, row, [], seconds)[0]
    grown = Held(*(now - then for now, then in zip(most, before, strict=True)))
    return Outcome(row, rounds, took, waits(taken), waits(during), grown)


# All


def verdict(outcome: Outcome, plain: Outcome | None) -> tuple[bool, str]:
    """Whether that is as it should be, and why not."""
    broken = outcome.broken
    if not broken:
        return True, "ok"
    waits_only = [each for each in broken if each.startswith(("median", "longest"))]
    if outcome.row.lock and plain is not None and len(waits_only) == len(broken) and plain.broken:
        return True, "the kernel's lock on the directory: on a plain one " + ", ".join(plain.broken)
    return False, "**" + ", ".join(broken) + "**"


def play(row: Row, options: Options) -> tuple[bool, str]:
    """Run a row: whether all is well, and its line of the table."""
    plain = None
    try:
        outcome = run(row, options)
        if row.plain and (options.plain or (row.lock and outcome.broken)):
            plain = run(row, options, plain=True)
        good, why = verdict(outcome, plain)
    except (AssertionError, OSError) as failure:
        reason = str(failure).strip().splitlines() or [repr(failure)]
        print(failure, file=sys.stderr)
        return False, f"| {row.name} | | | | | | **failed: {reason[-1]}** |"
    grown = f"{outcome.grown.memory / MEBIBYTE:.0f} MiB, {outcome.grown.threads}, {outcome.grown.descriptors}"
    beside = "" if plain is None else f"{plain.without}; {plain.during}"
    cells = (row.name, f"{outcome.rounds} in {outcome.took:.1f} s", outcome.without, outcome.during, grown, beside, why)
    return good, "| " + " | ".join(map(str, cells)) + " |"


def heading(seconds: float) -> str:
    """What the table is of, and its head."""
    return (
        f"{time.strftime('%d %B %Y').lstrip('0')}, Linux {platform.release()}, {os.cpu_count()} processors, Python "
        f"{platform.python_version()}; {seconds:g} s each before, meanwhile and after; load {os.getloadavg()[0]:.1f} "
        "at the start. Waits are median / 99th percentile / longest, in ms.\n\n"
        "| row | rounds | without | with | the daemon grows by: memory, threads, descriptors "
        "| on a plain directory: without; with | |\n"
        "| --- | --- | --- | --- | --- | --- | --- |"
    )


def main(words: Sequence[str]) -> int:
    """Play the rows; 1 if a bound was broken."""
    parser = argparse.ArgumentParser(
        prog="hostile neighbours", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", choices=ROWS, metavar="NAME", help="only this one (repeatable)")
    parser.add_argument("--seconds", type=float, default=5, help="before, during and after each attack (5)")
    parser.add_argument("--list", action="store_true", help="the rows, and what is slow about each")
    parser.add_argument("--plain", action="store_true", help="the same on the source directory too, where it can be")
    parser.add_argument("--large", action="store_true", help="60,000 blocks, a million watches: minutes of preparation")
    parser.add_argument("--size", type=float, default=1, help="how much of the usual preparation (1)")
    parser.add_argument("--processes", type=int, default=1, help="of attacks that any number can do (1)")
    parser.add_argument("--base", help="where the mounts are made: a directory that everybody may enter")
    arguments = parser.parse_args(words)
    if arguments.list:
        for each in ROWS.values():
            print(f"{each.name:20} {each.what}")
        return 0
    if os.geteuid():
        parser.error("root is needed, to mount for all users and to be them: run it by sudo")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = Options(
        arguments.seconds, arguments.size, arguments.large, arguments.base, arguments.plain, arguments.processes
    )
    print(heading(arguments.seconds), flush=True)
    good = True
    for name in arguments.row or ROWS:
        well, line = play(ROWS[name], options)
        good = good and well
        print(line, flush=True)
    return 0 if good else 1
