"""One subscriber's events that must wait: until their change can be seen, or until it is known whether there is one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.core.queue import OVERFLOW
from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from tests.support.queues import EVERYTHING, Subscriber, modify, origin
from tests.support.tree import Gate

SELF = Record(1, flags.DELETE_SELF)
IGNORED = Record(1, flags.IGNORED)


@pytest.fixture
def one() -> Subscriber:
    return Subscriber()


# Gates of visibility


def test_nothing_passes_an_event_whose_gate_is_shut(one: Subscriber) -> None:
    gate = Gate()
    one.queue.append(modify(b"a"))
    one.queue.append(modify(b"b"), gates=(gate,))
    one.queue.append(modify(b"c"))
    assert one.drain() == [modify(b"a")]
    assert one.queue.gate is gate
    assert len(one.queue) == 2
    gate.open()
    assert one.queue.gate is None
    assert one.drain() == [modify(b"b"), modify(b"c")]


def test_an_event_waits_for_the_last_of_its_gates(one: Subscriber) -> None:
    first, second = Gate(), Gate()
    one.queue.append(modify(), gates=(first, second))
    second.open()
    assert one.queue.gate is first
    assert one.drain() == []
    first.open()
    assert one.drain() == [modify()]


def test_a_repeat_of_an_event_that_cannot_leave_yet_makes_it_wait_for_both(one: Subscriber) -> None:
    first, second = Gate(), Gate()
    one.queue.append(modify(), gates=(first,))
    one.queue.append(modify(), gates=(second,))
    assert one.queue.coalesced == 1
    first.open()
    assert one.drain() == []
    second.open()
    assert one.drain() == [modify()]


def test_a_repeat_that_can_be_seen_does_not_open_what_it_repeats(one: Subscriber) -> None:
    gate = Gate()
    one.queue.append(modify(), gates=(gate,))
    one.queue.append(modify())
    assert one.drain() == []
    gate.open()
    assert one.drain() == [modify()]


def test_a_repeat_makes_an_event_wait_that_could_have_left(one: Subscriber) -> None:
    """Else who reads it looks before the second change can be seen, and hears of it no more."""
    gate = Gate()
    one.queue.append(modify())
    one.queue.append(modify(), gates=(gate,))
    assert one.drain() == []
    gate.open()
    assert one.drain() == [modify()]


def test_a_file_that_is_changed_without_a_pause_is_told_all_the_same(one: Subscriber) -> None:
    """Whenever the kernel has finished with one change, the next is under way already."""
    gate = Gate()
    one.queue.append(modify(), gates=(gate,))
    for _ in range(100):
        following = Gate()
        one.queue.append(modify(), gates=(following,))
        gate.open()
        if one.drain():
            break
        gate = following
    assert one.queue.left == 1


def test_many_repeats_of_the_same_gates_keep_few(one: Subscriber) -> None:
    gates = (Gate(), Gate())
    for _ in range(1000):
        for gate in gates:
            one.queue.append(modify(), gates=(gate,))
    (item,) = one.queue._items  # noqa: SLF001 - what is taken has none that is shut
    assert item.gates == gates


def test_an_overflow_waits_for_what_came_before_it() -> None:
    one, gate = Subscriber(limit=2), Gate()
    one.queue.append(modify(b"a"), gates=(gate,))
    one.queue.append(modify(b"b"))
    one.queue.append(modify(b"c"))
    assert one.drain() == []
    gate.open()
    assert one.drain() == [modify(b"a"), modify(b"b"), OVERFLOW]


def test_a_repeat_of_what_was_sent_and_is_not_read_merges_whether_it_can_be_seen_or_not(one: Subscriber) -> None:
    """As Linux merges it: parity N7."""
    one.queue.append(modify())
    one.send()
    one.queue.append(modify(), gates=(Gate(),))
    assert one.drain() == [modify()]
    assert len(one.queue) == 0


# Doubts


def test_what_follows_a_doubt_waits_until_it_is_decided(one: Subscriber) -> None:
    gate = Gate()
    one.queue.append(modify(b"a"))
    one.queue.hold(gate)
    one.queue.append(modify(b"b"))
    assert one.drain() == [modify(b"a")]
    assert (one.queue.gate, one.queue.doubts, len(one.queue)) == (gate, [gate], 1)
    one.queue.insert(gate, SELF)
    one.queue.insert(gate, IGNORED)
    one.queue.release(gate)
    assert (one.queue.gate, one.queue.doubts) == (None, [])
    assert one.drain() == [SELF, IGNORED, modify(b"b")]


def test_a_doubt_alone_is_waited_for(one: Subscriber) -> None:
    gate = Gate()
    one.queue.hold(gate)
    assert (one.queue.gate, len(one.queue)) == (gate, 0)


@pytest.mark.parametrize("later_first", [False, True])
def test_two_doubts_are_decided_in_either_order(one: Subscriber, later_first: bool) -> None:  # noqa: FBT001 - a table
    gates = [Gate(), Gate()]
    for wd, gate in enumerate(gates, 1):
        one.queue.append(modify(wd=wd))
        one.queue.hold(gate)
    one.queue.append(modify(wd=3))
    for wd, gate in sorted(enumerate(gates, 1), reverse=later_first):
        one.queue.insert(gate, SELF._replace(wd=wd))
        one.queue.insert(gate, IGNORED._replace(wd=wd))
        one.queue.release(gate)
    assert [str(record).split()[:2] for record in one.drain()] == [
        ["wd1", "MODIFY"],
        ["wd1", "DELETE_SELF"],
        ["wd1", "IGNORED"],
        ["wd2", "MODIFY"],
        ["wd2", "DELETE_SELF"],
        ["wd2", "IGNORED"],
        ["wd3", "MODIFY"],
    ]


def test_what_was_kept_back_keeps_its_gates_and_its_origin(one: Subscriber) -> None:
    doubt, hidden = Gate(), Gate()
    one.queue.hold(doubt)
    one.queue.append(modify(), origin(7), (hidden,))
    one.queue.insert(doubt, SELF, origin(8), (hidden,))
    one.queue.release(doubt)
    assert one.queue.gate is hidden
    hidden.open()
    assert [item.origin for item in one.queue.take(EVERYTHING)] == [origin(8), origin(7)]


def test_repeats_that_are_kept_back_wait_for_every_change(one: Subscriber) -> None:
    doubt, first, second = Gate(), Gate(), Gate()
    one.queue.hold(doubt)
    one.queue.append(modify(), gates=(first,))
    one.queue.append(modify(), gates=(second,))
    one.queue.release(doubt)
    first.open()
    assert one.drain() == []
    second.open()
    assert one.drain() == [modify()]


def test_repeats_that_are_kept_back_fill_no_queue() -> None:
    one, gate = Subscriber(limit=2), Gate()
    one.queue.hold(gate)
    for _ in range(10):
        one.queue.append(modify())
    assert len(one.queue) == 1
    one.queue.release(gate)
    assert one.drain() == [modify()]
    assert (one.queue.coalesced, one.queue.dropped) == (9, 0)


def test_no_more_is_kept_back_than_may_be_queued() -> None:
    one, gates = Subscriber(limit=3), [Gate(), Gate()]
    for gate in gates:
        one.queue.hold(gate)
        for number in range(1000):
            one.queue.append(modify(b"%d" % number))
    assert len(one.queue) == 3
    for gate in gates:
        one.queue.release(gate)
    assert one.drain() == [*(modify(b"%d" % number) for number in range(3)), OVERFLOW]
    assert one.queue.dropped == 1997


@pytest.mark.parametrize("name", [b"f", b"g"])
def test_of_several_overflows_that_are_kept_back_only_the_first_takes_room(name: bytes) -> None:
    one, gate = Subscriber(limit=3), Gate()
    one.queue.hold(gate)
    for record in (modify(), modify(name)):
        one.queue.overflow()
        one.queue.append(record)
    one.queue.release(gate)
    assert one.drain() == [OVERFLOW, modify(), *([modify(name)] if name != b"f" else [])]
    assert one.queue.dropped == 2


def test_what_was_read_meanwhile_leaves_its_room_to_what_was_kept_back() -> None:
    one, gate = Subscriber(limit=2), Gate()
    one.queue.append(modify(b"a"))
    one.queue.append(modify(b"b"))
    one.send()
    one.queue.hold(gate)
    one.queue.append(modify(b"c"))
    one.queue.append(modify(b"d"))
    assert one.read(2) == [modify(b"a"), modify(b"b")]
    one.queue.release(gate)
    assert one.drain() == [modify(b"c"), modify(b"d")]


# A queue with doubts against a plain one, which hears of everything only when it is decided

steps = st.one_of(
    st.tuples(st.just("append"), st.sampled_from([modify(), modify(b"g"), modify(wd=2), IGNORED])),
    st.tuples(st.just("lose"), st.none()),
    st.tuples(st.just("hold"), st.booleans()),  # whether it will be told
    st.tuples(st.just("send"), st.none()),
    st.tuples(st.just("read"), st.integers(1, 3)),
    st.tuples(st.just("decide"), st.integers(0, 2)),
)


class Both:
    """The two, told the same; the plain one after the oldest doubt is decided."""

    def __init__(self, limit: int) -> None:
        self.doubting, self.plain = Subscriber(limit), Subscriber(limit)
        self.waiting: list[Any] = []
        """What the plain one has not been told: records, None for a loss, undecided gates."""
        self.dies: dict[Gate, bool] = {}

    def append(self, record: Record) -> None:
        self.doubting.queue.append(record)
        self.waiting.append(record)

    def lose(self, _: None) -> None:
        self.doubting.queue.overflow()
        self.waiting.append(None)

    def hold(self, dies: bool) -> None:  # noqa: FBT001 - drawn
        gate = Gate()
        self.dies[gate] = dies
        self.doubting.queue.hold(gate)
        self.waiting.append(gate)

    def decide(self, which: int) -> None:
        if not self.dies:
            return
        gate = list(self.dies)[which % len(self.dies)]
        told = [SELF, IGNORED] if self.dies.pop(gate) else []
        for record in told:
            self.doubting.queue.insert(gate, record)
        self.doubting.queue.release(gate)
        place = self.waiting.index(gate)
        self.waiting[place : place + 1] = told

    def send(self, _: None) -> None:
        self.doubting.send()
        self.plain.send()

    def read(self, count: int) -> None:
        assert self.doubting.read(count) == self.plain.read(count)

    def feed(self) -> None:
        while self.waiting and not isinstance(self.waiting[0], Gate):
            record = self.waiting.pop(0)
            if record is None:
                self.plain.queue.overflow()
            else:
                self.plain.queue.append(record)

    def check(self) -> None:
        doubting, plain = self.doubting.queue, self.plain.queue
        assert doubting._items == plain._items  # noqa: SLF001 - taking them would change what is tested
        assert self.doubting.unread == self.plain.unread
        assert len(doubting) >= len(plain)
        if not self.dies:
            for counter in ("dropped", "coalesced", "kinds", "bytes", "entered", "left"):
                assert getattr(doubting, counter) == getattr(plain, counter), counter


@given(st.integers(1, 5), st.lists(steps, max_size=40))
def test_what_follows_a_doubt_merges_and_overflows_as_if_it_came_when_that_is_decided(
    limit: int, played: list[tuple[str, Any]]
) -> None:
    """With one doubt at a time. With several, *limit* holds for all that is kept back together."""
    both = Both(limit)
    for step, value in played:
        if step == "hold" and both.dies:
            continue
        getattr(both, step)(value)
        both.feed()
        both.check()


@given(st.lists(steps, max_size=40))
def test_several_doubts_decided_in_any_order_change_nothing_but_the_time(played: list[tuple[str, Any]]) -> None:
    both = Both(40)
    for step, value in [*played, *[("decide", 0)] * 40]:
        getattr(both, step)(value)
        both.feed()
        both.check()
    assert both.doubting.drain() == both.plain.drain()
