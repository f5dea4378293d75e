"""Times, to the nanosecond: set, left alone, and moved by what is done."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import (
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    UTIME_NOW,
    UTIME_OMIT,
    by_both,
    call,
    get,
    opened,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount
    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

OLD = 1_000_000_000_123_456_789
SECOND = 1_000_000_000


def set_times(path: bytes, atime: tuple[int, int], mtime: tuple[int, int], flags: int = 0) -> None:
    """utimensat(2) itself, for UTIME_NOW and UTIME_OMIT."""
    call("utimensat", AT_FDCWD, path, (ctypes.c_long * 4)(*atime, *mtime), flags)


def times(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns


@by_both
@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_times_are_kept_to_the_nanosecond(place: Place, kind: str) -> None:
    {"file": put, "directory": os.mkdir, "fifo": os.mkfifo}[kind]("f")
    # Before 1970; the last second of 32 bits and the one after; near the end of ext4's range.
    for moment in (OLD, 0, 1, SECOND - 1, -1, -2 * SECOND + 5, (2**31 - 1) * SECOND, 2**31 * SECOND + 999_999_999):
        os.utime("f", ns=(moment, moment + 7))

        assert times("f") == (moment, moment + 7)
        found = os.stat(place.source / "f")
        assert (found.st_atime_ns, found.st_mtime_ns) == (moment, moment + 7)


@by_both
def test_now_and_omit(place: Place) -> None:
    put("f")
    os.utime("f", ns=(OLD, OLD))

    set_times(b"f", (0, UTIME_OMIT), (5, 6))
    assert times("f") == (OLD, 5 * SECOND + 6)
    set_times(b"f", (7, 8), (0, UTIME_OMIT))
    assert times("f") == (7 * SECOND + 8, 5 * SECOND + 6)
    before = os.stat("f").st_ctime_ns
    set_times(b"f", (0, UTIME_OMIT), (0, UTIME_OMIT))
    assert times("f") == (7 * SECOND + 8, 5 * SECOND + 6)
    assert os.stat("f").st_ctime_ns == before, "nothing was changed"

    start = time.time_ns()
    set_times(b"f", (0, UTIME_NOW), (0, UTIME_OMIT))
    atime, mtime = times("f")
    assert mtime == 5 * SECOND + 6
    assert start - SECOND // 10 <= atime <= time.time_ns() + SECOND // 10
    set_times(b"f", (7, 8), (0, UTIME_NOW))
    atime, mtime = times("f")
    assert atime == 7 * SECOND + 8
    assert start - SECOND // 10 <= mtime <= time.time_ns() + SECOND // 10
    os.utime("f")
    assert min(times("f")) >= start - SECOND // 10
    assert os.stat(place.source / "f").st_mtime_ns == times("f")[1]


@by_both
def test_a_links_times_are_its_own(place: Place) -> None:
    put("f")
    os.utime("f", ns=(OLD, OLD))
    os.symlink("f", "l")

    set_times(b"l", (11, 12), (13, 14), AT_SYMLINK_NOFOLLOW)
    assert times("l")[1] == 13 * SECOND + 14
    assert times("f") == (OLD, OLD)
    set_times(b"l", (15, 16), (17, 18))
    assert times("f") == (15 * SECOND + 16, 17 * SECOND + 18)
    assert times("l")[1] == 13 * SECOND + 14


@by_both
def test_times_by_descriptor_also_of_an_unlinked_file(place: Place) -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.utime(fd, ns=(OLD, OLD + 1))
        assert times("f") == (OLD, OLD + 1)
        os.unlink("f")
        os.utime(fd, ns=(OLD + 2, OLD + 3))
        assert (os.fstat(fd).st_atime_ns, os.fstat(fd).st_mtime_ns) == (OLD + 2, OLD + 3)


def write(name: str) -> None:
    with opened(name, os.O_WRONLY) as fd:
        os.write(fd, b"x")


def cut_open(name: str) -> None:
    os.close(os.open(name, os.O_WRONLY | os.O_TRUNC))


def map_and_write(name: str) -> None:
    with opened(name, os.O_RDWR) as fd, mmap.mmap(fd, 0) as mapped:
        mapped[0] = 99
        mapped.flush()


CONTENT = {
    "write": write,
    "a shorter file": lambda name: os.truncate(name, 1),
    "a longer file": lambda name: os.truncate(name, 100),
    "O_TRUNC": cut_open,
    "a mapped page": map_and_write,
}
NAMES = {
    "create": lambda: put("d/new"),
    "mkdir": lambda: os.mkdir("d/new"),
    "symlink": lambda: os.symlink("x", "d/new"),
    "mkfifo": lambda: os.mkfifo("d/new"),
    "link": lambda: os.link("d/f", "d/new"),
    "unlink": lambda: os.unlink("d/f"),
    "rmdir": lambda: os.rmdir("d/sub"),
    "rename": lambda: os.rename("d/f", "d/new"),
    "rename away": lambda: os.rename("d/f", "f"),
    "rename over": lambda: os.rename("d/f", "d/g"),
}
STATUS = {
    "chmod": lambda: os.chmod("f", 0o600),
    "chown": lambda: os.chown("f", os.getuid(), os.getgid()),
    "link": lambda: os.link("f", "g"),
    "unlink": lambda: os.unlink("second"),
    "rename": lambda: os.rename("f", "f2"),
    "utime": lambda: os.utime("f", ns=(1, 1)),
    "setxattr": lambda: os.setxattr("f", "user.a", b"b"),
    "removexattr": lambda: os.removexattr("f", "user.old"),
}


def tick(reference: str) -> None:
    """Return when the source's clock, which stands still between the kernel's ticks, has gone on."""
    start = os.stat(reference).st_ctime_ns
    while True:
        os.utime("clock")
        if os.stat("clock").st_mtime_ns > start:
            return


@by_both
@pytest.mark.parametrize("change", CONTENT)
def test_a_change_of_the_content_moves_mtime_and_ctime(place: Place, change: str) -> None:
    put("clock")
    put("f")
    os.utime("f", ns=(OLD, OLD))
    before = os.stat("f")
    tick("f")

    CONTENT[change]("f")

    after = os.stat("f")
    assert after.st_mtime_ns > OLD + SECOND
    assert after.st_ctime_ns > before.st_ctime_ns
    behind = os.stat(place.source / "f")
    assert (behind.st_mtime_ns, behind.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


@by_both
@pytest.mark.parametrize("change", NAMES)
def test_a_change_of_names_moves_the_directorys_times(place: Place, change: str) -> None:
    put("clock")
    os.makedirs("d/sub")
    put("d/f")
    put("d/g")
    os.utime("d", ns=(OLD, OLD))
    before = os.stat("d")
    tick("d")

    NAMES[change]()

    after = os.stat("d")
    assert after.st_mtime_ns > OLD + SECOND
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == os.stat(place.source / "d").st_mtime_ns


@by_both
@pytest.mark.parametrize("change", STATUS)
def test_a_change_of_the_status_moves_ctime_only(place: Place, change: str) -> None:
    put("clock")
    put("f")
    os.link("f", "second")
    os.setxattr("f", "user.old", b"1")
    os.utime("f", ns=(OLD, OLD))
    before = os.stat("f")
    tick("f")

    STATUS[change]()

    name = "f2" if change == "rename" else "f"
    after = os.stat(name)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == (1 if change == "utime" else OLD)
    assert after.st_ctime_ns == os.stat(place.source / name).st_ctime_ns


@by_both
@pytest.mark.parametrize("kind", ["file", "setgid, no program", "directory", "fifo", "setuid"])
def test_chown_of_nothing_moves_ctime_on_the_mount_only_where_it_takes_something_away(place: Place, kind: str) -> None:
    put("clock")
    {"directory": os.mkdir, "fifo": os.mkfifo}.get(kind, put)("f")
    if kind.startswith("set"):
        os.chmod("f", 0o4755 if kind == "setuid" else 0o2745)
    before, behind = os.stat("f"), os.stat(place.source / "f")
    assert before.st_ctime_ns == behind.st_ctime_ns
    tick("f")

    os.chown("f", -1, -1)

    after = os.stat("f")
    assert (after.st_ctime_ns > before.st_ctime_ns) == (kind == "setuid" or not place.mounted)
    assert os.stat(place.source / "f").st_ctime_ns == after.st_ctime_ns
    assert oct(after.st_mode) == oct(before.st_mode & ~stat.S_ISUID)


@by_both
@pytest.mark.parametrize(
    "action",
    [lambda: get("f"), lambda: os.stat("f"), lambda: os.getxattr("f", "user.a"), lambda: os.access("f", os.R_OK)],
    ids=["read", "stat", "getxattr", "access"],
)
def test_looking_moves_neither_mtime_nor_ctime(place: Place, action: Callable[[], object]) -> None:
    put("clock")
    put("f")
    os.setxattr("f", "user.a", b"b")
    os.utime("f", ns=(OLD, OLD))
    before = os.stat("f")
    tick("f")

    action()

    after = os.stat("f")
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


@by_both
def test_reading_moves_atime_once_it_is_older_than_mtime(place: Place) -> None:
    """Both are mounted relatime (mount(8))."""
    put("f")
    os.mkdir("d")
    for name in ("f", "d"):
        os.utime(name, ns=(OLD, OLD + SECOND))

    get("f")
    os.listdir("d")

    assert os.stat("f").st_atime_ns > OLD + SECOND
    assert os.stat("d").st_atime_ns > OLD + SECOND


@by_both
def test_reading_with_noatime_leaves_atime(place: Place) -> None:
    put("f")
    os.utime("f", ns=(OLD, OLD + SECOND))

    with opened("f", os.O_RDONLY | os.O_NOATIME) as fd:
        assert os.read(fd, 10) == b"content"

    assert os.stat("f").st_atime_ns == OLD


@by_both
def test_truncating_to_the_same_size_counts_as_a_change(place: Place) -> None:
    put("f", b"1234")
    os.utime("f", ns=(OLD, OLD))
    os.truncate("f", 4)
    assert os.stat("f").st_mtime_ns > OLD

    put("empty", b"")
    os.utime("empty", ns=(OLD, OLD))
    os.close(os.open("empty", os.O_WRONLY | os.O_TRUNC))
    assert os.stat("empty").st_mtime_ns > OLD


@by_both
def test_a_zero_write_moves_nothing(place: Place) -> None:
    put("f")
    os.utime("f", ns=(OLD, OLD))
    with opened("f", os.O_WRONLY) as fd:
        assert os.write(fd, b"") == 0
    assert os.stat("f").st_mtime_ns == OLD


@by_both
def test_a_set_mtime_survives_what_was_written_before_it(place: Place) -> None:
    """What cp -p and tar do: write, set the times, close; and set them after the close."""
    with opened("f", os.O_WRONLY | os.O_CREAT) as fd:
        os.write(fd, b"x" * 300_000)
        os.utime(fd, ns=(OLD, OLD))
    assert times("f")[1] == OLD
    with opened("f", os.O_RDWR) as fd, mmap.mmap(fd, 0) as mapped:
        mapped[0] = 1
        mapped.flush()
    os.utime("f", ns=(OLD, OLD))
    os.sync()
    assert times("f")[1] == OLD
    assert os.stat(place.source / "f").st_mtime_ns == OLD


def test_noatime_leaves_the_sources_access_times_alone(mounted: Callable[..., Mount]) -> None:
    mount = mounted("noatime")
    (mount.source / "d").mkdir()
    (mount.source / "d/f").write_bytes(b"x")
    for path in ("d/f", "d"):
        os.utime(mount.source / path, ns=(1_000_000_000, 1_000_000_000))
    assert (mount.root / "d/f").read_bytes() == b"x"
    assert os.listdir(mount.root / "d") == ["f"]
    for path in ("d/f", "d"):
        assert (mount.source / path).stat().st_atime_ns == 1_000_000_000
