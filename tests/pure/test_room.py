"""What the queues of one user may hold together."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from notifyfs.core.accounts import MOST_LARGE, Accounts, Limits
from notifyfs.core.instances import Instance
from notifyfs.core.queue import COST, OVERFLOW, Queue, Room
from tests.support.gates import Gate
from tests.support.queues import EVERYTHING, modify, origin

if TYPE_CHECKING:
    from notifyfs.protocol.records import Record

USER, OWNER = 1000, 500
SIZE = 32 + COST  # of one with a short name


def sharing(events: int) -> tuple[Room, Queue, Queue]:
    """Two queues, and room for so many events."""
    room = Room(events * SIZE)
    return room, Queue(1000, lambda: 0, room), Queue(1000, lambda: 0, room)


def told(queue: Queue) -> list[Record]:
    return [item.record for item in queue.take(EVERYTHING)]


def test_what_there_is_no_room_for_overflows_once_in_each_queue() -> None:
    room, one, other = sharing(10)
    for number in range(100):
        one.append(modify(b"%d" % number))
    for number in range(5):
        other.append(modify(b"%d" % number))
    assert told(one) == [*(modify(b"%d" % number) for number in range(10)), OVERFLOW]
    assert (one.dropped, other.dropped) == (90, 5)
    assert told(other) == [OVERFLOW]
    assert room.held == 0


def test_when_one_has_read_there_is_room_for_the_other() -> None:
    _, one, other = sharing(10)
    for number in range(10):
        one.append(modify(b"%d" % number))
    told(one)
    other.append(modify())
    assert told(other) == [modify()]


def test_long_names_and_origins_take_more_of_it() -> None:
    room, one, _ = sharing(10)
    one.append(modify(b"x" * 200), origin(1))
    assert room.held == one.bytes + COST > 16 + 208 + 64


def test_what_is_held_back_takes_room_as_well() -> None:
    room, one, _ = sharing(10)
    gate = Gate()
    one.hold(gate)
    for number in range(100):
        one.append(modify(b"%d" % number))
    assert 10 * SIZE <= room.held <= 12 * SIZE
    one.release(gate)
    assert told(one)[-1] == OVERFLOW
    assert room.held == 0


def test_a_queue_that_is_closed_gives_all_of_it_back_and_keeps_nothing() -> None:
    room, one, _ = sharing(50)
    chance = random.Random(4)  # noqa: S311 - no secret
    for _ in range(200):
        gates = [Gate(), Gate()]
        for step in range(40):
            if step in (10, 20):
                one.hold(gates[step // 20])
            one.append(modify(b"%d" % chance.randrange(100)), origin(1) if chance.random() < 0.3 else None)
            if chance.random() < 0.1:
                one.overflow()
            if chance.random() < 0.2:
                one.take(100)
        one.insert(gates[1], modify(b"i"))
        for gate in gates:
            one.release(gate)
        assert room.held == one.bytes + COST * len(one)
        told(one)
        assert room.held == 0
    for number in range(30):
        if number == 20:
            one.hold(gate)
        one.append(modify(b"%d" % number))
    one.close()
    assert room.held == 0
    one.append(modify())
    one.insert(gate, modify())
    one.overflow()
    one.release(gate)
    assert (told(one), room.held, len(one)) == ([], 0, 0)


def test_a_user_s_instances_share_it_and_root_s_have_no_limit() -> None:
    accounts = Accounts(OWNER, Limits(max_user_queued_bytes=5))
    shared = accounts.shared(USER)
    assert accounts.shared(USER) is shared
    assert shared.room.most == 5
    assert accounts.shared(0).room.most > 1 << 60
    assert accounts.shared(OWNER).room.most > 1 << 60
    shared.room.held = 3
    del shared
    assert accounts.shared(USER).room.held == 0, "they are all gone"


def test_of_a_user_s_event_descriptors_some_have_a_large_buffer() -> None:
    accounts = Accounts(OWNER, Limits())
    for uid, large in ((USER, MOST_LARGE), (0, 20), (OWNER, 20)):
        instances = [Instance(uid, Queue(1, lambda: 0), lambda: None) for _ in range(20)]
        for instance in instances:
            accounts.open(instance)
        assert [accounts.afford_large(instance) for instance in instances].count(True) == large
        accounts.close(instances.pop(0))
        accounts.open(last := Instance(uid, Queue(1, lambda: 0), lambda: None))
        assert accounts.afford_large(last), "the first has ended"
