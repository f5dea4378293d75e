"""What a user may do in a directory, as the source says, and how long that is remembered.

A verdict is of one directory and one set of credentials, and knows nothing of the directories above: so a move
changes none. A change of permissions through the mount removes the verdicts of that directory
(``judgement.Judgement``), and so does the kernel's asking for its attributes where they are others now. Of other
changes behind the mount a verdict knows nothing for ``_GOOD`` seconds, as the kernel does.
"""

from __future__ import annotations

import heapq
import itertools
from time import monotonic
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from notifyfs.core.instances import Reach
from notifyfs.system import identity, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.source import Source
    from notifyfs.subscribers.resolve import Peer

READ: Final = 1
SEARCH: Final = 2

_GOOD: Final = 1.0
"""Seconds for which a verdict is relied on; the kernel's attributes are as old (``handlers.TIMEOUTS``)."""
_AT_ONCE: Final = 64
"""Directories judged for one event: the loop waits for that, and each takes some 5 µs."""
_MANY: Final = 16
"""Users with verdicts on one directory, above which those that are too old are removed."""


class Judges:
    """The judges of all users who are connected: one for each set of credentials."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._numbers = itertools.count()
        self._known: WeakValueDictionary[tuple[int, int, tuple[int, ...]], Verdicts] = WeakValueDictionary()

    def of(self, peer: Peer) -> Verdicts | None:
        """The judge of *peer*; None for root and the daemon's user, who hear everything."""
        if peer.trusted:
            return None
        key = peer.uid, peer.gid, peer.groups
        judge = self._known.get(key)
        if judge is None:
            judge = self._known[key] = Verdicts(self._source, peer, next(self._numbers))
        return judge


class Verdicts:
    """What the users with the credentials of *peer* may do: a ``core.instances.Judge``. *number* is its own."""

    def __init__(self, source: Source, peer: Peer, number: int, clock: Callable[[], float] = monotonic) -> None:
        self._source = source
        self._peer = peer
        self._number = number
        self._clock = clock

    def reach(self, places: Sequence[Inode]) -> Reach:
        """As ``Judge.reach``. Not sure: more were never judged than can be at once.

        Of those judged too long ago some are judged again, the oldest first; the others' verdicts hold until the
        next event.
        """
        now = self._clock()
        reach, old = self._look(places, now - _GOOD)
        if old:
            chosen = heapq.nsmallest(_AT_ONCE, old)
            self._judge([places[number] for _, number in sorted(chosen, key=lambda pair: pair[1])], now)
            reach, _ = self._look(places, now - _GOOD)
        return reach

    def _look(self, places: Sequence[Inode], since: float) -> tuple[Reach, list[tuple[float, int]]]:
        """How far it reaches by the verdicts that there are; of when those are that are not *since* then, and where.

        Of when a verdict is that there is not: 0. Nothing above what is closed for certain counts.
        """
        number, old, wanted = self._number, [], READ
        reach = None
        for above, place in enumerate(places):
            verdict = place.verdicts.get(number) if place.verdicts else None
            if verdict is None:
                old.append((0.0, above))
                reach = reach or Reach(above - 1, sure=False)
            elif verdict[0] < since:
                old.append((verdict[0], above))
                reach = reach or (None if verdict[1] & wanted else Reach(above - 1))
            elif not verdict[1] & wanted:
                return reach or Reach(above - 1), old
            wanted = SEARCH
        return reach or Reach(len(places) - 1), old

    def _judge(self, places: list[Inode], now: float) -> None:
        with self._source.all_borrowed(places) as descriptors:
            allowed = self._allowed(descriptors)
        for place, bits in zip(places, allowed, strict=True):
            if place.verdicts is None:
                place.verdicts = {}
            elif len(place.verdicts) > _MANY:
                place.verdicts = {key: old for key, old in place.verdicts.items() if old[0] >= now - _GOOD}
            place.verdicts[self._number] = now, bits

    def _allowed(self, descriptors: list[int]) -> list[int]:
        """What the user may do with each; nothing where no descriptor (-1) could be had, or the daemon cannot judge."""
        peer = self._peer
        try:
            with identity.acting_as(peer.uid, peer.gid, peer.groups):
                return [
                    fd >= 0 and READ * syscalls.may_read(fd) | SEARCH * syscalls.may_search(fd) for fd in descriptors
                ]
        except PermissionError:
            return [0] * len(descriptors)
