"""The tables of ``benchmarks.md``, each from its group of results, with what has to be known to read it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final, NamedTuple

from scripts.bench.measuring import Spread
from scripts.bench.peers import PEERS, TUNED
from scripts.bench.subscribers import KERNEL, NONE, NONE_PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from scripts.bench.measuring import Results

COMPARED: Final = ("notifyfs", "notifyfs-always", "bindfs", "bindfs-tuned", "passthrough", "loggedfs", "null")

REAL: Final = f"""
As a multiple of the plain directory; in the last column, of bindfs. The tree has 2,000 files, 3 KiB in the median. git
clones by its own transport; pip installs wheels that are there already, and compiles them; two jobs compile 31 C files.
*Later* is 1.2 s later, when what the kernel may trust for a second is old. notifyfs and bindfs have no mount options;
tuned is `--multithreaded -o {TUNED}`.
"""
MICRO: Final = """
One operation, as a multiple of the plain directory, by a loop in Python that is the same everywhere, in its current
directory. A read is of what the source's page cache has and the mount's has not; *again* is what the mount may have
kept over a close and an open. A write is over what is there.
"""
REQUESTS: Final = """
System calls that are one request, or nearly (see the counts), against a filesystem on the same pyfuse3 and trio that
has everything in memory and answers at once: `scripts/bench/nullfs.py`. All run on one processor: otherwise it is luck
whether an idle one has to be woken for each request, and on a virtual machine that takes longer than the request.
notifyfs reads requests with a loop of its own (`src/notifyfs/fuse/readloop.py`); with that the null filesystem is the floor of
what is left to us.
"""
COUNTS: Final = """
How many requests an operation is, counted by the kernel (tracepoint `fuse:fuse_request_send`). The sum is without those
that nobody waits for.
"""
LATENCY: Final = """
From the return of the system call to the event in the hands of a Python program, in another process: the median, and in
parentheses the 99th percentile. There is an operation every 2 ms. The kernel's descriptor, the event descriptor and the
stream are read by the same code.
"""
RATES: Final = """
The same for mkdir at other rates, and after it the daemon's processor time for one. In the first row nobody listens to
the daemon.
"""
SUBSCRIBERS: Final = """
Subscribers of all events of the directory in which the operation is done, all in one other process. The caller's time
for one operation: with no subscriber, and as a multiple of that; in parentheses, the time for one until all have heard.
"""
SHARES: Final = """
The daemon's processor time for one operation; in the last column, what each subscriber adds to it for one event.
"""
RECURSIVE: Final = """
Until all of a tree is watched, and what that takes in memory: the kernel's (slab), the daemon's, the reader's. The time
of a program begins when it is started, that of a Python package when it is imported. `stream` is `notifyfs.Connection`.
"""
MEMORY: Final = """
Of the daemon (anonymous memory), for each; by how many there are. A watch is of a file that was not remembered before.
"""
GROWTH: Final = """
Operations in a new directory, on mounts that differ in one thing, in turn and all on one processor: the time with the
least of it, and how many times that with more.
"""
GROWING: Final = {
    "tree": "Files that the kernel remembers, because `find` has walked them:",
    "watches": "Watches, each of another file, of one subscriber:",
    "open files": "Open files:",
    "depth": "Depth of the directory, while the root is watched with all that is below:",
    "instances": "One more connection, the mean of 1,000:",
}


class Section(NamedTuple):
    """A title, and what is under it: nothing if nothing was measured."""

    title: str
    lines: Callable[[Results], Iterator[str]]


def label(subject: str) -> str:
    """What a peer is called; other subjects as they are."""
    return PEERS[subject].label if subject in PEERS else subject


def prose(text: str) -> Iterator[str]:
    """A paragraph, with an empty line after it."""
    yield from textwrap.wrap(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False)
    yield ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """In Markdown, with an empty line after it."""
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def times(figure: Spread | None) -> str:
    """A ratio with its quartiles."""
    if figure is None:
        return ""
    return f"{_short(figure.median)} ({_short(figure.low)} to {_short(figure.high)})"


def duration(figure: Spread | float | None, *, sign: bool = False) -> str:
    """Seconds for people; *sign*: also a plus."""
    if figure is None:
        return ""
    seconds = figure.median if isinstance(figure, Spread) else figure
    unit, factor = ("s", 1.0) if abs(seconds) >= 1 else ("ms", 1e3) if abs(seconds) >= 1e-3 else ("µs", 1e6)  # noqa: PLR2004
    return f"{'+' if sign and seconds >= 0 else ''}{_short(seconds * factor)} {unit}"


def size(figure: Spread | None) -> str:
    """Bytes for people."""
    if figure is None:
        return ""
    amount = figure.median
    for unit in ("bytes", "KiB"):
        if abs(amount) < 2048:  # noqa: PLR2004 - two of the next unit are still easy to read
            return f"{amount:,.0f} {unit}"
        amount /= 1024
    return f"{amount:.1f} MiB"


def _short(number: float) -> str:
    """Three figures."""
    size = abs(number)
    digits = 4 if 0 < size < 0.1 else 2 if size < 10 else 1 if size < 100 else 0  # noqa: PLR2004 - what three figures are
    return f"{number:,.{digits}f}"


def _compared(results: Results, group: str) -> Iterator[str]:
    works = results.values.get(group, {})
    names = [name for name in COMPARED if any(name in values for values in works.values())]
    yield from table(
        ["", "plain directory", *(label(name) for name in names), "notifyfs to bindfs"],
        [
            [
                work,
                duration(results.value(group, work, "plain")),
                *(times(results.ratio(group, work, name, "plain")) for name in names),
                times(results.ratio(group, work, "notifyfs", "bindfs")),
            ]
            for work in works
        ],
    )


def _real(results: Results) -> Iterator[str]:
    if "real" in results.values:
        yield from prose(REAL)
        yield from _compared(results, "real")


def _micro(results: Results) -> Iterator[str]:
    if "micro" in results.values:
        yield from prose(MICRO)
        yield from _compared(results, "micro")


def _requests(results: Results) -> Iterator[str]:
    works = results.values.get("requests", {})
    if works:
        yield from prose(REQUESTS)
        rows = []
        for work, values in works.items():
            ours, floor, turns = values
            rows.append(
                [
                    work,
                    duration(results.value("requests", work, floor)),
                    times(results.ratio("requests", work, turns, floor)),
                    times(results.ratio("requests", work, ours, floor)),
                    times(results.ratio("requests", work, ours, turns)),
                ]
            )
        yield from table(
            ["", "null filesystem", "the same, our loop", "notifyfs", "notifyfs to the null filesystem with our loop"],
            rows,
        )
    composed = results.about.get("requests", {})
    if composed:
        yield from prose(COUNTS)
        rows = []
        for work, subjects in composed.items():
            for name, shares in subjects.items():
                awaited = results.value("request counts", work, name)
                made = ", ".join(f"{opcode} {share:g}" for opcode, share in shares.items())
                rows.append([work, label(name), f"{awaited.median:.1f}" if awaited else "", made])
        yield from table(["", "", "awaited", "all"], rows)


def _latency(results: Results) -> Iterator[str]:
    if "latency" in results.values:
        yield from prose(LATENCY)
        yield from _times_of_events(results, "latency")
    if "rates" in results.values:
        yield from prose(RATES)
        yield from _times_of_events(results, "rates")


def _times_of_events(results: Results, group: str) -> Iterator[str]:
    works = results.values[group]
    operations = [work.removesuffix(", median") for work in works if work.endswith(", median")]

    def cell(operation: str, subject: str) -> str:
        median, last, lost, daemon = (
            results.value(group, f"{operation}, {what}", subject) for what in ("median", "p99", "lost", "daemon")
        )
        parts = [f"{duration(median)} ({duration(last)})"] if median else []
        parts += [duration(daemon)] if daemon else []
        parts += [f"{lost.median:g} lost"] if lost and lost.median else []
        return ", ".join(parts)

    subjects = next(iter(works.values()))
    yield from table(
        ["", *operations], [[subject, *(cell(operation, subject) for operation in operations)] for subject in subjects]
    )


def _subscribers(results: Results) -> Iterator[str]:
    works = results.values.get("subscribers", {})
    if not works:
        return
    yield from prose(SUBSCRIBERS)
    operations = [work for work in works if "," not in work]
    subjects = list(works[operations[0]])

    def cell(work: str, subject: str) -> str:
        none = NONE_PLAIN if KERNEL in subject else NONE
        if subject in {NONE, NONE_PLAIN}:
            return duration(results.value("subscribers", work, subject))
        whole = results.value("subscribers", f"{work}, until all have heard", subject)
        return f"{times(results.ratio('subscribers', work, subject, none)).partition(' ')[0]} ({duration(whole)})"

    yield from table(["", *operations], [[name, *(cell(work, name) for work in operations)] for name in subjects])
    yield from prose(SHARES)

    def share(name: str) -> str:
        """What each subscriber adds for chmod, which is one event."""
        more = results.difference("subscribers", "chmod, daemon", name, NONE)
        return (
            ""
            if more is None or name == NONE
            else duration(more.median / int(name.partition(", ")[0].replace(",", "")))
        )

    yield from table(
        ["", *operations, "chmod, for each more"],
        [
            [
                name,
                *(duration(results.value("subscribers", f"{work}, daemon", name)) for work in operations),
                share(name),
            ]
            for name in subjects
            if results.get("subscribers", f"{operations[0]}, daemon", name)
        ],
    )


def _recursive(results: Results) -> Iterator[str]:
    works = results.values.get("recursive", {})
    if not works:
        return
    yield from prose(RECURSIVE)
    columns = ("kernel memory", "the daemon's memory", "the reader's memory")
    yield from table(
        ["", "until it watches", *columns],
        [
            [
                subject,
                duration(results.value("recursive", "until it watches", subject)),
                *(size(results.value("recursive", column, subject)) for column in columns),
            ]
            for subject in next(iter(works.values()))
        ],
    )


def _growth(results: Results) -> Iterator[str]:
    if any(group in results.values for group in map("growth: {}".format, GROWING)):
        yield from prose(GROWTH)
    for group, works in results.values.items():
        _, found, what = group.partition("growth: ")
        if not found:
            continue
        yield from (GROWING[what], "")
        sizes = max((list(values) for values in works.values()), key=len)

        def cell(group: str, work: str, size: str, least: str) -> str:
            if size == least:
                return duration(results.value(group, work, size))
            return times(results.ratio(group, work, size, least))

        yield from table(
            ["", *sizes],
            [
                [work, *(cell(group, work, each, next(each for each in sizes if each in values)) for each in sizes)]
                for work, values in works.items()
            ],
        )


def _memory(results: Results) -> Iterator[str]:
    works = results.values.get("memory", {})
    if not works:
        return
    yield from prose(MEMORY)

    def told(what: str, subject: str) -> str:
        figure = results.value("memory", what, subject)
        if figure is not None and what in {"descriptors", "inodes remembered"}:
            return f"{subject}: {figure.median:,.0f}"
        return f"{subject}: {size(figure)}"

    yield from table(
        ["", ""], [[what, "; ".join(told(what, subject) for subject in subjects)] for what, subjects in works.items()]
    )


SECTIONS: Final = (
    Section("Real work", _real),
    Section("Single operations", _micro),
    Section("One request", _requests),
    Section("From the operation to the event", _latency),
    Section("Many subscribers", _subscribers),
    Section("A tree with 100,000 directories", _recursive),
    Section("Growth", _growth),
    Section("Memory", _memory),
)
"""In the order of the page."""
