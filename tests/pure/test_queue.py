"""One subscriber's pending events: what merges, what overflows, what is taken."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from notifyfs.core.queue import OVERFLOW, Item, Queue
from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from tests.support.queues import EVERYTHING, Subscriber, modify, origin


def numbered(count: int) -> list[Record]:
    return [modify(b"%d" % number) for number in range(count)]


# Coalescing (parity N7)


def test_a_repeat_of_the_last_event_is_one_event() -> None:
    one = Subscriber()
    one.tell(modify(), modify(), modify())
    assert one.drain() == [modify()]
    assert one.queue.coalesced == 2


@pytest.mark.parametrize(
    "other",
    [
        modify(b"g"),
        modify(b""),
        modify(wd=2),
        Record(1, flags.ATTRIB, 0, b"f"),
        Record(1, flags.MODIFY | flags.ISDIR, 0, b"f"),
    ],
)
def test_another_name_mask_or_watch_is_another_event(other: Record) -> None:
    one = Subscriber()
    one.tell(modify(), other)
    assert one.drain() == [modify(), other]


def test_only_the_last_event_is_looked_at() -> None:
    one = Subscriber()
    one.tell(modify(b"f"), modify(b"g"), modify(b"f"), modify(b"f"))
    assert one.drain() == [modify(b"f"), modify(b"g"), modify(b"f")]


def test_the_first_cookie_stays() -> None:
    one = Subscriber()
    one.tell(*(Record(1, flags.MOVED_FROM, cookie, b"a") for cookie in (1, 3, 5)))
    assert one.drain() == [Record(1, flags.MOVED_FROM, 1, b"a")]


def test_ignored_never_merges() -> None:
    one = Subscriber()
    ignored = Record(1, flags.IGNORED)
    one.tell(ignored, ignored)
    assert one.drain() == [ignored, ignored]


def test_what_was_sent_and_not_read_still_merges() -> None:
    one = Subscriber()
    one.tell(modify())
    one.send()
    one.tell(modify())
    assert one.drain() == [modify()]


def test_of_what_was_sent_the_last_event_counts() -> None:
    one = Subscriber()
    one.tell(modify(b"f"), modify(b"g"))
    one.send()
    one.tell(modify(b"g"), modify(b"f"))
    assert one.drain() == [modify(b"f"), modify(b"g"), modify(b"f")]


def test_what_was_read_does_not() -> None:
    one = Subscriber()
    one.tell(modify())
    one.send()
    assert one.read(1) == [modify()]
    one.tell(modify())
    assert one.drain() == [modify()]
    assert one.queue.coalesced == 0


def test_after_a_reply_the_last_event_sent_is_closed() -> None:
    """Else an event that came after a barrier would seem to have come before it."""
    one = Subscriber()
    one.tell(modify())
    one.send()
    one.queue.forget_tail()
    one.tell(modify(), modify())
    assert one.drain() == [modify(), modify()]


def test_the_same_event_of_two_processes_is_two() -> None:
    queue = Queue(10, lambda: 0)
    for pid in (1, 1, 2):
        queue.append(modify(), origin(pid))
    assert [item.origin.pid for item in queue.take(EVERYTHING) if item.origin] == [1, 2]


# Overflow (parity N8)


def test_a_full_queue_ends_in_exactly_one_overflow() -> None:
    one = Subscriber(limit=3)
    one.tell(*numbered(6))
    assert one.drain() == [*numbered(3), Record(-1, flags.Q_OVERFLOW)]
    assert one.queue.dropped == 3


def test_when_full_even_a_repeat_overflows() -> None:
    one = Subscriber(limit=2)
    one.tell(modify(b"0"), modify(b"1"), modify(b"1"))
    assert one.drain() == [modify(b"0"), modify(b"1"), OVERFLOW]


def test_a_full_queue_loses_ignored_too() -> None:
    one = Subscriber(limit=1)
    one.tell(modify(), Record(1, flags.IGNORED))
    assert one.drain() == [modify(), OVERFLOW]


def test_what_was_sent_and_not_read_counts_against_the_limit() -> None:
    one = Subscriber(limit=3)
    one.tell(*numbered(2))
    one.send()
    one.tell(modify(b"x"), modify(b"y"))
    assert one.drain() == [*numbered(2), modify(b"x"), OVERFLOW]


def test_reading_makes_room_again() -> None:
    one = Subscriber(limit=2)
    one.tell(*numbered(3))
    assert one.drain() == [*numbered(2), OVERFLOW]
    one.tell(*numbered(3))
    assert one.drain() == [*numbered(2), OVERFLOW]


def test_an_overflow_that_is_sent_and_not_read_is_not_repeated() -> None:
    one = Subscriber(limit=2)
    one.tell(*numbered(3))
    one.send()
    one.tell(modify(b"lost"))
    assert one.drain() == [*numbered(2), OVERFLOW]
    assert one.queue.dropped == 2


def test_events_may_follow_an_overflow_before_it_is_read() -> None:
    one = Subscriber(limit=2)
    one.tell(*numbered(3))
    one.send()
    assert one.read(2) == numbered(2)
    one.tell(modify(b"after"))
    assert one.drain() == [OVERFLOW, modify(b"after")]


def test_an_overflow_that_was_read_is_said_again_though_later_events_are_unread() -> None:
    one = Subscriber(limit=2)
    one.tell(*numbered(3))
    one.send()
    assert one.read(2) == numbered(2)
    one.tell(modify(b"x"))
    one.send()
    assert one.read(1) == [OVERFLOW]
    one.tell(modify(b"y"), modify(b"lost"))
    assert one.drain() == [modify(b"x"), modify(b"y"), OVERFLOW]


def test_what_no_record_can_carry_is_said_by_an_overflow_though_there_is_room() -> None:
    one = Subscriber()
    one.tell(modify())
    one.queue.overflow()
    one.queue.overflow()
    one.tell(modify())
    assert one.drain() == [modify(), OVERFLOW, modify()]


# Taking


def test_take_gives_whole_events_up_to_so_many_bytes_and_always_one() -> None:
    one = Subscriber()
    one.tell(modify(b"n" * 15), modify(b""), modify(b"n" * 16))  # 32, 16 and 48 bytes
    assert [item.record.name for item in one.queue.take(0)] == [b"n" * 15]
    assert len(one.queue.take(16 + 47)) == 1
    assert len(one.queue.take(48)) == 1
    assert one.queue.take(EVERYTHING) == []


def test_bytes_are_those_that_fionread_would_tell() -> None:
    queue = Queue(10, lambda: 0)
    queue.append(modify(b"n" * 16))
    queue.append(modify(b""), origin(1))
    assert queue.bytes == 48 + (16 + 48) + 16
    queue.take(0)
    assert queue.bytes == (16 + 48) + 16
    queue.take(0)
    assert queue.bytes == 0


def test_counters_tell_what_happened() -> None:
    one = Subscriber(limit=2)
    one.tell(modify(), modify(), modify(b"g"), modify(b"lost"))
    queue = one.queue
    assert (len(queue), queue.entered, queue.coalesced, queue.dropped, queue.high_water) == (3, 3, 1, 1, 3)
    one.drain()
    assert (len(queue), queue.entered, queue.high_water) == (0, 3, 3)


def test_the_socket_is_not_asked_without_need() -> None:
    one = Subscriber(limit=1000)
    one.tell(*numbered(100))
    one.send()
    one.tell(modify(b"other"), *numbered(100))
    assert one.asked == 0


# Against a naive model of Linux's


class LinuxQueue:
    """fs/notify/notification.c, as naively as it can be said: one list until read(2)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pending: list[Record] = []
        self.closed = False  # a reply followed the last one (ours alone)

    def append(self, record: Record) -> None:
        if len(self.pending) >= self.limit:
            self.overflow()
        elif not (self.pending and not self.closed and self._same(self.pending[-1], record)):
            self._push(record)

    def overflow(self) -> None:
        if OVERFLOW not in self.pending:
            self._push(OVERFLOW)

    def _push(self, record: Record) -> None:
        self.pending.append(record)
        self.closed = False

    @staticmethod
    def _same(old: Record, new: Record) -> bool:
        return old._replace(cookie=0) == new._replace(cookie=0) and not old.mask & flags.IGNORED


