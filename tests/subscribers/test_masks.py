"""What a mask asks for, and what a second one does to the first."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.subscribers.test_requests import mount, wire
from tests.support import wireclient as w
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["mount", "wire"]


LONE_FLAGS = {
    "ISDIR": w.ISDIR,
    "ONESHOT": w.ONESHOT,
    "IGNORED": w.IGNORED,
    "UNMOUNT": w.UNMOUNT,
    "Q_OVERFLOW": w.Q_OVERFLOW,
    "MASK_ADD": w.MASK_ADD,
    "MASK_CREATE": w.MASK_CREATE,
    "DONT_FOLLOW": w.DONT_FOLLOW,
    "EXCL_UNLINK": w.EXCL_UNLINK,
    "ONLYDIR": w.ONLYDIR,
}


UNKNOWN_BITS = (0x00001000, 0x00040000, 0x00080000, 0x00100000, 0x00200000, 0x00400000, 0x08000000)


def test_a_mask_of_zero_is_refused(tree: Path, wire: Wire) -> None:
    assert wire.watch(0, tree) == -errno.EINVAL


@pytest.mark.parametrize("bit", UNKNOWN_BITS, ids=hex)
def test_an_unknown_bit_is_refused_even_beside_a_known_one(tree: Path, wire: Wire, bit: int) -> None:
    assert wire.watch(bit, tree) == -errno.EINVAL
    assert wire.watch(bit | w.OPEN, tree) == -errno.EINVAL


@pytest.mark.parametrize("flag", LONE_FLAGS)
def test_a_lone_flag_is_accepted_and_asks_for_no_event(tree: Path, wire: Wire, flag: str) -> None:
    (tree / "d").mkdir()
    wd = wire.add(LONE_FLAGS[flag], tree / "d")
    (tree / "d" / "e").mkdir()
    (tree / "d" / "e").rmdir()

    assert wire.told() == []
    (tree / "d").rmdir()
    assert wire.told() == [(wd, w.IGNORED, b"")]


def test_mask_add_with_mask_create_is_refused(tree: Path, wire: Wire) -> None:
    assert wire.watch(w.OPEN | w.MASK_ADD | w.MASK_CREATE, tree) == -errno.EINVAL


def test_mask_create_refuses_an_inode_that_this_instance_watches(mount: Mount, tree: Path, wire: Wire) -> None:
    assert wire.watch(w.CREATE | w.MASK_CREATE, tree) == 1
    assert wire.watch(w.DELETE | w.MASK_CREATE, tree) == -errno.EEXIST
    w.touch(tree / "f").unlink()
    assert wire.told() == [(1, w.CREATE, b"f")], "the refused request left the watch as it was"
    with Wire(mount) as other:
        assert other.watch(w.CREATE | w.MASK_CREATE, tree) == 1


def test_onlydir_refuses_what_is_not_a_directory(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    w.touch(tree / "f")
    (tree / "link").symlink_to("d")

    assert wire.watch(w.CREATE | w.ONLYDIR, tree / "f") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.ONLYDIR | w.DONT_FOLLOW, tree / "link") == -errno.ENOTDIR
    assert wire.watch(w.CREATE | w.ONLYDIR, tree / "link") == 1
    assert wire.watch(w.CREATE | w.ONLYDIR, tree / "d") == 1


def test_dont_follow_watches_the_symlink_itself(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to("f")
    target = wire.add(w.ATTRIB, tree / "link")
    link = wire.add(w.ATTRIB | w.MOVE_SELF | w.DONT_FOLLOW, tree / "link")
    assert link != target

    os.utime(tree / "link", (1, 1), follow_symlinks=False)
    (tree / "f").chmod(0o600)
    (tree / "link").rename(tree / "link2")

    assert wire.told() == [(link, w.ATTRIB, b""), (target, w.ATTRIB, b""), (link, w.MOVE_SELF, b"")]


def test_oneshot_sends_one_event_and_then_ignored_and_the_watch_is_gone(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.CREATE | w.DELETE | w.ONESHOT, tree)
    w.touch(tree / "f").unlink()

    assert wire.told() == [(wd, w.CREATE, b"f"), (wd, w.IGNORED, b"")]
    assert wire.ask(wd) == -errno.EINVAL
    assert wire.add(w.CREATE, tree) == wd + 1


def test_a_second_add_replaces_the_mask_and_mask_add_adds_to_it(tree: Path, wire: Wire) -> None:
    file = w.touch(tree / "f")
    wd = wire.add(w.MODIFY, file)

    assert wire.add(w.ATTRIB | w.MASK_ADD, file) == wd
    file.chmod(0o600)
    os.truncate(file, 1)
    assert wire.told() == [(wd, w.ATTRIB, b""), (wd, w.MODIFY, b"")]

    assert wire.add(w.ATTRIB, file) == wd
    os.truncate(file, 2)
    file.chmod(0o640)
    assert wire.told() == [(wd, w.ATTRIB, b"")]


def test_a_second_add_replaces_the_flags_too(tree: Path, wire: Wire) -> None:
    file = w.touch(tree / "f")
    wd = wire.add(w.ATTRIB | w.ONESHOT, file)
    assert wire.add(w.ATTRIB, file) == wd
    for mode in (0o600, 0o640):
        file.chmod(mode)
        assert wire.told() == [(wd, w.ATTRIB, b"")]


def test_a_second_add_without_recursion_ends_the_recursion(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.CREATE | w.RECURSIVE, tree)
    w.touch(tree / "d" / "f")
    assert wire.told() == [(wd, w.CREATE, b"d/f")]

    assert wire.add(w.CREATE, tree) == wd
    w.touch(tree / "d" / "g")
    w.touch(tree / "h")
    assert wire.told() == [(wd, w.CREATE, b"h")]
