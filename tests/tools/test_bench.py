"""The benchmark (``scripts/bench``) works: it measures everything, judges rightly, and leaves nothing behind.

No time is judged here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import attrs
import pytest
from scripts.bench import report, targets
from scripts.bench.measuring import FEW, LONG, Course, Results, spread
from scripts.bench.plan import GROUPS
from scripts.bench.processes import Broken
from scripts.bench.targets import TARGETS, judge

from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = [sys.executable, "-m", "scripts.bench"]
OPTIONAL = {"bindfs", "inotifywait, plain directory"}
"""Who need not be installed for the tests."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount every peer")


def below(path: Path) -> list[str]:
    """What is mounted below *path*."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(f"{path}/")]


def working_in(path: Path) -> Iterator[str]:
    """Processes that were started with a path below *path*."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{path}/".encode() in words:
            yield words.replace(b"\0", b" ").decode()


@needs_root
@pytest.mark.limit(180)
def test_a_short_run_measures_everything_and_writes_it_down(fuse: None, tmp_path: Path) -> None:
    ground, output = tmp_path / "ground", tmp_path / "output"
    ground.mkdir()
    command = [*BENCH, "--quick", "--in-place", "--directory", ground, "--output", output]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    results = Results.read(output / report.RESULTS)
    assert {"real", "micro", "requests", "latency", "rates", "subscribers", "recursive", "memory"} < set(results.values)
    for verdict in judge(results):
        for measure, figure in verdict.figures:
            assert figure is not None or measure.against in OPTIONAL, f"{measure} was not measured:\n{done.stderr}"
    page = (output / report.PAGE).read_text(encoding="utf-8")
    assert page == report.page(results) + "\n"
    assert all(f"| {target.work} | {target.against} |" in page for target in TARGETS)
    assert all(line.partition(":")[0] in done.stdout for line in report.summary(results).splitlines())
    drawn = ET.fromstring((output / report.PICTURE).read_text(encoding="utf-8"))  # noqa: S314 - our own
    assert len(drawn.findall(".//{*}title")) > 50
    assert list(ground.iterdir()) == []
    assert list(working_in(ground)) == []


