"""One connection is one instance: the barrier, who waits for whom, limits, and the end. On trio's clock."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.protocol import flags, records, requests
from notifyfs.protocol.records import HEADER, Record
from notifyfs.subscribers import delivery
from notifyfs.subscribers.capabilities import Limits
from tests.support.gates import Gate
from tests.support.served import Client, Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio.testing import MockClock

    from notifyfs.core.inodes import Inode


@pytest.fixture
async def serving(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Callable[..., Served]]:
    """Give a function that serves until the test ends; once."""
    made: list[Served] = []

    def serve(limits: Limits | None = None, **given: Any) -> Served:
        made.append(Served(tmp_path / "socket", limits, **given))
        nursery.start_soon(made[-1].serve)
        return made[-1]

    yield serve
    for served in made:
        served.close()


@pytest.fixture
def served(serving: Callable[..., Served]) -> Served:
    return serving()


@pytest.fixture
async def client(served: Served) -> Client:
    return await served.connect()


def made(wd: int, name: bytes) -> Record:
    return Record(wd, flags.CREATE, 0, name)


# Requests


async def test_hello_says_what_it_was_given_and_the_limits(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    kernel = {"waits_for_lock": True, "expire_only": False}
    served = serving(Limits(max_queued_events=5), about={"version": 1, "kernel": kernel})
    client = await served.connect()
    await client.send(requests.HELLO, 0, requests.GREETING)
    _, reply = await client.reply()
    assert reply.wd == 0
    assert json.loads(reply.name) == {
        "version": 1,
        "kernel": kernel,
        "max_queued_events": 5,
        "max_user_instances": 128,
        "max_user_watches": 1048576,
    }
    assert await client.ask(requests.HELLO, 0, requests.GREETING) == -errno.EINVAL, "it comes first"
    assert await client.ask(requests.PENDING) == 0


async def test_replies_come_in_the_order_of_the_requests(client: Client, autojump_clock: MockClock) -> None:
    for _ in range(20):
        await client.send(requests.PENDING)
        await client.send(77)
    replies = [await client.record() for _ in range(40)]
    assert [reply.cookie for reply in replies] == list(range(1, 41))
    assert {reply.wd for reply in replies} == {0, -errno.EINVAL}


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


async def test_the_reply_to_an_add_waits_for_what_the_watch_needs_and_its_events_for_the_reply(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    attended: list[tuple[int, int]] = []
    gate = Gate()

    async def attend(inode: Inode, mask: int) -> None:
        attended.append((inode.number, mask))
        await gate.opened()

    served = serving(attend=attend)
    client = await served.connect()
    cookie = await client.send(requests.ADD, flags.CREATE)
    await wait_all_tasks_blocked()
    served.make("a")
    with trio.move_on_after(1) as silence:
        await client.record()
    assert silence.cancelled_caught
    gate.open()
    assert await client.record() == Record(1, flags.X_REPLY, cookie)
    assert await client.record() == made(1, b"a")
    await client.ask(requests.ADD, flags.DELETE | flags.MASK_ADD)
    assert attended == [(1, flags.CREATE), (1, flags.CREATE | flags.DELETE)]


async def test_nothing_is_attended_to_for_a_watch_that_is_refused(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    attended: list[int] = []

    async def attend(inode: Inode, _mask: int) -> None:
        attended.append(inode.number)

    client = await serving(attend=attend).connect()
    assert await client.ask(requests.ADD, flags.CREATE, b"nowhere") == -errno.ENOENT
    assert await client.ask(requests.ADD, flags.ONLYDIR | flags.CREATE, b"f") == -errno.ENOTDIR
    assert attended == []


async def test_a_source_that_hangs_holds_up_only_who_asks_for_a_path(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    gate = Gate()
    served = serving(source_answers=gate.opened)
    waiting, other = await served.connect(), await served.connect()
    await waiting.send(requests.ADD, flags.CREATE)
    await waiting.send(requests.PENDING)
    assert await other.ask(requests.PENDING) == 0
    with trio.move_on_after(60) as silence:
        await waiting.record()
    assert silence.cancelled_caught
    gate.open()
    assert (await waiting.reply())[1].wd == 1
    assert (await waiting.reply())[1].wd == 0


async def test_who_could_not_reach_the_mountpoint_may_not_watch_by_path(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    async def reaches(_peer: object) -> int:
        return errno.EACCES

    client = await serving(reaches=reaches).connect()
    assert await client.ask(requests.ADD, flags.CREATE, b"s") == -errno.EACCES
    assert await client.ask(requests.PENDING) == 0


# The barrier


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


# A descriptor for events


async def packets_of(client: Client) -> socket.socket:
    """Say hello, and receive the descriptor."""
    await client.send(requests.HELLO, requests.EVENT_FD, requests.GREETING)
    data, ancillary, _, _ = await client.connection.recvmsg(1 << 16, socket.CMSG_SPACE(4))
    ((_, _, descriptor),) = ancillary
    assert HEADER.unpack_from(data)[:2] == (0, flags.X_REPLY)
    packets = socket.socket(fileno=int.from_bytes(descriptor, "little"))
    packets.setblocking(False)  # noqa: FBT003 - socket's own signature
    return packets


async def test_pending_says_what_the_event_descriptor_has_no_room_for(
    client: Client, served: Served, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(delivery, "_PACKET_BUFFER", 1)
    monkeypatch.setattr(delivery, "_SO_SNDBUFFORCE", socket.SO_SNDBUF)
    with await packets_of(client) as packets:
        wd = await client.add(flags.CREATE)
        for number in range(100):
            served.make(f"{number}")
        left, got = 1, []
        while left:
            left = await client.ask(requests.PENDING)
            before = len(got)
            while True:
                try:
                    got.append(packets.recv(1 << 16))
                except BlockingIOError:
                    break
            assert len(got) > before
        assert got == [bytes(made(wd, b"%d" % number)) for number in range(100)]


async def test_on_the_event_descriptor_a_removal_is_told_before_the_reply(
    client: Client, autojump_clock: MockClock
) -> None:
    with await packets_of(client) as packets:
        wd = await client.add(flags.CREATE)
        assert await client.ask(wd) == 0
        assert packets.recv(1 << 16) == bytes(Record(wd, flags.IGNORED))


# Slow, and broken


async def test_a_slow_reader_loses_events_and_holds_up_nobody(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    served = serving(Limits(max_queued_events=50))
    slow, quick = await served.connect(), await served.connect()
    wd = await slow.add(flags.CREATE)
    await quick.add(flags.CREATE)
    told = []
    for number in range(2000):
        served.make(f"{number}")
        told.append(made(wd, b"%d" % number))
        if number % 20 == 0:
            await wait_all_tasks_blocked()
            assert (await quick.events())[-1] == told[-1]
    heard = await slow.events()
    assert len(heard) == 51
    assert heard == [*told[:50], Record(-1, flags.Q_OVERFLOW)]
    served.make("after")
    assert await slow.events() == [made(wd, b"after")]


async def test_what_is_no_record_ends_its_connection_and_no_other(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    other = await served.connect()
    await other.ask(requests.PENDING)
    wd = await client.add(flags.CREATE)
    served.make("a")
    await client.connection.send(HEADER.pack(0, 1, 99, 17) + bytes(1000))
    assert await client.rest() == [made(wd, b"a"), Record(-errno.EPROTO, flags.X_REPLY, 99)]
    assert await other.ask(requests.PENDING) == 0
    assert len(served.tree.watches.instances) == 1


async def test_whoever_hangs_up_leaves_nothing(served: Served, autojump_clock: MockClock) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for cut in (0, 7, HEADER.size + 3):
        client = await served.connect()
        await client.add(flags.CREATE)
        await client.connection.send(bytes(Record(0, flags.CREATE, 1, b"s"))[:cut] or b"\0")
        served.make(f"{cut}", Gate())
        await wait_all_tasks_blocked()
        client.connection.close()
        await wait_all_tasks_blocked()
    assert served.tree.watches.instances == set()
    assert served.statistics.books.living == {}
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_fault_of_ours_ends_one_connection(
    served: Served, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = await served.connect()
    await other.ask(requests.PENDING)
    monkeypatch.setattr(served.tree.watches, "check", lambda _mask: 1 // 0)
    await client.send(requests.ADD, flags.CREATE)
    assert await client.rest() == []
    assert "a fault of ours" in caplog.text
    assert await other.ask(requests.PENDING) == 0


# Limits


async def test_one_instance_too_many_is_told_so_at_its_first_request(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    served = serving(Limits(max_user_instances=1))
    first, stranger = await served.connect(), await served.connect()
    await first.ask(requests.PENDING)
    assert await stranger.ask(requests.HELLO, 0, requests.GREETING) == -errno.EMFILE
    assert await stranger.rest() == []
    assert len(served.statistics.books.living) == 1
    first.connection.close()
    await wait_all_tasks_blocked()
    assert await (await served.connect()).ask(requests.PENDING) == 0


async def test_a_stranger_that_says_nothing_is_sent_away_in_five_seconds(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    served = serving(Limits(max_user_instances=1))
    first, stranger = await served.connect(), await served.connect()
    await first.ask(requests.PENDING)
    began = trio.current_time()
    assert await stranger.rest() == []
    assert trio.current_time() - began == pytest.approx(5)


async def test_of_very_many_strangers_the_last_are_sent_away_at_once(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    served = serving(Limits(max_user_instances=1))
    first = await served.connect()
    await first.ask(requests.PENDING)
    strangers = [await served.connect() for _ in range(64)]
    await wait_all_tasks_blocked()
    one_more = await served.connect()
    began = trio.current_time()
    assert await one_more.rest() == []
    assert trio.current_time() == began
    assert await strangers[0].ask(requests.PENDING) == -errno.EMFILE


# The end


async def test_at_the_end_each_hears_what_there_was_and_then_no_more(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    other = await served.connect()
    with await packets_of(other) as packets:
        wds = [await each.add(flags.CREATE) for each in (client, other)]
        for number in range(300):
            served.make(f"{number}")
        served.tree.unmount()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.finish)
            heard = await client.rest()
        told = [b"%d" % number for number in range(300)]
        assert [record.name for record in heard[:300]] == told
        assert heard[300:] == [Record(wds[0], flags.UNMOUNT | flags.ISDIR), Record(wds[0], flags.IGNORED)]
        assert await other.rest() == []
        parser = records.Parser()
        while data := packets.recv(1 << 16):
            parser.feed(data)
        assert [record.name for record in parser] == [*told, b"", b""]


async def test_one_who_does_not_read_at_the_end_is_cut_off_after_a_second(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    await client.add(flags.CREATE)
    for number in range(3000):
        served.make(f"{number}")
    began = trio.current_time()
    await served.server.finish()
    assert trio.current_time() - began == pytest.approx(1)
    assert 0 < len(await client.rest()) < 3000


async def test_when_no_more_are_taken_those_who_are_there_stay(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    assert await client.ask(requests.PENDING) == 0
    served.server.take_no_more()
    await wait_all_tasks_blocked()
    with pytest.raises(ConnectionRefusedError):
        await served.connect()
    assert await client.ask(requests.PENDING) == 0


# Counting


async def test_the_books_know_who_is_there_and_what_all_have_heard(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    other = await served.connect()
    for each in (client, other):
        await each.add(flags.CREATE)
    served.make("a")
    served.tree.play("mkdir s/t, rename s/t t")
    await other.events()
    other.connection.close()
    await wait_all_tasks_blocked()
    await client.events()
    await client.send(requests.STATISTICS)
    told = json.loads((await client.reply())[1].name)["mount"]
    assert (told["instances"], told["watches"], told["kinds"]) == (1, 1, {"CREATE": 2})
    assert told["events"] == served.tree.changes.last
    await client.send(requests.STATISTICS, requests.STATISTICS_INSTANCES)
    (row,) = json.loads((await client.reply())[1].name)["rows"]
    assert (row["pid"], row["uid"], row["events"]) == (os.getpid(), os.getuid(), 1)
