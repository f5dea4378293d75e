"""One subscriber's pending events: coalesce, overflow, wait, take.

What Linux keeps in one list until ``read(2)`` is in two places here: this
queue, and whatever was sent to the subscriber's socket and not read yet. Both
count: as the tail for coalescing, and against ``max_queued_events``.
"""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from notifyfs.protocol import flags
from notifyfs.protocol.records import HEADER, ORIGIN, Origin, Record, field_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

OVERFLOW: Final = Record(-1, flags.Q_OVERFLOW)
_ORIGIN_SIZE: Final = HEADER.size + ORIGIN.size
_MOST_GATES: Final = 4  # that an event waits for, one after the other; a rename has two of its own


COST: Final = 170
"""Bytes of memory that an event in a queue takes besides its size on the wire (Python 3.11)."""


class Room:
    """Bytes that the events of several queues may take in all: there is none while *held* is *most* or more."""

    __slots__ = ("__weakref__", "held", "most")

    def __init__(self, most: int = sys.maxsize) -> None:
        self.most = most
        self.held = 0


class Gate(Protocol):
    """What must come about before an event may leave. It opens once, and for good."""

    shut: bool

    def open(self) -> None:
        """It has come about."""
        ...

    def opened(self) -> Awaitable[None]:
        """Wait until it is open. Who waits sees to it that it does open, in bounded time."""
        ...


class Question(Gate, Protocol):
    """A gate that is shut until something is decided, in a time in which nothing may come about, too."""

    @property
    def late(self) -> bool:
        """Whether that time is over."""
        ...


class Item(NamedTuple):
    """One event in the queue."""

    record: Record
    origin: Origin | None = None
    gates: tuple[Gate, ...] = ()

    @property
    def hidden(self) -> bool:
        """Whether a gate is shut."""
        return bool(self.gates) and any(gate.shut for gate in self.gates)

    @property
    def size(self) -> int:
        """Bytes on the wire, the origin included."""
        return HEADER.size + field_size(self.record.name) + (_ORIGIN_SIZE if self.origin else 0)


class _Kept:
    """What came after a gate, and before the next."""

    __slots__ = ("items", "lost")

    def __init__(self) -> None:
        self.items: list[tuple[Item, int]] = []
        """Oldest first, and how many times in a row each came."""
        self.lost = False
        """Whether one of them is an overflow; what is let go at once has one at most."""


