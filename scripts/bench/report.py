"""From results to ``benchmarks.md``: the verdicts, and one table for each group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from scripts.bench import plot, tables
from scripts.bench.targets import judge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scripts.bench.measuring import Results, Spread
    from scripts.bench.targets import Verdict

RESULTS: Final = "benchmarks.json"
PAGE: Final = "benchmarks.md"
PICTURE: Final = "benchmarks.svg"

INTRODUCTION: Final = """
How fast notifyfs is beside the programs that people use instead. Every figure is a ratio of things that were measured
in turn (A B A B) in one run, after a round that does not count. It is the median of the rounds' ratios, with the
quartiles in parentheses. Below 1 is faster.
"""
AGAIN: Final = """
`make bench` measures and writes this page; `.venv/bin/python -m scripts.bench --report` writes it anew from
[benchmarks.json](benchmarks.json). What is written by hand, why a target is missed, is in `scripts/bench/reasons.toml`.
"""


def page(results: Results) -> str:
    """What is written, without the picture."""
    return "\n".join(_page(results)).rstrip()


def write(results: Results, directory: Path) -> None:
    """Write the page and its picture into *directory*."""
    (directory / PICTURE).write_text(plot.draw(results), encoding="utf-8")
    (directory / PAGE).write_text(page(results) + "\n", encoding="utf-8")


def summary(results: Results) -> str:
    """What must be reached, and whether it was: for the terminal."""
    lines = []
    for verdict in judge(results):
        worst = "" if verdict.worst is None else f", worst {_figure(verdict, verdict.worst)}"
        target = verdict.target
        lines.append(f"{verdict.said()}: {target.work}, against {target.against}: at most {target.limit()}{worst}")
    return "\n".join(lines)


def _figure(verdict: Verdict, figure: Spread) -> str:
    if not verdict.target.added:
        return tables.times(figure)
    low, high = (tables.duration(each, sign=True) for each in (figure.low, figure.high))
    return f"{tables.duration(figure, sign=True)} ({low} to {high})"


def _page(results: Results) -> Iterator[str]:
    yield from ("# How fast it is", "")
    yield from tables.prose(INTRODUCTION)
    yield from _machine(results)
    yield from tables.prose(AGAIN)
    yield from ("## What it must reach", "")
    verdicts = judge(results)
    yield from tables.table(
        ["work", "against", "at most", "the worst of it", ""],
        [
            [
                verdict.target.work,
                verdict.target.against,
                verdict.target.limit(),
                "" if verdict.worst is None else _figure(verdict, verdict.worst),
                verdict.said(),
            ]
            for verdict in verdicts
        ],
    )
    for verdict in verdicts:
        yield from _details(verdict)
    yield from ("## At a glance", "", f"![Time as a multiple of the plain directory's]({PICTURE})", "")
    for section in tables.SECTIONS:
        lines = list(section.lines(results))
        if lines:
            yield from (f"## {section.title}", "", *lines)
    yield from _missing(results)


def _details(verdict: Verdict) -> Iterator[str]:
    target = verdict.target
    yield from (f"### {target.work[0].upper()}{target.work[1:]}, against {target.against}", "")
    for measure, figure in verdict.figures:
        yield f"- {measure.label or measure.work}: {'not measured' if figure is None else _figure(verdict, figure)}"
    yield ""
    if verdict.worst is not None and not verdict.reached:
        yield from (verdict.reason or f"Why it is missed has not been written yet (`{target.id}`).", "")


def _machine(results: Results) -> Iterator[str]:
    about = results.about
    versions = about.get("versions", {})
    facts = {
        "command": f"`{about.get('command')}`: {about.get('rounds')} rounds, {about.get('minutes')} minutes",
        "date": about.get("date"),
        "machine": f"{about.get('processor')}; {about.get('memory')}",
        "system": f"{about.get('system')}; {about.get('file system')}",
        "load average": f"{about.get('load before')} before, {about.get('load after')} after",
        "notifyfs": f"commit {about.get('commit')}, Python {about.get('Python')}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "notifyfs"),
    }
    yield from tables.table(["", ""], [[name, str(value)] for name, value in facts.items()])


def _missing(results: Results) -> Iterator[str]:
    left_out = results.about.get("left out", {})
    failures = [
        (group, work, subject, why)
        for group, works in results.failures.items()
        for work, subjects in works.items()
        for subject, why in subjects.items()
    ]
    if left_out or failures:
        yield from ("## What was not measured", "")
        yield from (f"- {what}: {why}" for what, why in left_out.items())
        yield from (f"- {tables.label(subject)}, {group}, {work}: {why}" for group, work, subject, why in failures)
        yield ""
