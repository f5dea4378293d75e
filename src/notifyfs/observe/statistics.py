"""What a daemon knows about itself: the answers to a statistics request (``docs/protocol.md``), and for ``metrics``.

Whatever is read here may be read from another thread than the one that counts. So nothing is
iterated over but copies: copying a dict or list of numbers is one step under the interpreter's lock.
"""

from __future__ import annotations

import errno
import json
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.observe import counters
from notifyfs.observe.counters import Tally
from notifyfs.protocol import records, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from notifyfs.core.changes import Changes
    from notifyfs.core.instances import Instance
    from notifyfs.core.watches import Watches

Row = dict[str, object]

_NUMBER: Final = re.compile(rb"[0-9]{0,19}")


class OpenInstance(NamedTuple):
    """An instance that is open."""

    number: int
    """Instances count from 1."""
    pid: int
    """The process that connected; 0: not visible."""


class Books:
    """Who is open, and what those have counted who are not any more."""

    def __init__(self) -> None:
        self.both: tuple[Tally, dict[Instance, OpenInstance]] = Tally(), {}
        """The sums of the closed instances, and the open ones, lowest number first.

        Replaced as a whole and never changed: nobody can see an instance twice, or nowhere, and a
        total that went down would look like a restart.
        """
        self._last = 0

    def open(self, instance: Instance, pid: int) -> None:
        """*instance*, of the process *pid*, was admitted: number it."""
        self._last += 1
        closed, living = self.both
        self.both = closed, {**living, instance: OpenInstance(self._last, pid)}

    def close(self, instance: Instance) -> None:
        """*instance* has ended: keep what it has counted. Nothing, if it was not admitted."""
        closed, living = self.both
        if instance in living:
            living = living.copy()
            del living[instance]
            self.both = closed + Tally.of(instance.queue), living

    @property
    def living(self) -> dict[Instance, OpenInstance]:
        """The open instances, lowest number first."""
        return self.both[1]

    def tally(self) -> Tally:
        """What has happened to the queues of all instances since the mount."""
        closed, living = self.both
        return sum((Tally.of(instance.queue) for instance in living), closed)


class Statistics:
    """The counters of one mount. *held*: numbers that the other rooms know, such as ``inodes``."""

    def __init__(self, watches: Watches, changes: Changes, held: Callable[[], dict[str, int]]) -> None:
        self.books = Books()
        self._watches = watches
        self._changes = changes
        self._held = held

    def now(self) -> dict[str, int]:
        """What there is at this moment."""
        living = self.books.living
        return {
            "instances": len(living),
            "watches": self._watches.accounts.watches,
            **self._held(),
            "queued_events": sum(len(instance.queue) for instance in living),
            "queued_bytes": sum(instance.queue.bytes for instance in living),
        }

    def answer(self, record: records.Record, asking: Instance) -> bytes:
        """The JSON that answers the request *record* of the instance *asking*.

        EINVAL: an unknown mask, or a name that is no number.
        """
        if not _NUMBER.fullmatch(record.name):
            raise OSError(errno.EINVAL, "not the number of a row", record.name)
        first = int(record.name or b"0")
        if record.mask == requests.STATISTICS_OPERATIONS:
            return _page(enumerate(self.operations()), first)
        if record.mask == requests.STATISTICS_INSTANCES:
            return _page(self.instances(), first)
        if record.mask or record.name:
            raise OSError(errno.EINVAL, "no such statistics", hex(record.mask))
        told = self.now() | self.books.tally().named()
        told["events"] = self._changes.last
        return json.dumps({"instance": _of(asking), "mount": told}).encode()

    @staticmethod
    def operations() -> Iterator[Row]:
        """Each operation's requests."""
        for name, counter in counters.REQUESTS.items():
            buckets = counter.buckets.copy()
            yield {
                "operation": name,
                "count": sum(buckets),
                "errors": counter.errors,
                "nanoseconds": counter.nanoseconds,
                "buckets": {exponent: count for exponent, count in enumerate(buckets) if count},
            }

    def instances(self) -> Iterator[tuple[int, Row]]:
        """Each open instance, by number."""
        for instance, (number, pid) in self.books.living.items():
            yield number, {"number": number, "pid": pid, "uid": instance.uid, **_of(instance)}


def _of(instance: Instance) -> Row:
    queue = instance.queue
    return {
        "watches": len(instance.watches),
        "queued_events": len(queue),
        "queued_bytes": queue.bytes,
        **Tally.of(queue).named(),
    }


def _page(rows: Iterable[tuple[int, Row]], first: int) -> bytes:
    """The rows from number *first* on, as many as one record holds, and the number of the next."""
    told: list[str] = []
    room = records.MAX_LEN - len('{"rows": [], "next": 18446744073709551615}')
    following = None
    for number, row in rows:
        if number >= first:
            text = json.dumps(row)
            room -= len(text) + len(", ")
            if room <= 0:
                following = number
                break
            told.append(text)
    return f'{{"rows": [{", ".join(told)}], "next": {json.dumps(following)}}}'.encode()
