"""Who hears of what happens in a directory, from how far above, and by which path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from notifyfs.core.rules import TOLD
from notifyfs.protocol import flags
from notifyfs.protocol.records import MAX_LEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.core.changes import Change
    from notifyfs.core.entries import Inode
    from notifyfs.core.instances import Judge, Reach, Watch

Covering = tuple["Inode", int, bytes]
"""A directory with a recursive watch, how far above another it is, and that one's path below it."""

_LONGEST: Final = MAX_LEN - 1  # bytes of a name
TOO_LONG: Final = bytes(_LONGEST + 1)
"""In the place of any path that is longer than that, or goes on from this. What is so far below is not judged: to look
at each directory on the way would take the longer the deeper somebody has made it, and an overflow names nothing."""
_MOST_NAMES: Final = (_LONGEST + 1) // 2  # in so long a path: each has a byte at least, and a slash


class Hearing:
    """Whom what happens in *place* may be told; at one moment, so each judge is asked once."""

    def __init__(self, place: Inode) -> None:
        self.place = place
        self._places: list[Inode] = []
        self._reaches: dict[Judge, Reach] = {}

    def admits(self, watch: Watch, above: int) -> bool | None:
        """Whether *watch*, on the directory so many *above*, may hear of it; None: that is not known yet.

        A recursive watch may if its user could have heard it from a watch on ``place`` itself: that takes
        permission to read it, and to search each directory on the way down to it. Others may in any case.
        """
        judge = watch.instance.judge
        if judge is None or not watch.mask & flags.X_RECURSIVE:
            return True
        if above >= _MOST_NAMES:
            return None
        reach = self._reaches.get(judge)
        if reach is None:
            reach = self._reaches[judge] = judge.reach(self._way())
        if (len(self._places) - 1 if watch.by_path else above) <= reach.above:
            return True
        return False if reach.sure else None

    def _way(self) -> list[Inode]:
        if not self._places:
            self._places = list(upwards(self.place))
        return self._places


def upwards(place: Inode) -> Iterator[Inode]:
    """Yield *place* and the directories above it, up to the root."""
    yield place
    while place.entry.name:
        place = place.entry.parent
        yield place


def covered(place: Inode) -> list[Covering]:
    """The recursive watches above *place*, the nearest first."""
    found: list[Covering] = []
    names: list[bytes] = []
    joined, entry = 0, place.entry  # names in the first of ``names``, besides one
    name = entry.name
    while name:  # some 4,000 times where somebody works as far below as that
        names.append(name)
        place = entry.parent
        entry = place.entry
        name = entry.name
        if place.watches:
            for watch in place.watches.values():
                if watch.mask & flags.X_RECURSIVE:
                    above = joined + len(names)
                    names, joined = [path(*names[::-1])], above - 1
                    found.append((place, above, names[0]))
                    break
    return found


def path(*names: bytes) -> bytes:
    """The path of these *names*, or paths; ``TOO_LONG`` if no record can carry it."""
    if len(names) <= _MOST_NAMES:
        joined = b"/".join(names)
        if len(joined) <= _LONGEST:
            return joined
    return TOO_LONG


def listens(watch: Watch, mask: int, above: int) -> bool:
    """Whether *watch* is for an event with this *mask* so far below it: from further than 0 if it is recursive."""
    return bool(watch.mask & mask & flags.EVENTS) and (not above or bool(watch.mask & flags.X_RECURSIVE))


def concerned(change: Change) -> bool:
    """Whether any watch of the inode or its directory may hear of it, or ends with it."""
    told, entry = TOLD[change.operation], change.entry
    for watches in (entry.parent.watches, entry.inode.watches):
        if watches:
            for watch in watches.values():
                if watch.mask & told:
                    return True
    return bool(entry.inode.watches) and bool(told & flags.DELETE_SELF)


def wanted(place: Inode, event: int, covering: list[Covering]) -> bool:
    """Whether a watch on *place*, or one *covering* it, may hear *event* of a file in it; if that is unknown, too."""
    hearing = Hearing(place)
    for where, above, _ in ((place, 0, b""), *covering):
        for watch in (where.watches or {}).values():
            if listens(watch, event, above) and hearing.admits(watch, above) is not False:
                return True
    return False
