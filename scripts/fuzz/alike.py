"""Whether two readings of one queue are the same, but for events that only one side was told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.fuzz.voices import Heard

Cookies = dict[int, int]
"""Which of our cookies is which of the kernel's, one for one. A move that was merged away uses up a number."""

Alone = tuple[int, int]
"""Masks: what the kernel may tell alone, and what we may. Only an event with just these bits counts."""


class _Way(NamedTuple):
    """One way to read both: so much of each is accounted for."""

    theirs: int
    ours: int
    left_out: tuple[bool, bool]
    """Whether the last thing was an event that only the kernel told, or only we."""
    cookies: tuple[tuple[int, int], ...]
    """What has been learned of them on this way."""


def alike(theirs: list[Heard], ours: list[Heard], alone: Alone, known: Cookies) -> Cookies | None:
    """What is then known of cookies; None if the two are not the same.

    Where an event of *alone* is on one side only, the other side never had it, and may have merged the two that it
    keeps apart if they are equal but for the cookie. Nothing else may be missing, too many, or merged.
    """
    ways, seen = [_Way(0, 0, (False, False), ())], set()
    while ways:
        way = ways.pop()
        if way not in seen:
            seen.add(way)
            if (way.theirs, way.ours) == (len(theirs), len(ours)):
                return known | dict(way.cookies)
            ways += _steps(way, theirs, ours, alone, known)
    return None


def _steps(way: _Way, theirs: list[Heard], ours: list[Heard], alone: Alone, known: Cookies) -> Iterator[_Way]:
    """The ways on from *way*; the likeliest last."""
    i, j, (they_told, we_told), cookies = way
    their, our = theirs[i] if i < len(theirs) else None, ours[j] if j < len(ours) else None
    if our and our.mask & alone[1] == our.mask:
        yield _Way(i, j + 1, (they_told, True), cookies)
    if their and their.mask & alone[0] == their.mask:
        yield _Way(i + 1, j, (True, we_told), cookies)
    if our and i and we_told and merge(theirs[i - 1], our):
        yield _Way(i, j + 1, (they_told, False), cookies)
    if their and j and they_told and merge(ours[j - 1], their):
        yield _Way(i + 1, j, (False, we_told), cookies)
    if their and our and their._replace(cookie=0) == our._replace(cookie=0):
        learned = _same_cookie(their.cookie, our.cookie, known | dict(cookies))
        if learned is not None:
            yield _Way(i + 1, j + 1, (False, False), cookies + learned)


def _same_cookie(their: int, our: int, known: Cookies) -> tuple[tuple[int, int], ...] | None:
    """What is learned if these two are one cookie; None: they cannot be."""
    if not their and not our:
        return ()
    if their in known or our in known.values() or not (their and our):
        return () if known.get(their) == our and their and our else None
    return ((their, our),)


def merge(first: Heard, second: Heard) -> bool:
    """Whether Linux merges two neighbours: cookies are not compared, IGNORED never merges (parity: N7)."""
    return (first.wd, first.mask, first.name) == (second.wd, second.mask, second.name) and not (
        first.mask & flags.IGNORED
    )
