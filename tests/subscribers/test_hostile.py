"""Bad, slow, greedy and dying clients: each harms itself only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import wireclient as w
from tests.support.wireclient import ADD, HELLO, PENDING, STATISTICS, Wire

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount: a test has a directory of its own in it."""
    return shared()


@pytest.fixture
def bystander(mount: Mount, tree: Path) -> Iterator[Wire]:
    """A well-behaved client; whatever the test does, it must be served as if nothing had happened.

    In the end the daemon must have no more sockets than before.
    """
    with Wire(mount) as wire:
        wire.add(w.CREATE, tree)
        sockets = socket_count(mount)
        w.touch(tree / "before")
        assert wire.told() == [(1, w.CREATE, b"before")]
        yield wire
        w.touch(tree / "after")
        assert wire.told()[-1] == (1, w.CREATE, b"after")
        w.wait_until(lambda: socket_count(mount) <= sockets, "the sockets of clients that are gone closed")


def socket_count(mount: Mount) -> int:
    """How many sockets the daemon has open."""
    return sum(target.startswith("socket:") for target in w.descriptors_of(mount.pid))


def ended(wire: Wire) -> list[w.Record]:
    """What came before the daemon closed the connection, orderly or with unread bytes left behind."""
    records = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            records.append(wire.record())
    return records


# Broken framing


