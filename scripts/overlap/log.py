"""What one round leaves: what was done, by whom and when, and what everybody heard. A file of JSON lines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from pathlib import Path


class Heard(NamedTuple):
    """One event as a voice heard it; what comes after *name* is of its origin."""

    wd: int
    mask: int
    cookie: int = 0
    name: str = ""
    number: int = 0
    """The change's."""
    pid: int = 0
    time: int = 0
    """Nanoseconds since 1970."""

    @property
    def brief(self) -> tuple[int, int, str]:
        """What makes two neighbours one event."""
        return self.wd, self.mask, self.name

    def __str__(self) -> str:
        change = f" (change {self.number})" if self.number else ""
        return f"wd{self.wd} {flags.spell(self.mask)} {self.name}{change}"


@attrs.define(eq=False)
class Operation:
    """One system call of one process."""

    process: int
    """Which of the processes, from 0."""
    verb: str
    words: list[str]
    """Its paths below the tree, handles and numbers, as ``hands.Hands`` takes them."""
    begin: int
    """Nanoseconds of CLOCK_MONOTONIC; *end*, too."""
    end: int
    since: int
    """Nanoseconds since 1970, a little before; *until*, a little after."""
    until: int
    result: str
    """The errno's name, or nothing."""
    ino: int = 0
    """Of an open: whose."""
    at: int = -1
    """Of an append: where the file ended then."""

    def __str__(self) -> str:
        words = " ".join([self.verb, *self.words, *(["->", self.result] if self.result else [])])
        return f"process {self.process} {words} [{self.begin / 1e6:.3f} to {self.end / 1e6:.3f} ms]"


class Thing(NamedTuple):
    """What there is by one name."""

    path: str
    kind: str
    """``dir``, ``file`` or ``link``."""
    ino: int
    """As the mount shows it."""
    size: int
    mode: int
    value: str = ""
    """Of the extended attribute ``user.a``."""


@attrs.define
class Log:
    """One round."""

    header: dict[str, Any]
    """``seed``, ``source`` and ``options``; ``pids`` of the processes, ``daemon``'s; ``watched``: paths, whose place
    (from 1) is the watch descriptor."""
    before: list[Thing]
    operations: list[Operation]
    """Of each process, in its order."""
    heard: dict[str, list[Heard]]
    """By voice: ``kernel``, ``stream``, ``packets``, ``origins`` (as ``packets``), ``tree`` (one recursive watch)."""
    after: list[Thing]

    def save(self, path: Path) -> None:
        """Write it, a line for each thing."""
        rows: list[Any] = [["header", self.header]]
        rows += [["before", *thing] for thing in self.before]
        rows += [["operation", *attrs.astuple(operation)] for operation in self.operations]
        rows += [["heard", voice, *event] for voice, events in self.heard.items() for event in events]
        rows += [["after", *thing] for thing in self.after]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Log:
        """Read what ``save`` wrote."""
        log = cls({}, [], [], {voice: [] for voice in VOICES}, [])
        for line in path.read_text("utf-8").splitlines():
            kind, *row = json.loads(line)
            if kind == "header":
                log.header = row[0]
            elif kind == "operation":
                log.operations.append(Operation(*row))
            elif kind == "heard":
                log.heard[row[0]].append(Heard(*row[1:]))
            else:
                (log.before if kind == "before" else log.after).append(Thing(*row))
        return log


VOICES = ("kernel", "stream", "packets", "origins", "tree")
