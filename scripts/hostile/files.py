"""Rows about files: what frees blocks, what waits for others, what is written and read without end."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import resource
import signal
import threading
from typing import TYPE_CHECKING

from tests.support.faults import run, tmpfs
from tests.support.posix import opened, put

from scripts.hostile.ground import Ground, Pulse, Work, opens, row, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCK = 4096
SUPPLY = 4
"""Files of many blocks that are there when it begins; then each is filled again, in the source."""


# Freeing


def fill(path: bytes, blocks: int) -> None:
    """Write every second block, so that each is an extent of its own."""
    with opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        for number in range(blocks):
            os.pwrite(fd, b"x" * BLOCK, 2 * BLOCK * number)
        os.fsync(fd)


def freeing(ground: Ground, free: Callable[[bytes], object], place: Path | None = None) -> list[Work]:
    """Free one file's blocks after the other's."""
    blocks = ground.many(12_000, 60_000)
    names = [b"blocks%d" % number for number in range(SUPPLY)]
    ground.make(lambda: [fill(name, blocks) for name in names])
    home = os.fsencode(place or ground.home)
    filled = os.fsencode(ground.made)

    def work(pulse: Pulse) -> None:
        for number in itertools.count():
            name = names[number % SUPPLY]
            if number >= SUPPLY:
                fill(filled + b"/" + name, blocks)
            if not pulse.on:
                break
            free(home + b"/" + name)
            pulse.round()

    return [Work(work)]


def _truncate_open(path: bytes) -> None:
    with opened(path, os.O_WRONLY) as fd:
        os.ftruncate(fd, 0)


def _rename_over(path: bytes) -> None:
    put(path + b".new", b"")
    os.rename(path + b".new", path)


@row(plain=True)
def truncate(ground: Ground) -> list[Work]:
    """truncate(2) of a file of 12,000 separate blocks: the file system frees one extent after another."""
    return freeing(ground, lambda path: os.truncate(path, 0))


@row(plain=True)
def ftruncate(ground: Ground) -> list[Work]:
    """The same by ftruncate(2)."""
    return freeing(ground, _truncate_open)


@row(plain=True)
def open_trunc(ground: Ground) -> list[Work]:
    """The same by open(2) with O_TRUNC."""
    return freeing(ground, lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)))


@row(plain=True)
def unlink_blocks(ground: Ground) -> list[Work]:
    """unlink(2) of such a file: the same is done at the last close, or in the unlink if nobody has it open."""
    return freeing(ground, os.unlink)


@row(plain=True)
def rename_over_blocks(ground: Ground) -> list[Work]:
    """rename(2) over such a file: as with unlink."""
    return freeing(ground, _rename_over)


# Leases


def leases(ground: Ground, flags: int, kind: int, break_it: Callable[[bytes], object]) -> list[Work]:
    """Hold a lease on each of eight files of the attacker's in the source, and break it through the mount.

    A round is a lease that is asked for. Half of them are held to the end, half are given back and taken again.
    """
    names = [b"leased%d" % number for number in range(8)]
    ground.make(lambda: [put(name) for name in names])

    def hold(name: bytes, pulse: Pulse, *, generous: bool) -> None:
        asked = threading.Event()
        signal.signal(signal.SIGIO, lambda *_: (asked.set(), pulse.round()))
        while pulse.on:
            with opened(os.fsencode(ground.made) + b"/" + name, flags) as fd:
                with contextlib.suppress(BlockingIOError):  # it is open elsewhere
                    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
                while pulse.wait(0.1) and not (generous and asked.is_set()):
                    if fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK and not asked.is_set():
                        break
                asked.clear()

    def ask(name: bytes, pulse: Pulse) -> None:
        path = os.fsencode(ground.home) + b"/" + name
        for number in itertools.count():
            if not pulse.on:
                break
            with contextlib.suppress(InterruptedError):  # by signals of the daemon's own, as it may turn out
                os.chmod(path, 0o600 + number % 2 * 0o44)
                break_it(path)

    holders = [Work(functools.partial(hold, name, generous=bool(each % 2))) for each, name in enumerate(names)]
    return holders + [Work(functools.partial(ask, name)) for name in names]


@row(plain=True)
def write_lease(ground: Ground) -> list[Work]:
    """open(2) of a file on which somebody holds a write lease in the source waits for him, up to 45 s."""
    return leases(ground, os.O_RDWR, fcntl.F_WRLCK, lambda path: os.close(os.open(path, os.O_RDONLY)))


@row(plain=True)
def read_lease(ground: Ground) -> list[Work]:
    """open(2) for writing, where somebody holds a read lease, waits for him too."""
    return leases(ground, os.O_RDONLY, fcntl.F_RDLCK, lambda path: os.close(os.open(path, os.O_WRONLY)))


@row(plain=True)
def truncate_lease(ground: Ground) -> list[Work]:
    """truncate(2) where somebody holds a read lease waits for him too."""
    return leases(ground, os.O_RDONLY, fcntl.F_RDLCK, lambda path: os.truncate(path, 1))


# Writing and reading


@row(plain=True)
def write(ground: Ground) -> list[Work]:
    """A process writes as fast as it can: a writer with too many dirty pages has to wait in write(2)."""
    most = ground.many(1 << 30)

    def work(number: int, pulse: Pulse) -> None:
        data = bytes(1 << 20)
        with opened(os.fsencode(ground.home) + b"/written%d" % number, os.O_WRONLY | os.O_CREAT) as fd:
            place = 0
            while pulse.on:
                os.pwrite(fd, data, place)
                place = (place + len(data)) % most
                pulse.round()

    return ground.each(work)


@row(plain=True)
def write_sync(ground: Ground) -> list[Work]:
    """A block is written to a file that was opened with O_SYNC, again and again: each write(2) waits for the disk."""

    def work(process: int, pulse: Pulse) -> None:
        path = os.fsencode(ground.home) + b"/synced%d" % process
        with opened(path, os.O_WRONLY | os.O_CREAT | os.O_SYNC) as fd:
            for place in itertools.count():
                if not pulse.on:
                    break
                os.pwrite(fd, b"x" * BLOCK, place % 4096 * BLOCK)
                pulse.round()

    return ground.each(work)


@row(plain=True)
def fsync(ground: Ground) -> list[Work]:
    """A block is written and fsync(2)-ed, again and again: the disk's own time, and the journal's."""

    def work(number: int, pulse: Pulse) -> None:
        with opened(os.fsencode(ground.home) + b"/synced%d" % number, os.O_WRONLY | os.O_CREAT) as fd:
            for place in itertools.count():
                if not pulse.on:
                    break
                os.pwrite(fd, b"x" * BLOCK, place % 256 * BLOCK)
                os.fsync(fd)
                pulse.round()

    return ground.each(work)


@row(plain=True)
def read_sparse(ground: Ground) -> list[Work]:
    """A file of 4 TiB without a block is read: nothing comes from a cache, and each read is large."""
    size = 4 << 40
    ground.make(lambda: (put("sparse"), os.truncate("sparse", size)))

    def work(number: int, pulse: Pulse) -> None:
        with opened(ground.home / "sparse") as fd:
            for place in range(number << 32, size, 1 << 20):
                if not pulse.on:
                    break
                os.pread(fd, 1 << 20, place)
                pulse.round()

    return ground.each(work)


@row(opens)
def open_files(ground: Ground) -> list[Work]:
    """One user keeps more files open than the daemon may have (20,000, say): the bystander opens one of its own."""
    ground.make(lambda: put("file"))
    most = resource.prlimit(ground.mount.pid, resource.RLIMIT_NOFILE)[0]
    path, each = os.fsencode(ground.home) + b"/file", ground.many(min(most, 50_000) // 8 + 200)

    def work(pulse: Pulse) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        for _ in range(each):
            if not pulse.on:
                return
            with contextlib.suppress(OSError):  # refused: that is one answer
                os.open(path, os.O_RDONLY)
        pulse.round()
        until(pulse)

    return [Work(work) for _ in range(8)]


# Attributes and links


def _tmpfs(place: Path, stack: contextlib.ExitStack) -> Path:
    """A source whose extended attributes have room for 64 KiB; it is gone before its directory."""
    source = stack.enter_context(tmpfs(place / "source", "size=256m,mode=755"))
    run("mount", "--make-private", source)
    return source


@row(plain=True, source=_tmpfs)
def xattrs(ground: Ground) -> list[Work]:
    """An attribute of 64 KiB is set and read, and 2,000 names of attributes are listed."""
    count = ground.many(2_000)

    def furnish() -> None:
        put("value")
        put("names")
        for number in range(count):
            os.setxattr("names", f"user.{number:024}", b"")

    ground.make(furnish)

    def work(process: int, pulse: Pulse) -> None:
        while pulse.on:
            os.setxattr(ground.home / "value", f"user.large{process}", bytes(65_536))
            os.getxattr(ground.home / "value", f"user.large{process}")
            os.listxattr(ground.home / "names")
            pulse.round()

    return ground.each(work)


@row(plain=True)
def links(ground: Ground) -> list[Work]:
    """A file with 60,000 names, all known to the daemon: one more, one less, by which it is opened and looked up."""
    count = ground.many(60_000)

    def furnish() -> None:
        put("file")
        for place in range(8):
            os.mkdir(f"links{place}")
        for number in range(count):
            os.link("file", f"links{number % 8}/{number}")

    ground.make(furnish)
    home = os.fsencode(ground.home)

    def work(process: int, pulse: Pulse) -> None:
        place = home + b"/links%d/" % process
        for number in range(process, count, 8):  # so that the daemon knows it
            if not pulse.on:
                return
            os.stat(place + b"%d" % number)
        for number in itertools.count():
            if not pulse.on:
                break
            path = place + b"more%d" % number
            os.link(home + b"/file", path)
            os.close(os.open(path, os.O_WRONLY))
            os.stat(place + b"%d" % (number * 8 % count // 8 * 8 + process))
            os.unlink(path)
            pulse.round()

    return ground.each(work)
