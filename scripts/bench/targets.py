"""What must be reached, as the issue has it, and whether it was."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from scripts.bench.latency import EVENT_FD, INOTIFYWAIT, KERNEL, STREAM, WATCH
from scripts.bench.micro import REQUESTS
from scripts.bench.subscribers import NONE, ONE, ONE_EVENT_FD, OPERATIONS

if TYPE_CHECKING:
    from scripts.bench.measuring import Results, Spread

REASONS: Final = Path(__file__).parent / "reasons.toml"
"""Why what is missed is missed: written by hand, by the id of the target."""


class Measure(NamedTuple):
    """One comparison: a work of a group, of whom, against whom."""

    group: str
    work: str
    subject: str
    against: str
    label: str = ""
    """If the work's name does not say enough."""


@attrs.frozen
class Target:
    """One row: none of its measures may be above *most*."""

    id: str
    work: str
    against: str
    most: float
    measures: tuple[Measure, ...]
    added: bool = False
    """*most* is seconds more than the other's, not a multiple of them."""

    def limit(self) -> str:
        """*most*, for people."""
        return f"+{self.most * 1e6:.0f} µs" if self.added else f"{self.most:g}x"


class Verdict(NamedTuple):
    """What became of a target: each measure's figure; *worst* is None where something was not measured."""

    target: Target
    figures: list[tuple[Measure, Spread | None]]
    worst: Spread | None
    reason: str

    @property
    def reached(self) -> bool:
        """Whether even the worst is within the limit."""
        return self.worst is not None and self.worst.median <= self.target.most

    def said(self) -> str:
        """Reached, or missed by how much."""
        if self.worst is None:
            return "not measured"
        if self.reached:
            return "reached"
        if self.target.added:
            return f"missed by {(self.worst.median - self.target.most) * 1e6:.0f} µs"
        return f"missed: {self.worst.median / self.target.most:,.1f} times as much"


def _each(group: str, works: tuple[str, ...], subject: str, against: str) -> tuple[Measure, ...]:
    return tuple(Measure(group, work, subject, against) for work in works)


def _seen(against: str) -> tuple[Measure, ...]:
    later = (f"{work.partition(',')[0]}, later" for work in SEEN)
    return (
        *_each("real", SEEN, "notifyfs", against),
        *(Measure("real", work, "notifyfs-always", against, f"{work}, with cache=always") for work in later),
    )


SEEN: Final = ("git status, second", "find -ls, again", "stat storm")
MADE: Final = ("tar x", "pip install", "git clone", "rm -rf")
BLOCKS: Final = ("sequential read, 1 MiB", "sequential write, 1 MiB")

TARGETS: Final = (
    Target(
        "seen-bindfs",
        "git status (second), find -ls, stat storm on a tree already seen",
        "bindfs default",
        0.5,
        _seen("bindfs"),
    ),
    Target("seen-plain", "the same", "the plain directory", 2.0, _seen("plain")),
    Target(
        "made",
        "tar x, pip install, git clone, rm -rf",
        "bindfs default",
        1.0,
        _each("real", MADE, "notifyfs", "bindfs"),
    ),
    Target(
        "blocks",
        "sequential read and write, 1 MiB blocks",
        "bindfs default",
        1.0,
        _each("micro", BLOCKS, "notifyfs", "bindfs"),
    ),
    Target(
        "request",
        "one request on the fast path",
        "a null filesystem on the same pyfuse3",
        1.3,
        tuple(Measure("requests", work.name, *work.peers[:2]) for work in REQUESTS),
    ),
    Target(
        "subscriber",
        "the same operation with one subscriber",
        "with none",
        1.25,
        tuple(
            Measure("subscribers", work, subject, NONE, f"{work}, {kind}")
            for subject, kind in ((ONE, "stream"), (ONE_EVENT_FD, "event descriptor"))
            for work in OPERATIONS
        ),
    ),
    Target(
        "latency",
        "event in a Python reader's hands after the system call returned (median)",
        "kernel inotify on the same mount, same reader",
        60e-6,
        tuple(
            Measure("latency", f"{work}, median", subject, KERNEL, f"{work}, {subject}")
            for subject in (EVENT_FD, STREAM)
            for work in ("mkdir", "rename", "rmdir", "write")
        ),
        added=True,
    ),
    Target(
        "recursive",
        "recursive watch on 100,000 directories",
        'inotifywait -m -r until "established"',
        0.01,
        (
            Measure("recursive", "until it watches", STREAM, INOTIFYWAIT, "a Python client"),
            Measure("recursive", "until it watches", WATCH, INOTIFYWAIT, "`notifyfs watch`, with the start of Python"),
        ),
    ),
)


def judge(results: Results) -> list[Verdict]:
    """Every target against what was measured."""
    reasons = tomllib.loads(REASONS.read_text(encoding="utf-8")) if REASONS.exists() else {}
    verdicts = []
    for target in TARGETS:
        compare = results.difference if target.added else results.ratio
        figures = [(each, compare(each.group, each.work, each.subject, each.against)) for each in target.measures]
        known = [figure for _, figure in figures if figure is not None]
        worst = max(known, key=lambda figure: figure.median) if len(known) == len(figures) else None
        verdicts.append(Verdict(target, figures, worst, str(reasons.get(target.id, "")).strip()))
    return verdicts
