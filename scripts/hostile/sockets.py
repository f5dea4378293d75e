"""Rows about subscribers: many connections, many requests, and much to keep for them."""

# ruff: noqa: S101, S311 - tests run this; and chance is what is wanted

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import random
import select
import time
from typing import TYPE_CHECKING

from tests.support import wireclient as w
from tests.support.posix import get, opened, put

from scripts.hostile.ground import MEBIBYTE, Crew, Ground, Pulse, Work, asks, connects, hears, read, row, stats, until

if TYPE_CHECKING:
    from collections.abc import Iterator

FILTER, EXCLUDE, FILTERED = -4, 1, 0x40000
CONNECTIONS = 100
"""Of all processes of one attack: a user may have 128."""
RULES = 250
"""Of all filters of a user."""
BATCH = 100
"""Requests that are sent in one go."""


@contextlib.contextmanager
def connected(ground: Ground, count: int) -> Iterator[list[w.Client]]:
    """*count* connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ground.connect()) for _ in range(count)]


def fine(result: int) -> int:
    """A result that must be no error."""
    assert result >= 0, f"refused: {errno.errorcode.get(-result, result)}"
    return result


# Asking


@row()
def link_chains(ground: Ground) -> list[Work]:
    """20 connections ask for a watch on a chain of 40 links with targets of 4,090 bytes, a/../a/../...: a long walk."""

    def furnish() -> None:
        os.mkdir("a")
        os.mknod("end")
        for number in range(40):
            target = b"l%d" % (number + 1) if number < 39 else b"end"  # noqa: PLR2004 - the last but one
            os.symlink(b"a/../" * ((4_090 - len(target)) // 5) + target, b"l%d" % number)

    ground.make(furnish)

    def work(pulse: Pulse) -> None:
        with connected(ground, 5) as wires:
            while pulse.on:
                asked = [(wire, wire.send(w.ADD, w.MODIFY, b"attacker/l0")) for wire in wires]
                for wire, cookie in asked:
                    fine(wire.until_reply(cookie)[1].wd)
                    pulse.round()

    return [Work(work) for _ in range(4)]


def _requests(chance: random.Random) -> bytes:
    """Everything that can be asked for, and what cannot."""
    kinds = (
        lambda: w.encode(w.ADD, w.ALL_EVENTS, 1, b"attacker/%d" % chance.randrange(50)),
        lambda: w.encode(chance.randrange(1, 100), 0, 2),
        lambda: w.encode(w.STATISTICS, chance.randrange(2), 3),
        lambda: w.encode(w.PENDING, 0, 4),
        lambda: w.encode(FILTER, EXCLUDE, 5, b"*x%d" % chance.randrange(50)),
        lambda: w.encode(w.ADD, w.CREATE | FILTERED, 6, b"attacker"),
        lambda: w.encode(-77, chance.randrange(1 << 32), 7, b"nothing"),
    )
    return b"".join(chance.choice(kinds)() for _ in range(BATCH))


class _Flood:
    """One connection that always has more to ask; what comes is thrown away, and another begins where it ends."""

    def __init__(self, ground: Ground, chance: random.Random) -> None:
        self._ground = ground
        self._chance = chance
        self._rest = b""
        self._come = b""
        self._wire = ground.connect()
        self._wire.socket.setblocking(False)  # noqa: FBT003 - socket's own signature

    def fileno(self) -> int:
        return self._wire.socket.fileno()

    def on(self, happened: int) -> int:
        """Send what can be, and read; how many replies came."""
        if happened & select.POLLOUT:
            # One in a thousand is no request at all, which ends the connection.
            junk = b"\xff" * 16 if not self._chance.randrange(1000) else b""
            self._rest = self._rest or junk or _requests(self._chance)
            with contextlib.suppress(BlockingIOError):
                self._rest = self._rest[self._wire.socket.send(self._rest) :]
        if not happened & ~select.POLLOUT:
            return 0
        data = self._wire.socket.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        records, self._come = w.split(self._come + data)
        return sum(bool(record.mask & w.REPLY) for record in records)

    def close(self) -> None:
        self._wire.close()


def flooding(ground: Ground) -> list[Work]:
    """A hundred connections by three processes."""
    ground.make(lambda: [put(f"{number}") for number in range(50)])

    def work(process: int, pulse: Pulse) -> None:
        chance = random.Random(process)
        with contextlib.ExitStack() as stack:
            floods: dict[int, _Flood] = {}
            poll = select.poll()

            def begin() -> None:
                flood = _Flood(ground, chance)
                stack.callback(flood.close)
                floods[flood.fileno()] = flood
                poll.register(flood.fileno(), select.POLLIN | select.POLLOUT)

            for _ in range(CONNECTIONS // 3):
                begin()
            while pulse.on:
                for descriptor, happened in poll.poll(100):
                    try:
                        pulse.round(floods[descriptor].on(happened))
                    except (BrokenPipeError, ConnectionResetError):
                        poll.unregister(descriptor)
                        floods.pop(descriptor).close()
                        begin()

    return [Work(functools.partial(work, process)) for process in range(3)]


@row(stats)
def flood(ground: Ground) -> list[Work]:
    """100 connections by three processes, each with requests of all kinds, many at a time; a round is a reply."""
    return flooding(ground)


@row(asks)
def flood_asked(ground: Ground) -> list[Work]:
    """The same; the bystander has a request of its own."""
    return flooding(ground)


@row(connects)
def connect(ground: Ground) -> list[Work]:
    """Three processes connect and disconnect without end: the daemon makes an instance of each first."""

    def work(pulse: Pulse) -> None:
        while pulse.on:
            ground.connect().close()
            pulse.round()

    return [Work(work) for _ in range(3)]


# Keeping


@row()
def many_watches(ground: Ground) -> list[Work]:
    """One connection with 100,000 watches (``--large``: a million) is closed: they all go at once. That is a round."""
    directories, each = ground.many(100, 1_000), 1_000

    def furnish() -> None:
        for number in range(directories):
            os.mkdir(f"{number}")
            for file in range(each):
                os.mknod(f"{number}/{file}")

    ground.make(furnish)

    def hold(pulse: Pulse) -> None:
        with ground.connect() as wire:
            for number, first in itertools.product(range(directories), range(0, each, BATCH)):
                paths = [b"attacker/%d/%d" % (number, first + more) for more in range(BATCH)]
                wire.send_bytes(b"".join(w.encode(w.ADD, w.MODIFY, 0, path) for path in paths))
                pulse.round(sum(fine(wire.record().wd) > 0 for _ in paths))
            until(pulse)

    holders = Crew([Work(hold)])
    ground.stack.callback(holders.end, ground.mount.process.kill)
    while holders.rounds < directories * each and not holders.failed:
        time.sleep(0.1)

    def close(pulse: Pulse) -> None:
        holders.stop()
        pulse.round()
        until(pulse)

    return [Work(close)]


def names(ground: Ground, place: str, length: int) -> Work:
    """Create and remove files with new names all the time: each is a round."""
    ground.make(lambda: os.mkdir(place))

    def work(pulse: Pulse) -> None:
        for number in itertools.count():
            if not pulse.on:
                break
            path = os.fsencode(ground.home / place) + b"/" + (b"%x" % number).rjust(length, b"n")
            os.mknod(path)
            os.unlink(path)
            pulse.round()

    return Work(work)


def filtering(ground: Ground, filters: int, rules: int, pattern: bytes) -> list[Work]:
    """*filters* watches on one directory by as many connections, with *rules* each; and work in that directory."""
    work = names(ground, "judged", 200)

    def watch(pulse: Pulse) -> None:
        with connected(ground, filters) as wires:
            for number, wire in enumerate(wires):
                for rule in range(rules):
                    fine(wire.ask(FILTER, EXCLUDE, pattern % (number, rule)))
                    if not pulse.on:
                        return
                fine(wire.ask(w.ADD, w.CREATE | w.DELETE | FILTERED, b"attacker/judged"))
            while pulse.on:
                for wire in wires:
                    if w.readable(wire.socket.fileno()):
                        wire.receive()
                pulse.wait(0.05)

    return [Work(watch), work]


@row(memory=16 * MEBIBYTE)
def filters(ground: Ground) -> list[Work]:
    """120 filters of 32 rules judge whatever is done in one directory, and each remembers what it has found."""
    return filtering(ground, ground.many(120), 32, b"name%d.%d")


@row(memory=16 * MEBIBYTE)
def rules(ground: Ground) -> list[Work]:
    """One filter of 250 patterns, nearly as many as a user may have, judges what is done in one directory."""
    return filtering(ground, 1, ground.many(RULES), b"n?me%d.%d*")


@row(memory=128 * MEBIBYTE)
def unread(ground: Ground) -> list[Work]:
    """120 instances watch one directory and read nothing: each event is told 120 times, and kept 120 times."""
    work = names(ground, "unread", 250)

    def watch(event_fd: bool, pulse: Pulse) -> None:  # noqa: FBT001 - which of two kinds
        with contextlib.ExitStack() as stack:
            for _ in range(ground.many(60)):
                wire = stack.enter_context(w.Client(ground.mount.socket, event_fd=event_fd, timeout=60))
                fine(wire.ask(w.ADD, w.CREATE | w.DELETE | w.ORIGIN, b"attacker/unread"))
            until(pulse)

    return [work, *(Work(functools.partial(watch, each)) for each in (False, True))]


@row()
def recursive(ground: Ground) -> list[Work]:
    """An ordinary user watches the whole mount, reads too, and reads and lists: who may see what is judged."""
    ground.make(lambda: [(os.makedirs(f"{number}/a/b"), put(f"{number}/a/b/file")) for number in range(100)])

    def watch(pulse: Pulse) -> None:
        with ground.connect() as wire:
            fine(wire.ask(w.ADD, w.ALL_EVENTS | w.RECURSIVE))
            read(wire, pulse)

    def work(process: int, pulse: Pulse) -> None:
        for number in itertools.count(process):
            if not pulse.on:
                break
            place = ground.home / f"{number % 100}" / "a"
            os.listdir(place)
            get(place / "b" / "file")
            pulse.round()

    return [Work(watch), *ground.each(work)]


# Doubt


@row(hears)
def doubt(ground: Ground) -> list[Work]:
    """A watched file that a descriptor (O_PATH) holds is removed, again and again: only the kernel knows if it died."""

    def work(process: int, pulse: Pulse) -> None:
        home = os.fsencode(ground.home)
        with ground.connect() as wire, contextlib.ExitStack() as kept:
            for number in itertools.count():
                if not pulse.on:
                    break
                path = home + b"/%d.%d" % (process, number)
                os.mknod(path)
                with opened(path, os.O_PATH) as fd:
                    fine(wire.add_descriptor(w.ALL_EVENTS, fd))
                    os.unlink(path)
                    if number % 2 and number < 1000:  # noqa: PLR2004 - a process may have so many
                        kept.callback(os.close, os.dup(fd))
                wire.arrived.clear()
                pulse.round()

    return ground.each(work)
