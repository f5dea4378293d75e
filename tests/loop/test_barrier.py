"""A request is a barrier: what comes before its reply, what it waits for, and what it does not. On trio's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import Record
from tests.support.gates import Gate

if TYPE_CHECKING:
    from trio.testing import MockClock

    from tests.support.served import Client, Served


def made(wd: int, name: bytes) -> Record:
    return Record(wd, flags.CREATE, 0, name)


async def test_the_removal_of_a_watch_is_told_before_the_reply(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    """Also when an event before it cannot be seen yet."""
    gate = Gate()
    wd = await client.add(flags.CREATE)
    served.make("a", gate)
    cookie = await client.send(wd)
    await wait_all_tasks_blocked()
    gate.open()
    assert await client.reply() == (
        [made(wd, b"a"), Record(wd, flags.IGNORED)],
        Record(0, flags.X_REPLY, cookie),
    )


async def test_a_reply_comes_after_all_that_was_told_before_the_request(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    wd = await client.add(flags.CREATE)
    for number in range(500):
        served.make(f"{number}")
    assert await client.events() == [made(wd, b"%d" % number) for number in range(500)]


async def test_a_reply_waits_until_what_was_told_can_be_seen_and_for_nothing_later(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    gate, never = Gate(), Gate()
    wd = await client.add(flags.CREATE)
    served.make("a", gate)
    cookie = await client.send(requests.PENDING)
    await wait_all_tasks_blocked()
    served.make("b", never)
    served.make("c")
    await wait_all_tasks_blocked()
    gate.open()
    assert await client.record() == made(wd, b"a")
    assert await client.record() == Record(0, flags.X_REPLY, cookie)


async def test_a_reply_ends_merging_with_what_came_before_it(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    await client.add(flags.ATTRIB, b"f")
    await client.add(flags.CREATE)
    served.tree.play("setattr f mode, setattr f mode")
    cookie = await client.send(requests.PENDING)
    await wait_all_tasks_blocked()
    served.tree.play("setattr f mode, setattr f mode")
    await wait_all_tasks_blocked()
    attrib = Record(1, flags.ATTRIB)
    assert [await client.record() for _ in range(3)] == [attrib, Record(0, flags.X_REPLY, cookie), attrib]
    assert await client.events() == []


async def test_no_client_waits_for_another_s_change_to_be_seen(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    other = await served.connect()
    await client.add(flags.CREATE)
    wd = await other.add(flags.CREATE, b"s")
    served.make("a", Gate())
    served.make("s/b")
    began = trio.current_time()
    assert await other.events() == [made(wd, b"b")]
    assert trio.current_time() == began


async def test_a_barrier_ends_in_a_flood(served: Served, client: Client, nursery: trio.Nursery) -> None:
    wd = await client.add(flags.CREATE)
    told = 0

    async def flood() -> None:
        nonlocal told
        while True:
            served.make(f"{told}")
            told += 1
            await trio.lowlevel.checkpoint()

    heard: list[Record] = []
    async with trio.open_nursery() as flooding:
        flooding.start_soon(flood)
        for _ in range(5):
            before = told
            heard += await client.events()
            assert len(heard) >= before
        flooding.cancel_scope.cancel()
    heard += await client.events()
    assert heard == [made(wd, b"%d" % number) for number in range(told)]


# A death in doubt


@pytest.fixture
async def doubt(served: Served, client: Client) -> Client:
    """Give the client that watches a file of which it is in doubt whether it died, and its directory."""
    assert await client.add(flags.DELETE_SELF, b"f") == 1
    assert await client.add(flags.DELETE | flags.CREATE) == 2
    served.tree.play("hold f, unlink f")
    return client


async def test_a_death_in_doubt_holds_up_who_watches_it_until_it_is_given_up(
    doubt: Client, served: Served, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    served.make("a")
    assert await doubt.events() == [Record(2, flags.DELETE, 0, b"f"), made(2, b"a")]
    assert trio.current_time() - began == pytest.approx(0.2)


async def test_a_death_that_is_decided_is_told_before_what_came_after_it(
    doubt: Client, served: Served, autojump_clock: MockClock
) -> None:
    began = trio.current_time()
    served.make("a")
    await doubt.send(requests.PENDING)
    await trio.sleep(0.05)
    served.tree.release("f")
    events, _ = await doubt.reply()
    assert events == [
        Record(1, flags.DELETE_SELF),
        Record(1, flags.IGNORED),
        Record(2, flags.DELETE, 0, b"f"),
        made(2, b"a"),
    ]
    assert trio.current_time() - began == pytest.approx(0.05)


async def test_nobody_else_waits_for_a_death_in_doubt(doubt: Client, served: Served, autojump_clock: MockClock) -> None:
    other = await served.connect()
    wd = await other.add(flags.ALL_EVENTS)
    served.make("f")
    served.tree.play("hold f")
    began = trio.current_time()
    served.tree.play("unlink f")
    served.make("a")
    assert await other.events() == [made(wd, b"f"), Record(wd, flags.DELETE, 0, b"f"), made(wd, b"a")]
    assert await other.ask(requests.ADD, flags.CREATE, b"s") == 2
    assert trio.current_time() == began


async def test_a_death_is_given_up_though_nobody_asks(doubt: Client, served: Served, autojump_clock: MockClock) -> None:
    assert await doubt.record() == Record(2, flags.DELETE, 0, b"f")
    assert served.tree.watches.forgotten(served.tree.held["f"]), "it is told as one that was held"
