"""A source that is full or over quota: each caller gets the source's errno, and no more is lost.

The judge is the source itself: the same operation is done there, past the mount, with the kernel's inotify on it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import resource
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.conftest import wait_until
from tests.support.faults import btrfs, ext4, faulty, limited, outcome, root_only, run, tmpfs
from tests.support.kernel import Event, Inotify, Map
from tests.support.posix import collect, fails, get, opened, put, start_child
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount
    from tests.support.faults import FaultySource

__all__ = ["faulty"]

pytestmark = root_only

ALL = flags.ALL_EVENTS
CONTENT = random.Random(4711).randbytes(32 << 20)  # noqa: S311 - to tell lost bytes from others


def sync(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.write(fd, b"acknowledged")
        os.fsync(fd)


def truncate_open(path: Path) -> None:
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, 1)


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "stat": lambda root: os.stat(root / "file"),
    "absent": lambda root: os.stat(root / "absent"),
    "list": lambda root: os.listdir(root / "directory"),
    "read": lambda root: get(root / "file"),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "utime": lambda root: os.utime(root / "file", (1, 1)),
    "setxattr": lambda root: os.setxattr(root / "file", "trusted.x", b"1"),
    "overwrite": lambda root: put(root / "file", b"other"),
    "fsync": lambda root: sync(root / "file"),
    "truncate": lambda root: os.truncate(root / "file", 2),
    "ftruncate": lambda root: truncate_open(root / "file"),
    "create": lambda root: put(root / "new"),
    "mkdir": lambda root: os.mkdir(root / "made"),
    "mkfifo": lambda root: os.mkfifo(root / "fifo"),
    "symlink": lambda root: os.symlink("file", root / "symlink"),
    "link": lambda root: os.link(root / "file", root / "link"),
    "rename": lambda root: os.rename(root / "file", root / "renamed"),
    "unlink": lambda root: os.unlink(root / "file"),
    "rmdir": lambda root: os.rmdir(root / "directory"),
}


def furnish(root: Path) -> None:
    """What OPERATIONS want to find."""
    put(root / "file")
    (root / "directory").mkdir()


def done_and_told(
    names: list[str], root: Path, watcher: Inotify | Subscriber, much: int = 0
) -> tuple[dict[str, str], list[Event]]:
    """The outcome of each operation in *root*, and what *watcher* is told, until that are *much* events at least."""
    outcomes = {name: outcome(OPERATIONS[name], root) for name in names}
    told = watcher.drain()
    with contextlib.suppress(AssertionError):  # the last close is told after close(2); what is missing, the caller says
        wait_until(lambda: told.extend(watcher.drain()) or len(told) >= much, 5)
    return outcomes, told


@contextlib.contextmanager
def fails_alike(mount: Mount, names: list[str]) -> Iterator[dict[str, str]]:
    """After the block, which breaks the source, each operation has the same errno and events on both; gives those."""
    with contextlib.ExitStack() as stack:
        judge, subscriber = Inotify(os.fsencode(mount.source)), Subscriber(mount.socket)
        for watcher in (judge, subscriber):
            stack.callback(watcher.close)
            for name in (b"", b"file", b"directory"):
                watcher.add(name, ALL)
        outcomes: dict[str, str] = {}
        yield outcomes
        judge.drain()
        subscriber.drain()
        expected, events = done_and_told(names, mount.source, judge)
        assert done_and_told(names, mount.root, subscriber, len(events)) == (expected, events)
        outcomes |= expected
        mount.check()


def fill(path: Path) -> tuple[int, int]:
    """Write CONTENT until it fails: how many bytes were acknowledged, and the errno."""
    done, failures = 0, 0
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        while True:
            try:
                done += os.write(fd, CONTENT[done : done + (1000 if failures else 200_000)])
            except OSError as error:
                os.fsync(fd)  # after which ext4 may find that it has set too much aside
                failures += 1
                if failures == 3:
                    return done, error.errno or 0


# A full disk


@pytest.fixture(params=["ext4", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, fuse: None, tmp_path: Path) -> Iterator[Path]:
    """Give an empty disk of a few megabytes."""
    made = ext4(tmp_path / "disk") if request.param == "ext4" else tmpfs(tmp_path / "disk", "size=8m")
    with made as disk:
        yield disk


def test_a_full_disk_is_enospc_and_keeps_what_was_acknowledged(small_disk: Path, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=small_disk)
    put(mount.root / "before", CONTENT[:5000])

    written, number = fill(mount.root / "big")

    assert number == errno.ENOSPC
    assert written > 1 << 20
    for root in (mount.source, mount.root):
        assert get(root / "big") == CONTENT[:written]
        assert get(root / "before") == CONTENT[:5000]
    assert os.statvfs(mount.root).f_bavail == os.statvfs(mount.source).f_bavail
    os.unlink(mount.root / "big")
    wait_until(lambda: os.statvfs(mount.source).f_bavail * os.statvfs(mount.source).f_frsize > 1 << 20)
    put(mount.root / "after", CONTENT[: 1 << 20])
    assert get(mount.source / "after") == CONTENT[: 1 << 20]


def test_several_writers_fill_a_disk_and_each_keeps_its_own(small_disk: Path, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=small_disk)
    names = [str(number) for number in range(4)]

    children = [start_child(lambda name=name: fill(mount.root / name)) for name in names]  # type: ignore[misc]
    for name, (written, number) in zip(names, [collect(child) for child in children], strict=True):
        assert number == errno.ENOSPC
        assert get(mount.source / name) == CONTENT[:written]
        assert get(mount.root / name) == CONTENT[:written]


def test_a_write_that_found_no_room_is_not_told_and_the_next_one_is(
    small_disk: Path, mounted: Callable[..., Mount]
) -> None:
    mount = mounted(source=small_disk)
    fill(mount.source / "big")
    with opened(mount.root / "file", os.O_WRONLY | os.O_CREAT) as fd, opened(mount.source / "big", os.O_WRONLY) as big:
        subscriber = Subscriber(mount.socket)
        subscriber.add(b"file", ALL)
        with fails(errno.ENOSPC):
            while True:  # ext4 may have kept a block
                os.write(fd, CONTENT[:4096])
        before = subscriber.drain()
        with fails(errno.ENOSPC):
            os.write(fd, CONTENT[:4096])
        assert subscriber.drain() == []
        assert {event.mask for event in before} <= {flags.MODIFY}
        os.ftruncate(big, 0)
        os.fsync(big)
        wait_until(lambda: outcome(lambda _: os.write(fd, b"!"), mount.root) == "done")
        assert subscriber.drain() == [Event(1, flags.MODIFY)]
        subscriber.close()


def test_a_map_that_finds_no_room_is_an_error_of_msync(small_disk: Path, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=small_disk)
    with opened(mount.root / "sparse", os.O_RDWR | os.O_CREAT) as fd, contextlib.closing(Map(fd, shared=True)) as pages:
        os.ftruncate(fd, 1 << 20)
        assert fill(mount.source / "big")[1] == errno.ENOSPC
        pages.poke()
        with fails(errno.ENOSPC):
            pages.sync()
        os.truncate(mount.source / "big", 0)
        wait_until(lambda: os.statvfs(mount.source).f_bavail > 100)
        pages.poke()
        pages.sync()
    assert get(mount.source / "sparse")[:2] == b"!\0"


PAGES = 256


def store(file: Path, end: str) -> int:
    """Store other bytes in all pages of *file* through a shared map; the errno with which *end* tells of a loss."""
    with opened(file, os.O_RDWR) as fd, mmap.mmap(fd, PAGES * mmap.PAGESIZE) as pages:
        pages[:] = CONTENT[: len(pages)]
        try:
            if end == "msync":
                pages.flush()
            elif end == "fsync":
                os.fsync(fd)
            else:
                os.close(os.dup(fd))
        except OSError as error:
            return error.errno or 0
    return 0


@pytest.mark.parametrize("end", ["msync", "fsync", "close"])
def test_a_map_that_finds_room_for_a_part_says_what_is_lost(
    small_disk: Path, mounted: Callable[..., Mount], end: str
) -> None:
    mount = mounted(source=small_disk)
    with opened(mount.source / "sparse", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, PAGES * mmap.PAGESIZE)
    written, _ = fill(mount.source / "big")
    os.truncate(mount.source / "big", written - (64 << 10))
    assert store(mount.root / "sparse", end) == errno.ENOSPC
    assert "stored through a map is lost" in mount.log
    assert get(mount.source / "sparse") != CONTENT[: PAGES * mmap.PAGESIZE], "there was no room for all"


# close(2) asks the kernel, which remembers by then only whether it was ENOSPC or another (filemap_check_errors).
@pytest.mark.parametrize("end", ["msync", "fsync", "close"])
def test_a_map_that_reaches_the_largest_size_says_what_is_lost(mounted: Callable[..., Mount], end: str) -> None:
    mount = mounted()
    with opened(mount.source / "sparse", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, PAGES * mmap.PAGESIZE)
    with limited(mount.pid, resource.RLIMIT_FSIZE, 100_000):
        assert store(mount.root / "sparse", end) == (errno.EIO if end == "close" else errno.EFBIG)


@pytest.mark.parametrize("end", ["msync", "fsync", "close"])
def test_a_map_over_quota_says_what_is_lost(
    fuse: None, tmp_path: Path, mounted: Callable[..., Mount], end: str
) -> None:
    with btrfs(tmp_path / "disk") as disk:
        run("btrfs", "quota", "enable", disk)
        run("btrfs", "subvolume", "create", disk / "tree")
        mount = mounted(source=disk / "tree")
        with opened(mount.source / "sparse", os.O_RDWR | os.O_CREAT) as fd:
            os.ftruncate(fd, PAGES * mmap.PAGESIZE)
        os.sync()
        run("btrfs", "qgroup", "limit", "200K", disk / "tree")
        assert store(mount.root / "sparse", end) == (errno.EIO if end == "close" else errno.EDQUOT)
        mount.finish()


def test_writing_through_a_descriptor_that_cannot_be_mapped_counts_what_was_written(
    fuse: None, tmp_path: Path, mounted: Callable[..., Mount]
) -> None:
    """Only where pages of a map may be meant is a part an error: write(2) says how much it wrote."""
    with tmpfs(tmp_path / "disk", "size=512k") as disk:
        mount = mounted(source=disk)
        with opened(mount.root / "part", os.O_WRONLY | os.O_CREAT) as fd:
            written = os.write(fd, CONTENT[: 1 << 20])
            assert written == 512 << 10
            with fails(errno.ENOSPC):
                os.write(fd, CONTENT[: 1 << 20])
        assert get(mount.source / "part") == CONTENT[:written]
        mount.finish()


def test_what_was_removed_from_a_server_that_goes_by_paths_was_removed(
    fuse: None, tmp_path: Path, mounted: Callable[..., Mount]
) -> None:
    """It knows nothing of a file without a name; that is no answer to who removed the name."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "bound").mkdir()
    run("bindfs", tmp_path / "tree", tmp_path / "bound")
    try:
        mount = mounted(source=tmp_path / "bound")
        subscriber = Subscriber(mount.socket)
        subscriber.add(b"", flags.CREATE | flags.DELETE | flags.MOVE)
        for name in ("a", "b", "c"):
            put(mount.root / name, name.encode())
        os.mkdir(mount.root / "d")
        os.unlink(mount.root / "a")
        os.rename(mount.root / "b", mount.root / "c")
        os.rmdir(mount.root / "d")
        assert os.listdir(mount.root) == os.listdir(tmp_path / "tree") == ["c"]
        assert get(mount.root / "c") == b"b"
        heard = [event.mask & ~flags.ISDIR for event in subscriber.drain()]
        assert heard == [flags.CREATE] * 4 + [flags.DELETE, flags.MOVED_FROM, flags.MOVED_TO, flags.DELETE]
        subscriber.close()
        mount.finish()
    finally:
        run("umount", "-l", tmp_path / "bound")