@pytest.mark.parametrize("size", [4128, 4113, 1, 15, 17, 4111, 65536, 0x7FFFFFF0, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_broken_length_is_eproto_and_then_the_end(mount: Mount, bystander: Wire, size: int) -> None:
    with Wire(mount) as wire:
        wire.send_bytes(struct.pack("=iIII", ADD, w.CREATE, 4711, size))

        (reply,) = wire.until_end()
        assert (reply.wd, reply.mask & w.REPLY, reply.cookie) == (-errno.EPROTO, w.REPLY, 4711)
    assert bystander.ask(PENDING) == 0


def test_the_longest_field_is_no_broken_length(mount: Mount) -> None:
    with Wire(mount) as wire:
        wire.send_bytes(struct.pack("=iIII", ADD, w.CREATE, 1, 4112) + b"x" * 4112)

        assert wire.until_reply(1)[1].wd == -errno.ENAMETOOLONG
        assert wire.ask(PENDING) == 0


@pytest.mark.usefixtures("bystander")
def test_what_came_before_the_broken_record_is_answered_and_what_comes_after_is_not(mount: Mount, tree: Path) -> None:
    with Wire(mount) as wire:
        whole = w.encode(ADD, w.CREATE, 1, wire.below(tree)) + w.encode(-99, 0, 2)
        wire.send_bytes(whole + struct.pack("=iIII", ADD, w.CREATE, 3, 7) + w.encode(PENDING, 0, 4))

        assert [(reply.cookie, reply.wd) for reply in ended(wire)] == [(1, 1), (2, -errno.EINVAL), (3, -errno.EPROTO)]


@pytest.mark.usefixtures("bystander")
def test_a_broken_record_does_not_lose_the_events_before_it(mount: Mount, tree: Path) -> None:
    with Wire(mount) as wire:
        wd = wire.add(w.CREATE, tree)
        w.touch(tree / "f")
        wire.send_bytes(struct.pack("=iIII", 1, 0, 9, 1))

        event, reply = wire.until_end()
        assert event.brief == (wd, w.CREATE, b"f")
        assert (reply.wd, reply.cookie) == (-errno.EPROTO, 9)


def test_an_error_of_one_client_leaves_its_own_watches_and_those_of_others_alone(
    mount: Mount, tree: Path, bystander: Wire
) -> None:
    with Wire(mount) as wire:
        wd = wire.add(w.CREATE, tree)
        for request in ((ADD, 0, b""), (ADD, 0x1000, b""), (ADD, w.CREATE, b"absent"), (99, 0, b""), (-9, 0, b"x")):
            assert wire.ask(*request) < 0
        w.touch(tree / "f")

        assert wire.told() == [(wd, w.CREATE, b"f")]
    assert bystander.told() == [(1, w.CREATE, b"f")]


# Clients that die


@pytest.mark.parametrize("length", [1, 7, 15, 16, 20, 31])
@pytest.mark.usefixtures("bystander")
def test_a_client_may_die_in_the_middle_of_a_record(mount: Mount, length: int) -> None:
    with Wire(mount) as wire:
        wire.send_bytes(w.encode(ADD, w.CREATE, 1, b"absent")[:length])


@pytest.mark.usefixtures("bystander")
def test_a_client_may_send_a_broken_record_and_die_at_once(mount: Mount) -> None:
    for _ in range(50):
        with Wire(mount) as wire:
            wire.send_bytes(struct.pack("=iIII", ADD, w.CREATE, 1, 7))


@pytest.mark.usefixtures("bystander")
def test_a_client_that_stops_sending_in_the_middle_of_a_record_gets_the_end_of_file(mount: Mount) -> None:
    with Wire(mount) as wire:
        wire.send_bytes(w.encode(PENDING, 0, 1) + w.encode(PENDING, 0, 2)[:9])
        wire.socket.shutdown(socket.SHUT_WR)

        (reply,) = wire.until_end()
        assert (reply.cookie, reply.wd) == (1, 0)


@pytest.mark.usefixtures("bystander")
def test_a_client_may_die_without_reading_its_replies_and_events(mount: Mount, tree: Path) -> None:
    for event_fd in (False, True):
        with Wire(mount, event_fd=event_fd) as wire:
            wire.add(w.CREATE, tree)
            wire.socket.sendall(w.encode(STATISTICS) * 100)
            for number in range(50):
                w.touch(tree / f"{event_fd}{number}").unlink()


@pytest.mark.usefixtures("bystander")
def test_a_client_may_close_its_event_descriptor_alone(mount: Mount, tree: Path) -> None:
    with Wire(mount, event_fd=True) as wire:
        wire.add(w.CREATE, tree)
        os.close(wire.descriptors.pop())
        w.touch(tree / "f").unlink()
        with contextlib.suppress(EOFError, OSError):
            assert wire.ask(PENDING) >= 0


def test_a_closed_connection_frees_its_descriptors_and_watches(mount: Mount, tree: Path) -> None:
    with Wire(mount) as witness:
        w.wait_until(lambda: witness.statistics()["mount"]["instances"] == 1, "those of the test before have ended")
        before = witness.statistics()["mount"]
        sockets = socket_count(mount)
        for event_fd in (False, True):
            connections = [Wire(mount, event_fd=event_fd) for _ in range(20)]
            for wire in connections:
                wire.add(w.CREATE, tree)
            assert witness.statistics()["instance"]["watches"] == 0
            assert witness.statistics()["mount"]["watches"] == before["watches"] + 20
            for wire in connections:
                wire.close()

            def freed() -> bool:
                now = witness.statistics()["mount"]
                return all(now[key] == before[key] for key in ("watches", "instances"))

            w.wait_until(freed, "watches and instances freed")
        w.wait_until(lambda: socket_count(mount) == sockets, "sockets closed")


# Descriptors that nobody wants


def closed(mount: Mount, *paths: Path) -> None:
    """Wait until the daemon has no descriptor of any of *paths*: it may close them a little later than it answers."""
    unwanted = {str(path) for path in paths}
    w.wait_until(lambda: not unwanted.intersection(w.descriptors_of(mount.pid)), f"{unwanted} closed")


# Clients that do not read


def test_replies_are_never_dropped_and_requests_of_a_client_that_does_not_read_wait(
    mount: Mount, bystander: Wire, tree: Path
) -> None:
    with Wire(mount) as wire:
        wire.socket.settimeout(0)
        poll = select.poll()
        poll.register(wire.socket, select.POLLOUT)
        sent, rest = 0, b""
        # Half a second in which nothing more is taken means that the daemon has stopped reading.
        while poll.poll(500):
            if not rest:
                rest = b"".join(w.encode(STATISTICS, 0, number) for number in range(sent, sent + 500))
                sent += 500
            with contextlib.suppress(BlockingIOError):
                rest = rest[wire.socket.send(rest) :]
            assert sent < 1_000_000, "the daemon reads on and on, and must keep a million replies"
        w.touch(tree / "meanwhile")
        assert bystander.told() == [(1, w.CREATE, b"meanwhile")]

        wire.socket.settimeout(w.PATIENCE)
        sender = threading.Thread(target=wire.socket.sendall, args=[rest], daemon=True)
        sender.start()
        for number in range(sent):
            reply = wire.record()
            assert (reply.cookie, reply.wd) == (number, 0)
            assert reply.mask & w.REPLY
        sender.join(w.PATIENCE)
        assert json.loads(reply.name)


def test_a_client_that_does_not_read_gets_its_replies_and_its_events_in_the_end(mount: Mount, tree: Path) -> None:
    rounds = 50  # a client that writes more than the socket holds, and does not read, waits for itself
    with Wire(mount) as wire:
        wd = wire.add(w.CREATE, tree)
        cookies = []
        for number in range(rounds):
            os.mkdir(tree / f"{number}")
            cookies.append(wire.send(PENDING))

        told: list[tuple[int, int, bytes]] = []
        for number, cookie in enumerate(cookies, start=1):
            events, _ = wire.until_reply(cookie)
            told += [event.brief for event in events]
            assert len(told) >= number, "each event before the reply to a request that was sent after it"
        assert told == [(wd, w.CREATE | w.ISDIR, b"%d" % number) for number in range(rounds)]


# Limits


def test_an_instance_too_many_is_emfile_and_closed(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_user_instances=3)
    with contextlib.ExitStack() as stack:
        allowed = [stack.enter_context(Wire(mount)) for _ in range(3)]
        for wire in allowed:
            assert wire.ask(PENDING) == 0
        for first in ((PENDING, 0, b""), (ADD, w.CREATE, b""), (HELLO, w.EVENT_FD, w.GREETING), (-50, 0, b"")):
            with Wire(mount) as extra:
                cookie = extra.send(*first)
                (reply,) = extra.until_end()
                assert (reply.wd, reply.cookie) == (-errno.EMFILE, cookie)
                assert reply.mask & w.REPLY
                assert extra.descriptors == []
        for wire in allowed:
            assert wire.add(w.CREATE) == 1
        allowed[1].close()

        def admitted() -> bool:
            with Wire(mount) as again:
                return again.ask(PENDING) == 0

        w.wait_until(admitted, "a place is free after a close")


def test_a_watch_too_many_is_enospc(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_user_watches=3)
    directories = [mount.root / name for name in "abcd"]
    for directory in directories:
        directory.mkdir()
    with Wire(mount) as wire, Wire(mount) as other:
        assert [wire.watch(w.CREATE, directory) for directory in directories] == [1, 2, 3, -errno.ENOSPC]
        assert wire.watch(w.DELETE, directories[0]) == 1, "a second add of a watched inode needs no new watch"
        assert other.watch(w.CREATE, directories[0]) == -errno.ENOSPC
        assert wire.ask(2) == 0
        assert wire.watch(w.CREATE, directories[3]) > 0
        assert wire.watch(w.CREATE, directories[1]) == -errno.ENOSPC
        directories[0].rmdir()
        assert wire.watch(w.CREATE, directories[1]) > 0, "a deleted directory frees its watch"
        wire.close()
        w.wait_until(lambda: other.watch(w.CREATE, directories[1]) > 0, "a closed connection frees its watches")


def test_two_hundred_instances_each_get_their_event(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_user_instances=256)
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(mount, event_fd=number % 2 == 1)) for number in range(200)]
        for wire in wires:
            assert wire.add(w.CREATE) == 1
        w.touch(mount.root / "f")

        assert [wire.told() for wire in wires] == [[(1, w.CREATE, b"f")]] * 200
        assert wires[0].statistics()["mount"]["instances"] == 200


