"""A source that is read-only, gone or broken: each caller gets the source's errno, and no more is lost."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until
from tests.faults.test_source import CONTENT, OPERATIONS, fails_alike, furnish
from tests.support.faults import device_of, ext4, faulty, outcome, root_only, run, tmpfs
from tests.support.posix import fails, get, opened, put
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount
    from tests.support.faults import FaultySource

__all__ = ["faulty"]


pytestmark = root_only


EXT4_IOC_SHUTDOWN = 0x8004587D


NO_LOG_FLUSH = 2


def test_a_read_only_source_is_erofs(fuse: None, tmp_path: Path, mounted: Callable[..., Mount]) -> None:
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        furnish(disk)
        run("mount", "-o", "remount,ro", disk)
        mount = mounted(source=disk)
        with fails_alike(mount, list(OPERATIONS)) as outcomes:
            pass
        reading = {"stat": "done", "absent": "ENOENT", "list": "done", "read": "done"}
        assert outcomes == dict.fromkeys(OPERATIONS, "EROFS") | reading
        mount.finish()


def test_a_source_remounted_read_only_in_use_and_back(
    fuse: None, tmp_path: Path, mounted: Callable[..., Mount]
) -> None:
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        furnish(disk)
        mount = mounted(source=disk)
        with opened(mount.root / "file") as fd:
            assert os.read(fd, 3) == b"con"
            with fails_alike(mount, list(OPERATIONS)) as outcomes:
                run("mount", "-o", "remount,ro", disk)
            assert outcomes["overwrite"] == "EROFS"
            assert os.read(fd, 9) == b"tent"
        run("mount", "-o", "remount,rw", disk)
        assert {name: outcome(OPERATIONS[name], mount.root) for name in ("create", "fsync", "mkdir", "unlink")} == (
            dict.fromkeys(("create", "fsync", "mkdir", "unlink"), "done")
        )
        assert sorted(os.listdir(disk)) == ["directory", "made", "new"]
        mount.finish()


def test_a_disk_that_turns_read_only_under_an_open_file(
    fuse: None, tmp_path: Path, mounted: Callable[..., Mount]
) -> None:
    """ext4 after an error that it has found (errors=remount-ro)."""
    with ext4(tmp_path / "disk") as disk:
        furnish(disk)
        mount = mounted(source=disk)
        with (
            opened(mount.root / "open", os.O_RDWR | os.O_CREAT) as ours,
            opened(disk / "plain", os.O_RDWR | os.O_CREAT) as plain,
        ):
            for fd in (ours, plain):
                os.write(fd, b"synced")
                os.fsync(fd)
            with fails_alike(mount, list(OPERATIONS)) as outcomes:
                Path(f"/sys/fs/ext4/{device_of(disk)}/trigger_fs_error").write_text("tests/test_faults", "ascii")
                for call in (lambda fd: os.write(fd, b"!"), os.fsync, lambda fd: os.ftruncate(fd, 0)):
                    with fails(errno.EROFS):
                        call(plain)
                    with fails(errno.EROFS):
                        call(ours)
            assert outcomes["overwrite"] == outcomes["mkdir"] == "EROFS"
            assert os.pread(ours, 9, 0) == get(disk / "open") == b"synced"
        mount.finish()


# A broken source


def test_a_disk_that_is_gone_is_eio(fuse: None, tmp_path: Path, mounted: Callable[..., Mount]) -> None:
    """ext4 after its own shutdown call: each request that needs the disk fails."""
    with ext4(tmp_path / "disk") as disk:
        furnish(disk)
        mount = mounted("cache=never", source=disk)
        with fails_alike(mount, list(OPERATIONS)) as outcomes, opened(disk) as fd:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        assert outcomes["read"] == outcomes["mkdir"] == "EIO"
        mount.finish()


NEEDED = {
    "lookup": ["stat", "absent", "read", "create", "mkdir"],
    "getattr": ["stat"],
    "setattr": ["chmod", "utime", "truncate", "ftruncate"],
    "opendir": ["list"],
    "readdir": ["list"],
    "open": ["read", "overwrite"],
    "read": ["read"],
    "write": ["overwrite", "fsync"],
    "fsync": ["fsync"],
    "create": ["create"],
    "mkdir": ["mkdir"],
    "rename": ["rename"],
    "unlink": ["unlink"],
    "rmdir": ["rmdir"],
}
"""Requests to the faulty file system, and operations that need them."""


def refuse(faulty: FaultySource, mount: Mount, request: str, number: int) -> None:
    """Let *request* fail with this errno, and the operations that need it with it, alike on both."""
    for name in NEEDED[request]:
        with contextlib.ExitStack() as stack:
            with fails_alike(mount, [name]) as outcomes:
                stack.enter_context(faulty.failing(request, number))
            assert outcomes[name] == errno.errorcode[number], f"{name} does not need {request}"


@pytest.mark.parametrize("request_", NEEDED)
def test_a_request_that_the_source_fails_is_eio(
    faulty: FaultySource, mounted: Callable[..., Mount], request_: str
) -> None:
    furnish(faulty.root)
    mount = mounted("cache=never", source=faulty.root)
    refuse(faulty, mount, request_, errno.EIO)
    assert sorted(os.listdir(mount.root)) == ["directory", "file"]
    put(mount.root / "file", CONTENT[:100_000])
    assert get(faulty.root / "file") == CONTENT[:100_000]


@pytest.mark.parametrize(
    "number", [errno.EDQUOT, errno.ENOSPC, errno.ENOMEM], ids=lambda number: errno.errorcode[number]
)
def test_what_the_source_has_no_room_for_is_refused_with_its_errno(
    faulty: FaultySource, mounted: Callable[..., Mount], number: int
) -> None:
    """EDQUOT too is a source's own answer here: the kernel that this was written on has no quotas for any disk."""
    furnish(faulty.root)
    mount = mounted("cache=never", source=faulty.root)
    for request in ("write", "fsync", "create", "mkdir", "setattr"):
        refuse(faulty, mount, request, number)
    put(mount.root / "file", CONTENT[:100_000])
    assert get(faulty.root / "file") == CONTENT[:100_000]


