"""A step: one line of a scenario, and who does it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LISTENING = frozenset({"watch", "unwatch", "drain", "pending"})
"""Verbs that concern an instance; all others are done by a process."""

_LINE = re.compile(r"(?:p(\d+): )?(?:i(\d+): )?(.*)")


class Step(NamedTuple):
    """*words* of the scenario language, done by *process* or on *instance* (both count from 0)."""

    words: tuple[str, ...]
    process: int = 0
    instance: int = 0

    def __str__(self) -> str:
        """Write it as ``p1: open /f RDONLY as h3``; without prefix it is a line of a scenario."""
        process = f"p{self.process}: " if self.process else ""
        instance = f"i{self.instance}: " if self.instance else ""
        return f"{process}{instance}{shlex.join(self.words).replace(chr(39), '')}"

    @property
    def verb(self) -> str:
        """The command, without ``unprivileged``."""
        return self.words[self.words[0] == "unprivileged"]

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows the verb."""
        return self.words[1 + (self.words[0] == "unprivileged") :]


def parse(lines: Iterable[str]) -> list[Step]:
    """Read what ``str`` wrote; comments, directives, results and expected events are left out."""
    steps = []
    for line in lines:
        text = line.partition(" -> ")[0].strip()
        if text.startswith("---"):
            break
        if text and text[0] not in "#@":
            process, instance, words = _LINE.fullmatch(text).groups()  # type: ignore[union-attr] - all of it is optional
            steps.append(Step(tuple(shlex.split(words)), int(process or 0), int(instance or 0)))
    return steps


def together(steps: Iterable[Step]) -> list[Step]:
    """The same steps by one process on one instance: what a scenario file can say."""
    return [step._replace(process=0, instance=0) for step in steps]