def test_connecting_and_leaving_without_a_word_costs_nothing(mount: Mount, bystander: Wire) -> None:
    for _ in range(300):
        Wire(mount).close()

    assert bystander.ask(PENDING) == 0


# Random bytes


REQUESTS = st.builds(
    w.encode,
    st.one_of(st.integers(-5, 5), st.integers(-(2**31), 2**31 - 1)),
    st.one_of(st.just(w.CREATE), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**32 - 1),
    st.one_of(st.sampled_from([b"", b"..", b".", b"notifyfs 1", b"/", b"a/b"]), st.binary(max_size=300)),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Requests with a few bytes changed, cut off, or put in."""
    data = bytearray(b"".join(draw(st.lists(REQUESTS, min_size=1, max_size=8))))
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["change", "remove", "insert"])):
            case "change":
                data[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
            case "remove":
                del data[position : position + draw(st.integers(1, 20))]
            case "insert":
                data[position:position] = draw(st.binary(max_size=20))
    return bytes(data)


def test_no_bytes_harm_the_daemon_or_another_client(mount: Mount, tree: Path, bystander: Wire) -> None:
    marker = tree.parent.parent / "marker"
    descriptor = os.open(marker, os.O_CREAT | os.O_RDONLY)
    numbers = iter(range(1_000_000))

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.one_of(st.binary(max_size=600), mutated()), passed=st.integers(0, 3), cuts=st.randoms())
    def harmless(data: bytes, passed: int, cuts: random.Random) -> None:
        pieces, rest = [], data
        while rest:
            size = cuts.randint(1, 200)
            pieces.append(rest[:size])
            rest = rest[size:]
        with Wire(mount) as wire:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    wire.send_bytes(piece, [descriptor] * passed)
                wire.socket.shutdown(socket.SHUT_WR)
            for record in ended(wire):
                # A random request may well have added a watch, so events are in order too.
                assert record.mask & w.REPLY or record.wd > 0 or record.mask == w.Q_OVERFLOW, record
        name = b"%d" % next(numbers)
        os.mkdir(os.fsencode(tree) + b"/" + name)
        assert bystander.told() == [(1, w.CREATE | w.ISDIR, name)]

    harmless()
    os.close(descriptor)
    closed(mount, marker)
    assert mount.process.poll() is None
