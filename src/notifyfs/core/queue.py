"""One subscriber's pending events: coalesce, overflow, take.

What Linux keeps in one list until ``read(2)`` is in two places here: this
queue, and whatever was sent to the subscriber's socket and not read yet. Both
count: as the tail for coalescing, and against ``max_queued_events``.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final

from notifyfs.protocol import flags
from notifyfs.protocol.records import HEADER, ORIGIN, Origin, Record, field_size

if TYPE_CHECKING:
    from collections.abc import Callable

OVERFLOW: Final = Record(-1, flags.Q_OVERFLOW)
_ORIGIN_SIZE: Final = HEADER.size + ORIGIN.size

Item = tuple[Record, Origin | None]


def size(item: Item) -> int:
    """How many bytes *item* takes on the wire, its origin included."""
    record, origin = item
    return HEADER.size + field_size(record.name) + (_ORIGIN_SIZE if origin else 0)


class Queue:
    """The events of one instance, oldest first.

    *limit* is ``max_queued_events``. *unread* tells how many of the items that
    were taken the subscriber has not read yet; it is asked only when the
    answer matters (a possible repeat of the last one taken; a full queue).
    """

    def __init__(self, limit: int, unread: Callable[[], int]) -> None:
        self.limit = limit
        self.dropped = 0
        self.coalesced = 0
        self.kinds: defaultdict[int, int] = defaultdict(int)
        """Mask -> how many events with it were queued; overflow records, too."""
        self.high_water = 0
        self.bytes = 0
        self._items: deque[Item] = deque()
        self._unread = unread
        self._taken = 0  # taken and, when last asked, unread
        self._last: Item | None = None  # the last one taken
        self._overflow_queued = False
        self._overflow_age = 0  # items taken since OVERFLOW was, itself included; 0: it was read

    def __len__(self) -> int:
        return len(self._items)

    @property
    def total(self) -> int:
        """How many events were queued, overflow records among them."""
        return sum(self.kinds.values())

    def append(self, record: Record, origin: Origin | None = None) -> None:
        """Queue an event, or merge it into the tail, or (when full) the one overflow record."""
        items = self._items
        if len(items) + self._taken >= self.limit:
            if self._taken:
                self._ask()
            if len(items) + self._taken >= self.limit:
                # Linux looks at the limit before it tries to merge (measured: N8).
                self.overflow()
                return
        if items:
            last = items[-1]
        elif self._taken and self._last is not None and self._last[0].wd == record.wd:
            last = self._last
        else:
            self._push((record, origin))
            return
        if _repeats(last, record, origin) and (items or self._ask()):
            self.coalesced += 1
        else:
            self._push((record, origin))

    def overflow(self) -> None:
        """Say once, until it is read, that something was lost."""
        self.dropped += 1
        if self._overflow_age and self._overflow_age > self._ask():
            self._overflow_age = 0
        if not (self._overflow_queued or self._overflow_age):
            self._overflow_queued = True
            self._push((OVERFLOW, None))

    def take(self, most: int, events: int = sys.maxsize) -> list[Item]:
        """Remove and return the oldest items: at most so many *events*, and *most* bytes, but one at least of those."""
        items = self._items
        taken: list[Item] = []
        left = most
        while items and len(taken) < events:
            left -= size(items[0])
            if left < 0 and taken:
                break
            item = items.popleft()
            taken.append(item)
            if item[0] is OVERFLOW:
                self._overflow_queued, self._overflow_age = False, 1
            elif self._overflow_age:
                self._overflow_age += 1
        if taken:
            self.bytes -= sum(map(size, taken))
            self._taken += len(taken)
            self._last = taken[-1]
        return taken

    def forget_tail(self) -> None:
        """What was taken last can no longer be the tail: something else was sent after it."""
        self._last = None

    def _push(self, item: Item) -> None:
        self._items.append(item)
        self.kinds[item[0].mask] += 1
        self.bytes += size(item)
        self.high_water = max(self.high_water, len(self._items))

    def _ask(self) -> int:
        self._taken = self._unread()
        return self._taken


def _repeats(last: Item, record: Record, origin: Origin | None) -> bool:
    # Linux leaves the cookie out of this comparison (measured: N7); IGNORED never merges
    # (kernel: inotify_merge).
    old, by = last
    return (
        old.mask == record.mask
        and old.name == record.name
        and old.wd == record.wd
        and not old.mask & flags.IGNORED
        and (by is None or origin is None or by.pid == origin.pid)
    )
