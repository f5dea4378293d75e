"""THE LIST of differences from the kernel that are known, documented in ``docs/parity.md``, and accepted here.

A row counts only while its *fact* holds, and accepts only what its rewriting makes equal. Anything else is a finding.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz.voices import Heard, is_file_access, merged
from notifyfs.core import flags

if TYPE_CHECKING:
    from collections.abc import Callable

Ledger = Counter[tuple[int, int]]
"""(wd, mask) -> how many of these the kernel has told and notifyfs has not (negative: the other way round)."""

Lists = tuple[list[Heard], list[Heard]]


class Row(NamedTuple):
    """One row of the parity table; *rewrite* takes and returns the kernel's events and ours."""

    id: str
    fact: str
    why: str
    rewrite: Callable[[list[Heard], list[Heard], Ledger], Lists]


def _without_reads(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    return tuple(merged([event for event in side if not is_file_access(event)]) for side in (theirs, ours))  # type: ignore[return-value]


def _without_this_read(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    """Leave out the reads of the one operation in this window, and the end of the ONESHOT watches that heard it."""
    heard = {event.wd for event in (*theirs, *ours) if is_file_access(event)}
    kept = [
        [e for e in side if not (is_file_access(e) or (e.mask & flags.IGNORED and e.wd in heard))]
        for side in (theirs, ours)
    ]
    return kept[0], kept[1]


def _without_modify(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    return tuple(merged([event for event in side if event.mask != flags.MODIFY]) for side in (theirs, ours))  # type: ignore[return-value]


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
    return merged(kept[0]), merged(kept[1])


def _merged(theirs: list[Heard], ours: list[Heard], _: Ledger) -> Lists:
    """Events behind an undecided death wait for it; a reader who waits as well has read the ones before it."""
    return merged(theirs), merged(ours)


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
    Row("R1", "read from the page cache", "reads of pages in memory (R1, R2, W6) reach no FUSE daemon", _without_reads),
    Row("W2", "readv of nothing", "readv(2) at the end is an ACCESS to Linux; FUSE has no readv", _without_this_read),
    Row("W7", "stored through a map", "written back pages arrive as WRITE: a MODIFY too many", _without_modify),
    Row("U4", "held by a path only", "O_PATH, working directories: only FORGET tells of them", _without_deaths),
    Row("U4 (held back)", "a name was removed", "an undecided death splits what would have merged", _merged),
    Row(
        "N3", "changed through a descriptor", "FUSE names the inode: all that it may be are told", _without_other_names
    ),
    Row("N3 (2)", "opened through a descriptor", "the same for opening /proc/self/fd/N", _without_this_open),
)


def explain(theirs: list[Heard], ours: list[Heard], facts: set[str], ledger: Ledger) -> tuple[str, ...] | None:
    """The fewest rows that make both equal (*ledger* is then brought up to date); None: a finding."""
    if theirs == ours and not +ledger and not -ledger:
        return ()
    rows = [row for row in ROWS if row.fact in facts]
    for count in range(1, len(rows) + 1):
        for chosen in combinations(rows, count):
            trial, left, right = Ledger(ledger), theirs, ours
            for row in chosen:
                left, right = row.rewrite(left, right, trial)
            if left == right:
                ledger.clear()
                ledger.update({key: value for key, value in trial.items() if value})
                return tuple(row.id for row in chosen)
    return None
