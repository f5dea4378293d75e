"""Rows about directories: many entries, many levels, and many processes at once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from typing import TYPE_CHECKING

from tests.support import wireclient as w
from tests.support.posix import put

from scripts.hostile.files import freeing
from scripts.hostile.ground import ATTACKER, MEBIBYTE, ROOT, Ground, Pulse, Work, in_threads, read, row, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.hostile.ground import User

LEVEL = "d"
"""The name of each directory in a chain."""


def descend(levels: int) -> None:
    """Make a chain of directories below the working directory."""
    for _ in range(levels):
        os.mkdir(LEVEL)
        os.chdir(LEVEL)


def listen(ground: Ground, path: bytes, mask: int = w.ALL_EVENTS, user: User = ROOT) -> Work:
    """Watch *path* with all below it, as root or another *user*, and read what comes."""

    def work(pulse: Pulse) -> None:
        with ground.connect() as wire:
            assert wire.ask(w.ADD, mask | w.RECURSIVE, path) > 0  # noqa: S101 - as everywhere
            read(wire, pulse)

    return Work(work, user)


# Many entries


def long_names(place: str, count: int) -> list[bytes]:
    """Make a directory of *count* names of 250 bytes; their paths."""
    os.mkdir(place)
    paths = [os.fsencode(place) + b"/%06d" % number + b"n" * 244 for number in range(count)]
    for path in paths:
        os.mknod(path)
    return paths


@row(plain=True, memory=32 * MEBIBYTE)
def listing(ground: Ground) -> list[Work]:
    """Three processes list 300,000 names of 250 bytes: whoever takes a whole listing first holds 100 MiB for each."""
    ground.make(lambda: long_names("many", ground.many(300_000)))

    def work(pulse: Pulse) -> None:
        while pulse.on:
            with os.scandir(ground.home / "many") as entries:
                for _ in entries:
                    if not pulse.on:
                        break
                else:
                    pulse.round()

    return [Work(work) for _ in range(3)]


@row(plain=True)
def listing_held(ground: Ground) -> list[Work]:
    """100,000 such names, 60 times opened, and one name read of each: listings that are begun, and never ended."""
    ground.make(lambda: long_names("many", ground.many(100_000)))

    def work(pulse: Pulse) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                if not pulse.on:
                    return
                next(stack.enter_context(os.scandir(ground.home / "many")))
                pulse.round()
            until(pulse)

    return [Work(work) for _ in range(3)]


@row(plain=True)
def listing_emptied(ground: Ground) -> list[Work]:
    """A directory that had 300,000 names is listed: the file system looks through all of its blocks in one call."""
    ground.make(lambda: [os.unlink(path) for path in long_names("emptied", ground.many(300_000))])

    def work(_: int, pulse: Pulse) -> None:
        while pulse.on:
            os.listdir(ground.home / "emptied")
            pulse.round()

    return ground.each(work)


@row(plain=True)
def move_tree(ground: Ground) -> list[Work]:
    """A tree of 100,000 entries that the daemon knows is moved to and fro, below a recursive watch of root's."""
    directories, each = ground.many(100), 1_000

    def furnish() -> None:
        os.makedirs("here/tree")
        os.mkdir("there")
        for number in range(directories):
            os.mkdir(f"here/tree/{number}")
            for file in range(each):
                os.mknod(f"here/tree/{number}/{file}")

    ground.make(furnish)
    home = os.fsencode(ground.home)

    def work(pulse: Pulse) -> None:
        for number in range(directories):  # READDIRPLUS makes all of them known
            if not pulse.on:
                return
            os.listdir(home + b"/here/tree/%d" % number)
        places = [home + b"/here/tree", home + b"/there/tree"]
        for old, new in itertools.cycle([places, places[::-1]]):
            if not pulse.on:
                break
            os.rename(old, new)
            os.chmod(new + b"/0/0", 0o600)
            pulse.round()

    return [Work(work), *heard(ground, b"")]


def heard(ground: Ground, path: bytes) -> list[Work]:
    """Those who listen: nobody, where there is no mount."""
    return [] if ground.seen == ground.mount.source else [listen(ground, path)]


