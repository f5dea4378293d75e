"""A short run of the differential fuzzer (``scripts/fuzz``), and proof that it would notice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scripts.fuzz import allowed
from scripts.fuzz.fuzzer import Fuzzer
from scripts.fuzz.shrink import shrink
from scripts.fuzz.steps import Step, parse
from scripts.fuzz.voices import Heard

from notifyfs.protocol import flags

FIXED = 1
DRAIN = Step(("drain",))
UNTOLD = Path(__file__).resolve().parents[1] / "scenarios/R1-an-untold-read-lets-merge.txt"


@pytest.mark.limit(180)
@pytest.mark.parametrize("seed", [FIXED, time.time_ns() % (1 << 32)], ids=["fixed", "random"])
def test_random_operations_tell_what_the_kernel_tells(fuse: None, seed: int) -> None:
    said: list[str] = []
    with Fuzzer(seed, 3, said.append) as fuzzer:
        totals = fuzzer.run(operations=1 << 62, seconds=6, keep_going=False)
    assert not totals.findings, (
        f"python -m scripts.fuzz --seed {seed} --session {totals.findings[0].seed.split('.')[-1]}\n"
        f"{totals.findings[0].what}\n{totals.findings[0].scenario}"
    )
    assert totals.compared > 100
    assert totals.watches > 10


def test_a_difference_from_the_kernel_is_noticed(fuse: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """R1 is always there: without its row in the list the fuzzer must find it, by one process and on one instance."""
    steps = parse(["put /f 0123456789", "watch /f ACCESS", "open /f RDONLY as h", "read h 2", "drain", "read h 2"])
    with Fuzzer(0, 1, print) as fuzzer:
        assert fuzzer.replay(steps, ()) == ""
        monkeypatch.setattr(allowed, "ROWS", [row for row in allowed.ROWS if row.id != "R1"])
        assert "-wd1 ACCESS" in fuzzer.replay(steps, ())


def test_what_was_merged_because_a_read_was_not_told_is_told_as_known(fuse: None) -> None:
    """Of two moves that are equal but for the cookie one is left: later ones have other numbers, and are the same."""
    with Fuzzer(0, 1, print) as fuzzer:
        assert fuzzer.replay(parse(UNTOLD.read_text("utf-8").splitlines()), ()) == ""


def test_shrinking_keeps_what_the_failure_needs() -> None:
    steps = [Step(("touch", f"/{number}")) for number in range(50)]
    needed = {steps[7], steps[31]}
    assert set(shrink(steps, lambda trial: needed <= set(trial), 10)) == needed


def test_a_step_is_read_as_it_was_written() -> None:
    steps = [Step(("open", "/a", "RDONLY", "as", "h1"), 2), Step(("watch", "/", "OPEN|ONESHOT"), instance=1), DRAIN]
    assert parse([*map(str, steps), "---", "/ OPEN a"]) == steps


READ, CLOSED = Heard(1, flags.ACCESS), Heard(1, flags.CLOSE_NOWRITE)
FROM = Heard(2, flags.MOVED_FROM, 1, b"a")
AGAIN, LATER = FROM._replace(cookie=2), Heard(3, flags.MOVED_FROM, 3, b"b")
CACHED, AHEAD, MAPPED = {"read from the page cache"}, {"read ahead"}, {"stored through a map"}


def explained(theirs: list[Heard], ours: list[Heard], facts: set[str]) -> tuple[str, ...] | None:
    return allowed.explain(theirs, ours, facts, allowed.Ledger(), {})


def test_an_allowed_difference_needs_its_fact() -> None:
    assert explained([READ, CLOSED], [CLOSED], set()) is None
    assert explained([READ, CLOSED], [CLOSED], CACHED) == ("R1",)
    assert explained([READ, CLOSED], [READ], CACHED) is None
    assert explained([CLOSED], [READ, CLOSED], CACHED) is None
    assert explained([CLOSED], [READ, CLOSED], AHEAD) == ("R2",)


@pytest.mark.parametrize(
    ("alone", "row", "facts", "teller"),
    [
        (READ, "R1", CACHED, "kernel"),
        (READ, "R2", AHEAD, "notifyfs"),
        (Heard(1, flags.MODIFY), "W7", MAPPED, "notifyfs"),
    ],
    ids=["R1", "R2", "W7"],
)
def test_equal_events_may_be_one_only_where_what_kept_them_apart_was_not_told(
    alone: Heard, row: str, facts: set[str], teller: str
) -> None:
    def explain(one: list[Heard], other: list[Heard]) -> tuple[str, ...] | None:
        return explained(other, one, facts) if teller == "notifyfs" else explained(one, other, facts)

    assert explain([FROM, alone, AGAIN], [FROM]) == (row,)
    assert explain([FROM, alone, AGAIN, alone, AGAIN], [FROM]) == (row,)
    assert explain([FROM, alone, AGAIN, alone, FROM], [FROM, alone, AGAIN]) == (row,)
    assert explain([CLOSED, alone, FROM], [CLOSED, FROM]) == (row,)
    assert explain([FROM, AGAIN], [FROM]) is None, "nothing between"
    assert explain([FROM, alone, AGAIN], [FROM, alone]) is None, "it was told, and nothing could merge"
    assert explain([FROM, alone], [FROM, AGAIN]) is None, "only of one side something is left out"
    assert explain([FROM, alone, LATER, AGAIN], [FROM, LATER]) is None, "another between"
    assert explain([FROM, alone, LATER], [FROM]) is None, "not equal"
    ignored = Heard(1, flags.IGNORED)
    assert explain([ignored, alone, ignored], [ignored]) is None, "IGNORED never merges"


def test_a_cookie_is_one_cookie_for_the_whole_session() -> None:
    cookies: dict[int, int] = {}
    ledger = allowed.Ledger()
    merged = [FROM, LATER._replace(cookie=2)]
    assert allowed.explain([FROM, READ, AGAIN, LATER], merged, CACHED, ledger, cookies) == ("R1",)
    assert cookies == {1: 1, 3: 2}
    arrived = Heard(3, flags.MOVED_TO, 3, b"b")
    assert allowed.explain([arrived], [arrived._replace(cookie=2)], set(), ledger, cookies) == ()
    for wrong in (1, 3, 0):
        assert allowed.explain([arrived], [arrived._replace(cookie=wrong)], set(), ledger, cookies) is None
    assert allowed.explain([arrived._replace(cookie=4)], [arrived._replace(cookie=2)], set(), ledger, cookies) is None


def test_a_death_may_be_early_where_a_path_holds_the_file_but_not_missing() -> None:
    died = [Heard(1, flags.DELETE_SELF), Heard(1, flags.IGNORED)]
    ledger = allowed.Ledger()
    assert allowed.explain([], died, {"held by a path only"}, ledger, {}) == ("U4",)
    assert len(ledger) == len(died)
    assert allowed.explain(died, [], {"held by a path only"}, ledger, {}) == ("U4",)
    assert not ledger
