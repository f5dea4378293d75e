"""A short run of the fuzzer of overlapping operations (``scripts/overlap``), and proof that it would notice."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING

import pytest
from scripts.overlap.arena import Arena
from scripts.overlap.check import check
from scripts.overlap.log import Heard, Log
from scripts.overlap.sources import KINDS
from scripts.overlap.told import STAMPED, Told, assign, changes

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_of_operations_at_once_can_be(fuse: None, kind: str) -> None:
    seed = time.time_ns() % (1 << 32)
    with Arena(seed, 6, (kind,), print, size=600) as arena:
        totals = arena.run(operations=600, seconds=20, keep_going=False)
    assert not totals.findings, f"--seed {seed} --source {kind}\n" + "\n".join(totals.findings[0][1])
    assert totals.overlapping > totals.operations / 2
    assert totals.heard > totals.operations


@pytest.fixture(scope="module")
def played(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a round in which nothing is wrong; long enough for every verb to come to something."""
    with Arena(1, 4, ("memory",), print, size=600) as arena:
        totals = arena.run(operations=1, seconds=20, keep_going=False)
    assert totals.last is not None
    assert not totals.findings
    path = tmp_path_factory.mktemp("overlap") / "round.log"
    totals.last.save(path)
    return path


def doctored(played: Path, change: Callable[[list[Told]], list[Told]]) -> list[str]:
    """What is found when all of ours had heard otherwise, as *change* makes it of what they heard."""
    log = Log.load(played)
    told, wrong = changes(log)
    wrong += assign(log, told)
    assert not wrong
    told = change(told)
    for voice in STAMPED:
        log.heard[voice] = [record for one in told for record in one.records[voice]]
    for voice in ("stream", "packets"):
        log.heard[voice] = [record._replace(number=0, pid=0, time=0) for record in log.heard["origins"]]
    return check(log)


def verbs(told: list[Told]) -> Iterator[tuple[int, str]]:
    """A change of each verb, by its place: one that cannot have been merged, nor be told or not."""
    seen = {"read", "peek", "list"}
    last: dict[int, set[tuple[int, int, str]]] = {}
    for place, one in enumerate(told):
        verb = one.operation.verb if one.operation else ""
        briefs = {record.brief for record in one.all()}
        if verb not in {"", *seen} and not briefs & last.get(one.pid, set()) and all(one.records.values()):
            seen.add(verb)
            yield place, verb
        last[one.pid] = briefs


def each(played: Path) -> list[tuple[int, str]]:
    log = Log.load(played)
    told, _ = changes(log)
    assign(log, told)
    found = [*verbs(told)]
    assert len(found) > 15, found
    return found


def test_a_log_is_what_it_was_when_it_is_read_again(played: Path, tmp_path: Path) -> None:
    Log.load(played).save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == played.read_bytes()
    assert doctored(played, lambda told: told) == []


def test_a_change_that_is_not_told_is_found(played: Path) -> None:
    for place, verb in each(played):
        found = doctored(played, lambda told, place=place: told[:place] + told[place + 1 :])  # type: ignore[misc]
        assert found, f"{verb} at {place}"


def test_a_change_that_is_told_twice_is_found(played: Path) -> None:
    def twice(told: list[Told], place: int) -> list[Told]:
        for voice in STAMPED:
            told[place].records[voice] *= 2
        return told

    for place, verb in each(played):
        found = doctored(played, lambda told, place=place: twice(told, place))  # type: ignore[misc]
        assert found, f"{verb} at {place}"


def test_a_wrong_name_is_found(played: Path) -> None:
    def renamed(told: list[Told], place: int) -> list[Told]:
        for voice in STAMPED:
            told[place].records[voice] = [
                record._replace(name=record.name[:-1] + "z") if record.name else record
                for record in told[place].records[voice]
            ]
        return told

    for place, verb in each(played):
        found = doctored(played, lambda told, place=place: renamed(told, place))  # type: ignore[misc]
        assert found, f"{verb} at {place}"


def swapped(told: list[Told], first: int, second: int) -> list[Told]:
    """Each of the two is told in the place, and with the number, of the other."""
    numbers = told[first].number, told[second].number
    for place, number in ((second, numbers[0]), (first, numbers[1])):
        for voice in STAMPED:
            told[place].records[voice] = [_numbered(record, number) for record in told[place].records[voice]]
    told[first], told[second] = told[second], told[first]
    return told


def _numbered(record: Heard, number: int) -> Heard:
    return record._replace(number=number, cookie=number if record.cookie else 0)


def pairs(played: Path, *, overlap: bool) -> list[tuple[int, int]]:
    """Places of neighbours by different processes whose operations overlapped, or did not."""
    log = Log.load(played)
    told, _ = changes(log)
    assign(log, told)
    found = []
    for place, (one, other) in enumerate(itertools.pairwise(told)):
        first, second = one.operation, other.operation
        if first is None or second is None or first.process == second.process or one.is_read or other.is_read:
            continue
        if (first.end > second.begin) == overlap:
            found.append((place, place + 1))
    return found


def test_two_that_did_not_overlap_and_were_told_in_the_other_order_are_found(played: Path) -> None:
    found = pairs(played, overlap=False)
    assert found
    for first, second in found[:20]:
        said = doctored(played, lambda told, first=first, second=second: swapped(told, first, second))  # type: ignore[misc]
        assert any("told too late" in line for line in said), said


def test_two_that_overlapped_may_be_told_in_the_other_order(played: Path) -> None:
    found = pairs(played, overlap=True)
    good = sum(
        not doctored(played, lambda told, first=first, second=second: swapped(told, first, second))  # type: ignore[misc]
        for first, second in found[:20]
    )
    assert good


def test_names_of_one_directory_in_the_other_order_are_found(played: Path) -> None:
    """By the kernel's own order, though they overlapped."""
    naming = flags.CREATE | flags.DELETE

    def apart(log: Log) -> Iterator[tuple[int, int]]:
        told, _ = changes(log)
        assign(log, told)
        for first, one in enumerate(told):
            for second in range(first + 1, min(first + 6, len(told))):
                names = [[r for r in each.records["origins"] if r.mask & naming] for each in (one, told[second])]
                if all(names) and names[0][0].wd == names[1][0].wd and names[0][0].name != names[1][0].name:
                    yield first, second

    found = [*apart(Log.load(played))]
    assert found
    for first, second in found[:10]:
        said = doctored(played, lambda told, first=first, second=second: swapped(told, first, second))  # type: ignore[misc]
        assert any("differ at event" in line for line in said), said


def test_the_records_of_one_change_stay_together(played: Path) -> None:
    def parted(log: Log) -> list[str]:
        events = log.heard["origins"]
        place = next(
            place
            for place, (one, other) in enumerate(itertools.pairwise(events))
            if one.mask & flags.MOVED_FROM and other.mask & flags.MOVED_TO and events[place + 2].number > other.number
        )
        events[place + 1], events[place + 2] = events[place + 2], events[place + 1]
        return check(log)

    assert any("apart from its change" in line for line in parted(Log.load(played)))
