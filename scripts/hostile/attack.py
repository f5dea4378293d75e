"""A daemon on a real mount, clients of three users that send it anything, and one that must not notice."""

# ruff: noqa: S101, S311 - it asserts; and chance that can be repeated is what is wanted

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

import attrs
from tests.support import wireclient as w
from tests.support.posix import become, collect, start_child

from scripts.hostile.crowd import resident
from scripts.hostile.inputs import Inputs, descriptors, furnish

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

User = tuple[int, int, tuple[int, ...]]

USERS: tuple[User, ...] = ((0, 0, ()), (12345, 12345, ()), (12346, 12346, (5555,)))
"""User, group and supplementary groups of the attackers."""
CONNECTIONS = 8
"""How many each attacker has open at a time."""
PARTS = 10
"""Times that all attackers end, and others begin: then it is seen what is left of them."""
LIFE = 60
"""How many inputs a connection sends at most."""
DEADLINE = 10.0
"""Seconds that a reply to anybody may take."""
STOPPED = 60.0
"""Seconds without a sign of life after which the daemon is killed, to free who waits for it."""


@attrs.define
class Report:
    """What was sent, and what was seen."""

    inputs: int = 0
    """Random strings and requests, mutated or not."""
    replies: int = 0
    """Each of them the one that a request was to have."""
    connections: int = 0
    descriptors: int = 0
    """Sent along."""
    round_trips: int = 0
    """Of the client that must not notice: a directory made and removed, both told."""
    longest: float = 0.0
    """Seconds that one of these took at most."""
    grown: int = 0
    """Bytes of memory that the daemon has more than after the first tenth."""


class Framing:
    """What the protocol says of the bytes that were sent: which requests have to be answered, and how far it goes."""

    def __init__(self) -> None:
        self._rest = b""
        self.cookies: deque[int] = deque()
        self.broken = False
        """The last of the cookies is that of a record with a bad length."""

    def sent(self, data: bytes) -> None:
        """More bytes went out."""
        self._rest += data
        while not self.broken and len(self._rest) >= w.HEADER.size:
            _, _, cookie, size = w.HEADER.unpack_from(self._rest)
            self.broken = size > w.LONGEST_FIELD or bool(size % 16)
            if not self.broken and len(self._rest) < w.HEADER.size + size:
                break
            self.cookies.append(cookie)
            self._rest = self._rest[w.HEADER.size + size :]


