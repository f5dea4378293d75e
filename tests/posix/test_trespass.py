"""What a user must not get by changing the source while the mount believes something else.

Each was possible once. The mount is root's, with allow_other; the user works in a directory with mode 1777 and
changes the source behind the mount, so that the kernel's cached view and the source differ.
"""

from __future__ import annotations

import array
import errno
import mmap
import os
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.conftest import wait_until
from tests.support.posix import as_user, become, collect, start_child
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

USER = 12345


@pytest.fixture
def mount(mounted: Callable[..., Mount]) -> Mount:
    """A mount that remembers what it has seen for a day."""
    mount = mounted("allow_other", "cache=always")
    for directory in (mount.source.parents[1], mount.source.parent, mount.source):
        directory.chmod(0o755)
    mount.source.chmod(0o1777)
    return mount


def replaced(mount: Mount, name: str) -> Path:
    """A file of the user's that the kernel knows, and that is root's secret in the source by now."""
    file = mount.source / name
    file.write_bytes(b"mine")
    os.chown(file, USER, USER)
    os.stat(mount.root / name)
    secret = mount.source / f"{name}.secret"
    secret.write_bytes(b"root's")
    secret.chmod(0o600)
    secret.rename(file)
    return file


@pytest.mark.parametrize("how", ["unlink", "rename", "rename over"])
def test_a_sticky_directory_protects_what_is_there_and_not_what_was(mount: Mount, how: str) -> None:
    file = replaced(mount, "f")
    (mount.source / "own").touch()
    os.chown(mount.source / "own", USER, USER)

    root = os.open(mount.root, os.O_PATH)  # pytest's own directories are closed to the user
    assert as_user(lambda: os.stat("f", dir_fd=root).st_uid, USER) == USER, "the mount still shows the old file"

    def trespass() -> int:
        try:
            if how == "unlink":
                os.unlink("f", dir_fd=root)
            elif how == "rename":
                os.rename("f", "g", src_dir_fd=root, dst_dir_fd=root)
            else:
                os.rename("own", "f", src_dir_fd=root, dst_dir_fd=root)
        except OSError as error:
            return error.errno or 0
        return 0

    found = as_user(trespass, USER)
    os.close(root)
    assert found in (errno.EPERM, errno.ESTALE)
    assert file.read_bytes() == b"root's"


def test_a_file_that_appears_while_one_is_created_is_not_opened(mounted: Callable[..., Mount]) -> None:
    """The kernel checks no permissions of what it believes to be created."""
    mount = mounted("allow_other", "debug")
    mount.source.chmod(0o1777)
    secret = mount.source.parent / "secret"
    secret.write_bytes(b"root's")
    secret.chmod(0o600)
    file = mount.source / "f"
    root = os.open(mount.root, os.O_PATH)
    over = mmap.mmap(-1, 1)
    deadline = time.monotonic() + 30

    def trespass() -> int:
        opened = 0
        while not over[0]:
            with suppress(OSError):
                fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=root)
                opened += os.fstat(fd).st_uid == 0 or os.pread(fd, 6, 0) == b"root's"
                os.close(fd)
        return opened

    child = start_child(trespass, lambda: become(USER, USER, ()))
    while "appeared behind the mount" not in mount.log and time.monotonic() < deadline:
        for _ in range(100):
            with suppress(FileExistsError):
                os.link(secret, file)
            file.unlink(missing_ok=True)
    over[0] = 1
    os.close(root)
    assert "appeared behind the mount" in mount.log
    assert collect(child) == 0


def test_a_directory_moved_back_and_forth_behind_the_mount_is_never_inside_itself(mount: Mount) -> None:
    (mount.source / "a").mkdir()
    (mount.source / "b").mkdir()
    for name in ("a", "b"):
        os.stat(mount.root / name)
    os.rename(mount.source / "b", mount.source / "a/b")
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"a/b", flags.ALL_EVENTS)
    os.rename(mount.source / "a/b", mount.source / "b")
    try:
        os.rename(mount.root / "a", mount.root / "b/a")
    except OSError as error:
        assert error.errno in (errno.ESTALE, errno.ENOENT, errno.EINVAL)  # noqa: PT017 - or it succeeds
    subscriber.add(b"", flags.ALL_EVENTS | flags.X_RECURSIVE)
    (mount.root / "b/f").touch()
    assert any(event.name.endswith(b"f") for event in subscriber.drain()), "the daemon still answers, and tells"
    subscriber.close()


def test_a_watch_does_not_pass_to_a_new_file_with_the_old_ones_number(mount: Mount) -> None:
    for number in range(64):
        old = mount.source / f"old{number}"
        old.mkdir()
        subscriber = Subscriber(mount.socket)
        subscriber.add(os.fsencode(old.name), flags.CREATE)
        old.rmdir()
        new = mount.root / f"new{number}"
        new.mkdir()
        (new / "secret").touch()
        assert subscriber.drain() == []
        subscriber.close()


def test_refused_connections_leave_no_descriptors(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_user_instances=1)
    subscriber = Subscriber(mount.socket)
    before = len(os.listdir(f"/proc/{mount.pid}/fd"))
    opened = os.open(mount.root, os.O_PATH)
    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as refused:
            refused.connect(mount.socket)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [opened]))]
            refused.sendmsg([struct.pack("=iIII", 0, flags.CREATE, 1, 0)], rights)
            assert struct.unpack_from("=i", refused.recv(64)) == (-errno.EMFILE,)
    os.close(opened)
    wait_until(lambda: len(os.listdir(f"/proc/{mount.pid}/fd")) <= before)
    subscriber.close()
