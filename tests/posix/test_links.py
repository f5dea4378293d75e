# ruff: noqa: S108 - a tmpfs that every Linux has: another device
"""Hard links, symbolic links, ``.`` and ``..``, and files that are open but have no name any more."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    by_both,
    call,
    fails,
    get,
    in_child,
    mode_of,
    opened,
    put,
)

if TYPE_CHECKING:
    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

EXT4_LINK_MAX = 65_000


@by_both
def test_hard_links_are_one_file(place: Place) -> None:
    os.mkdir("d")
    put("a", b"one")
    os.link("a", "b")
    os.link("b", "d/c")

    found = [os.stat(name) for name in ("a", "b", "d/c")]
    assert len({(each.st_dev, each.st_ino) for each in found}) == 1
    assert [each.st_nlink for each in found] == [3, 3, 3]
    assert {entry.inode() for entry in os.scandir(".") if entry.name in "ab"} == {found[0].st_ino}

    with opened("a", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b" two")
    assert get("b") == get("d/c") == b"one two"
    os.chmod("d/c", 0o600)
    assert mode_of("a") == mode_of("b") == 0o600

    os.unlink("a")
    assert os.stat("b").st_nlink == os.stat("d/c").st_nlink == 2
    os.rename("d/c", "a")
    os.unlink("b")
    assert (os.stat("a").st_nlink, os.stat("a").st_ino) == (1, found[0].st_ino)
    assert get("a") == b"one two"
    assert os.stat(place.source / "a").st_ino == found[0].st_ino


@by_both
def test_a_hundred_links_of_one_file(place: Place) -> None:
    put("f")
    for number in range(100):
        os.link("f", f"l{number}")
        assert os.stat("f").st_nlink == number + 2
    for number in range(0, 100, 2):
        os.unlink(f"l{number}")
    assert os.stat("l99").st_nlink == os.stat("f").st_nlink == 51


def test_as_many_links_as_in_the_source_whatever_the_mount_says_of_link_max(place: Place) -> None:
    """The C library knows LINK_MAX by the type of the file system, and says 127 for FUSE (pathconf(3))."""
    if os.pathconf(place.source, "PC_LINK_MAX") != EXT4_LINK_MAX:
        pytest.skip("of ext4 it is known how many links there can be")
    assert os.pathconf(".", "PC_LINK_MAX") == (127 if place.mounted else EXT4_LINK_MAX)
    put("f")
    os.mkdir("d")
    for number in range(EXT4_LINK_MAX - 2):
        os.link(place.source / "f", place.source / f"d/{number}")

    os.link("f", "last")
    with fails(errno.EMLINK):
        os.link("f", "more")

    assert os.stat("last").st_nlink == os.stat(place.source / "f").st_nlink == EXT4_LINK_MAX
    shutil.rmtree(place.source / "d")


@by_both
def test_what_cannot_be_linked(place: Place) -> None:
    os.mkdir("d")
    put("f")
    put("g")
    with fails(errno.EPERM):
        os.link("d", "d2")
    with fails(errno.EEXIST):
        os.link("f", "g")
    with fails(errno.EEXIST):
        os.link("f", "f")
    with fails(errno.EEXIST):
        os.link("f", "d")
    with fails(errno.ENOENT):
        os.link("none", "x")
    with fails(errno.ENOENT):
        os.link("f", "none/x")
    with fails(errno.ENOTDIR):
        os.link("f", "g/x")
    with fails(errno.EXDEV):
        os.link("f", f"/dev/shm/notifyfs-{os.getpid()}")
    assert os.stat("f").st_nlink == 1


@by_both
def test_a_link_to_a_symlink_fifo_and_open_file(place: Place) -> None:
    os.symlink("nowhere", "l")
    os.link("l", "l2", follow_symlinks=False)
    assert os.readlink("l2") == "nowhere"
    assert os.lstat("l").st_ino == os.lstat("l2").st_ino
    os.mkfifo("p")
    os.link("p", "p2")
    assert os.stat("p").st_nlink == 2
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, b"f2", AT_SYMLINK_FOLLOW)
        os.write(fd, b"seen by both")
    assert get("f") == get("f2") == b"seen by both"


@by_both
def test_symlinks_say_what_they_were_told(place: Place) -> None:
    for number, target in enumerate(
        (b"x", b"/", b"..", b"a//b/", b"\xff\xfe\n", b"x" * 255, b"y/" * 2000, b"z" * 4095, "ünï".encode())
    ):
        name = b"l%d" % number
        os.symlink(target, name)
        assert os.readlink(name) == target
        assert os.lstat(name).st_size == len(target)
        assert os.readlink(os.fsencode(place.source) + b"/" + name) == target
    with fails(errno.ENAMETOOLONG):
        os.symlink(b"z" * 4096, b"long")
    with fails(errno.ENOENT):
        os.symlink("", "empty")
    with fails(errno.EEXIST):
        os.symlink("x", "l0")
    put("f")
    with fails(errno.EINVAL):
        os.readlink("f")


@by_both
def test_symlinks_are_followed(place: Place) -> None:
    os.makedirs("a/b")
    put("a/f", b"a")
    put("a/b/f", b"b")
    os.symlink("a/b", "dir")
    os.symlink("../f", "a/b/up")
    os.symlink(place.root / "a", "absolute")
    os.symlink("loop2", "loop1")
    os.symlink("loop1", "loop2")
    os.symlink("nowhere", "dangling")
    os.symlink("f/", "a/slash")

    assert get("dir/f") == b"b"
    assert get("dir/up") == b"a"
    assert get("dir/../f") == b"a"
    assert get("absolute/b/f") == b"b"
    with fails(errno.ELOOP):
        os.stat("loop1")
    with fails(errno.ENOENT):
        os.stat("dangling")
    with fails(errno.ENOTDIR):
        os.stat("a/slash")
    with fails(errno.ELOOP):
        os.open("dir/up", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.ELOOP, errno.ENOTDIR):
        os.open("dir", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    with opened("dangling", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"made")
    assert get("nowhere") == b"made"
    os.symlink("a/f", "s0")
    for number in range(40):
        os.symlink(f"s{number}", f"s{number + 1}")
    assert get("s39") == b"a"
    with fails(errno.ELOOP):
        get("s40")
    os.unlink("dir")
    assert get("a/b/f") == b"b"


@by_both
def test_dot_and_dot_dot(place: Place) -> None:
    os.makedirs("a/b/c")
    here = os.stat(".")
    assert os.stat("a/..").st_ino == os.stat("a/b/../..").st_ino == os.stat("a/./..").st_ino == here.st_ino
    assert os.stat("a/b/c/../../b/.").st_ino == os.stat("a/b").st_ino
    for path, number in (("a/.", errno.EINVAL), ("a/b/..", errno.ENOTEMPTY), (".", errno.EINVAL)):
        with fails(number):
            os.rmdir(path)
    for path in ("a/.", "a/b/.."):
        with fails(errno.EBUSY):
            os.rename(path, "x")
        with fails(errno.EBUSY, errno.EEXIST):
            os.rename("a/b/c", path)
        with fails(errno.EEXIST):
            os.mkdir(path)
        with fails(errno.EISDIR):
            os.unlink(path)
    fd = os.open("a/b/c", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchdir(fd)
        for _ in range(3):
            os.chdir("..")
        assert os.stat(".").st_ino == here.st_ino
        assert os.getcwd() == str(place.root)
    finally:
        os.close(fd)
        os.chdir(place.root)


def test_dot_dot_of_the_mounts_root_is_what_the_mountpoint_is_in(place: Place) -> None:
    above = place.root.parent.parent
    assert os.stat(place.root.parent / "..").st_ino == os.stat(above).st_ino


@by_both
def test_unlink_and_rmdir_take_their_own_kind(place: Place) -> None:
    os.makedirs("d/sub")
    put("f")
    with fails(errno.EISDIR):
        os.unlink("d")
    with fails(errno.ENOTDIR):
        os.rmdir("f")
    with fails(errno.ENOTEMPTY):
        os.rmdir("d")
    with fails(errno.ENOENT):
        os.unlink("none")
    with fails(errno.ENOTDIR):
        os.unlink("f/")
    with fails(errno.ENOTDIR):
        os.unlink("f/x")
    os.symlink("d", "l")
    with fails(errno.ENOTDIR):
        os.rmdir("l")
    os.rmdir("d/sub/")
    os.rmdir("d")
    assert sorted(os.listdir(".")) == ["f", "l"]


@by_both
def test_an_unlinked_open_file_is_whole(place: Place) -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"0123456789")
        number = os.fstat(fd).st_ino
        os.unlink("f")
        assert not os.listdir(".")

        assert os.fstat(fd).st_nlink == 0
        assert os.fstat(fd).st_ino == number
        os.fchmod(fd, 0o640)
        assert mode_of(fd) == 0o640
        os.fchown(fd, os.getuid(), os.getgid())
        os.ftruncate(fd, 5)
        assert os.fstat(fd).st_size == 5
        assert os.pwrite(fd, b"XY", 8) == 2
        assert os.pread(fd, 100, 0) == b"01234\0\0\0XY"
        os.fsync(fd)
        os.setxattr(fd, "user.a", b"b")
        assert os.getxattr(fd, "user.a") == b"b"
        assert os.listxattr(fd) == ["user.a"]
        os.removexattr(fd, "user.a")
        with mmap.mmap(fd, 10) as mapped:
            mapped[0:2] = b"!!"
            mapped.flush()
        assert os.pread(fd, 3, 0) == b"!!2"

        with opened(f"/proc/self/fd/{fd}", os.O_RDWR) as again:
            assert os.read(again, 3) == b"!!2"
            os.pwrite(again, b"again", 0)
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC):
            assert os.fstat(fd).st_size == 0
        with fails(errno.ENOENT):
            call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, b"back", AT_SYMLINK_FOLLOW)
        with fails(errno.ENOENT):
            call("linkat", fd, b"", AT_FDCWD, b"back", AT_EMPTY_PATH)
        put("f", b"another file of that name")
        assert os.fstat(fd).st_size == 0
        assert os.stat("f").st_ino != number


@by_both
def test_an_unlinked_file_can_be_used_by_path_of_a_descriptor_that_only_names_it(place: Place) -> None:
    put("f", b"content")
    fd = os.open("f", os.O_PATH)
    try:
        os.unlink("f")
        assert os.fstat(fd).st_nlink == 0
        assert get(f"/proc/self/fd/{fd}") == b"content"
        os.chmod(f"/proc/self/fd/{fd}", 0o600)
        assert mode_of(fd) == 0o600
    finally:
        os.close(fd)


@by_both
def test_a_file_replaced_while_it_is_open(place: Place) -> None:
    put("old", b"old")
    put("new", b"new")
    with opened("old", os.O_RDWR) as fd:
        os.rename("new", "old")
        assert os.read(fd, 10) == b"old"
        assert os.fstat(fd).st_nlink == 0
        os.fchmod(fd, 0o600)
        os.write(fd, b" and gone")
        assert os.pread(fd, 20, 0) == b"old and gone"
        assert get("old") == b"new"
        assert mode_of("old") == 0o644


@by_both
def test_an_unlinked_file_with_another_name_can_be_reached_by_that(place: Place) -> None:
    put("a")
    os.link("a", "b")
    with opened("a", os.O_RDWR) as fd:
        os.unlink("a")
        assert os.fstat(fd).st_nlink == 1
        os.fchmod(fd, 0o600)
        os.ftruncate(fd, 1)
        assert (mode_of("b"), os.stat("b").st_size) == (0o600, 1)
        call("linkat", AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, b"c", AT_SYMLINK_FOLLOW)
    assert os.stat("c").st_ino == os.stat("b").st_ino


@by_both
def test_many_unlinked_files_keep_their_own_content(place: Place) -> None:
    descriptors = []
    try:
        for number in range(200):
            descriptors.append(os.open("f", os.O_RDWR | os.O_CREAT | os.O_EXCL))
            os.write(descriptors[-1], b"%d" % number)
            os.unlink("f")
        assert len({os.fstat(fd).st_ino for fd in descriptors}) == 200
        assert [int(os.pread(fd, 10, 0)) for fd in descriptors] == list(range(200))
    finally:
        for fd in descriptors:
            os.close(fd)


@by_both
def test_a_removed_working_directory(place: Place) -> None:
    def body() -> None:
        os.mkdir("d")
        os.chdir("d")
        os.rmdir(place.root / "d")
        assert os.stat(".").st_nlink == 0
        assert not os.listdir(".")
        with fails(errno.ENOENT):
            os.getcwd()
        for change in (lambda: put("f"), lambda: os.mkdir("x"), lambda: os.symlink("a", "b"), lambda: os.stat("f")):
            with fails(errno.ENOENT):
                change()
        os.chmod(".", 0o700)
        os.chdir("..")
        assert os.stat(".").st_ino == os.stat(place.root).st_ino

    in_child(body)
