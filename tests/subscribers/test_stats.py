"""``notifyfs stats``: what people see of the counters."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from notifyfs.commands import stats as showing
from notifyfs.commands.main import main
from notifyfs.observe.counters import RequestCounter, Tally
from tests.subscribers.test_statistics import USER
from tests.support import wireclient as w
from tests.support.faults import faulty, root_only, stopped
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount
    from tests.support.faults import FaultySource

__all__ = ["faulty"]


COMMAND = [sys.executable, "-m", "notifyfs"]


SOURCES = Path(__file__).resolve().parents[2] / "src"


def stats(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``notifyfs stats``."""
    return subprocess.run(
        [*COMMAND, "stats", *words],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
    )


@given(st.lists(st.integers(0, 1 << 62), min_size=1))
@example([0])
@example([1])
@example([(1 << 20) - 1] * 99 + [1 << 20])
def test_a_bound_is_above_and_at_most_twice_what_was_measured(durations: list[int]) -> None:
    counter = RequestCounter()
    for duration in durations:
        counter.add(duration)
    buckets = {str(exponent): count for exponent, count in enumerate(counter.buckets) if count}
    told = showing.durations(buckets, counter.nanoseconds)

    assert told["mean_ns"] == sum(durations) // len(durations)
    for percent in (50, 99):
        enough = -(-len(durations) * percent // 100)
        real = sorted(durations)[enough - 1]
        bound = told[f"p{percent}_ns"]
        assert bound is not None
        assert real < bound <= max(1, 2 * real)


@given(st.lists(st.tuples(st.dictionaries(st.integers(1, 20), st.integers(1, 9)), *[st.integers(0, 1000)] * 3)))
def test_tallies_add_up(parts: list[tuple[dict[int, int], int, int, int]]) -> None:
    total = sum((Tally(Counter(kinds), *numbers) for kinds, *numbers in parts), Tally())

    assert total.kinds.total() == sum(sum(part[0].values()) for part in parts)
    assert total.dropped == sum(part[1] for part in parts)
    assert total.high_water == max((part[3] for part in parts), default=0)


def test_stats_as_json_has_everything(mount: Mount) -> None:
    with Wire(mount) as wire:
        wire.add(w.CREATE)
        for number in range(100):
            (mount.root / f"d{number}").mkdir()
        told = wire.statistics()["mount"]
        done = stats("--json", mount.root / "d7")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)

    assert set(shown) == {*told, "operations", "subscribers"}
    assert shown["kinds"] == {"CREATE": 100}
    (made,) = [row for row in shown["operations"] if row["operation"] == "mkdir"]
    assert (made["count"], made["errors"]) == (100, 0)
    assert 0 < made["mean_ns"] * 100 <= made["nanoseconds"]
    assert made["p50_ns"] <= made["p99_ns"] <= 1 << max(map(int, made["buckets"]))
    (unused,) = [row for row in shown["operations"] if row["operation"] == "symlink"]
    assert (unused["count"], unused["p99_ns"]) == (0, None)
    assert [(row["pid"], row["kinds"]) for row in shown["subscribers"]][:1] == [(os.getpid(), {"CREATE": 100})]


def test_stats_for_people_is_a_list_and_three_tables(mount: Mount) -> None:
    with Wire(mount) as wire:
        wire.add(w.CREATE)
        for number in range(100):
            (mount.root / f"d{number}").mkdir()
        done = stats("--socket", mount.socket)
    assert (done.returncode, done.stderr) == (0, "")
    simple, events, requests, subscribers = [part.splitlines() for part in done.stdout.split("\n\n")]

    assert "watches: 1" in simple
    assert [line.split() for line in events] == [["EVENT", "QUEUED"], ["CREATE", "100"]]
    assert len({len(line) for line in (*events, *subscribers[:1])}) == 2
    (made,) = [line for line in requests if line.startswith("mkdir ")]
    assert re.fullmatch(r"mkdir +100 +0 +[\d.]+ [mnu]?s +<[\d.]+ [mnu]?s +<[\d.]+ [mnu]?s", made)
    assert not any(line.startswith("symlink ") for line in requests), "nobody asked for one"
    assert len({len(line) for line in requests}) == 1, "the columns end at the same places"
    assert subscribers[1].split()[:6] == ["1", str(os.getpid()), str(os.getuid()), "1", "100", "0"]


@root_only
def test_stats_for_others_leave_the_subscribers_out(shared: Callable[..., Mount]) -> None:
    mount = shared("allow_other")

    def shown(*words: str) -> tuple[int, str]:
        # Not a process of its own: a user need not be able to start this interpreter.
        done = CliRunner().invoke(main, ["stats", "--socket", mount.socket, *words])
        return done.exit_code, done.output

    code, text = w.as_user(USER, shown)
    assert code == 0, text
    assert text.endswith("\n\nsubscribers: only root and the daemon's own user may see them\n")
    code, as_json = w.as_user(USER, lambda: shown("--json"))
    assert code == 0
    assert json.loads(as_json)["subscribers"] is None


def test_stats_wants_one_way_to_the_mount(shared: Callable[..., Mount]) -> None:
    mount = shared()
    both = stats("--socket", mount.socket, mount.root)
    nowhere = stats("--socket", f"{mount.socket}.not")

    assert (both.returncode, both.stdout) == (2, "")
    assert both.stderr == f"notifyfs: {mount.root}: --socket names the mount already; leave one of them out\n"
    assert (nowhere.returncode, nowhere.stdout, nowhere.stderr.count("\n")) == (1, "", 1)
    assert "cannot reach the mount's daemon: No such file or directory; `notifyfs list` shows" in nowhere.stderr


@root_only
def test_stats_by_socket_answers_while_the_source_hangs(faulty: FaultySource, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=faulty.root)
    with stopped(faulty.pid):
        done = stats("--socket", mount.socket)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("instances: 1\n")
