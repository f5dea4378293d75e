"""One watch for a whole tree: it misses nothing, says each thing once, and costs nothing.

The model is the kernel: a watch of its own on every single directory, put there as soon as there is one, and its
events added up. That works here because each step waits until the one before was heard.
"""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import contextlib
import os
import random
import time
from typing import TYPE_CHECKING

import pytest
from scripts.hostile import chains

from tests.support import kernel
from tests.support import wireclient as w
from tests.support.posix import collect, start_child
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

Told = tuple[int, bytes]
HEARD = w.CREATE | w.DELETE | w.MOVED_FROM | w.MOVED_TO | w.MODIFY | w.ATTRIB | w.CLOSE_WRITE


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount: a test has a directory of its own in it."""
    return shared()


# Directories made a moment ago


@pytest.mark.parametrize("together", [False, True], ids=["each alone", "all at one place"])
def test_a_file_in_a_directory_made_a_moment_ago_is_told_exactly_once(
    mount: Mount, tree: Path, *, together: bool
) -> None:
    """``scripts/hostile chains`` does it twenty times."""
    with Wire(mount, event_fd=together) as wire:
        wire.add(w.CREATE | w.RECURSIVE, tree)

        assert not chains.wrong(wire, tree, together=together)


# The sum of the kernel's watches


class Sum:
    """What a recursive watch on *top* has to say, by the kernel's watches on each directory below *root*."""

    def __init__(self, root: Path, source: Path, top: Path) -> None:
        self._root, self._source = os.fsencode(root), os.fsencode(source)
        self._top = os.stat(top).st_ino
        self._kernel = kernel.Inotify(self._root)
        self._watched: dict[int, int] = {}
        self._names: dict[int, tuple[int, bytes]] = {}
        self.follow()

    def follow(self) -> None:
        """Watch each directory that is new, and note where all are by now; one that was removed is where it was."""
        numbers: dict[bytes, int] = {}
        for place, *_ in os.walk(self._source):
            path = place[len(self._source) :]
            number = numbers[path] = os.stat(self._root + path).st_ino
            above, _, name = path.rpartition(b"/")
            self._names[number] = numbers[above] if path else 0, name
            if number not in self._watched.values():
                self._watched[self._kernel.add(self._root + path, HEARD | w.MOVE_SELF)] = number

    def told(self) -> list[Told]:
        """What has happened since the last time."""
        told = []
        for event in self._kernel.drain():
            number = self._watched[event.wd]
            if event.mask & w.IGNORED:
                del self._watched[event.wd]
            elif not event.name and number == self._top:
                told.append((event.mask, b""))
            elif event.name and (path := self._below(number, event.name)):
                told.append((event.mask, path))
        self.follow()
        return told

    def _below(self, number: int, name: bytes) -> bytes:
        """The path from the top to *name* in this directory; empty if that is elsewhere."""
        while number and number != self._top:
            number, above = self._names[number]
            name = above + b"/" + name
        return name if number else b""

    def close(self) -> None:
        """End the kernel's instance."""
        self._kernel.close()


class Steps:
    """Random operations below *root*, which *source* is too: ``do`` does one and says what it was. It may fail."""

    NAMES = (b"a", b"b", b"c", b"dir")
    ENOUGH = 40

    def __init__(self, root: Path, source: Path, seed: int) -> None:
        self._root, self._source = os.fsencode(root), os.fsencode(source)
        self._chance = random.Random(seed)
        self._held: list[int] = []

    def do(self) -> str:
        """One operation of a kind that can be heard."""
        directories, files = self._existing()
        new = self._chance.choice(directories) + b"/" + self._chance.choice(self.NAMES)
        some, other = (self._chance.choice(directories + files * 2) for _ in range(2))
        file = self._chance.choice(files or [new])
        kinds: dict[str, Callable[[], object]] = {
            "mkdir": lambda: os.mkdir(new),
            "mknod": lambda: os.mknod(new),
            "link": lambda: os.link(file, new),
            "rename": lambda: os.rename(some, new),
            "rename over": lambda: os.rename(some, other),
            "exchange": lambda: kernel.rename(some, other, "exchange"),
            "unlink": lambda: os.unlink(file),
            "rmdir": lambda: os.rmdir(some),
            "chmod": lambda: os.chmod(some, self._chance.choice((0o700, 0o755))),
            "write": lambda: os.close(self._open(file)),
            "hold": lambda: self._held.append(self._open(file)),
            "write to one held": lambda: os.write(self._held[-1], b"more"),
            "let go": lambda: os.close(self._held.pop(0)),
        }
        more = ("mkdir", "mknod") if len(directories + files) < self.ENOUGH else ("unlink", "rmdir")
        kind = self._chance.choice([*kinds, "rename", *more, *more])
        with contextlib.suppress(OSError, IndexError):
            kinds[kind]()
        words = (kind, *(os.fsdecode(path[len(self._root) :]) for path in (new, some, other, file)))
        return " ".join(words)

    def _existing(self) -> tuple[list[bytes], list[bytes]]:
        directories, files = [], []
        for place, below, names in os.walk(self._source):
            path = self._root + place[len(self._source) :]
            directories += [path + b"/" + name for name in below]
            files += [path + b"/" + name for name in names if name != b"kept"]
        return sorted(directories), sorted(files)

    @staticmethod
    def _open(path: bytes) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, b"x")
        return descriptor

    def close(self) -> None:
        """Let go of everything."""
        for descriptor in self._held:
            os.close(descriptor)


