"""One connection is one instance: the barrier, who waits for whom, limits, and the end. On trio's clock."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.core.accounts import Limits
from notifyfs.protocol import flags, records, requests
from notifyfs.protocol.records import HEADER, Record
from tests.support.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from notifyfs.core.entries import Inode
    from tests.support.served import Client, Served


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
        "max_user_queued_bytes": 67108864,
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
    client: Client, served: Served, small: None, autojump_clock: MockClock
) -> None:
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


async def test_a_full_event_descriptor_is_emptied_at_the_end(
    served: Served, client: Client, small: None, autojump_clock: MockClock
) -> None:
    with await packets_of(client) as packets:
        await client.add(flags.CREATE)
        for number in range(300):
            served.make(f"{number}")
        await wait_all_tasks_blocked()
        heard = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.server.finish)
            while heard < 300:
                await wait_all_tasks_blocked()
                assert packets.recv(1 << 16)
                heard += 1
        assert await client.rest() == []
        assert packets.recv(1 << 16) == b""


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