class Attacker:
    """One connection."""

    def __init__(self, mount: Mount) -> None:
        self._wire = w.Wire(mount)
        self._wire.socket.settimeout(DEADLINE)
        self._framing = Framing()
        self.age = 0
        self.replies = 0
        self.entangled = False
        """It has sent itself. Such a one must say that it is done: as long as the daemon waits for it to read, and
        what it sent lies unread, the kernel sees its end in use (docs/reliability.md)."""

    def send(self, data: bytes, passed: list[int]) -> bool:
        """Send, reading what comes meanwhile; whether the connection goes on."""
        self.age += 1
        self._framing.sent(data)
        connection = self._wire.socket
        poll = select.poll()
        poll.register(connection, select.POLLOUT | select.POLLIN)
        rights = passed
        if passed and self.age % 7 == 0:
            self.entangled, rights = True, [*passed[1:], connection.fileno()]
        while data:
            assert poll.poll(DEADLINE * 1000), "the daemon neither reads nor answers"
            self._read()
            try:
                sent = socket.send_fds(connection, [data], rights, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                assert self._framing.broken, "the daemon has hung up on whole records"
                return False
            data, rights = data[sent:], []
        return not self._framing.broken

    def _read(self) -> None:
        while w.readable(self._wire.socket.fileno()):
            try:
                data = self._wire.receive()
            except ConnectionResetError:
                break
            if not data:
                break
            self._take(data)

    def _take(self, data: bytes) -> None:
        records, self._wire.rest = w.split(self._wire.rest + data)
        for record in records:
            if record.mask & w.REPLY:
                assert self._framing.cookies, f"a reply to nothing: {record}"
                assert record.cookie == self._framing.cookies.popleft(), f"out of order: {record}"
                self.replies += 1

    def finish(self) -> None:
        """Read to the end: every request was answered."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, OSError):
            self._wire.socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := self._wire.receive():
                self._take(data)
        assert not self._framing.cookies, f"{len(self._framing.cookies)} requests without a reply"
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._wire.close()


def assail(mount: Mount, seed: str, count: int, passed: list[int]) -> Counter[str]:
    """Send *count* inputs over several connections at once; what was sent and answered."""
    chance = random.Random(seed)
    inputs = Inputs(chance, passed)
    done: Counter[str] = Counter()
    attackers: list[Attacker] = []

    def end(attacker: Attacker, *, orderly: bool) -> None:
        if orderly:
            attacker.finish()
        attacker.close()
        attackers.remove(attacker)
        done["replies"] += attacker.replies

    for _ in range(count):
        if len(attackers) < CONNECTIONS:
            attackers.append(Attacker(mount))
            done["connections"] += 1
        attacker = chance.choice(attackers)
        data, rights = inputs.next()
        goes_on = attacker.send(data, rights)
        done["inputs"] += 1
        done["descriptors"] += len(rights)
        if not goes_on or attacker.age > LIFE or not chance.randrange(LIFE):
            end(attacker, orderly=attacker.entangled or bool(chance.randrange(3)))
    while attackers:
        end(attackers[0], orderly=True)
    return done


def attack(mount: Mount, runs: int, seed: int, say: Callable[[str], None] = lambda _: None) -> Report:
    """Send *runs* inputs by all users; AssertionError when anybody but the attackers could tell.

    *mount* is new, with allow_other and in a directory that all may enter.
    """
    furnish(mount)
    report = Report()
    with contextlib.ExitStack() as stack:
        passed = descriptors(mount.root, stack)
        control = stack.enter_context(w.Wire(mount))
        alive = _watchdog(mount, stack)
        before = _idle(mount, control)
        for part in range(PARTS):  # each begins with new processes and ends with all connections gone
            children = [start(mount, f"{seed}.{part}", -(-runs // PARTS // len(USERS)), passed, user) for user in USERS]
            _work_on(control, children, report, alive)
            for child in children:
                for key, value in collect(child).items():
                    setattr(report, key, getattr(report, key) + value)
            mount.check()
            _wait_idle(mount, control, before)
            say(f"{report.inputs} inputs, {report.replies} replies, {report.round_trips} round trips")
            if part == 0:
                report.grown = -resident(mount)
        report.grown += resident(mount)
    return report


def start(mount: Mount, seed: str, count: int, passed: list[int], user: User) -> tuple[int, int]:
    """Assail *mount* as *user*, in a child process."""
    return start_child(lambda: assail(mount, f"{seed}.{user[0]}", count, passed), lambda: become(*user))


def _work_on(control: w.Wire, children: list[tuple[int, int]], report: Report, alive: Callable[[], None]) -> None:
    """Make and remove a directory, and hear of both, until all children are done."""
    place = control.root / "d" / "e"
    wd = control.add(w.CREATE | w.DELETE, place)
    name = place / "control"
    while any(not w.readable(pipe) for _, pipe in children):
        began = time.monotonic()
        name.mkdir()
        name.rmdir()
        told = control.told()
        took = time.monotonic() - began
        assert told == [(wd, mask | w.ISDIR, b"control") for mask in (w.CREATE, w.DELETE)], told
        assert took < DEADLINE, f"one round trip took {took:.1f} s"
        report.round_trips += 1
        report.longest = max(report.longest, took)
        alive()
    control.ask(wd)
    assert control.told() == [(wd, w.IGNORED, b"")]


def _idle(mount: Mount, control: w.Wire) -> dict[str, int]:
    """What the daemon holds while only the control client is connected."""
    statistics = control.statistics()["mount"]
    held = {key: statistics[key] for key in ("instances", "watches", "open_files")}
    return {**held, "descriptors": len(w.descriptors_of(mount.pid)) - statistics["descriptors"]}


def _wait_idle(mount: Mount, control: w.Wire, before: dict[str, int]) -> None:
    try:
        w.wait_until(lambda: _idle(mount, control) == before, "nothing left")
    except AssertionError:
        held = "\n".join(sorted(w.descriptors_of(mount.pid)))
        raise AssertionError(f"left of the attackers: {_idle(mount, control)} after {before}\n{held}") from None


def _watchdog(mount: Mount, stack: contextlib.ExitStack) -> Callable[[], None]:
    """Kill the daemon when the function that this returns was not called for STOPPED seconds."""
    beats = threading.Event()
    ended = threading.Event()

    def guard() -> None:
        while not ended.is_set():
            beats.clear()
            if not beats.wait(STOPPED) and not ended.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(mount.pid, signal.SIGKILL)
                break

    thread = threading.Thread(target=guard, daemon=True)
    thread.start()
    stack.callback(lambda: (ended.set(), beats.set(), thread.join()))
    return beats.set
