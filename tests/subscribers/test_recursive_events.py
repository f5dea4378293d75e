"""What a recursive watch tells, and what it does not."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tests.subscribers.test_delivery import mount, wire
from tests.support import wireclient as w

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.wireclient import Wire

__all__ = ["mount", "wire"]


def test_a_recursive_watch_misses_nothing_in_directories_made_a_moment_ago(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.RECURSIVE, tree)
    expected = []
    for number in range(100):
        base = f"{number}"
        (tree / base / "b" / "c").mkdir(parents=True)
        w.touch(tree / base / "b" / "c" / "f")
        for name, kind in ((base, w.ISDIR), (f"{base}/b", w.ISDIR), (f"{base}/b/c", w.ISDIR), (f"{base}/b/c/f", 0)):
            expected.append((wd, w.CREATE | kind, name.encode()))

    assert wire.told() == expected


def test_a_recursive_watch_sees_directories_that_were_there_before(tree: Path, wire: Wire) -> None:
    (tree / "old" / "older").mkdir(parents=True)
    wd = wire.add(w.CREATE | w.DELETE | w.ATTRIB | w.RECURSIVE, tree)
    w.touch(tree / "old" / "older" / "f")
    (tree / "old").chmod(0o700)
    (tree / "old" / "older" / "f").unlink()
    (tree / "old" / "older").rmdir()

    assert wire.told() == [
        (wd, w.CREATE, b"old/older/f"),
        (wd, w.ATTRIB | w.ISDIR, b"old"),
        (wd, w.DELETE, b"old/older/f"),
        (wd, w.DELETE | w.ISDIR, b"old/older"),
    ]


def test_a_recursive_watch_tells_opening_a_directory_below_once(tree: Path, wire: Wire) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    wd = wire.add(w.OPEN | w.RECURSIVE, tree)
    os.close(os.open(tree / "d" / "e", os.O_RDONLY))
    os.close(os.open(tree, os.O_RDONLY))

    assert wire.told() == [(wd, w.OPEN | w.ISDIR, b"d/e"), (wd, w.OPEN | w.ISDIR, b"")]


def test_moving_within_a_recursive_watch_is_a_pair_and_later_names_are_the_new_ones(tree: Path, wire: Wire) -> None:
    (tree / "a" / "x").mkdir(parents=True)
    (tree / "b").mkdir()
    wd = wire.add(w.CREATE | w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE, tree)
    (tree / "a" / "x").rename(tree / "b" / "y")
    w.touch(tree / "b" / "y" / "f")

    gone, come, made = wire.events()
    assert [event.brief for event in (gone, come, made)] == [
        (wd, w.MOVED_FROM | w.ISDIR, b"a/x"),
        (wd, w.MOVED_TO | w.ISDIR, b"b/y"),
        (wd, w.CREATE, b"b/y/f"),
    ]
    assert gone.cookie == come.cookie != 0


def test_what_moves_out_of_a_recursive_watch_falls_silent_and_what_moves_in_is_heard(tree: Path, wire: Wire) -> None:
    (tree / "in" / "d" / "e").mkdir(parents=True)
    (tree / "out" / "n" / "m").mkdir(parents=True)
    wd = wire.add(w.CREATE | w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE, tree / "in")
    (tree / "in" / "d").rename(tree / "out" / "d")
    w.touch(tree / "out" / "d" / "e" / "silent")
    (tree / "out" / "n").rename(tree / "in" / "n")
    w.touch(tree / "in" / "n" / "m" / "heard")

    assert wire.told() == [
        (wd, w.MOVED_FROM | w.ISDIR, b"d"),
        (wd, w.MOVED_TO | w.ISDIR, b"n"),
        (wd, w.CREATE, b"n/m/heard"),
    ]


def test_a_recursive_watch_follows_its_own_directory_through_a_rename(tree: Path, wire: Wire) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    wd = wire.add(w.CREATE | w.MOVE_SELF | w.RECURSIVE, tree / "d")
    (tree / "d").rename(tree / "moved")
    (tree / "d" / "e").mkdir(parents=True)
    w.touch(tree / "d" / "e" / "decoy")
    w.touch(tree / "moved" / "e" / "f")

    assert wire.told() == [(wd, w.MOVE_SELF, b""), (wd, w.CREATE, b"e/f")]


def test_self_events_of_a_recursive_watch_are_the_watched_directorys_own(tree: Path, wire: Wire) -> None:
    (tree / "d" / "e" / "f").mkdir(parents=True)
    wd = wire.add(w.DELETE_SELF | w.MOVE_SELF | w.DELETE | w.RECURSIVE, tree / "d")
    (tree / "d" / "e" / "f").rename(tree / "d" / "g")
    (tree / "d" / "g").rmdir()
    (tree / "d" / "e").rmdir()
    (tree / "d").rename(tree / "h")
    (tree / "h").rmdir()

    assert wire.told() == [
        (wd, w.DELETE | w.ISDIR, b"g"),
        (wd, w.DELETE | w.ISDIR, b"e"),
        (wd, w.MOVE_SELF, b""),
        (wd, w.DELETE_SELF, b""),
        (wd, w.IGNORED, b""),
    ]


def test_a_recursive_watch_of_the_root_covers_the_mount(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.CREATE | w.RECURSIVE)
    w.touch(tree / "d" / "f")

    assert wire.told() == [(wd, w.CREATE, wire.below(tree) + b"/d/f")]


def test_nested_recursive_and_plain_watches_each_have_their_say(tree: Path, wire: Wire) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    outer = wire.add(w.CREATE | w.RECURSIVE, tree)
    inner = wire.add(w.CREATE | w.RECURSIVE, tree / "a")
    plain = wire.add(w.CREATE, tree / "a" / "b")
    w.touch(tree / "a" / "b" / "f")

    assert sorted(wire.told()) == [(outer, w.CREATE, b"a/b/f"), (inner, w.CREATE, b"b/f"), (plain, w.CREATE, b"f")]


def test_a_recursive_watch_tells_long_paths(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.RECURSIVE, tree)
    deep = tree
    for _ in range(10):
        deep /= "n" * 200
        deep.mkdir()
    relative = os.fsencode(deep.relative_to(tree))

    assert wire.told()[-1] == (wd, w.CREATE | w.ISDIR, relative)


def test_only_a_directory_can_be_watched_recursively(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to(".")

    assert wire.watch(w.CREATE | w.RECURSIVE, tree / "f") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.RECURSIVE | w.DONT_FOLLOW, tree / "link") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.RECURSIVE, tree / "link") == wire.watch(w.CREATE | w.RECURSIVE, tree) > 0
