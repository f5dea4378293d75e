"""Whether what was heard in a round can be: each contradiction, with what shows it."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from notifyfs.protocol import flags
from scripts.overlap.replay import Replay
from scripts.overlap.told import DEATH
from scripts.overlap.worker import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scripts.overlap.log import Heard, Log

_NAMING = flags.CREATE | flags.DELETE | flags.MOVE
"""Told by the kernel under the directory's lock: in the order in which it was done."""
_CHANGING = flags.ATTRIB | flags.MODIFY
"""Told by the kernel under the file's lock, where it comes of setattr or setxattr; of a write it comes after that."""
_OF_ITSELF = DEATH | flags.MOVE_SELF


def check(log: Log) -> list[str]:
    """All that contradicts docs/architecture.md."""
    found = []
    for voice, events in log.heard.items():
        if any(event.mask & flags.Q_OVERFLOW for event in events):
            found.append(f"{voice}: an overflow")
    origins = _merged(log.heard["origins"])
    for voice in ("stream", "packets"):
        lines = _unlike(voice, heard := _merged(log.heard[voice]), "origins", origins)
        found += ["\n".join(lines)] if lines else []
        if not lines and [event.cookie for event in heard] != [event.cookie for event in origins]:
            found.append(f"{voice}: other cookies than origins")
    replay = Replay(log)
    replay.run()
    found += replay.found
    found += _against_the_kernel(log)
    return found + _counts(log, replay.expect.counts)


def _merged(events: Iterable[Heard]) -> list[Heard]:
    """As it would be if all were merged that can be: what is heard of one order of the same events."""
    kept: list[Heard] = []
    for event in events:
        if not kept or kept[-1].brief != event.brief or event.mask & flags.IGNORED:
            kept.append(event)
    return kept


def _unlike(one: str, ones: list[Heard], other: str, others: list[Heard]) -> list[str]:
    for place, (left, right) in enumerate(itertools.zip_longest(ones, others)):
        if left is None or right is None or left.brief != right.brief:
            rows = itertools.zip_longest(ones[max(0, place - 3) : place + 4], others[max(0, place - 3) : place + 4])
            lines = [f"  {row[0] or '-'!s:50} | {row[1] or '-'}" for row in rows]
            return [f"{one} | {other} differ at event {place}", *lines]
    return []


def _against_the_kernel(log: Log) -> list[str]:
    """Where one lock orders what is told, the kernel's order is it."""
    found: list[str] = []
    cookies: set[tuple[int, int]] = set()
    for wd, path in enumerate(log.header["watched"], 1):
        for what in (_NAMING, _OF_ITSELF, *([_CHANGING] if path == ATTRIBUTES else [])):
            theirs, ours = (_of(log.heard[voice], wd, what) for voice in ("kernel", "origins"))
            lines = _unlike("kernel", theirs, "origins", ours)
            if lines:
                found.append("\n".join([f"{path!r}: {flags.spell(what)}: {lines[0]}", *lines[1:]]))
            cookies |= {(left.cookie, right.cookie) for left, right in zip(theirs, ours, strict=False)}
    for side in (0, 1):
        several = [cookie for cookie, count in Counter(pair[side] for pair in cookies).items() if count > 1]
        if several and not found:
            found.append(f"{('the kernel', 'origins')[side]}'s cookies {several} are several of the other's")
    return found


def _of(events: list[Heard], wd: int, what: int) -> list[Heard]:
    return _merged(event for event in events if event.wd == wd and event.mask & what)


def _counts(log: Log, expected: dict[tuple[int, int], int]) -> list[str]:
    """The kernel must not say more than is expected; nor nothing of what a watch had to hear of its own file."""
    said: Counter[tuple[int, int]] = Counter()
    # What is done to a file while it dies may be told before that or after, and then not to its watch.
    ended = {event.wd for event in log.heard["origins"] if event.mask & flags.IGNORED}
    for event in log.heard["kernel"]:
        if not event.mask & (_OF_ITSELF | flags.ACCESS) and (event.name or event.wd not in ended):
            said[0 if event.name else event.wd, event.mask] += 1
    own = {key for key in expected if key[0] not in {0, *ended} and not key[1] & (_OF_ITSELF | flags.ACCESS)}
    keys = said.keys() | own
    return [
        f"wd{key[0]} {flags.spell(key[1])}: the kernel said it {said[key]} times, the operations {expected.get(key, 0)}"
        for key in sorted(keys)
        if said[key] > expected.get(key, 0) or not said[key]
    ]