def test_what_a_server_refuses_at_the_end_is_an_error_of_close(
    faulty: FaultySource, mounted: Callable[..., Mount]
) -> None:
    """As NFS does over quota: writing succeeds, and closing says that it did not."""
    mount = mounted(source=faulty.root)
    put(mount.root / "file")
    fd = os.open(mount.root / "file", os.O_WRONLY)
    os.write(fd, b"lost")
    with faulty.failing("flush", errno.EDQUOT), fails(errno.EDQUOT):
        os.close(fd)
    with opened(mount.root / "file") as fd:
        assert os.read(fd, 4) == b"lost"


def test_no_inodes_left_makes_no_half_made_file_and_no_event(
    fuse: None, tmp_path: Path, mounted: Callable[..., Mount]
) -> None:
    with tmpfs(tmp_path / "disk", "size=1m,nr_inodes=12") as disk:
        mount = mounted(source=disk)
        furnish(mount.source)
        filled = [mount.root / f"filler{number}" for number in range(20)]
        with fails(errno.ENOSPC):
            for path in filled:
                put(path)
        with fails_alike(mount, ["create", "mkdir", "mkfifo", "symlink", "stat", "read", "list", "chmod"]) as outcomes:
            pass
        assert outcomes == dict.fromkeys(["create", "mkdir", "mkfifo", "symlink"], "ENOSPC") | dict.fromkeys(
            ["stat", "read", "list", "chmod"], "done"
        )
        os.unlink(filled[0])
        # Its inode is free when the kernel has told the daemon to forget it, soon after unlink(2).
        wait_until(lambda: outcome(lambda root: put(root / "after"), mount.root) == "done")
        assert get(mount.source / "after") == b"content"
        mount.finish()
