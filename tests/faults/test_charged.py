"""Whose share of the disk it is: root's reserve is root's, and who gets no space on the source gets none here."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import ext4, root_only
from tests.support.posix import USER, as_user, fails, opened, put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

pytestmark = root_only


@pytest.fixture
def disk(fuse: None, tmp_path: Path) -> Iterator[Path]:
    with ext4(tmp_path / "disk", "32M", "-m", "20") as disk:
        yield disk


def fill(fd: int) -> int:
    """Write until there is no room; how many bytes that took."""
    written = 0
    with fails(errno.ENOSPC):
        while True:
            written += os.write(fd, bytes(1 << 16))
    return written


@pytest.fixture(params=["source", "mount"])
def root(request: pytest.FixtureRequest, disk: Path, mounted: Callable[..., Mount]) -> Iterator[int]:
    """Give a directory where a user may write: on the disk itself, and on a mount of it."""
    place = disk if request.param == "source" else (mount := mounted("allow_other", source=disk)).root
    disk.chmod(0o1777)
    fd = os.open(place, os.O_PATH)
    yield fd
    os.close(fd)
    if request.param == "mount":
        mount.finish()


WRITING: dict[str, int] = {"written": os.O_WRONLY, "appended": os.O_WRONLY | os.O_APPEND, "read and written": os.O_RDWR}


@pytest.mark.parametrize("how", WRITING)
def test_a_user_does_not_find_what_is_kept_for_root(root: int, how: str) -> None:
    def fill_up() -> int:
        fd = os.open("big", WRITING[how] | os.O_CREAT, dir_fd=root)
        return fill(fd)

    assert as_user(fill_up) > 1 << 20
    os.sync()
    reserve = os.statvfs(root)
    assert reserve.f_bfree * reserve.f_frsize > 3 << 20, "the reserve is untouched"
    with opened(f"/proc/self/fd/{root}/root's", os.O_WRONLY | os.O_CREAT) as fd:
        assert fill(fd) > 1 << 20
    with pytest.raises(AssertionError, match="No space"):
        as_user(lambda: put(f"/proc/self/fd/{root}/more", bytes(1 << 16)))


def test_a_user_takes_no_reserve_by_names_directories_and_attributes(root: int) -> None:
    def fill_up() -> None:
        os.fchdir(root)
        fd = os.open("big", os.O_WRONLY | os.O_CREAT)
        fill(fd)
        with fails(errno.ENOSPC):
            for number in range(2000):
                os.mkdir(f"d{number}")
        with fails(errno.ENOSPC):
            for number in range(100):
                os.setxattr("big", f"user.{number}", bytes(1000))
        with fails(errno.ENOSPC):
            for number in range(100):
                os.symlink("x" * 900, f"l{number}")

    as_user(fill_up)
    os.sync()
    reserve = os.statvfs(root)
    assert reserve.f_bfree * reserve.f_frsize > 3 << 20


def test_a_user_who_wrote_before_root_and_after_is_told_apart(root: int) -> None:
    with contextlib.chdir(f"/proc/self/fd/{root}"):
        for _ in range(3):
            as_user(lambda: put("users", b"u" * 10))
            put("roots", b"r" * 10)
        assert (os.stat("users").st_uid, os.stat("roots").st_uid) == (USER, 0)
