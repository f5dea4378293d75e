# ruff: noqa: S606 - exec(2) itself is tested
"""Who may do what, and whom new files belong to: on a plain directory and on a mount by root for all users."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import (
    GROUP,
    OTHER,
    OTHER_GROUP,
    SUPPLEMENTARY,
    USER,
    as_user,
    by_both,
    fails,
    get,
    mode_of,
    opened,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]


@pytest.fixture(autouse=True)
def root_only() -> None:
    if os.getuid():
        pytest.skip("only root can become another user")


def owned(name: str, mode: int, uid: int = 0, gid: int = 0) -> str:
    """A file that root makes, with these permissions."""
    put(name)
    os.chown(name, uid, gid)
    os.chmod(name, mode)
    return name


def directory(name: str, mode: int, uid: int = 0, gid: int = 0) -> str:
    os.mkdir(name)
    os.chown(name, uid, gid)
    os.chmod(name, mode)
    return name


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "rights"),
    [
        (0o400, USER, 0, "r"),
        (0o200, USER, 0, "w"),
        (0o100, USER, 0, "x"),
        (0o077, USER, 0, ""),
        (0o040, 0, GROUP, "r"),
        (0o707, 0, GROUP, ""),
        (0o020, 0, SUPPLEMENTARY, "w"),
        (0o010, 0, SUPPLEMENTARY, "x"),
        (0o705, 0, SUPPLEMENTARY, ""),
        (0o004, 0, OTHER_GROUP, "r"),
        (0o770, 0, OTHER_GROUP, ""),
        (0o000, 0, 0, ""),
    ],
)
def test_a_user_has_the_rights_of_the_first_class_that_fits(
    place: Place, mode: int, uid: int, gid: int, rights: str
) -> None:
    owned("f", mode, uid, gid)
    put("f", b"#!/bin/sh\nexit 7\n")
    os.chmod("f", mode)

    def body() -> None:
        for letter, flag, way in (("r", os.R_OK, os.O_RDONLY), ("w", os.W_OK, os.O_WRONLY), ("x", os.X_OK, None)):
            allowed = letter in rights
            assert os.access("f", flag) == allowed, letter
            if way is not None and allowed:
                os.close(os.open("f", way))
            elif way is not None:
                with fails(errno.EACCES):
                    os.open("f", way)
        if "x" not in rights:
            with fails(errno.EACCES):
                os.execv("f", ["f"])

    as_user(body)


def test_root_may_read_and_write_without_any_permission_bit(place: Place) -> None:
    owned("f", 0o000, USER, GROUP)

    assert get("f") == b"content"
    put("f", b"more")
    assert mode_of("f") == 0
    with fails(errno.EACCES):
        os.execv("f", ["f"])


def test_a_directory_wants_search_to_reach_read_to_list_and_write_to_change(place: Place) -> None:
    for name, mode in (("search", 0o711), ("read", 0o744), ("both", 0o755), ("all", 0o777), ("write", 0o772)):
        os.mkdir(name)
        put(f"{name}/f")
        os.chmod(name, mode)

    def body() -> None:
        assert os.stat("search/f").st_size == 7
        with fails(errno.EACCES):
            os.listdir("search")
        assert os.listdir("read") == ["f"]
        for name in ("read", "write"):
            with fails(errno.EACCES):
                os.stat(f"{name}/f")
        assert os.listdir("both") == ["f"]
        for change in (
            lambda: os.unlink("both/f"),
            lambda: os.mkdir("both/d"),
            lambda: put("both/new"),
            lambda: os.rename("both/f", "both/g"),
            lambda: os.symlink("x", "both/l"),
            lambda: os.mkfifo("both/p"),
            lambda: os.link("both/f", "both/h"),
            lambda: os.unlink("write/f"),
        ):
            with fails(errno.EACCES, errno.EPERM):
                change()
        os.unlink("all/f")

    as_user(body)
    assert not os.listdir("all")


@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "socket", "symlink", "linked file"])
def test_what_is_new_belongs_to_its_maker(place: Place, kind: str, who: str) -> None:
    def make() -> None:
        if kind == "file":
            put("new")
        elif kind == "directory":
            os.mkdir("new")
        elif kind == "fifo":
            os.mkfifo("new")
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("new")
        elif kind == "symlink":
            os.symlink("nowhere", "new")
        else:
            put("old")
            os.link("old", "new")

    make() if who == "root" else as_user(make)

    found = os.lstat("new")
    assert (found.st_uid, found.st_gid) == ((0, 0) if who == "root" else (USER, GROUP))
    behind = os.lstat(place.source / "new")
    assert (behind.st_uid, behind.st_gid, behind.st_mode) == (found.st_uid, found.st_gid, found.st_mode)


def test_the_file_system_group_is_the_effective_one(place: Place) -> None:
    as_user(lambda: put("f"), uid=USER, gid=OTHER_GROUP, groups=(GROUP, SUPPLEMENTARY))

    assert (os.stat("f").st_uid, os.stat("f").st_gid) == (USER, OTHER_GROUP)


def test_root_in_another_group_makes_files_of_that_group(place: Place) -> None:
    as_user(lambda: put("f"), uid=0, gid=OTHER_GROUP, groups=())

    assert (os.stat("f").st_uid, os.stat("f").st_gid) == (0, OTHER_GROUP)


@by_both
def test_the_umask_is_the_callers(place: Place) -> None:
    for mask in (0, 0o002, 0o022, 0o027, 0o077, 0o777):
        os.umask(mask)
        put(f"f{mask}", mode=0o666)
        os.mkdir(f"d{mask}", 0o777)
        os.mkfifo(f"p{mask}", 0o666)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"s{mask}")
        os.symlink("x", f"l{mask}")

        assert mode_of(f"f{mask}") == 0o666 & ~mask
        assert mode_of(f"d{mask}") == 0o777 & ~mask
        assert mode_of(f"p{mask}") == 0o666 & ~mask
        assert mode_of(f"s{mask}") == 0o777 & ~mask
        assert mode_of(f"l{mask}") == 0o777


def test_supplementary_groups_count(place: Place) -> None:
    directory("d", 0o770, 0, SUPPLEMENTARY)
    put("d/f")
    os.chown("d/f", 0, SUPPLEMENTARY)
    os.chmod("d/f", 0o660)

    def body() -> None:
        assert sorted(os.listdir("d")) == ["f"]
        put("d/f", b"changed")
        put("d/new")
        os.mkdir("d/sub")
        os.chown("d/new", -1, SUPPLEMENTARY)
        with fails(errno.EPERM):
            os.chown("d/new", -1, OTHER_GROUP)
        with fails(errno.EPERM):
            os.chown("d/new", OTHER, -1)

    as_user(body)

    assert get("d/f") == b"changed"
    assert (os.stat("d/new").st_uid, os.stat("d/new").st_gid) == (USER, SUPPLEMENTARY)
    as_user(lambda: fails_with(errno.EACCES, lambda: os.listdir("d")), groups=())
    as_user(lambda: os.listdir("d"), groups=(*range(20000, 20100), SUPPLEMENTARY))


def fails_with(number: int, function: Callable[[], object]) -> None:
    with fails(number):
        function()


def test_in_a_sticky_directory_only_owners_remove(place: Place) -> None:
    directory("sticky", 0o1777)
    for name in ("theirs", "mine", "target"):
        owned(f"sticky/{name}", 0o666, OTHER if name != "mine" else USER, GROUP)
    directory("own", 0o1777, USER, GROUP)
    owned("own/theirs", 0o600, OTHER, OTHER_GROUP)

    def body() -> None:
        for change in (
            lambda: os.unlink("sticky/theirs"),
            lambda: os.rename("sticky/theirs", "sticky/else"),
            lambda: os.rename("sticky/mine", "sticky/target"),
        ):
            with fails(errno.EPERM):
                change()
        os.rename("sticky/mine", "sticky/still-mine")
        os.unlink("sticky/still-mine")
        os.unlink("own/theirs")

    as_user(body)
    assert sorted(os.listdir("sticky")) == ["target", "theirs"]
    assert not os.listdir("own")


def test_only_the_owner_changes_mode_owner_and_times(place: Place) -> None:
    owned("theirs", 0o666, OTHER, GROUP)
    owned("readable", 0o644, OTHER, GROUP)

    def body() -> None:
        with fails(errno.EPERM):
            os.chmod("theirs", 0o777)
        for uid, gid in ((USER, -1), (-1, GROUP), (OTHER, GROUP)):
            with fails(errno.EPERM):
                os.chown("theirs", uid, gid)
        with fails(errno.EPERM):
            os.utime("theirs", (1, 1))
        os.utime("theirs")  # "now" takes write permission only
        with fails(errno.EACCES):
            os.utime("readable")
        with fails(errno.EPERM):
            os.open("theirs", os.O_RDONLY | os.O_NOATIME)
        put("mine")
        with fails(errno.EPERM):
            os.chown("mine", OTHER, -1)
        os.chown("mine", -1, -1)
        os.chmod("mine", 0o6755)
        assert mode_of("mine") == 0o6755

    as_user(body)


def write(name: str) -> None:
    with opened(name, os.O_WRONLY) as fd:
        os.write(fd, b"x")


def test_devices_are_roots_to_make(place: Place) -> None:
    def body() -> None:
        with fails(errno.EPERM):
            os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        with fails(errno.EPERM):
            os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(7, 99))
        os.mknod("f", stat.S_IFREG | 0o640)
        assert os.stat("f").st_size == 0

    as_user(body)


def test_a_moved_directory_must_be_writable_when_its_parent_changes(place: Place) -> None:
    directory("a", 0o777)
    directory("b", 0o777)
    directory("a/theirs", 0o755, OTHER, OTHER_GROUP)

    def body() -> None:
        os.rename("a/theirs", "a/renamed")  # the same parent: '..' stays
        with fails(errno.EACCES):
            os.rename("a/renamed", "b/moved")

    as_user(body)


def test_one_users_file_is_not_anothers(place: Place) -> None:
    """A file that one user has just read is in the page cache; the next user is still refused."""

    def secret() -> None:
        os.umask(0o077)
        put("secret", b"for me only")
        assert get("secret") == b"for me only"

    as_user(secret)

    def other() -> None:
        for action in (
            lambda: get("secret"),
            lambda: put("secret"),
            lambda: os.truncate("secret", 0),
            lambda: os.setxattr("secret", "user.a", b"b"),
            lambda: os.getxattr("secret", "user.a"),
        ):
            with fails(errno.EACCES):
                action()

    as_user(other, uid=OTHER, gid=OTHER_GROUP, groups=(SUPPLEMENTARY,))
    assert get("secret") == b"for me only"