@needs_root
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_whoever_ends_it_ends_its_mounts_and_programs(
    fuse: None, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [*BENCH, "--quick", "--in-place", "--directory", tmp_path, "--only", "micro", "--rounds", "1000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:  # the first is said when all is mounted
            if "micro:" in line:
                break
        assert len(below(tmp_path)) > 2
        running.send_signal(number)
        rest = running.stderr.read()
    assert running.returncode == code, rest
    assert "Traceback" not in rest
    assert below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    wait_until(lambda: not list(working_in(tmp_path)), what="its programs end")


@needs_root
def test_a_peer_that_cannot_mount_is_left_out_and_said(
    fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "bindfs"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'bindfs: out of order' >&2\nexit 3\n", encoding="ascii")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    command = [*BENCH, "--quick", "--in-place", "--directory", tmp_path, "--only", "requests"]
    command += ["--output", tmp_path / "out"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left_out = json.loads((tmp_path / "out" / report.RESULTS).read_text(encoding="utf-8"))["about"]["left out"]
    assert left_out["bindfs"] == "bindfs: ended with 3 instead of mounting: bindfs: out of order"
    page = (tmp_path / "out" / report.PAGE).read_text(encoding="utf-8")
    assert "out of order" in page


@attrs.define
class Subject:
    """Somebody who is measured: *times* one after the other; an exception is raised."""

    name: str
    times: list[float | Exception]
    ours: bool = False

    def renew(self) -> None:
        pass

    def said(self) -> str:
        return ""

    def sample(self) -> dict[str, float]:
        result = self.times.pop(0)
        if isinstance(result, Exception):
            raise result
        return {"work": result}


def course(rounds: int) -> Course:
    return Course(Results(), rounds, quick=False, say=lambda _text: None)


def test_the_subjects_take_turns_and_the_first_round_does_not_count() -> None:
    order = []

    def sample(subject: Subject) -> dict[str, float]:
        order.append(subject.name)
        return subject.sample()

    both = {name: Subject(name, [99, *times]) for name, times in {"a": [2, 4, 9], "b": [1, 4, 3]}.items()}
    measured = course(3)
    measured.alternate("group", "work", both, sample)
    assert order == ["a", "b"] * 4
    assert measured.results.get("group", "work", "a") == [2, 4, 9]
    assert measured.results.ratio("group", "work", "a", "b") == (2, 1.5, 2.5)
    assert measured.results.difference("group", "work", "a", "b") == (1, 0.5, 3.5)


def test_who_fails_is_left_out_from_then_on_unless_it_is_ours() -> None:
    subjects = {"good": Subject("good", [1, 1, 1]), "bad": Subject("bad", [1, OSError(5, "no luck"), 1])}
    measured = course(2)
    measured.alternate("group", "work", subjects, Subject.sample)
    assert measured.results.failures == {"group": {"work": {"bad": "[Errno 5] no luck"}}}
    assert measured.results.get("group", "work", "good") == [1, 1]

    ours = {"ours": Subject("ours", [OSError(5, "no luck")], ours=True)}
    with pytest.raises(Broken, match="group: work: ours: "):
        course(2).alternate("group", "work", ours, Subject.sample)


def test_another_that_takes_long_has_few_rounds_and_ours_has_all() -> None:
    subjects = {"ours": Subject("ours", [LONG + 1] * 9, ours=True), "slow": Subject("slow", [LONG + 1] * 9)}
    measured = course(8)
    measured.alternate("group", "work", subjects, Subject.sample)
    assert len(measured.results.get("group", "work", "ours")) == 8
    assert len(measured.results.get("group", "work", "slow")) == FEW


def test_quartiles_are_of_what_was_measured() -> None:
    assert spread([3, 1, 2, 5, 4]) == (3, 2, 4)
    assert spread([7]) == (7, 7, 7)


def test_a_target_is_reached_only_if_the_worst_of_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "REASONS", tmp_path / "reasons.toml")
    (tmp_path / "reasons.toml").write_text('made = "The moon was full."\n', encoding="ascii")
    results = Results()
    target = next(target for target in TARGETS if target.id == "made")
    for number, measure in enumerate(target.measures):
        results.add(measure.group, measure.work, measure.subject, 1.5 if number == 1 else 0.5)
        results.add(measure.group, measure.work, measure.against, 1.0)
    verdicts = {verdict.target.id: verdict for verdict in judge(results)}
    assert verdicts["made"].said() == "missed: 1.5 times as much"
    assert verdicts["latency"].said() == "not measured"
    assert "The moon was full." in report.page(results)

    results.values[target.measures[1].group][target.measures[1].work][target.measures[1].subject] = [1.0]
    assert {verdict.target.id: verdict.said() for verdict in judge(results)}["made"] == "reached"
    assert "The moon was full." not in report.page(results)


def test_a_latency_is_more_than_anothers_not_a_multiple_of_it() -> None:
    results = Results()
    target = next(target for target in TARGETS if target.added)
    for measure in target.measures:
        results.add(measure.group, measure.work, measure.subject, 100e-6)
    for measure in target.measures[:1]:
        for other in target.measures:
            if not results.get(other.group, other.work, measure.against):
                results.add(other.group, other.work, measure.against, 30e-6)
    (verdict,) = (verdict for verdict in judge(results) if verdict.target is target)
    assert verdict.said() == "missed by 10 µs"


def test_the_page_is_written_again_from_its_results(tmp_path: Path) -> None:
    results = Results(about={"date": "today", "left out": {"loggedfs": "loggedfs is not installed"}})
    for name, seconds in {"plain": 0.5, "notifyfs": 1.0, "bindfs": 2.0}.items():
        results.add("real", "tar x", name, seconds)
    results.fail("real", "git", "passthrough", "its daemon ended with 1")
    results.write(tmp_path / report.RESULTS)
    done = subprocess.run([*BENCH, "--report", "--output", tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / report.PAGE).read_text(encoding="utf-8")
    assert "| tar x | 500 ms | 2.00 (2.00 to 2.00) | 4.00 (4.00 to 4.00) | 0.50 (0.50 to 0.50) |" in page
    assert "- loggedfs: loggedfs is not installed" in page
    assert "- pyfuse3's example, real, git: its daemon ended with 1" in page
    assert Results.read(tmp_path / report.RESULTS) == results


@pytest.mark.parametrize(
    ("text", "said"), [(None, "is missing; measure first"), ("[1", "has no results"), ('{"a": 1}', "has no results")]
)
def test_results_that_cannot_be_read_are_one_line(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / report.RESULTS).write_text(text, encoding="ascii")
    done = subprocess.run([*BENCH, "--report", "--output", tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"bench: {tmp_path / report.RESULTS} ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_groups_are_named_in_the_help() -> None:
    done = subprocess.run([*BENCH, "--help"], check=True, capture_output=True, text=True)
    assert all(group in done.stdout for group in GROUPS)
