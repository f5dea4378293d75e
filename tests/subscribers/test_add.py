"""Adding a watch: by path, and by descriptor; and every way to say no."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.subscribers.test_requests import mount, wire
from tests.support import wireclient as w
from tests.support.wireclient import PENDING, Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["mount", "wire"]


def test_the_empty_path_is_the_root(mount: Mount, tree: Path, wire: Wire) -> None:
    wd = wire.add(w.ATTRIB)
    mount.root.chmod(stat.S_IMODE(mount.root.stat().st_mode))

    assert wire.told() == [(wd, w.ATTRIB | w.ISDIR, b"")]
    assert wire.add(w.ATTRIB, wire.below(tree) + b"/..") == wd


def test_a_nested_path_is_found(tree: Path, wire: Wire) -> None:
    deep = tree / "a" / "b" / "c"
    deep.mkdir(parents=True)
    wd = wire.add(w.CREATE, deep)
    w.touch(deep / "f")

    assert wire.told() == [(wd, w.CREATE, b"f")]


@pytest.mark.parametrize("detour", [b"d/../f", b"./f", b"d//..//f", b"d/./../f", b"d/e/../../f"])
def test_every_spelling_of_a_path_finds_the_same_file(tree: Path, wire: Wire, detour: bytes) -> None:
    (tree / "d" / "e").mkdir(parents=True)
    wd = wire.add(w.MODIFY, w.touch(tree / "f"))

    assert wire.add(w.MODIFY, wire.below(tree) + b"/" + detour) == wd


def test_a_directory_may_have_a_trailing_slash_and_a_file_may_not(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    w.touch(tree / "f")

    assert wire.add(w.CREATE, wire.below(tree / "d") + b"/") == wire.add(w.CREATE, tree / "d")
    assert wire.watch(w.MODIFY, wire.below(tree / "f") + b"/") == -errno.ENOTDIR


@pytest.mark.parametrize("name", [b"\xff\xfe", b"line\nfeed", b" ", b"\\", b"n" * 255, "ä€𝄞".encode(), b"~", b"-1"])
def test_names_are_bytes(tree: Path, wire: Wire, name: bytes) -> None:
    parent = wire.add(w.CREATE, tree)
    path = os.fsencode(tree) + b"/" + name
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    wd = wire.add(w.ATTRIB, wire.below(tree) + b"/" + name)
    os.chmod(path, 0o600)

    assert wire.told() == [(parent, w.CREATE, name), (wd, w.ATTRIB, b"")]


def test_a_relative_symlink_is_followed(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    w.touch(tree / "f")
    (tree / "d" / "link").symlink_to("../f")
    (tree / "chain").symlink_to("d/link")

    assert wire.add(w.MODIFY, tree / "d" / "link") == wire.add(w.MODIFY, tree / "f")
    assert wire.add(w.MODIFY, tree / "chain") == wire.add(w.MODIFY, tree / "f")


def test_a_symlink_on_the_way_is_followed_even_with_dont_follow(tree: Path, wire: Wire) -> None:
    (tree / "d").mkdir()
    wd = wire.add(w.MODIFY, w.touch(tree / "d" / "f"))
    (tree / "link").symlink_to("d")

    assert wire.add(w.MODIFY | w.DONT_FOLLOW, tree / "link" / "f") == wd


def test_an_absolute_symlink_back_into_the_mount_is_followed(mount: Mount, tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to(tree / "f")
    (tree / "up").symlink_to(mount.root)

    assert wire.add(w.MODIFY, tree / "link") == wire.add(w.MODIFY, tree / "f")
    assert wire.add(w.MODIFY, tree / "up" / tree.relative_to(mount.root) / "f") == wire.add(w.MODIFY, tree / "f")
    assert wire.add(w.MODIFY, tree / "up") == wire.add(w.MODIFY)


@pytest.mark.parametrize("target", ["/", "/etc/passwd", "/nowhere/at/all"])
def test_an_absolute_symlink_out_of_the_mount_is_not_followed(tree: Path, wire: Wire, target: str) -> None:
    (tree / "link").symlink_to(target)

    assert wire.watch(w.MODIFY, tree / "link") == -errno.EXDEV
    assert wire.watch(w.MODIFY | w.DONT_FOLLOW, tree / "link") > 0


def test_a_symlink_to_a_sibling_whose_name_begins_like_the_mountpoint_leads_out(
    mount: Mount, tree: Path, wire: Wire
) -> None:
    (tree / "link").symlink_to(f"{mount.root}-other/f")

    assert wire.watch(w.MODIFY, tree / "link") == -errno.EXDEV


@pytest.mark.parametrize("path", [b"..", b"../..", b"../../../../../../../../etc/passwd", b"./../x"])
def test_dot_dot_does_not_lead_out_of_the_mount(wire: Wire, path: bytes) -> None:
    assert wire.watch(w.MODIFY, path) == -errno.EXDEV


def test_a_leading_slash_does_not_lead_out_of_the_mount(wire: Wire) -> None:
    assert wire.watch(w.MODIFY, b"/etc/passwd") < 0


def test_a_relative_symlink_does_not_lead_out_of_the_mount(tree: Path, wire: Wire) -> None:
    (tree / "link").symlink_to("../" * 20 + "etc/passwd")

    assert wire.watch(w.MODIFY, tree / "link") == -errno.EXDEV


def test_a_loop_of_symlinks_is_eloop(tree: Path, wire: Wire) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("a")

    assert wire.watch(w.MODIFY, tree / "a") == -errno.ELOOP
    assert wire.watch(w.MODIFY, tree / "a" / "f") == -errno.ELOOP
    assert wire.watch(w.ATTRIB | w.DONT_FOLLOW, tree / "a") > 0


def test_a_symlink_to_nothing_is_enoent_but_can_be_watched_itself(tree: Path, wire: Wire) -> None:
    (tree / "link").symlink_to("absent")

    assert wire.watch(w.MODIFY, tree / "link") == -errno.ENOENT
    assert wire.watch(w.ATTRIB | w.DONT_FOLLOW, tree / "link") > 0


def test_what_is_too_long_is_enametoolong(tree: Path, wire: Wire) -> None:
    wd = wire.add(w.MODIFY)

    assert wire.watch(w.MODIFY, tree / ("n" * 256)) == -errno.ENAMETOOLONG
    assert wire.watch(w.MODIFY, b"./" * 2048) == -errno.ENAMETOOLONG, "4096 bytes"
    assert wire.watch(w.MODIFY, b"./" * 2047 + b".") == wd, "4095 bytes"


def test_what_does_not_exist_is_enoent(tree: Path, wire: Wire) -> None:
    assert wire.watch(w.MODIFY, tree / "absent") == -errno.ENOENT
    assert wire.watch(w.MODIFY, tree / "absent" / "f") == -errno.ENOENT


def test_a_file_on_the_way_is_enotdir(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")

    assert wire.watch(w.MODIFY, tree / "f" / "x") == -errno.ENOTDIR
    assert wire.watch(w.MODIFY, wire.below(tree) + b"/f/..") == -errno.ENOTDIR


def test_a_name_that_is_gone_is_not_found_any_more(tree: Path, wire: Wire) -> None:
    wire.add(w.MODIFY, w.touch(tree / "f"))
    (tree / "f").rename(tree / "g")

    assert wire.watch(w.MODIFY, tree / "f") == -errno.ENOENT
    (tree / "g").unlink()
    assert wire.watch(w.MODIFY, tree / "g") == -errno.ENOENT


# Adding by descriptor


def test_a_descriptor_of_a_file_watches_that_file(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    path = os.open(tree / "f", os.O_PATH)
    wd = wire.add_descriptor(w.ATTRIB, path)
    os.close(path)
    (tree / "f").chmod(0o600)

    assert wire.told() == [(wd, w.ATTRIB, b"")]
    assert wire.add(w.ATTRIB, tree / "f") == wd


def test_a_descriptor_follows_its_file_through_a_rename(tree: Path, wire: Wire) -> None:
    path = os.open(w.touch(tree / "f"), os.O_PATH)
    (tree / "f").rename(tree / "g")
    w.touch(tree / "f")
    wd = wire.add_descriptor(w.ATTRIB, path)
    os.close(path)

    assert wire.add(w.ATTRIB, tree / "g") == wd
    assert wire.add(w.ATTRIB, tree / "f") != wd


def test_a_descriptor_of_the_root_watches_the_root(mount: Mount, wire: Wire) -> None:
    path = os.open(mount.root, os.O_PATH | os.O_DIRECTORY)
    wd = wire.add_descriptor(w.CREATE, path)
    os.close(path)

    assert wire.add(w.CREATE) == wd


def test_a_descriptor_of_a_symlink_watches_the_symlink(tree: Path, wire: Wire) -> None:
    w.touch(tree / "f")
    (tree / "link").symlink_to("f")
    path = os.open(tree / "link", os.O_PATH | os.O_NOFOLLOW)
    wd = wire.add_descriptor(w.ATTRIB, path)
    os.close(path)

    assert wire.add(w.ATTRIB | w.DONT_FOLLOW, tree / "link") == wd
    assert wire.add(w.ATTRIB, tree / "f") != wd


def test_a_deleted_file_that_is_open_can_be_watched_by_descriptor(tree: Path, wire: Wire) -> None:
    content = os.open(tree / "f", os.O_RDWR | os.O_CREAT)
    path = os.open(tree / "f", os.O_PATH)
    (tree / "f").unlink()
    wd = wire.add_descriptor(w.MODIFY | w.DELETE_SELF, path)
    os.write(content, b"x")

    assert wd > 0
    assert wire.told() == [(wd, w.MODIFY, b"")]
    os.close(path)
    os.close(content)


def test_a_watch_on_a_file_deleted_before_ends_with_the_last_reference_to_the_file(tree: Path, wire: Wire) -> None:
    path = os.open(w.touch(tree / "f"), os.O_PATH)
    (tree / "f").unlink()
    wd = wire.add_descriptor(w.DELETE_SELF, path)
    assert wd > 0
    os.close(path)

    # Only FUSE's FORGET tells of this end, and it is asynchronous.
    assert [wire.record().brief for _ in range(2)] == [(wd, w.DELETE_SELF, b""), (wd, w.IGNORED, b"")]


@pytest.mark.parametrize("elsewhere", ["/", "/dev/null", "/proc/self/status"])
def test_a_descriptor_of_another_file_system_is_exdev(wire: Wire, elsewhere: str) -> None:
    path = os.open(elsewhere, os.O_PATH)

    assert wire.add_descriptor(w.MODIFY, path) == -errno.EXDEV
    os.close(path)
    assert wire.ask(PENDING) == 0


def test_a_descriptor_of_the_source_is_not_one_of_the_mount(mount: Mount, wire: Wire) -> None:
    path = os.open(mount.source, os.O_PATH)

    assert wire.add_descriptor(w.CREATE, path) == -errno.EXDEV
    os.close(path)


def test_a_pipe_is_not_a_file_of_the_mount(wire: Wire) -> None:
    ours, theirs = os.pipe()

    assert wire.add_descriptor(w.MODIFY, theirs) < 0
    os.close(ours)
    os.close(theirs)
    assert wire.ask(PENDING) == 0


def test_masks_are_judged_for_descriptors_too(tree: Path, wire: Wire) -> None:
    path = os.open(w.touch(tree / "f"), os.O_PATH)

    assert wire.add_descriptor(0, path) == -errno.EINVAL
    assert wire.add_descriptor(w.MODIFY | w.ONLYDIR, path) == -errno.ENOTDIR
    assert wire.add_descriptor(w.MODIFY, path) == 1
    assert wire.add_descriptor(w.MODIFY | w.MASK_CREATE, path) == -errno.EEXIST
    os.close(path)