class AgainstLinux(RuleBasedStateMachine):
    """Whatever is appended, sent and read in whatever order: unread = sent and unread + queued = Linux's list."""

    @initialize(limit=st.integers(1, 5))
    def open(self, limit: int) -> None:
        self.linux = LinuxQueue(limit)
        self.ours = Subscriber(limit)

    @rule(
        record=st.builds(
            Record,
            wd=st.integers(1, 2),
            mask=st.sampled_from([flags.MODIFY, flags.MOVED_FROM, flags.IGNORED]),
            cookie=st.integers(0, 2),
            name=st.sampled_from([b"", b"f", b"g"]),
        ),
        times=st.integers(1, 3),
    )
    def append(self, record: Record, times: int) -> None:
        for _ in range(times):
            self.linux.append(record)
            self.ours.tell(record)

    @precondition(lambda self: self.linux.pending)
    @rule()
    def repeat(self) -> None:
        last = self.linux.pending[-1]
        if last != OVERFLOW:
            self.linux.append(last)
            self.ours.tell(last)

    @rule()
    def lose(self) -> None:
        self.linux.overflow()
        self.ours.queue.overflow()

    @rule(most=st.integers(0, 100))
    def send(self, most: int) -> None:
        self.ours.send(most)

    @rule()
    def reply(self) -> None:
        self.ours.send()
        self.ours.queue.forget_tail()
        self.linux.closed = True

    @precondition(lambda self: self.ours.unread)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, len(self.ours.unread)))
        assert self.ours.read(count) == self.linux.pending[:count]
        del self.linux.pending[:count]

    @invariant()
    def nothing_is_lost_doubled_or_reordered(self) -> None:
        items: list[Item] = list(self.ours.queue._items)  # noqa: SLF001 - taking them would change what is tested
        assert [item.record for item in [*self.ours.unread, *items]] == self.linux.pending

    @invariant()
    def the_bytes_are_counted(self) -> None:
        queue = self.ours.queue
        assert queue.bytes == sum(item.size for item in queue._items)  # noqa: SLF001 - as above
        assert len(queue) <= queue.high_water


TestAgainstLinux = AgainstLinux.TestCase
TestAgainstLinux.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
