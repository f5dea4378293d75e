"""A failure made small (delta debugging), and written as a scenario file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from scripts.fuzz.steps import Step


def shrink(steps: list[Step], fails: Callable[[list[Step]], bool], seconds: float) -> list[Step]:
    """Leave out what *fails* can do without; after *seconds* as far as it has come."""
    deadline = time.monotonic() + seconds
    size = max(1, len(steps) // 2)
    while size and steps:
        start, removed = 0, False
        while start < len(steps):
            if time.monotonic() > deadline:
                return steps
            shorter = steps[:start] + steps[start + size :]
            if fails(shorter):
                steps, removed = shorter, True
            else:
                start += size
        if not (removed and size == 1):
            size = size // 2 if size > 1 or removed else 0
    return steps


def simplify(steps: list[Step], fails: Callable[[list[Step]], bool], seconds: float) -> list[Step]:
    """Try plainer watch masks, one bit at a time."""
    deadline = time.monotonic() + seconds
    for index, step in enumerate(steps):
        if step.verb == "watch":
            bits = step.words[2].split("|")
            for bit in bits if len(bits) > 1 else []:
                fewer = [other for other in bits if other != bit]
                trial = [*steps[:index], step._replace(words=(*step.words[:2], "|".join(fewer))), *steps[index + 1 :]]
                if time.monotonic() < deadline and fewer and fails(trial):
                    bits, steps = fewer, trial
                    step = trial[index]  # noqa: PLW2901 - the same step, plainer
    return steps
