"""Alternating measurement, and what is made of the figures: medians, quartiles, ratios of the same round."""

from __future__ import annotations

import gc
import json
import re
import statistics
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import attrs

from scripts.bench.processes import Broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Subject(Protocol):
    """Who is measured: a mounted peer, or one state of a mount."""

    @property
    def name(self) -> str:
        """Unique in its group."""

    @property
    def ours(self) -> bool:
        """A failure here is a failure of the benchmark."""

    def renew(self) -> None:
        """Make it usable, if it is not; OSError or Broken if that cannot be done."""

    def said(self) -> str:
        """Why it cannot be used any more; empty if it can."""


S = TypeVar("S", bound=Subject)

LONG = 3.0
"""Seconds of a sample after which a subject that is not ours has few rounds only."""

FEW = 3


class Spread(NamedTuple):
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """The median and quartiles of *values*."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


@attrs.define
class Results:
    """All that was measured: ``values[group][work][subject]`` has one value for each round, in the group's unit."""

    about: dict[str, Any] = attrs.field(factory=dict)
    values: dict[str, dict[str, dict[str, list[float]]]] = attrs.field(factory=dict)
    failures: dict[str, dict[str, dict[str, str]]] = attrs.field(factory=dict)

    def add(self, group: str, work: str, subject: str, value: float) -> None:
        """One more round's value."""
        rounded = float(f"{value:.4g}")
        self.values.setdefault(group, {}).setdefault(work, {}).setdefault(subject, []).append(rounded)

    def fail(self, group: str, work: str, subject: str, why: str) -> None:
        """Say that a subject cannot do a work, and why."""
        self.failures.setdefault(group, {}).setdefault(work, {})[subject] = why

    def get(self, group: str, work: str, subject: str) -> list[float]:
        """The rounds' values; empty if it was not measured, or has failed."""
        return self.values.get(group, {}).get(work, {}).get(subject, [])

    def value(self, group: str, work: str, subject: str) -> Spread | None:
        """The value; None if it was not measured."""
        values = self.get(group, work, subject)
        return spread(values) if values else None

    def ratio(self, group: str, work: str, subject: str, against: str) -> Spread | None:
        """How many times the value of *against* of the same round; None unless both were measured."""
        both = list(zip(self.get(group, work, subject), self.get(group, work, against), strict=False))
        return spread([one / other for one, other in both if other]) if any(other for _, other in both) else None

    def difference(self, group: str, work: str, subject: str, against: str) -> Spread | None:
        """How much more than *against* in the same round; None unless both were measured."""
        both = list(zip(self.get(group, work, subject), self.get(group, work, against), strict=False))
        return spread([one - other for one, other in both]) if both else None

    def write(self, path: Path) -> None:
        """As JSON, one work of one subject in a line."""
        text = json.dumps(attrs.asdict(self), indent=1, ensure_ascii=False)
        path.write_text(_short(text) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What ``write`` wrote; Broken if it is something else."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise Broken(f"{path} is missing; measure first") from None
        except (ValueError, TypeError) as error:
            raise Broken(f"{path} has no results of this benchmark ({error}); measure again") from None


def _short(text: str) -> str:
    """Lists of numbers on one line."""
    return re.sub(
        r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()).replace("[ ", "[").replace(" ]", "]"), text
    )


@attrs.frozen
class Course:
    """How the measuring goes: rounds, where the results go, and whom to tell."""

    results: Results
    rounds: int
    quick: bool
    say: Callable[[str], None]

    def alternate(
        self,
        group: str,
        what: str,
        subjects: Mapping[str, S],
        sample: Callable[[S], Mapping[str, float]],
        *,
        rounds: int | None = None,
    ) -> None:
        """Take a *sample* of each subject in turn, again and again; the first round does not count, except when quick.

        A sample gives one or more values by the name of their work. A subject that fails is left out from then on, and
        the reason is a result; one of ours makes this Broken. Another's that takes ``LONG`` has ``FEW`` rounds.
        """
        left = dict(subjects)
        total = self.rounds if rounds is None else rounds
        for number in range(0 if self.quick else -1, total):
            for name, subject in list(left.items()):
                self.say(f"{group}: {what}, {'warm-up' if number < 0 else f'round {number + 1} of {total}'}: {name}")
                try:
                    subject.renew()
                    values = sample(subject)
                except (OSError, subprocess.SubprocessError, Broken) as error:
                    why = _told(error) if isinstance(error, TimeoutError) else subject.said() or _told(error)
                    if subject.ours:
                        raise Broken(f"{group}: {what}: {name}: {why}") from error
                    self.results.fail(group, what, name, why)
                    del left[name]
                    continue
                if number >= 0:
                    for work, value in values.items():
                        self.results.add(group, work, name, value)
                if number >= FEW - 1 and not subject.ours and sum(values.values()) > LONG:
                    del left[name]


def _told(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return f"{Path(error.cmd[0]).name} ended with {error.returncode}: {said[-1] if said else 'it said nothing'}"
    if isinstance(error, TimeoutError) and error.strerror:
        return error.strerror
    return str(error)


class Clock:
    """What a block took: ``seconds``, when it is over."""

    seconds = 0.0


@contextmanager
def clocked() -> Iterator[Clock]:
    """Time the block, without Python's garbage collector in it."""
    clock = Clock()
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    try:
        yield clock
    finally:
        clock.seconds = time.perf_counter() - began
        gc.enable()