@row(plain=True)
def chmod_children(ground: Ground) -> list[Work]:
    """A thousand files in a directory change their modes again and again, and the directory does between them."""
    count = ground.many(1_000)
    ground.make(lambda: (os.mkdir("children"), [put(f"children/{number}") for number in range(count)]))
    place = os.fsencode(ground.home) + b"/children"

    def work(process: int, pulse: Pulse) -> None:
        for number in itertools.count(process):
            if not pulse.on:
                break
            os.chmod(place + b"/%d" % (number % count), 0o600 + number % 2 * 0o44)
            if number % 10 == 0:
                os.chmod(place, 0o700 + number // 10 % 2 * 0o55)
            pulse.round()

    return ground.each(work)


# Many levels


@row(plain=True)
def deep_watched(ground: Ground) -> list[Work]:
    """Work 4,000 levels deep, by relative names, below a recursive watch of root's: who is above is looked for."""
    levels = ground.many(4_000)
    ground.make(lambda: descend(levels))

    def work(process: int, pulse: Pulse) -> None:
        os.chdir(ground.home)
        for _ in range(levels):
            if not pulse.on:
                return
            os.chdir(LEVEL)
        for name in _names(pulse, b".", process):
            os.mkdir(name)
            os.rmdir(name)
            put(name)
            os.chmod(name, 0o600)
            os.unlink(name)

    return [*ground.each(work), *heard(ground, b"")]


@row()
def deep_judged(ground: Ground) -> list[Work]:
    """The same 2,000 levels deep, below his own recursive watch: may he hear it? Each directory above is asked."""
    levels = ground.many(2_000)
    ground.make(lambda: descend(levels))
    path = os.fsencode(ground.home.relative_to(ground.seen))

    def work(process: int, pulse: Pulse) -> None:
        os.chdir(ground.home)
        for _ in range(levels):
            os.chdir(LEVEL)
        for name in _names(pulse, b".", process):
            os.mkdir(name)
            os.chmod(name, 0o700)
            os.rmdir(name)

    return [*ground.each(work), listen(ground, path, user=ATTACKER)]


@row(plain=True)
def deep_walk(ground: Ground) -> list[Work]:
    """40,000 levels are walked down, with a change at the bottom, and up again; the kernel forgets what it can."""
    levels = ground.many(40_000)
    ground.make(lambda: descend(levels))

    def work(pulse: Pulse) -> None:
        while pulse.on:
            os.chdir(ground.home)
            for level in range(levels):
                os.chdir(LEVEL)
                pulse.round(level >= levels // 10)  # once it is deep
                if not pulse.on:
                    return
            os.mkdir("bottom")
            os.rmdir("bottom")
            for _ in range(levels):
                os.chdir("..")

    return [Work(work)]


# Many at once


@row(plain=True)
def nothing(ground: Ground) -> list[Work]:
    """A process that does nothing but use a processor: what the machine itself makes of that."""

    def work(_: int, pulse: Pulse) -> None:
        while pulse.on:
            sum(range(1_000))
            pulse.round()

    return ground.each(work)


@row(plain=True)
def stat(ground: Ground) -> list[Work]:
    """What the bystander does too: what one queue makes of one more."""

    def work(process: int, pulse: Pulse) -> None:
        for name in _names(pulse, os.fsencode(ground.home), process):
            with contextlib.suppress(FileNotFoundError):
                os.stat(name)

    return ground.each(work)


def _names(pulse: Pulse, place: bytes, process: int) -> Iterator[bytes]:
    """Names of one process's own, as long as the pulse is on; each is a round."""
    for number in itertools.count():
        if not pulse.on:
            break
        yield place + b"/%d.%d" % (process, number % 100)
        pulse.round()


def creating(ground: Ground, place: bytes) -> list[Work]:
    """Create a file, rename it and remove it."""

    def work(process: int, pulse: Pulse) -> None:
        for name in _names(pulse, place, process):
            put(name)
            os.rename(name, name + b".new")
            os.unlink(name + b".new")

    return ground.each(work)


@row(plain=True)
def create(ground: Ground) -> list[Work]:
    """Files are created, renamed and removed as fast as can be: none of it is slow, all of it is in one queue."""
    return creating(ground, os.fsencode(ground.home))


@row(plain=True)
def create_here(ground: Ground) -> list[Work]:
    """The same in the bystander's own directory, which the kernel locks until each is answered."""
    (ground.mount.source / "bystander").chmod(0o777)
    return creating(ground, os.fsencode(ground.elsewhere))


@row(plain=True)
def unlink_here(ground: Ground) -> list[Work]:
    """Files of 12,000 separate blocks are removed in the bystander's directory, which is locked until that is done."""
    (ground.mount.source / "bystander").chmod(0o777)

    def free(path: bytes) -> None:
        there = os.fsencode(ground.elsewhere) + b"/" + os.path.basename(path)
        os.rename(path, there)
        os.unlink(there)

    return freeing(ground, free)


@row(plain=True)
def stat_threads(ground: Ground) -> list[Work]:
    """A thousand threads stat absent names: /dev/fuse is one queue, and each of them may have one request there."""
    home, threads = os.fsencode(ground.home), ground.many(250)

    def work(process: int, pulse: Pulse) -> None:
        def one(thread: int) -> None:
            for number in itertools.count():
                if not pulse.on:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.stat(home + b"/%d.%d.%d" % (process, thread, number))
                pulse.round()

        in_threads(functools.partial(one, thread) for thread in range(threads))

    return [Work(functools.partial(work, process)) for process in range(4)]
