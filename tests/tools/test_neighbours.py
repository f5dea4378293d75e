"""A short run of ``scripts/hostile neighbours``: its rows attack, and a bystander who is held up would be noticed.

How fast anything is depends on the machine: that is for the long run (docs/reliability.md).
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from scripts.hostile import neighbours
from scripts.hostile.ground import MEBIBYTE, ROOT, ROWS, Ground, Pulse, Row, Work, stats, until
from scripts.hostile.neighbours import Held, Options, Outcome, Waits

from tests.support.faults import root_only

if TYPE_CHECKING:
    from collections.abc import Callable

BRIEFLY = Options(seconds=0.3, size=0.01)
STOPPED = 2.0
"""Seconds that a daemon stands still: more than a busy machine makes anybody wait."""


def row_of(attack: Callable[[Ground], list[Work]], *, lock: bool = False) -> Row:
    """A row that is in no table."""
    return Row("own", "", attack, stats, plain=True, lock=lock, threads=10, memory=MEBIBYTE, source=None)


@root_only
@pytest.mark.parametrize("name", ["truncate", "write-lease", "link-chains", "doubt", "closes-sent"])
def test_a_row_attacks_and_times_a_bystander(fuse: None, name: str) -> None:
    outcome = neighbours.run(ROWS[name], BRIEFLY)

    assert outcome.rounds > 0
    for waits in (outcome.without, outcome.during):
        assert 0 < waits.median <= waits.p99 <= waits.longest
        assert waits.count > 1


@root_only
def test_a_daemon_that_stands_still_is_noticed(fuse: None) -> None:
    def stop(ground: Ground) -> list[Work]:
        def work(pulse: Pulse) -> None:
            os.kill(ground.mount.pid, signal.SIGSTOP)
            time.sleep(STOPPED)
            os.kill(ground.mount.pid, signal.SIGCONT)
            pulse.round()
            until(pulse)

        return [Work(work, ROOT)]

    good, line = neighbours.play(row_of(stop), BRIEFLY)

    assert not good, line
    assert "longest" in line


@root_only
def test_an_attack_that_does_nothing_or_fails_is_no_success(
    fuse: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(neighbours, "LONGEST", 0.5)

    good, line = neighbours.play(row_of(lambda _: [Work(until)]), BRIEFLY)
    assert (good, "the attack has done nothing" in line) == (False, True), line

    good, line = neighbours.play(row_of(lambda _: [Work(lambda _: os.stat("/nowhere"))]), BRIEFLY)
    assert (good, "failed: FileNotFoundError" in line) == (False, True), line
    assert "/nowhere" in capsys.readouterr().err


# What is judged


def outcome_of(median: float, longest: float, *, lock: bool = False, threads: int = 0, memory: int = 0) -> Outcome:
    """One round against a bystander who waits for 1 ms, and 10 ms at most, when left alone."""
    during, without = Waits(median, longest, longest, 9), Waits(0.001, 0.01, 0.01, 9)
    return Outcome(row_of(lambda _: [], lock=lock), 1, 1.0, without, during, Held(memory, threads, 0))


@pytest.mark.parametrize(
    ("outcome", "broken"),
    [
        (outcome_of(0.002, 0.109), []),
        (outcome_of(0.0021, 0.01), ["median 2.1 times"]),
        (outcome_of(0.001, 0.12), ["longest 110 ms more"]),
        (outcome_of(0.001, 0.01, threads=10), []),
        (outcome_of(0.001, 0.01, threads=11), ["11 threads"]),
        (outcome_of(0.001, 0.01, memory=2 * MEBIBYTE), ["2 MiB"]),
        (outcome_of(0.001, 0.01)._replace(rounds=0), ["the attack has done nothing"]),
    ],
)
def test_a_bound_is_broken_beyond_it(outcome: Outcome, broken: list[str]) -> None:
    assert outcome.broken == broken
    assert neighbours.verdict(outcome, None)[0] == (not broken)


@pytest.mark.parametrize(
    ("outcome", "plain", "good"),
    [
        (outcome_of(0.001, 1, lock=True), outcome_of(0.001, 1), True),
        (outcome_of(0.001, 1, lock=True), outcome_of(0.001, 0.01), False),
        (outcome_of(0.001, 1, lock=True), None, False),
        (outcome_of(0.001, 1), outcome_of(0.001, 1), False),
        (outcome_of(0.001, 1, lock=True, threads=11), outcome_of(0.001, 1), False),
    ],
    ids=["proven", "not so there", "not tried there", "not said", "and more"],
)
def test_the_kernels_lock_is_a_reason_where_a_plain_directory_has_it_too(
    outcome: Outcome, plain: Outcome | None, *, good: bool
) -> None:
    assert neighbours.verdict(outcome, plain)[0] == good