class Queue:
    """The events of one instance, oldest first.

    *limit* is ``max_queued_events``. *unread* tells how many of the items that
    were taken the subscriber has not read yet; it is asked only when the
    answer matters (a possible repeat of the last one taken; a full queue). Where
    *room* has none, the queue is full as well.

    An event leaves when its own gates are open and those before it have left. Whether there
    is an event at all may hang on a gate as well (``hold``): what comes after it is kept, up to
    *limit* events besides their repeats, and merges or overflows when that is decided, as if it
    came then.
    """

    def __init__(self, limit: int, unread: Callable[[], int], room: Room | None = None) -> None:
        self.limit = limit
        self._room = room or Room()
        self.dropped = 0
        self.coalesced = 0
        self.kinds: defaultdict[int, int] = defaultdict(int)
        """Mask -> how many events with it were queued; overflow records, too."""
        self.high_water = 0
        self.bytes = 0
        self.entered = 0
        """Events that were queued, as ``kinds`` has them."""
        self.left = 0
        """Events that were taken."""
        self._items: deque[Item] = deque()
        self._held: dict[Gate, _Kept] = {}
        self._kept = 0  # how many events there are in these, besides repeats and overflows
        self._unread = unread
        self._taken = 0  # taken and, when last asked, unread
        self._last: Item | None = None  # the last one taken
        self._overflow_queued = False
        self._overflow_age = 0  # items taken since OVERFLOW was, itself included; 0: it was read

    def __len__(self) -> int:
        return len(self._items) + self._kept

    @property
    def gate(self) -> Gate | None:
        """What the oldest event, or the question whether there is one, waits for."""
        if self._items:
            return next((gate for gate in self._items[0].gates if gate.shut), None)
        return next(iter(self._held), None)

    @property
    def doubts(self) -> list[Gate]:
        """The gates that hold back what came after them, oldest first."""
        return list(self._held)

    def close(self) -> None:
        """Drop all that there is: nobody reads it any more. What still comes is kept nowhere."""
        self._room.held -= self.bytes + COST * len(self._items)
        self._items.clear()
        for kept in self._held.values():
            self._room.held -= sum(item.size + COST for item, _ in kept.items)
            kept.items.clear()
            kept.lost = True
        self.bytes = self.limit = self._kept = self._taken = 0
        self._overflow_queued = True
        self._unread = _nothing

    def append(self, record: Record, origin: Origin | None = None, gates: tuple[Gate, ...] = ()) -> None:
        """Queue an event, or merge it into the tail, or (when full) the one overflow record."""
        item = Item(record, origin, gates)
        if self._held:
            self._keep(item)
        else:
            self._enter(item)

    def hold(self, gate: Gate) -> None:
        """Keep back what comes from now on until ``release``."""
        self._held[gate] = _Kept()

    def insert(self, gate: Gate, record: Record, origin: Origin | None = None, gates: tuple[Gate, ...] = ()) -> None:
        """Put an event where *gate* holds: after what came before it, before what has come since."""
        item, before = Item(record, origin, gates), self._before(gate)
        if before is None:
            self._enter(item)
        else:
            before.items.append((item, 1))
            self._kept += 1
            self._room.held += item.size + COST

    def release(self, gate: Gate) -> None:
        """Let go of what was kept back by *gate* alone."""
        before, kept = self._before(gate), self._held.pop(gate)
        if before is not None:
            before.items += kept.items
            before.lost |= kept.lost
            return
        for item, times in kept.items:
            self._room.held -= item.size + COST
            if item.record is OVERFLOW:
                self._say_overflow()
                continue
            self._kept -= 1
            for _ in range(times):
                self._enter(item)

    def overflow(self) -> None:
        """Say once, until it is read, that something was lost."""
        self.dropped += 1
        if not self._held:
            self._say_overflow()
            return
        kept = next(reversed(self._held.values()))
        if not kept.lost:
            kept.lost = True
            kept.items.append((Item(OVERFLOW), 1))
            self._room.held += kept.items[-1][0].size + COST

    def take(self, most: int) -> list[Item]:
        """Remove and return the oldest items that may leave: at most *most* bytes of them, but one at least."""
        items = self._items
        taken: list[Item] = []
        size = 0
        while items and not (item := items[0]).hidden:
            following = size + item.size
            if following > most and taken:
                break
            size = following
            taken.append(items.popleft())
            if item.record is OVERFLOW:
                self._overflow_queued, self._overflow_age = False, 1
            elif self._overflow_age:
                self._overflow_age += 1
        if taken:
            self.bytes -= size
            self._room.held -= size + COST * len(taken)
            self.left += len(taken)
            self._taken += len(taken)
            self._last = taken[-1]
        return taken

    def forget_tail(self) -> None:
        """What was taken last can no longer be the tail: something else was sent after it."""
        self._last = None

    def _before(self, gate: Gate) -> _Kept | None:
        """What is kept between the gate before *gate* and this; None where *gate* is the first."""
        before = None
        for each, kept in self._held.items():
            if each is gate:
                break
            before = kept
        return before

    def _keep(self, item: Item) -> None:
        kept = next(reversed(self._held.values())).items
        if kept and _repeats(kept[-1][0], item):
            last, times = kept[-1]
            kept[-1] = _joined(last, item), times + 1
        elif self._kept < self.limit and self._room.held < self._room.most:  # else it overflows when it is let go
            kept.append((item, 1))
            self._kept += 1
            self._room.held += item.size + COST
        else:
            self.overflow()

    def _enter(self, item: Item) -> None:
        items, room = self._items, self._room
        if len(items) + self._taken >= self.limit or room.held >= room.most:
            if self._taken:
                self._ask()
            if len(items) + self._taken >= self.limit or room.held >= room.most:
                # Linux looks at the limit before it tries to merge (docs/parity.md, N8).
                self.dropped += 1
                self._say_overflow()
                return
        if items:
            if _repeats(items[-1], item):
                self.coalesced += 1
                items[-1] = _joined(items[-1], item)
                return
        elif self._taken and self._last is not None and _repeats(self._last, item) and self._ask():
            # Whatever its gates: as Linux does. Who reads the one before in that moment may look too early.
            self.coalesced += 1
            return
        self._push(item)

    def _say_overflow(self) -> None:
        if self._overflow_queued:
            return
        if self._overflow_age and self._overflow_age > self._ask():
            self._overflow_age = 0
        if not self._overflow_age:
            self._overflow_queued = True
            self._push(Item(OVERFLOW))

    def _push(self, item: Item) -> None:
        self._items.append(item)
        self.entered += 1
        self.kinds[item.record.mask] += 1
        size = item.size
        self.bytes += size
        self._room.held += size + COST
        self.high_water = max(self.high_water, len(self._items))

    def _ask(self) -> int:
        self._taken = self._unread()
        return self._taken


def _nothing() -> int:
    return 0


def _joined(last: Item, item: Item) -> Item:
    """*last*, which tells of *item* as well: who reads it must find both changes.

    But not for ever: of a file that is changed without a pause nobody would hear, would each change shut it in anew.
    """
    if not item.gates or item.gates == last.gates or len(last.gates) >= _MOST_GATES:
        return last
    return last._replace(gates=tuple(dict.fromkeys(last.gates + item.gates)))


def _repeats(last: Item, new: Item) -> bool:
    # Linux leaves the cookie out of this comparison (docs/parity.md, N7); IGNORED never merges
    # (kernel: inotify_merge).
    old, record = last.record, new.record
    return (
        old.mask == record.mask
        and old.name == record.name
        and old.wd == record.wd
        and not old.mask & flags.IGNORED
        and (last.origin is None or new.origin is None or last.origin.pid == new.origin.pid)
    )
