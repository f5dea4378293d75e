"""The records of one change, and whose operation it was: told within it, by when they were told."""

from __future__ import annotations

import bisect
from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.overlap.log import Heard, Log, Operation

STAMPED = ("origins", "tree")
"""The voices that hear who did it, and the number of the change."""
DEATH = flags.DELETE_SELF | flags.IGNORED
READING = frozenset({"read", "peek", "list"})


@attrs.define(eq=False)
class Told:
    """One change."""

    number: int
    pid: int
    records: dict[str, list[Heard]] = attrs.field(factory=lambda: {voice: [] for voice in STAMPED})
    before: dict[str, Heard | None] = attrs.field(factory=lambda: dict.fromkeys(STAMPED))
    """What was told just before the first of these."""
    after: dict[str, Heard | None] = attrs.field(factory=lambda: dict.fromkeys(STAMPED))
    """And just after the last."""
    operation: Operation | None = None

    def all(self) -> Iterator[Heard]:
        """Every record."""
        for records in self.records.values():
            yield from records

    @property
    def times(self) -> list[int]:
        """When it was told, but for a death, of which the kernel has the last word."""
        return [record.time for record in self.all() if not record.mask & DEATH]

    @property
    def is_read(self) -> bool:
        """Whether a file's pages were read: those that nobody waits for come at any time (parity: R2)."""
        return all(record.mask == flags.ACCESS for record in self.all())

    def last(self) -> dict[str, Heard | None]:
        """The last record of each voice by then."""
        return {voice: self.records[voice][-1] if self.records[voice] else self.before[voice] for voice in STAMPED}

    def __str__(self) -> str:
        lines = [f"  {voice}: {record}" for voice in STAMPED for record in self.records[voice]]
        return "\n".join([f"change {self.number} by pid {self.pid}", *lines])


def changes(log: Log) -> tuple[list[Told], list[str]]:
    """What was told, in order; and what is wrong with the numbers of it."""
    told: dict[int, Told] = {}
    wrong = []
    for voice in STAMPED:
        last: Heard | None = None
        for event in log.heard[voice]:
            if last is not None and event.number < last.number:
                wrong.append(f"{voice}: out of order, or apart from its change: after {last} comes {event}")
            one = told.setdefault(event.number, Told(event.number, event.pid))
            if one.pid != event.pid:
                wrong.append(f"{voice}: change {one.number} is of {one.pid} and of {event.pid}")
            if not one.records[voice]:
                one.before[voice] = last
            one.records[voice].append(event)
            if last is not None and last.number != event.number:
                told[last.number].after[voice] = event
            last = event
    ordered = sorted(told.values(), key=lambda one: one.number)
    _fill(ordered)
    return ordered, wrong


def _fill(ordered: list[Told]) -> None:
    """*before* and *after* also where a voice heard nothing of the change."""
    for voice in STAMPED:
        last: Heard | None = None
        for one in ordered:
            one.before[voice] = last
            last = one.records[voice][-1] if one.records[voice] else last
        following: Heard | None = None
        for one in reversed(ordered):
            one.after[voice] = following
            following = one.records[voice][0] if one.records[voice] else following


def assign(log: Log, told: list[Told]) -> list[str]:
    """Give each change the operation within which it was told; what is wrong."""
    wrong = []
    by_pid: dict[int, list[Operation]] = defaultdict(list)
    for operation in log.operations:
        by_pid[log.header["pids"][operation.process]].append(operation)
    begins = {pid: [operation.since for operation in operations] for pid, operations in by_pid.items()}
    for one in told:
        if one.pid == log.header["daemon"]:
            if any(not record.mask & DEATH for record in one.all()):
                wrong.append(f"nobody's: {one}")
        elif one.pid not in by_pid:
            wrong.append(f"of a process that is none of the round's: {one}")
        elif one.times:
            place = bisect.bisect_right(begins[one.pid], min(one.times)) - 1
            operations = by_pid[one.pid]
            if one.is_read:
                while place >= 0 and operations[place].verb not in READING:
                    place -= 1
            found = operations[place] if place >= 0 else None
            one.operation = found
            if found is None or (max(one.times) > found.until and not one.is_read):
                wrong.append(f"told outside of any operation of its process, the last before being\n  {found}\n{one}")
    return wrong
