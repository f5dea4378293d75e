"""From the records of a connection to what inotifywait would report of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.commands.watch.lines import Report
from notifyfs.protocol.flags import (
    ACCESS,
    ALL_EVENTS,
    ATTRIB,
    CLOSE,
    DELETE,
    DELETE_SELF,
    ISDIR,
    MODIFY,
    MOVE,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    OPEN,
)
from notifyfs.protocol.records import Origin, Record, carries_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_REPORTED_TWICE: Final = ACCESS | MODIFY | ATTRIB | CLOSE | OPEN


class Watched(NamedTuple):
    """One watch."""

    shown: bytes
    """The path as the user gave it; a directory's ends with a slash."""
    recursive: bool = False
    excluded: tuple[bytes, ...] = ()
    """Directories in it, with a slash at their end, of whose trees nothing is reported."""


class Translator:
    """Turns the records of one connection into what inotifywait would report of them.

    inotifywait -r watches each directory of a tree, so it hears twice of what happens to one: from
    the parent, and from the directory itself. A recursive watch hears once; with *twice* the other
    report is made from that. This cannot be done for a directory that a rename replaced, and for one
    that was removed while it was open DELETE_SELF comes early.

    Args:
        mount: the mountpoint, for JSON.
        asked: the events that the user asked for.
        passes: whether the user's filters let a path through.
        twice: as above.

    """

    def __init__(self, mount: str, asked: int, passes: Callable[[bytes], bool], *, twice: bool) -> None:
        self.watches: dict[int, Watched] = {}
        self._mount = mount
        self._asked = asked
        self._passes = passes
        self._twice = twice
        self._origin: Origin | None = None
        self._leaving: Report | None = None

    def mask(self, *, recursive: bool) -> int:
        """Return the events to request of the daemon, so that all that were asked for can be reported."""
        more = 0
        if recursive and self._twice:
            more = (DELETE if self._asked & DELETE_SELF else 0) | (MOVE if self._asked & MOVE_SELF else 0)
        return self._asked | more

    @property
    def pending(self) -> bool:
        """Whether a directory was moved, and only the next record can say whether out of the tree."""
        return self._leaving is not None

    def translate(self, records: Iterable[Record]) -> Iterator[Report]:
        """Yield the reports of *records*, which follow those of the last call."""
        for record in records:
            if carries_origin(record.wd, record.mask):
                self._origin = Origin.parse(record.name)
            else:
                yield from filter(self._wanted, self._reports(record))

    def flush(self) -> Iterator[Report]:
        """Yield what was held back; no record follows."""
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            yield from filter(self._wanted, [_itself(leaving, MOVE_SELF)])

    def _reports(self, record: Record) -> Iterator[Report]:
        wd, mask, cookie, name = record
        watch = self.watches.get(wd, Watched(b""))
        origin, self._origin = self._origin, None
        directory, slash, leaf = name.rpartition(b"/") if watch.recursive else (b"", b"", name)
        event = Report(watch.shown + directory + slash, leaf, mask, cookie, wd, origin, self._mount)

        leaving, self._leaving = self._leaving, None
        arrived = leaving is not None and mask & MOVED_TO and leaving.cookie == cookie
        if leaving is not None and not arrived:
            yield _itself(leaving, MOVE_SELF)
        again = self._twice and watch.recursive and name and mask & ISDIR
        if again and mask & DELETE:
            yield _itself(event, DELETE_SELF)
        yield event
        if arrived:
            yield _itself(event, MOVE_SELF)
        elif again and mask & MOVED_FROM and self._asked & MOVE_SELF:
            self._leaving = event
        elif again and mask & _REPORTED_TWICE:
            yield _itself(event, mask)

    def _wanted(self, event: Report) -> bool:
        if event.mask & ALL_EVENTS and not event.mask & self._asked:
            return False  # requested only to make another of it
        watch = self.watches.get(event.wd)
        if watch is None:
            return True  # the overflow
        return not event.watched.startswith(watch.excluded) and self._passes(event.path)


def _itself(event: Report, mask: int) -> Report:
    """Make the report of the directory that *event* names."""
    return event._replace(watched=event.path + b"/", name=b"", mask=mask, cookie=0)
