"""Rows in which an attacker has a file system of his own that answers when he likes."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import mmap
import os
import signal
import time
from typing import TYPE_CHECKING

from tests.support import wireclient as w
from tests.support.faults import FaultySource
from tests.support.posix import libc, put

from scripts.hostile.ground import ROOT, Ground, Pulse, Work, asks, hears, in_threads, read, row, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MOST = 253
"""Descriptors that one sendmsg(2) can carry (SCM_MAX_FD)."""
HUNG = 0.3
"""Seconds after which a call has hung."""


def hanging_file(ground: Ground) -> tuple[int, int]:
    """The server of a file system that an attacker might have mounted, and a file of a mebibyte that is open there."""
    source = FaultySource(ground.mount.root.parent / "hanging")
    ground.stack.callback(source.close)
    descriptor = os.open(source.root / "file", os.O_CREAT | os.O_RDWR)
    ground.stack.callback(os.close, descriptor)
    ground.stack.callback(os.kill, source.pid, signal.SIGCONT)
    os.write(descriptor, bytes(1 << 20))
    return source.pid, descriptor


def stop_and_go(server: int, stopped: float, going: float, pulse: Pulse) -> None:
    """Let it hang for *stopped* seconds, and answer for *going*, again and again."""
    try:
        while pulse.wait(going):
            os.kill(server, signal.SIGSTOP)
            pulse.wait(stopped)
            os.kill(server, signal.SIGCONT)
    finally:
        os.kill(server, signal.SIGCONT)


def list_into(memory: int, directory: int) -> bool:
    """List a directory into memory mapped from the file *memory*; whether that hung."""
    with mmap.mmap(memory, 1 << 20, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        place = ctypes.c_char.from_buffer(mapped)
        began = time.monotonic()
        os.lseek(directory, 0, os.SEEK_SET)
        libc.getdents64(directory, ctypes.c_void_p(ctypes.addressof(place)), 4096)
        del place
    return time.monotonic() - began > HUNG


def locking(places: Sequence[Path], memory: int, pulse: Pulse) -> list[Callable[[], object]]:
    """For each directory one who lists it so, which is a round when it hung, and one who makes names there."""

    def lists(place: Path) -> None:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        while pulse.on:
            pulse.round(list_into(memory, directory))

    def makes(place: Path) -> None:
        while pulse.on:
            os.mkdir(place / "made")
            os.rmdir(place / "made")

    return [functools.partial(each, place) for place in places for each in (lists, makes)]


@row(hears)
def list_into_hang(ground: Ground) -> list[Work]:
    """64 watched directories are listed into memory that hangs, mapped from a file, and are locked meanwhile.

    Somebody works in each, and of each the kernel is asked whether that is over.
    """
    server, descriptor = hanging_file(ground)
    places = ground.many(64)
    ground.make(lambda: [os.mkdir(f"listed{number}") for number in range(places)])

    def work(first: int, pulse: Pulse) -> None:
        mine = range(first, places, 4)
        with ground.connect() as wire:
            for number in mine:
                assert wire.ask(w.ADD, w.ALL_EVENTS, b"attacker/listed%d" % number) > 0  # noqa: S101 - as everywhere
            reads = functools.partial(read, wire, pulse)
            in_threads([reads, *locking([ground.home / f"listed{number}" for number in mine], descriptor, pulse)])

    works = [Work(functools.partial(work, first)) for first in range(4)]
    return [*works, Work(functools.partial(stop_and_go, server, 1.5, 0.3), ROOT)]


@row(plain=True, lock=True)
def list_into_hang_here(ground: Ground) -> list[Work]:
    """The bystander's own directory is listed so, while somebody makes names there: the kernel looks nothing up."""
    server, descriptor = hanging_file(ground)
    (ground.mount.source / "bystander").chmod(0o777)
    work = Work(lambda pulse: in_threads(locking([ground.elsewhere], descriptor, pulse)))
    return [work, Work(functools.partial(stop_and_go, server, 1.5, 0.3), ROOT)]


@row(hears, threads=128)
def closes_sent(ground: Ground) -> list[Work]:
    """Descriptors of a file that hangs are sent to the daemon, 253 at a time: it closes them, and each close hangs."""
    server, descriptor = hanging_file(ground)

    def work(pulse: Pulse) -> None:
        for _ in itertools.repeat(None, 12):
            with contextlib.suppress(TimeoutError), w.Client(ground.mount.socket, timeout=5) as wire:
                if not pulse.on:
                    break
                wire.ask(w.PENDING, descriptors=[descriptor] * MOST)
                pulse.round(MOST)
        until(pulse)

    return [*[Work(work)] * 2, Work(functools.partial(stop_and_go, server, 1e6, 0), ROOT)]


def _faulty(place: Path, stack: contextlib.ExitStack) -> Path:
    """A source that can hang."""
    source = FaultySource(place / "source")
    stack.callback(source.close)
    put(source.root / "file")
    put(place / "server", b"%d" % source.pid)
    return source.root


@row(asks, threads=128, source=_faulty)
def closes(ground: Ground) -> list[Work]:
    """3,000 files are open, the source hangs, and all are closed: the daemon's own closes hang."""
    server = int((ground.mount.source.parent / "server").read_bytes())
    count = ground.many(1_000)
    (opened, all_open), (stopped, go) = os.pipe(), os.pipe()
    for each in (opened, all_open, stopped, go):
        ground.stack.callback(os.close, each)

    def work(pulse: Pulse) -> None:
        kept = [os.open(ground.seen / "file", os.O_RDONLY) for _ in range(count)]
        os.write(all_open, b"x")
        until(pulse, stopped)
        for each in kept:
            os.close(each)
            pulse.round()
        until(pulse)

    def stop(pulse: Pulse) -> None:
        for _ in range(3):
            if until(pulse, opened):
                os.read(opened, 1)
        os.kill(server, signal.SIGSTOP)
        os.write(go, b"x")
        try:
            until(pulse)
        finally:
            os.kill(server, signal.SIGCONT)

    return [*[Work(work)] * 3, Work(stop, ROOT)]
