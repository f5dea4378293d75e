"""A long way is walked in parts, and what happens between them is what could happen to a walk in Linux."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from notifyfs.core.inodes import ROOT
from notifyfs.passthrough.source import O_PATH, Source
from notifyfs.protocol import flags
from notifyfs.subscribers.resolve import Peer, Resolver
from tests.support.tree import numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from notifyfs.core.entries import Inode

ME = Peer(os.getpid(), os.geteuid(), os.getegid())
LONG = b"a/" + b"b/../" * 800


class Walked:
    """A source with ``a/b``, ``a/f`` and links that make the way to ``long`` long, and its resolver."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "a/b").mkdir(parents=True)
        (directory / "a/f").touch()
        (directory / "a/g").symlink_to("f")
        for number in range(10):
            target = LONG + (b"../long%d" % (number + 1) if number < 9 else b"g")
            os.symlink(target, os.fsencode(directory) + b"/long%d" % number)
        self.source = Source(os.open(directory, O_PATH), 64)
        self.died: list[Inode] = []
        self.resolver = Resolver(self.source, b"/mount", (0, 0), self.died.append)

    def found(self, inode: Inode) -> Inode:
        """Assert that what was found is in the table, and all above it."""
        place = inode
        while place.number != ROOT:
            assert self.source.inodes.get(place.number) is place
            place = place.entry.parent
        return inode

    async def path(self, path: bytes) -> Inode:
        """Walk there."""
        return await self.resolver.path(path, flags.OPEN, ME, self.found)

    async def walk(self, meanwhile: Callable[[], None] = lambda: None) -> tuple[Inode, int]:
        """Walk to ``long0``; do something when others have their turn first; and how often they have had it."""
        found: list[Inode] = []

        async def walk() -> None:
            found.append(await self.path(b"long0"))

        parts = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walk)
            await self.begun()
            meanwhile()
            while not found:
                parts += 1
                await trio.lowlevel.checkpoint()
        return found[0], parts

    async def begun(self) -> None:
        """Wait until somebody is on the way."""
        while len(self.source.inodes) == 1:
            await trio.lowlevel.checkpoint()

    def remove(self, path: str) -> bool:
        """``rm -r``; whether it died at once."""
        place = self.source.inodes.root
        *above, last = path.encode().split(b"/")
        for name in above:
            place = self.source.look(place, name)[0].inode
        entry, _ = self.source.look(place, last)
        descriptor = os.open(self.directory / path, O_PATH)
        (os.rmdir if entry.inode.is_dir else os.unlink)(self.directory / path)
        dies = self.source.inodes.remove(entry, 0)
        self.source.pin(entry.inode, descriptor)
        self.source.inodes.reap(entry.inode)
        return dies


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[Walked]:
    (tmp_path / "source").mkdir()
    walked = Walked(tmp_path / "source")
    yield walked
    walked.source.close()


async def test_others_have_their_turn_and_nothing_stays(walked: Walked) -> None:
    inode, parts = await walked.walk()
    assert inode.entry.name == b"f"
    assert parts >= 5, "16,000 steps in one go"
    assert len(walked.source.inodes) == 1


async def test_a_short_way_is_walked_in_one_go(walked: Walked) -> None:
    parts = 0

    async def count() -> None:
        nonlocal parts
        while True:
            await trio.lowlevel.checkpoint()
            parts += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        inode = await walked.path(b"a/b/../f")
        assert parts == 0
        nursery.cancel_scope.cancel()
    assert inode.entry.name == b"f"


async def test_what_is_moved_away_meanwhile_is_not_found(walked: Walked) -> None:
    def move() -> None:
        inodes = walked.source.inodes
        entry, _ = walked.source.look(inodes.root, b"a")
        os.rename(walked.directory / "a", walked.directory / "c")
        inodes.move(entry, inodes.root, b"c")

    with pytest.RaisesGroup(OSError) as raised:
        await walked.walk(move)
    (error,) = raised.value.exceptions
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert len(walked.source.inodes) == 1


async def test_another_of_the_same_name_is_found(walked: Walked) -> None:
    def replace() -> None:
        inodes = walked.source.inodes
        entry, _ = walked.source.look(inodes.root, b"a")
        os.rename(walked.directory / "a", walked.directory / "c")
        inodes.move(entry, inodes.root, b"c")
        (walked.directory / "a/b").mkdir(parents=True)
        (walked.directory / "a/f").touch()
        (walked.directory / "a/g").symlink_to("f")

    inode, _ = await walked.walk(replace)
    assert inode.ino == (walked.directory / "a/f").stat().st_ino


async def test_what_is_removed_under_its_feet_dies_when_it_goes_on(walked: Walked) -> None:
    held: list[bytes] = []

    def remove() -> None:
        held.extend(path[-1:].encode() for path in ("a/f", "a/g", "a/b", "a") if not walked.remove(path))
        assert walked.died == []

    with pytest.RaisesGroup(OSError) as raised:
        await walked.walk(remove)
    (error,) = raised.value.exceptions
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert held, "it was in neither"
    assert sorted(inode.entry.name for inode in walked.died) == sorted(held)
    assert len(walked.source.inodes) == 1


async def test_two_on_the_same_way_do_not_lose_it(walked: Walked) -> None:
    """The first to arrive lets go of all that nobody else remembers."""
    other: list[Inode] = []

    async def short() -> None:
        while True:
            other.append(await walked.path(b"a/b"))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(short)
        await walked.walk()
        nursery.cancel_scope.cancel()
    assert len(other) > 5


async def test_a_walk_that_is_cancelled_holds_nothing(walked: Walked) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(walked.path, b"long0")
        await walked.begun()
        nursery.cancel_scope.cancel()
    assert len(walked.source.inodes) == 1


async def test_too_many_links_and_ways_out_are_refused_far_on(walked: Walked) -> None:
    os.symlink(b"long0/x", os.fsencode(walked.directory) + b"/file")
    os.symlink(LONG + b"../..", os.fsencode(walked.directory) + b"/out")
    os.symlink(LONG + b"../loop", os.fsencode(walked.directory) + b"/loop")
    for path, number in ((b"file", errno.ENOTDIR), (b"out", errno.EXDEV), (b"loop", errno.ELOOP)):
        with numbered(number):
            await walked.path(path)
    assert len(walked.source.inodes) == 1
