"""How events leave a queue: behind their gates, in order, as the client makes room; on the stream and as packets."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.core.queue import OVERFLOW, Queue
from notifyfs.fuse.deaths import InDoubt
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Parser, Record
from notifyfs.subscribers.delivery import Packets, Stream, pass_doubts
from tests.support.gates import Gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

    from notifyfs.core.queue import Gate as AnyGate
    from notifyfs.subscribers.delivery import Outlet

ORIGIN = Origin(7, 1, 2, 3, 4)


def event(number: int) -> Record:
    return Record(1, flags.CREATE, 0, b"%d" % number)


class Line:
    """An outlet, the queue that it empties, and the client at the other end."""

    def __init__(self, outlet: Outlet, client: socket.socket, limit: int = 16384) -> None:
        self.outlet = outlet
        self.client = client
        self.queue = Queue(limit, outlet.unread)
        self.last = 0

    def append(self, *gates: AnyGate) -> None:
        """One more event, which is like none before."""
        self.last += 1
        self.queue.append(event(self.last), None, gates)

    def read(self) -> list[Record]:
        """What the client finds, which may be nothing."""
        parser = Parser()
        try:
            while data := self.client.recv(1 << 16):
                parser.feed(data)
        except BlockingIOError:
            pass
        records = list(parser)
        assert not parser.waiting
        return records

    def numbers(self) -> list[int]:
        """The events that the client finds, by number."""
        return [int(record.name) for record in self.read()]


@pytest.fixture
def stream() -> Iterator[Line]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        theirs.setblocking(False)  # noqa: FBT003 - socket's own signature
        outlet = Stream(trio.socket.from_stdlib_socket(ours))
        yield Line(outlet, theirs)
        outlet.close()
        ours.close()


@pytest.fixture
def packets() -> Iterator[Line]:
    outlet = Packets()
    with socket.socket(fileno=outlet.give()) as client:
        client.setblocking(False)  # noqa: FBT003 - socket's own signature
        yield Line(outlet, client)
        outlet.close()


@pytest.fixture(params=["stream", "packets"])
def line(request: pytest.FixtureRequest) -> Line:
    line: Line = request.getfixturevalue(request.param)
    return line


async def test_what_may_leave_leaves_at_once_and_in_order(line: Line) -> None:
    for _ in range(5):
        line.append()
    await line.outlet.send(line.queue)
    assert line.numbers() == [1, 2, 3, 4, 5]


async def test_an_event_waits_at_its_gate_and_those_behind_it_with_it(line: Line) -> None:
    gate = Gate()
    line.append()
    line.append(gate)
    line.append()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outlet.send, line.queue)
        await wait_all_tasks_blocked()
        assert line.numbers() == [1]
        gate.open()
    assert line.numbers() == [2, 3]


async def test_an_event_of_two_nodes_waits_for_both(line: Line) -> None:
    first, second = Gate(), Gate()
    line.append(first, second)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outlet.send, line.queue)
        for gate in (second, first):
            await wait_all_tasks_blocked()
            assert line.numbers() == []
            gate.open()
    assert line.numbers() == [1]


async def test_two_who_send_let_no_event_out_before_its_gate_is_open(line: Line) -> None:
    """The pump and a request: each finds one event to wait for, and then there are two."""
    first, second = Gate(), Gate()
    line.append(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outlet.send, line.queue)
        nursery.start_soon(line.outlet.send_until, line.queue, line.queue.entered)
        await wait_all_tasks_blocked()
        line.append(second)
        first.open()
        await wait_all_tasks_blocked()
        assert line.numbers() == [1]
        second.open()
    assert line.numbers() == [2]


async def test_a_barrier_waits_for_what_was_there_and_for_nothing_else(line: Line) -> None:
    first, never = Gate(), Gate()
    line.append()
    line.append(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outlet.send_until, line.queue, line.queue.entered)
        await wait_all_tasks_blocked()
        line.append(never)
        assert line.numbers() == [1]
        first.open()
    assert line.numbers() == [2]


async def test_a_barrier_ends_in_a_flood(line: Line) -> None:
    reading = trio.CancelScope()

    async def flood() -> None:
        with reading:
            while True:
                line.append()
                await trio.lowlevel.checkpoint()
                heard.extend(line.numbers())

    heard: list[int] = []
    for _ in range(100):
        line.append()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outlet.send, line.queue)
        nursery.start_soon(flood)
        for _ in range(10):
            await line.outlet.send_until(line.queue, line.queue.entered)
            await trio.lowlevel.checkpoint()
        reading.cancel()
    await line.outlet.send(line.queue)
    heard.extend(line.numbers())
    assert heard == list(range(1, line.last + 1))


async def test_a_doubt_is_waited_for_even_if_nothing_is_behind_it(line: Line, autojump_clock: MockClock) -> None:
    def give_up() -> None:
        gate.open()
        line.queue.release(gate)

    gate = InDoubt(give_up)
    line.queue.hold(gate)
    began = trio.current_time()
    await line.outlet.send(line.queue)
    assert trio.current_time() - began == pytest.approx(0.2)
    assert line.queue.doubts == []


async def test_what_comes_after_a_doubt_follows_its_decision(line: Line) -> None:
    gate = Gate()
    line.append()
    line.queue.hold(gate)
    line.append()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outlet.send, line.queue)
        await wait_all_tasks_blocked()
        assert line.numbers() == [1]
        line.queue.insert(gate, event(99))
        line.queue.release(gate)
        gate.open()
    assert line.numbers() == [99, 2]


async def test_only_the_doubts_of_now_are_passed() -> None:
    queue = Queue(10, lambda: 0)
    first, later = Gate(), Gate()
    queue.hold(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_doubts, queue)
        await wait_all_tasks_blocked()
        queue.hold(later)
        first.open()
    assert later.shut


async def test_an_origin_goes_before_its_event(line: Line) -> None:
    line.queue.append(event(1), ORIGIN)
    await line.outlet.send(line.queue)
    origin, record = line.read()
    assert (origin.wd, origin.mask, Origin.parse(origin.name)) == (1, flags.X_ORIGIN, ORIGIN)
    assert record == event(1)


async def test_what_was_not_read_counts_as_unread_until_it_is(line: Line) -> None:
    for _ in range(3):
        line.append()
    await line.outlet.send(line.queue)
    assert line.outlet.unread() == 3
    assert line.numbers() == [1, 2, 3]
    assert line.outlet.unread() == 0


async def test_a_client_that_does_not_read_costs_it_events_and_nothing_else(small: None, line: Line) -> None:
    line.queue.limit = 1000
    heard: list[Record] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3000):
            line.append()
        nursery.start_soon(line.outlet.send, line.queue)
        await wait_all_tasks_blocked()
        line.append()
        assert line.outlet.unread() + len(line.queue) == 1001, "the overflow is one more"
        while not heard or heard[-1] != OVERFLOW:
            heard += line.read()
            await wait_all_tasks_blocked()
        line.append()
        await line.outlet.send(line.queue)
    assert [record.name for record in heard[:-1]] == [b"%d" % number for number in range(1, 1001)]
    assert line.numbers() == [line.last]


# The event descriptor


async def test_a_barrier_does_not_wait_for_room_on_the_event_descriptor(small: None, packets: Line) -> None:
    for _ in range(1000):
        packets.append()
    assert isinstance(packets.outlet, Packets)
    await packets.outlet.send_until(packets.queue, packets.queue.entered)
    left = packets.queue.bytes + packets.outlet.waiting
    got = packets.numbers()
    assert 0 < len(got) < 1000
    assert left == (1000 - len(got)) * len(bytes(event(1)))
    while len(got) < 1000:
        await packets.outlet.send_until(packets.queue, packets.queue.entered)
        more = packets.numbers()
        assert more, "each barrier sends what there is room for"
        got += more
    assert got == list(range(1, 1001))
    assert packets.queue.bytes + packets.outlet.waiting == 0


async def test_the_event_descriptor_is_filled_again_as_it_is_read(small: None, packets: Line) -> None:
    for _ in range(1000):
        packets.append()
    got: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(packets.outlet.send, packets.queue)
        while len(got) < 1000:
            got += packets.numbers()
            await wait_all_tasks_blocked()
    assert got == list(range(1, 1001))


async def test_who_has_closed_the_event_descriptor_hears_no_more_and_costs_nothing(packets: Line) -> None:
    packets.append()
    await packets.outlet.send(packets.queue)
    packets.client.close()
    for _ in range(10):
        packets.append()
        await packets.outlet.send(packets.queue)
    assert (len(packets.queue), packets.outlet.unread()) == (0, 0)
    gate = Gate()
    packets.append(gate)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(packets.outlet.send_until, packets.queue, packets.queue.entered)
        await wait_all_tasks_blocked()
        gate.open()
    assert len(packets.queue) == 0


# The stream


async def test_a_reply_comes_after_what_was_sent_before_it(stream: Line) -> None:
    assert isinstance(stream.outlet, Stream)
    stream.append()
    await stream.outlet.send_until(stream.queue, 1)
    stream.append()
    stream.outlet.stage_reply(bytes(Record(0, flags.X_REPLY, 5)))
    await stream.outlet.flush()
    assert stream.read() == [event(1), Record(0, flags.X_REPLY, 5)]
    await stream.outlet.send(stream.queue)
    assert stream.numbers() == [2]


async def test_a_reply_that_names_a_watch_comes_before_its_events(stream: Line) -> None:
    assert isinstance(stream.outlet, Stream)
    stream.outlet.reply_first()
    stream.append()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.outlet.send, stream.queue)
        await wait_all_tasks_blocked()
        assert stream.read() == []
        stream.outlet.stage_reply(bytes(Record(1, flags.X_REPLY, 5)))
        await stream.outlet.flush()
    assert stream.read() == [Record(1, flags.X_REPLY, 5), event(1)]


async def test_a_reply_waits_for_a_client_that_does_not_read(stream: Line) -> None:
    assert isinstance(stream.outlet, Stream)
    for _ in range(1000):
        stream.append()
    heard: list[Record] = []

    async def request() -> None:
        await stream.outlet.send_until(stream.queue, 1000)
        assert isinstance(stream.outlet, Stream)
        stream.outlet.stage_reply(bytes(Record(0, flags.X_REPLY, 5)))
        await stream.outlet.flush()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.outlet.send, stream.queue)
        nursery.start_soon(request)
        await wait_all_tasks_blocked()
        assert len(stream.queue) > 500, "little is sent ahead"
        while len(heard) < 1001:
            heard += stream.read()
            await wait_all_tasks_blocked()
    assert heard == [*map(event, range(1, 1001)), Record(0, flags.X_REPLY, 5)]


async def test_a_descriptor_goes_with_its_reply_and_is_closed(stream: Line) -> None:
    assert isinstance(stream.outlet, Stream)
    reader, writer = os.pipe()
    stream.outlet.stage_reply(bytes(Record(0, flags.X_REPLY, 5)), writer)
    await stream.outlet.flush()
    _, received, _, _ = socket.recv_fds(stream.client, 100, 10)
    for descriptor in received:
        os.close(descriptor)
    assert os.read(reader, 1) == b"", "nobody has the other end any more"
    os.close(reader)
    assert len(received) == 1


async def test_a_descriptor_that_was_not_sent_is_closed_with_the_stream(stream: Line) -> None:
    assert isinstance(stream.outlet, Stream)
    reader, writer = os.pipe()
    stream.outlet.stage_reply(bytes(Record(0, flags.X_REPLY, 5)), writer)
    stream.outlet.close()
    assert os.read(reader, 1) == b""
    os.close(reader)
