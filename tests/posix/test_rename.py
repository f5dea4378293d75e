# ruff: noqa: S108 - a tmpfs that every Linux has: another device
"""rename(2) in all its forms."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import (
    EXCHANGE,
    NOREPLACE,
    WHITEOUT,
    by_both,
    collect,
    fails,
    get,
    in_child,
    mode_of,
    opened,
    put,
    rename2,
    start_child,
)

if TYPE_CHECKING:
    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]


@by_both
def test_a_rename_keeps_the_file(place: Place) -> None:
    os.mkdir("d")
    put("f", b"kept", 0o640)
    os.utime("f", ns=(1, 2))
    before = os.stat("f")
    for old, new in (("f", "g"), ("g", "d/f"), ("d/f", "d/h"), ("d/h", "f")):
        os.rename(old, new)
        after = os.stat(new)
        assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, 2)
        assert get(new) == b"kept"
        with fails(errno.ENOENT):
            os.stat(old)
        assert (place.source / new).exists()
        assert not (place.source / old).exists()


@by_both
def test_a_rename_replaces_what_may_be_replaced(place: Place) -> None:
    for name in ("empty", "full", "full/sub", "d", "d2"):
        os.mkdir(name)
    put("f", b"f")
    put("g", b"g")
    os.symlink("nowhere", "l")
    with fails(errno.EISDIR):
        os.rename("f", "empty")
    with fails(errno.ENOTDIR):
        os.rename("empty", "f")
    with fails(errno.ENOTDIR):
        os.rename("empty", "l")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename("d", "full")
    with fails(errno.ENOENT):
        os.rename("none", "f")
    with fails(errno.ENOENT):
        os.rename("f", "none/f")
    with fails(errno.ENOTDIR):
        os.rename("f", "g/f")
    with fails(errno.ENOTDIR):
        os.rename("f", "new/")
    with fails(errno.EINVAL):
        os.rename("full", "full/sub/x")
    with fails(errno.EINVAL):
        os.rename("full", "full/x")
    with fails(errno.ENOTEMPTY, errno.EINVAL):
        os.rename("full/sub", "full")
    os.rename("d", "empty")
    os.rename("full", "d2/")
    assert os.listdir("d2") == ["sub"]
    os.rename("f", "g")
    assert get("g") == b"f"
    os.rename("g", "l")
    assert stat.S_ISREG(os.lstat("l").st_mode)
    assert sorted(os.listdir(".")) == ["d2", "empty", "l"]


@by_both
def test_renaming_onto_itself_or_its_own_link_does_nothing(place: Place) -> None:
    put("a")
    os.link("a", "b")
    os.rename("a", "a")
    os.rename("a", "b")
    assert sorted(os.listdir(".")) == ["a", "b"]
    assert os.stat("a").st_nlink == os.stat("b").st_nlink == 2
    os.unlink("a")
    assert get("b") == b"content"
    os.mkdir("d")
    os.rename("d", "d")
    os.rename("d/", "d")


@by_both
def test_noreplace(place: Place) -> None:
    put("a", b"a")
    put("b", b"b")
    os.mkdir("d")
    os.symlink("nowhere", "l")
    for target in (b"b", b"d", b"l", b"a"):
        with fails(errno.EEXIST):
            rename2(b"a", target, NOREPLACE)
    rename2(b"a", b"c", NOREPLACE)
    rename2(b"d", b"e", NOREPLACE)
    assert sorted(os.listdir(".")) == ["b", "c", "e", "l"]
    assert get("c") == b"a"


@by_both
def test_exchange(place: Place) -> None:
    os.makedirs("d1/sub")
    os.makedirs("d2")
    put("a", b"a")
    put("d2/b", b"b")
    numbers = {name: os.stat(name).st_ino for name in ("a", "d2/b", "d1", "d2", "d1/sub")}
    rename2(b"a", b"d2/b", EXCHANGE)
    assert (get("a"), get("d2/b")) == (b"b", b"a")
    assert (os.stat("a").st_ino, os.stat("d2/b").st_ino) == (numbers["d2/b"], numbers["a"])
    rename2(b"a", b"d1/sub", EXCHANGE)
    assert os.path.isdir("a")
    assert get("d1/sub") == b"b"
    assert os.stat("a/..").st_ino == os.stat(".").st_ino
    rename2(b"d1", b"d2", EXCHANGE)
    assert (os.listdir("d1"), os.listdir("d2")) == (["b"], ["sub"])
    assert (os.stat("d1").st_ino, os.stat("d2").st_ino) == (numbers["d2"], numbers["d1"])
    with fails(errno.ENOENT):
        rename2(b"a", b"none", EXCHANGE)
    with fails(errno.ENOENT):
        rename2(b"none", b"a", EXCHANGE)
    with fails(errno.EINVAL):
        rename2(b"d1", b"d1/b", EXCHANGE)
    with fails(errno.EINVAL):
        rename2(b"d1", b"d2", EXCHANGE | NOREPLACE)
    with fails(errno.EINVAL):
        rename2(b"d1", b"d3", 1 << 10)


@by_both
def test_whiteout(place: Place) -> None:
    put("f", b"f")
    rename2(b"f", b"g", WHITEOUT)
    found = os.stat("f")
    assert stat.S_ISCHR(found.st_mode)
    assert found.st_rdev == 0
    assert found.st_uid == os.geteuid()
    assert get("g") == b"f"
    assert sorted(os.listdir(".")) == ["f", "g"]
    os.unlink("f")
    put("f", b"again")
    assert (get("f"), get("g")) == (b"again", b"f")


@by_both
def test_a_moved_directory_takes_its_tree_along(place: Place) -> None:
    os.makedirs("a/b/c")
    os.mkdir("x")
    put("a/b/c/f", b"deep")
    numbers = os.stat("a/b").st_ino, os.stat("a/b/c/f").st_ino
    links = os.stat("a").st_nlink, os.stat("x").st_nlink
    with opened("a/b/c/f", os.O_RDWR) as fd, opened("a/b/c", os.O_RDONLY) as directory:
        os.rename("a/b", "x/moved")

        assert get("x/moved/c/f") == b"deep"
        assert (os.stat("x/moved").st_ino, os.stat("x/moved/c/f").st_ino) == numbers
        with fails(errno.ENOENT):
            os.stat("a/b/c/f")
        assert os.stat("x/moved/..").st_ino == os.stat("x").st_ino
        assert (os.stat("a").st_nlink, os.stat("x").st_nlink) == (links[0] - 1, links[1] + 1)
        os.write(fd, b"DEEP")
        assert get("x/moved/c/f") == b"DEEP"
        fresh = os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=directory)
        os.close(fresh)
        assert sorted(os.listdir("x/moved/c")) == ["f", "new"]
        assert sorted(os.listdir(place.source / "x/moved/c")) == ["f", "new"]


@by_both
def test_the_working_directory_follows_a_rename(place: Place) -> None:
    def body() -> None:
        os.makedirs("a/b/c")
        os.chdir("a/b/c")
        os.rename(place.root / "a/b", place.root / "z")
        assert os.getcwd() == str(place.root / "z/c")
        put("f")
        assert os.listdir(place.root / "z/c") == ["f"]
        os.chdir("../..")
        assert os.getcwd() == str(place.root)

    in_child(body)


@by_both
def test_a_rename_across_devices_is_refused(place: Place) -> None:
    put("f")
    for flags in (0, NOREPLACE, EXCHANGE):
        with fails(errno.EXDEV):
            rename2(b"f", b"/dev/shm/notifyfs-%d" % os.getpid(), flags)
    with fails(errno.EXDEV):
        os.rename("/dev/shm", "f")


@by_both
def test_a_victim_with_other_names_lives_on(place: Place) -> None:
    put("victim", b"victim")
    os.link("victim", "other")
    put("f", b"f")
    os.rename("f", "victim")
    assert (get("victim"), get("other")) == (b"f", b"victim")
    assert os.stat("other").st_nlink == 1


@by_both
def test_permissions_stay_with_the_file_not_the_name(place: Place) -> None:
    put("a", mode=0o600)
    put("b", mode=0o644)
    os.rename("a", "b")
    assert mode_of("b") == 0o600
    put("a", mode=0o755)
    rename2(b"a", b"b", EXCHANGE)
    assert (mode_of("a"), mode_of("b")) == (0o600, 0o755)


@by_both
def test_a_replaced_name_is_never_missing(place: Place) -> None:
    """What every safe writer does, while others read: each reads one whole version."""
    put("f", b"0" * 1000)

    def write() -> None:
        for number in range(150):
            put("f.new", b"%d" % (number % 10) * 1000)
            os.rename("f.new", "f")

    def read() -> int:
        seen = set()
        while True:
            content = get("f")
            assert len(content) == 1000
            assert len(set(content)) == 1, "two versions mixed"
            seen.add(content[:1])
            if os.path.exists("done"):
                return len(seen)

    readers = [start_child(read) for _ in range(2)]
    try:
        write()
    finally:
        put("done")
        seen = [collect(reader) for reader in readers]
    assert min(seen) >= 1


@pytest.mark.parametrize("directories", [False, True], ids=["files", "directories"])
@by_both
def test_names_that_two_processes_exchange_all_the_time(place: Place, *, directories: bool) -> None:
    for name in ("a", "b"):
        if directories:
            os.mkdir(name)
            put(f"{name}/id", name.encode())
        else:
            put(name, name.encode())

    def swap() -> None:
        for _ in range(150):
            rename2(b"a", b"b", EXCHANGE)

    other = start_child(swap)
    try:
        swap()
    finally:
        collect(other)
    below = "/id" if directories else ""
    assert sorted((get(f"a{below}"), get(f"b{below}"))) == [b"a", b"b"]
    assert get(f"a{below}") == b"a", "an even number of exchanges"
