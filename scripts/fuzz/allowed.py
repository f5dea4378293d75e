"""THE LIST of differences from the kernel that are known, documented in ``docs/parity.md``, and accepted here.

A row counts only while its *fact* holds, and accepts only what its rewriting makes equal. Anything else is a finding.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.protocol import flags
from scripts.fuzz.alike import Alone, Cookies, alike, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scripts.fuzz.voices import Heard

Ledger = Counter[tuple[int, int]]
"""(wd, mask) -> how many of these the kernel has told and notifyfs has not (negative: the other way round)."""

Lists = tuple[list["Heard"], list["Heard"]]


def _as_they_are(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    return theirs, ours


class Row(NamedTuple):
    """One row of the parity table; *rewrite* takes and returns the kernel's events and ours."""

    id: str
    fact: str
    why: str
    rewrite: Callable[[list[Heard], list[Heard], Ledger], Lists] = _as_they_are
    alone: Alone = (0, 0)


def _without_this_read(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    """Leave out the reads of the one operation in this window, and the end of the ONESHOT watches that heard it."""
    heard = {event.wd for event in (*theirs, *ours) if event.mask == flags.ACCESS}
    kept = [
        [e for e in side if not (e.mask == flags.ACCESS or (e.mask & flags.IGNORED and e.wd in heard))]
        for side in (theirs, ours)
    ]
    return kept[0], kept[1]


def _without_deaths(theirs: list[Heard], ours: list[Heard], ledger: Ledger) -> Lists:
    """Ends of watches are balanced over the session; a watch that has ended on one side only is silent on the other."""
    dead = {wd for (wd, mask), count in ledger.items() if mask & flags.IGNORED and count}
    kept: list[list[Heard]] = [[], []]
    for events, sign in ((theirs, 1), (ours, -1)):
        for event in events:
            if event.mask & (flags.DELETE_SELF | flags.IGNORED):
                ledger[event.wd, event.mask] += sign
    dead |= {wd for (wd, mask), count in ledger.items() if mask & flags.IGNORED and count}
    for side, events in zip(kept, (theirs, ours), strict=True):
        side += [e for e in events if not e.mask & (flags.DELETE_SELF | flags.IGNORED) and e.wd not in dead]
    return _merged(*kept, ledger)


def _merged(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    """Events behind an undecided death wait for it; a reader who waits as well has read the ones before it."""
    results: Lists = ([], [])
    for result, events in zip(results, (theirs, ours), strict=True):
        for event in events:
            if not (result and merge(result[-1], event)):
                result.append(event)
    return results


def _without_other_names(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    """Our side may tell more directories, or more names, of the one operation in this window; never fewer."""
    kept: list[Heard] = []
    dropped = -1
    for event in ours:
        if event.name and event not in theirs:
            dropped = event.wd
        elif event.mask & flags.IGNORED and event.wd == dropped:  # it had ONESHOT: the session ends here
            dropped = -1
        else:
            kept.append(event)
    return theirs, kept


def _without_this_open(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    """Opened through ``/proc/self/fd/N``: with another of the names, so to another directory, or past EXCL_UNLINK."""
    heard = {event.wd for event in (*theirs, *ours) if event.mask & flags.OPEN}
    kept = [
        [e for e in side if not (e.mask & flags.OPEN or (e.mask & flags.IGNORED and e.wd in heard))]
        for side in (theirs, ours)
    ]
    return kept[0], kept[1]


def _without(theirs: list[Heard], ours: list[Heard], mask: int, ended: set[int]) -> Lists:
    def other(event: Heard) -> bool:
        return not event.mask & mask and not (event.mask & flags.IGNORED and event.wd in ended)

    return [*filter(other, theirs)], [*filter(other, ours)]


ROWS: Final = (
    Row(
        "R1",
        "read from the page cache",
        "reads of pages in memory (R1, W6) reach no FUSE daemon",
        alone=(flags.ACCESS, 0),
    ),
    Row("R2", "read ahead", "reading ahead is a READ like any other", alone=(0, flags.ACCESS)),
    Row("W2", "readv of nothing", "readv(2) at the end is an ACCESS to Linux; FUSE has no readv", _without_this_read),
    Row("W7", "stored through a map", "pages written back arrive as WRITE: a MODIFY too many", alone=(0, flags.MODIFY)),
    Row(
        "A6",
        "setuid may be cleared past the page cache",
        "the kernel's own watches do not hear that the daemon clears it",
        alone=(0, flags.ATTRIB),
    ),
    Row("U4", "held by a path only", "O_PATH, working directories: only FORGET tells of them", _without_deaths),
    Row("U4 (held back)", "a name was removed", "an undecided death splits what would have merged", _merged),
    Row(
        "N3", "changed through a descriptor", "FUSE names the inode: all that it may be are told", _without_other_names
    ),
    Row("N3 (2)", "opened through a descriptor", "the same for opening /proc/self/fd/N", _without_this_open),
)


def _either(masks: Iterable[Alone]) -> Alone:
    theirs = ours = 0
    for their, our in masks:
        theirs, ours = theirs | their, ours | our
    return theirs, ours


def explain(
    theirs: list[Heard], ours: list[Heard], facts: set[str], ledger: Ledger, cookies: Cookies
) -> tuple[str, ...] | None:
    """The fewest rows that make both equal (*ledger*, *cookies* are then brought up to date); None: a finding."""
    rows = [row for row in ROWS if row.fact in facts]
    for count in range(len(rows) + 1):
        for chosen in combinations(rows, count):
            trial, left, right = Ledger(ledger), theirs, ours
            for row in chosen:
                left, right = row.rewrite(left, right, trial)
            alone = _either(row.alone for row in chosen)
            if (count or not any(ledger.values())) and (known := alike(left, right, alone, cookies)) is not None:
                ledger.clear()
                ledger.update({key: value for key, value in trial.items() if value})
                cookies.update(known)
                return tuple(row.id for row in chosen)
    return None
