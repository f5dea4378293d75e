"""One batch of what happened until it was quiet: each event once, each rename in one piece."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from notifyfs.protocol.flags import MOVED_FROM, MOVED_TO
from notifyfs.protocol.records import carries_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


class Event(Protocol):
    """What a batch has to know of an event."""

    @property
    def wd(self) -> int:
        """Watch descriptor."""
        ...

    @property
    def mask(self) -> int:
        """What happened."""
        ...

    @property
    def cookie(self) -> int:
        """The same in both halves of a rename, else 0."""
        ...


E = TypeVar("E", bound=Event)


class Rename(NamedTuple, Generic[E]):
    """Both halves of a rename."""

    old: E
    """MOVED_FROM: what it was called."""
    new: E
    """MOVED_TO: what it is called now."""


class Batch(Generic[E]):
    """Takes events in their order and gives them back settled.

    Of equal events the last stays, in its place. A rename stands where its second half was, and a
    half without another is an event like any other. A record that says who did it stays before what
    it belongs to; a rename has that of its second half, if there is one, else of its first.

    Held are the last of equal events and every rename, so a file that is written without end costs nothing.

    Args:
        identity: what makes two events equal, cookies aside.

    """

    def __init__(self, identity: Callable[[E], Hashable]) -> None:
        self._identity = identity
        self._events: dict[Hashable, tuple[list[E], E]] = {}
        self._origin: list[E] = []

    def __bool__(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._events)

    def add(self, event: E) -> None:
        """Append *event*."""
        if carries_origin(event.wd, event.mask):
            self._origin = [event]
            return
        key = self._identity(event), event.cookie
        self._events.pop(key, None)
        self._events[key] = self._origin, event
        self._origin = []

    def take(self) -> list[E | Rename[E]]:
        """Give what is held, and hold nothing any more."""
        pairs = self._pairs()
        joined = set(pairs.values())
        items: dict[Hashable, tuple[list[E], E | Rename[E]]] = {}
        for key, (origin, event) in self._events.items():
            if key in pairs:
                first, old = self._events[pairs[key]]
                same: Hashable = self._identity(old), self._identity(event)
                items.pop(same, None)
                items[same] = origin or first, Rename(old, event)
            elif key not in joined:
                same = self._identity(event)
                items.pop(same, None)
                items[same] = origin, event
        self._events.clear()
        return [part for origin, item in items.values() for part in (*origin, item)]

    def _pairs(self) -> dict[Hashable, Hashable]:
        """For the key of each MOVED_TO that has one, the key of its MOVED_FROM.

        Several watches may tell of one rename: the halves that one watch tells of belong together first.
        """
        halves: defaultdict[int, dict[Hashable, int]] = defaultdict(dict)
        arrivals = []
        for key, (_, event) in self._events.items():
            if event.mask & MOVED_FROM:
                halves[event.cookie][key] = event.wd
            elif event.mask & MOVED_TO:
                arrivals.append((key, event))
        pairs: dict[Hashable, Hashable] = {}
        for one_watch in (True, False):
            for key, new in arrivals:
                left = [old for old, wd in halves[new.cookie].items() if wd == new.wd or not one_watch]
                if key not in pairs and left:
                    pairs[key] = left[0]
                    del halves[new.cookie][left[0]]
        return pairs