def test_a_listing_is_whole_or_an_error(faulty: FaultySource, mounted: Callable[..., Mount]) -> None:
    names = {f"f{number}" for number in range(200)}
    for name in names:
        put(faulty.root / name)
    mount = mounted("cache=never", source=faulty.root)
    with faulty.failing("lookup", errno.EIO):
        try:
            assert set(os.listdir(mount.root)) == names
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017 - either is right
    assert set(os.listdir(mount.root)) == names


def test_a_listing_that_fails_in_the_middle_leaves_nothing_behind(
    faulty: FaultySource, mounted: Callable[..., Mount]
) -> None:
    """The kernel forgets what it was told of, and it was told nothing by an answer that was an error."""
    names = {f"f{number}" for number in range(200)}
    mount = mounted("cache=never", source=faulty.root)
    with contextlib.closing(Subscriber(mount.socket)) as subscriber:
        before = subscriber.statistics()["mount"]["inodes"]
        for name in names:
            put(faulty.root / name)
        with faulty.failing("lookup f150", errno.EIO):
            outcome(os.listdir, mount.root)
        for name in names:
            os.unlink(mount.root / name)
        wait_until(lambda: subscriber.statistics()["mount"]["inodes"] == before, 3, "the inodes are forgotten")


def test_what_was_acknowledged_before_a_fault_is_there_after_it(
    faulty: FaultySource, mounted: Callable[..., Mount]
) -> None:
    mount = mounted(source=faulty.root)
    with opened(mount.root / "file", os.O_RDWR | os.O_CREAT) as fd:
        assert os.write(fd, CONTENT[:3000]) == 3000
        with faulty.failing("write", errno.EIO), fails(errno.EIO):
            os.write(fd, CONTENT[3000:6000])
        with faulty.failing("fsync", errno.EIO), fails(errno.EIO):
            os.fsync(fd)
        assert get(faulty.root / "file") == CONTENT[:3000]
        assert os.write(fd, CONTENT[3000:6000]) == 3000
        os.fsync(fd)
    assert get(mount.root / "file") == get(faulty.root / "file") == CONTENT[:6000]
