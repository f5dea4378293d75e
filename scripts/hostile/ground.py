"""Where neighbours meet: processes that attack, a bystander that is timed, and the rows that say who does what."""

# ruff: noqa: S101 - tests run this

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import signal
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
from tests.support import wireclient as w
from tests.support.posix import OTHER, OTHER_GROUP, USER, become, collect, in_child, start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

    Bystander = Callable[["Ground"], contextlib.AbstractContextManager[Callable[[int], object]]]
    Attack = Callable[["Ground"], Iterable["Work"]]

User = tuple[int, int, tuple[int, ...]]

ROOT: User = (0, 0, ())
ATTACKER: User = (USER, USER, ())
BYSTANDER: User = (OTHER, OTHER_GROUP, ())
LONGEST = 120.0
"""Seconds that one request on the socket, or the end of all attackers, may take; then the row is given up."""
MEBIBYTE = 1 << 20


class Pulse:
    """What one process shares with the one that has started it: whether to go on, and how many rounds it has done."""

    def __init__(self, shared: memoryview, number: int) -> None:
        self._shared = shared
        self._number = number

    @property
    def on(self) -> bool:
        """Whether it is to go on."""
        return not self._shared[0]

    def round(self, count: int = 1) -> None:
        """What the attack is about was done once more."""
        self._shared[self._number] += count

    def wait(self, seconds: float) -> bool:
        """Sleep for *seconds*, or until it is over, whichever is first; whether it goes on."""
        end = time.monotonic() + seconds
        while self.on and (left := end - time.monotonic()) > 0:
            time.sleep(min(0.02, left))
        return self.on


class Work(NamedTuple):
    """What one process does, until its pulse is off."""

    do: Callable[[Pulse], Any]
    user: User = ATTACKER


def until(pulse: Pulse, pipe: int | None = None) -> bool:
    """Wait until something is in the pipe, or the pulse is off; which of the two."""
    while pulse.wait(0.02):
        if pipe is not None and w.readable(pipe):
            return True
    return False


def in_threads(works: Iterable[Callable[[], object]]) -> None:
    """Do all of them at once, in one process."""
    started = [threading.Thread(target=each) for each in works]
    for each in started:
        each.start()
    for each in started:
        each.join()


class Crew:
    """Processes, each with its work; with a process of ours that fails, all of it fails."""

    def __init__(self, works: Iterable[Work]) -> None:
        works = list(works)
        self._shared = memoryview(mmap.mmap(-1, 8 * (len(works) + 1))).cast("Q")
        self._children = [
            start_child(functools.partial(work.do, Pulse(self._shared, number)), functools.partial(become, *work.user))
            for number, work in enumerate(works, 1)
        ]

    @property
    def rounds(self) -> int:
        """What all have done so far."""
        return sum(self._shared[1:])

    @property
    def failed(self) -> bool:
        """Whether one has ended that nobody has told to."""
        return any(w.readable(pipe) for _, pipe in self._children)

    def stop(self) -> None:
        """Tell them all."""
        self._shared[0] = 1

    def end(self, give_up: Callable[[], object]) -> list[Any]:
        """What each has returned; AssertionError if one failed. *give_up* frees those who hang, after ``LONGEST``."""
        self.stop()
        deadline = time.monotonic() + LONGEST
        if not all(w.readable(pipe, max(0, deadline - time.monotonic())) for _, pipe in self._children):
            give_up()
            for child, _ in self._children:
                os.kill(child, signal.SIGKILL)
        outcomes, failures = [], []
        for child in self._children:
            try:
                outcomes.append(collect(child))
            except AssertionError as failure:
                failures.append(str(failure))
        self._children.clear()
        assert not failures, failures[0]
        return outcomes


@attrs.frozen
class Ground:
    """A fresh mount with one directory of the attacker's and one of the bystander's."""

    mount: Mount
    seen: Path
    """The tree as all work with it: the mount, or, to compare, the source itself."""
    stack: contextlib.ExitStack
    """What is to be undone when the row is over."""
    size: float = 1
    """Of what is made beforehand: less for a test."""
    large: bool = False
    """Whether it may take minutes to make."""
    processes: int = 1
    """Of an attack that any number can do: each more is one more request in the one queue of /dev/fuse."""

    @property
    def home(self) -> Path:
        """The attacker's directory as he sees it."""
        return self.seen / "attacker"

    @property
    def made(self) -> Path:
        """The same in the source: nothing done here is the daemon's work."""
        return self.mount.source / "attacker"

    @property
    def elsewhere(self) -> Path:
        """The bystander's directory as he sees it."""
        return self.seen / "bystander"

    def many(self, number: int, large: int = 0) -> int:
        """So many, or *large*, if nobody has asked for less."""
        return max(1, int((large if large and self.large else number) * self.size))

    def each(self, work: Callable[[int, Pulse], object]) -> list[Work]:
        """The same work by as many processes as there are to be, each with a number from 0."""
        return [Work(functools.partial(work, number)) for number in range(self.processes)]

    def make(self, work: Callable[[], object]) -> None:
        """Do *work* beforehand as the attacker, in the source."""

        def inside() -> None:
            os.chdir(self.made)
            work()

        in_child(inside, lambda: become(*ATTACKER))

    def connect(self) -> w.Client:
        """Connect to the daemon; with patience, for that is what is measured."""
        return w.Client(self.mount.socket, timeout=LONGEST)


