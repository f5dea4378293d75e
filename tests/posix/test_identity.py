"""Which file is which: numbers, other file systems below the source, and mounts over the source itself."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from notifyfs.client import Connection
from notifyfs.protocol.requests import STATISTICS_OPERATIONS
from tests.conftest import Mount, wait_until
from tests.support.posix import (
    fails,
    get,
    opened,
    put,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytest_plugins = ["tests.support.posix"]


def test_numbers_and_links_are_the_sources(mount: Mount) -> None:
    put(mount.source / "f")
    os.link(mount.source / "f", mount.source / "g")
    (mount.source / "d").mkdir()
    for name in ("f", "g", "d"):
        here, behind = os.stat(mount.root / name), os.stat(mount.source / name)
        assert (here.st_ino, here.st_nlink, here.st_mode) == (behind.st_ino, behind.st_nlink, behind.st_mode)
        assert here.st_dev != behind.st_dev
        assert here.st_dev == os.stat(mount.root).st_dev


def test_numbers_are_the_same_after_mounting_again(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    for number in range(20):
        put(source / f"{number}")
    numbers = []
    for _ in range(2):
        mount = mounted(source=source)
        numbers.append({name: os.stat(mount.root / name).st_ino for name in os.listdir(mount.root)})
        mount.unmount()
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 20


@pytest.fixture
def two_devices(mounted: Callable[..., Mount], tmp_path: Path) -> Iterator[Mount]:
    """Give a mount whose source has a tmpfs at ``other``."""
    if os.getuid():
        pytest.skip("only root mounts a tmpfs")
    source = tmp_path / "tree"
    (source / "other").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", source / "other"], check=True)
    try:
        mount = mounted(source=source)
        yield mount
        mount.unmount()
        mount.process.wait(10)
    finally:
        subprocess.run(["umount", "-l", source / "other"], check=True)


def test_a_file_system_below_the_source(two_devices: Mount) -> None:
    root, source = two_devices.root, two_devices.source
    assert os.stat(source / "other").st_ino == 1, "as FUSE's own root"
    put(root / "f", b"first device")
    put(root / "other/f", b"second device")
    (root / "other/d").mkdir()
    put(root / "other/d/g", b"deep")

    assert get(source / "other/d/g") == b"deep"
    numbers = [os.stat(root / name).st_ino for name in (".", "f", "other", "other/f", "other/d", "other/d/g")]
    assert len(set(numbers)) == len(numbers)
    assert os.stat(root / "other/..").st_ino == os.stat(root).st_ino
    assert os.stat(root / "other/d/..").st_ino == os.stat(root / "other").st_ino
    entries = {entry.name: entry.inode() for entry in os.scandir(root)}
    assert entries == {"f": os.stat(root / "f").st_ino, "other": os.stat(root / "other").st_ino}
    with fails(errno.EXDEV):
        os.rename(root / "f", root / "other/moved")
    with fails(errno.EXDEV):
        os.link(root / "f", root / "other/linked")
    with fails(errno.EBUSY):
        os.rmdir(root / "other")
    with fails(errno.EBUSY):
        os.rename(root / "other", root / "renamed")
    subprocess.run(["mv", root / "f", root / "other/moved"], check=True)
    assert get(root / "other/moved") == b"first device"
    assert sorted(os.listdir(root / "other")) == ["d", "f", "moved"]


def test_equal_numbers_on_two_devices_are_two_files(two_devices: Mount) -> None:
    """A second tmpfs hands out the same small numbers as the first."""
    root, source = two_devices.root, two_devices.source
    (source / "third").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", source / "third"], check=True)
    try:
        for directory in ("other", "third"):
            for number in range(30):
                put(source / directory / f"f{number}", f"{directory} {number}".encode())
        assert [os.stat(source / "other" / f"f{n}").st_ino for n in range(30)] == [
            os.stat(source / "third" / f"f{n}").st_ino for n in range(30)
        ]
        for number in range(30):
            for directory in ("other", "third"):
                assert get(root / directory / f"f{number}") == f"{directory} {number}".encode()
        numbers = {os.stat(root / where / f"f{n}").st_ino for where in ("other", "third") for n in range(30)}
        assert len(numbers) == 60
        with opened(root / "other/f1", os.O_RDWR) as one, opened(root / "third/f1", os.O_RDWR) as two:
            os.unlink(root / "other/f1")
            os.write(one, b"ONE")
            os.write(two, b"TWO")
        assert get(source / "third/f1") == b"TWOrd 1"
    finally:
        subprocess.run(["umount", "-l", source / "third"], check=True)


def test_an_unlinked_file_is_let_go_when_it_is_closed(mount: Mount) -> None:
    """Else its space would stay taken for as long as the daemon runs."""
    for number in range(100):
        with opened(mount.root / "f", os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
            os.write(fd, b"%d" % number)
            os.unlink(mount.root / "f")
            assert os.fstat(fd).st_nlink == 0
    put(mount.root / "f")
    os.rename(mount.root / "f", mount.root / "g")
    put(mount.root / "h")
    os.rename(mount.root / "h", mount.root / "g")

    def held() -> list[str]:
        links = [f"/proc/{mount.pid}/fd/{name}" for name in os.listdir(f"/proc/{mount.pid}/fd")]
        found = []
        for link in links:
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(link))
        return [each for each in found if each.endswith("(deleted)")]

    wait_until(lambda: not held(), what="descriptors of removed files")


# Mounting over, and mounts in each other


def test_mounting_over_the_source_itself(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    put(tree / "f", b"before")
    with opened(tree) as behind:
        mount = mounted(source=tree, root=tree)
        assert os.stat(tree).st_dev != os.fstat(behind).st_dev
        assert get(tree / "f") == b"before"
        put(tree / "d/g", b"through the mount")
        assert sorted(os.listdir(tree)) == ["d", "f"]
        below = os.open("d/g", os.O_RDONLY, dir_fd=behind)
        assert os.read(below, 100) == b"through the mount"
        os.close(below)
        os.rename(tree / "d", tree / "e")
        mount.check()
        mount.unmount()
        mount.process.wait(10)
    assert get(tree / "e/g") == b"through the mount"


@pytest.mark.parametrize(
    ("over_itself", "option", "asked"), [(True, ("cache=always",), 1), (False, (), 100), (True, (), 100)]
)
def test_only_where_nobody_else_changes_the_source_the_kernel_remembers_what_does_not_exist(
    mounted: Callable[..., Mount],
    tmp_path: Path,
    over_itself: bool,  # noqa: FBT001 - a table
    option: tuple[str, ...],
    asked: int,
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    mount = mounted(*option, source=tree, root=tree) if over_itself else mounted(*option)
    before = lookups(mount)
    for _ in range(100):
        assert not (mount.root / "none").exists()
    assert lookups(mount) - before == asked
    put(mount.root / "none", b"")
    assert (mount.root / "none").exists()
    os.rename(mount.root / "none", mount.root / "else")
    assert not (mount.root / "none").exists()
    assert (mount.root / "else").exists()


def lookups(mount: Mount) -> int:
    with Connection(mount.socket) as connection:
        rows = connection.statistics(STATISTICS_OPERATIONS)["rows"]
    return int(next(row["count"] for row in rows if row["operation"] == "lookup"))


@pytest.mark.parametrize(("source", "root"), [("a", "a/b"), ("a/b", "a")], ids=["mountpoint inside", "source inside"])
def test_mounts_in_each_other_are_refused(fuse: None, tmp_path: Path, source: str, root: str) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(AssertionError, match=r"exit code [1-9]|was not mounted"):
        Mount(tmp_path / "m", (), tmp_path / source, tmp_path / root)
    message = (tmp_path / "m/stderr").read_text("utf-8")
    assert "Traceback" not in message
    assert str(tmp_path / "a") in message
    assert not os.path.ismount(tmp_path / root)
