"""A short run of the differential fuzzer (``scripts/fuzz``), and proof that it would notice."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from fuzz import allowed
from fuzz.fuzzer import Fuzzer
from fuzz.shrink import shrink
from fuzz.steps import Step, parse
from fuzz.voices import Heard

from notifyfs.core import flags

FIXED = 1
DRAIN = Step(("drain",))


@pytest.mark.limit(180)
@pytest.mark.parametrize("seed", [FIXED, time.time_ns() % (1 << 32)], ids=["fixed", "random"])
def test_random_operations_tell_what_the_kernel_tells(fuse: None, seed: int) -> None:
    said: list[str] = []
    with Fuzzer(seed, 3, said.append) as fuzzer:
        totals = fuzzer.run(operations=1 << 62, seconds=6, keep_going=False)
    assert not totals.findings, (
        f"python scripts/fuzz --seed {seed} --session {totals.findings[0].seed.split('.')[-1]}\n"
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


def test_shrinking_keeps_what_the_failure_needs() -> None:
    steps = [Step(("touch", f"/{number}")) for number in range(50)]
    needed = {steps[7], steps[31]}
    assert set(shrink(steps, lambda trial: needed <= set(trial), 10)) == needed


def test_a_step_is_read_as_it_was_written() -> None:
    steps = [Step(("open", "/a", "RDONLY", "as", "h1"), 2), Step(("watch", "/", "OPEN|ONESHOT"), instance=1), DRAIN]
    assert parse([*map(str, steps), "---", "/ OPEN a"]) == steps


def test_an_allowed_difference_needs_its_fact() -> None:
    read, closed = Heard(1, flags.ACCESS), Heard(1, flags.CLOSE_NOWRITE)
    assert allowed.explain([read, closed], [closed], set(), allowed.Ledger()) is None
    assert allowed.explain([read, closed], [closed], {"read from the page cache"}, allowed.Ledger()) == ("R1",)
    assert allowed.explain([read, closed], [read], {"read from the page cache"}, allowed.Ledger()) is None


def test_a_death_may_be_early_where_a_path_holds_the_file_but_not_missing() -> None:
    died = [Heard(1, flags.DELETE_SELF), Heard(1, flags.IGNORED)]
    ledger = allowed.Ledger()
    assert allowed.explain([], died, {"held by a path only"}, ledger) == ("U4",)
    assert len(ledger) == len(died)
    assert allowed.explain(died, [], {"held by a path only"}, ledger) == ("U4",)
    assert not ledger