def read(wire: w.Client, pulse: Pulse) -> None:
    """Read and throw away what comes, until the pulse is off."""
    while pulse.on:
        if w.readable(wire.socket.fileno(), 0.1):
            wire.receive()


# Bystanders: each gives what is timed, again and again; its argument says how often that was done before


@contextlib.contextmanager
def stats(ground: Ground) -> Iterator[Callable[[int], object]]:
    """Stat an absent name, each time another: one FUSE LOOKUP."""
    place = os.fsencode(ground.elsewhere) + b"/"

    def once(number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.stat(place + b"%x" % number)

    yield once


@contextlib.contextmanager
def opens(ground: Ground) -> Iterator[Callable[[int], object]]:
    """Open a file of its own, and close it."""
    path = os.fsencode(ground.elsewhere) + b"/file"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    yield lambda _: os.close(os.open(path, os.O_RDONLY))


@contextlib.contextmanager
def hears(ground: Ground) -> Iterator[Callable[[int], object]]:
    """Make or remove a directory, and hear of it on a connection of its own."""
    path = os.fsencode(ground.elsewhere) + b"/d"
    with ground.connect() as wire:
        wd = wire.ask(w.ADD, w.CREATE | w.DELETE, b"bystander")
        assert wd > 0, wd

        def once(number: int) -> None:
            (os.rmdir if number % 2 else os.mkdir)(path)
            event = wire.record()
            assert event.brief == (wd, w.ISDIR | (w.DELETE if number % 2 else w.CREATE), b"d"), event

        yield once
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(path)


@contextlib.contextmanager
def asks(ground: Ground) -> Iterator[Callable[[int], object]]:
    """Ask on a connection of its own what is pending, and have the answer."""
    with ground.connect() as wire:
        yield lambda _: wire.ask(w.PENDING)


@contextlib.contextmanager
def connects(ground: Ground) -> Iterator[Callable[[int], object]]:
    """Connect, greet, and have the answer."""

    def once(_: int) -> None:
        with ground.connect() as wire:
            wire.hello()

    yield once


def timed(ground: Ground, bystander: Bystander, pulse: Pulse) -> array[int]:
    """Nanoseconds that each time took, until the pulse is off."""
    taken = array("q")
    with bystander(ground) as once:
        while pulse.on or not taken:
            began = time.perf_counter_ns()
            once(len(taken))
            taken.append(time.perf_counter_ns() - began)
    return taken


# Rows


class Row(NamedTuple):
    """One attack, who is timed meanwhile, and what else has a bound."""

    name: str
    what: str
    """What is done, and what is slow about it."""
    attack: Callable[[Ground], Iterable[Work]]
    bystander: Bystander
    plain: bool
    """Whether it makes sense on a plain directory."""
    lock: bool
    """Whether the kernel's own lock on a directory is why the bystander waits: then he waits on a plain one too."""
    threads: int
    """The most that the daemon may have more than before."""
    memory: int
    """The most bytes that the daemon may grow by."""
    source: Callable[[Path, contextlib.ExitStack], Path] | None
    """What makes the source, if it is to be on another file system."""


ROWS: dict[str, Row] = {}


def row(  # noqa: PLR0913 - each says one thing of the row
    bystander: Bystander = stats,
    *,
    name: str = "",
    plain: bool = False,
    lock: bool = False,
    threads: int = 256,
    memory: int = 512 * MEBIBYTE,
    source: Callable[[Path, contextlib.ExitStack], Path] | None = None,
) -> Callable[[Attack], Attack]:
    """Enter an attack in the table, under *name* (default: its own); its docstring says what is slow about it."""

    def enter(attack: Attack) -> Attack:
        called = name or attack.__name__.replace("_", "-")
        assert called not in ROWS, called
        what = " ".join((attack.__doc__ or "").split())
        ROWS[called] = Row(called, what, attack, bystander, plain, lock, threads, memory, source)
        return attack

    return enter