@pytest.mark.parametrize("seed", [1, time.time_ns() % (1 << 32)], ids=["fixed", "random"])
def test_a_recursive_watch_says_what_watches_on_each_directory_say(mount: Mount, tree: Path, seed: int) -> None:
    """Two of them, one inside the other; both are moved about, and moved out of, into and within."""
    for name in ("in/top/a/b/c", "out/a/b"):
        (tree / name).mkdir(parents=True)
    for name in ("in/kept", "in/top/kept"):  # nothing removes them: so the watched directories live on
        w.touch(tree / name)
    steps, count = Steps(tree, mount.source / tree.name, seed), 0
    tops = (tree / "in", tree / "in/top")
    with contextlib.ExitStack() as stack:
        stack.callback(steps.close)
        models = [Sum(tree, mount.source / tree.name, top) for top in tops]
        wires = [stack.enter_context(Wire(mount)) for _ in tops]
        for model, wire, top in zip(models, wires, tops, strict=True):
            stack.callback(model.close)
            wire.add(HEARD | w.MOVE_SELF | w.RECURSIVE, top)
        done: list[str] = []
        for _ in range(1000):
            done.append(steps.do())
            os.statvfs(tree)  # a close is told late, but before what comes later
            for model, wire in zip(models, wires, strict=True):
                heard = [(event.mask, event.name) for event in wire.events()]
                assert heard == model.told(), f"seed {seed}: " + "; ".join(done)
                count += len(heard)
    assert count > 50, "most steps fail"


def test_what_is_moved_in_is_heard_although_the_mount_has_never_looked_into_it(mount: Mount, tree: Path) -> None:
    (tree / "in").mkdir()
    (mount.source / tree.name / "new/a/b").mkdir(parents=True)
    with Wire(mount) as wire:
        wire.add(w.CREATE | w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE, tree / "in")
        (tree / "new").rename(tree / "in/new")
        w.touch(tree / "in/new/a/b/heard")
        (tree / "in/new/a").rename(tree / "a")
        w.touch(tree / "a/b/silent")

        assert wire.told() == [
            (1, w.MOVED_TO | w.ISDIR, b"new"),
            (1, w.CREATE, b"new/a/b/heard"),
            (1, w.MOVED_FROM | w.ISDIR, b"new/a"),
        ]


def test_a_path_is_the_one_of_that_moment(mount: Mount, tree: Path) -> None:
    """One process makes files, another renames what is above them: each path fits what was told before it."""
    files, renames = 600, 300
    (tree / "0/a").mkdir(parents=True)
    place = os.open(tree / "0/a", os.O_PATH)

    def make() -> None:
        for number in range(files):
            os.mknod(b"%d" % number, dir_fd=place)

    def rename() -> None:
        for number in range(renames):
            os.rename(tree / f"{number}", tree / f"{number + 1}")

    with Wire(mount) as wire:
        wire.add(w.CREATE | w.MOVED_TO | w.RECURSIVE, tree)
        for child in [start_child(make), start_child(rename)]:
            collect(child)
        told = wire.told()
    os.close(place)
    above, made = b"0", []
    for _, mask, name in told:
        if mask & w.MOVED_TO:
            above = name
        else:
            assert name.rpartition(b"/")[0] == above + b"/a"
            made.append(int(name.rpartition(b"/")[2]))
    assert made == list(range(files))
    assert above == b"%d" % renames


# What it costs


def test_a_recursive_watch_costs_nothing_for_each_directory(mounted: Callable[..., Mount]) -> None:
    """A descriptor of a chain's end holds all above it: whoever drops the kernel's caches, all are known."""
    mount = mounted()
    many, deep = 100, 100
    ends = [f"{number}" + "/d" * (deep - 1) for number in range(many)]
    for end in ends:
        (mount.source / end).mkdir(parents=True)
    with Wire(mount) as wire, contextlib.ExitStack() as stack:

        def held() -> dict[str, int]:
            statistics = wire.statistics()["mount"]
            return {key: statistics[key] for key in ("inodes", "descriptors")}

        before = held()
        wire.add(w.CREATE | w.RECURSIVE)
        assert held() == before, "what nobody has looked up is not looked up"
        wire.ask(1)
        for end in ends:
            stack.callback(os.close, os.open(mount.root / end, os.O_PATH | os.O_DIRECTORY))
        known = held()
        assert known["inodes"] > many * deep
        wire.add(w.CREATE | w.RECURSIVE)
        assert held() == known
        w.touch(mount.root / ends[70] / "f")
        assert wire.told()[-1] == (2, w.CREATE, os.fsencode(f"{ends[70]}/f"))
