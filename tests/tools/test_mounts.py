"""Mounting a descriptor, and what may be mounted, with the kernel's own table as the judge.

A mount that nobody serves hangs whoever touches it, so none of these tests does; each is detached by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs import mounts
from notifyfs.mounts import kernel, mountinfo, table
from notifyfs.mounts.options import Options
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a directory with ``source`` and ``mount`` in it."""
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def attached(fuse: None, tree: Path) -> Iterator[Callable[..., int]]:
    """Give a function that mounts ``source`` on ``mount``, serves nothing and returns the descriptor."""
    mountpoint = str(tree / "mount")
    descriptors = []

    def attach(*words: str) -> int:
        descriptors.append(mounts.attach(mountpoint, str(tree / "source"), Options.parse(words)))
        return descriptors[-1]

    yield attach
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    while line_of(mountpoint):
        mounts.detach(mountpoint, lazy=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only briefly for an answer that never comes."""
    monkeypatch.setattr(table, "_PATIENCE", 0.1)


def line_of(mountpoint: str) -> mountinfo.MountLine | None:
    return mountinfo.top(mountpoint, mountinfo.read())


def mount_options(mountpoint: str) -> set[str]:
    """Both option columns of the kernel's table for *mountpoint*."""
    for text in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        fields = text.split()
        if fields[4] == mountpoint:
            return {*fields[5].split(","), *fields[-1].split(",")}
    raise AssertionError(mountpoint)


def refusal(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(mounts.MountError) as caught:
        function(*arguments)
    return str(caught.value)


def open_the_device_to_all() -> None:
    """Put a /dev/fuse of mode 666, as udev makes it, into a mount namespace of this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0, os.strerror(ctypes.get_errno())
    with tempfile.TemporaryDirectory() as directory:
        device = f"{directory}/fuse"
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
        os.chmod(device, 0o666)
        assert libc.mount(device.encode(), b"/dev/fuse", None, MS_BIND, None) == 0, os.strerror(ctypes.get_errno())


def as_nobody(function: Callable[[], object]) -> object:
    """Run *function* in a process of uid 65534; what it returns, as JSON has it, or its exception as text."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside the time limit's thread
        child = os.fork()
    if child == 0:
        try:
            open_the_device_to_all()
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            said = json.dumps(function())
        except BaseException:  # noqa: BLE001 - the parent shows it
            said = json.dumps(traceback.format_exc())
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said)


# What may be mounted.


def test_what_cannot_be_mounted_is_refused_with_a_remedy(tree: Path) -> None:
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    (tree / "file").touch()
    (tree / "link").symlink_to(tree / "source")
    nowhere = str(tree / "nowhere")
    assert refusal(mounts.check, nowhere, mountpoint) == (
        f"{nowhere}: the source: No such file or directory; create it: mkdir -p {nowhere}"
    )
    assert refusal(mounts.check, source, nowhere) == (
        f"{nowhere}: the mountpoint: No such file or directory; create it: mkdir -p {nowhere}"
    )
    assert refusal(mounts.check, str(tree / "file"), mountpoint) == (
        f"{tree}/file: the source is not a directory; name a directory"
    )
    assert refusal(mounts.check, source, str(tree / "file")) == (
        f"{tree}/file: the mountpoint is not a directory; name a directory"
    )
    assert refusal(mounts.check, source, str(tree / "link" / "in")) == (
        f"{source}/in: lies inside the source {source}; choose a mountpoint outside it, or the source itself"
    )
    assert refusal(mounts.check, source, str(tree)) == (
        f"{source}: lies inside the mountpoint {tree}, which would hide it; choose another mountpoint"
    )


def test_a_directory_and_a_namesake_beside_it_may_be_mounted(tree: Path) -> None:
    (tree / "source-2").mkdir()
    mounts.check(str(tree / "source"), str(tree / "source-2"))
    mounts.check(str(tree / "source"), str(tree / "source"))


# The kernel.


def test_the_kernel_shows_what_was_mounted(attached: Callable[..., int], tree: Path) -> None:
    attached()
    mountpoint = str(tree / "mount")
    line = line_of(mountpoint)
    assert line is not None
    assert (line.fstype, line.source, line.user_id) == ("fuse.notifyfs", str(tree / "source"), 0)
    options = mount_options(mountpoint)
    assert {"rw", "nosuid", "nodev", "default_permissions"} <= options
    assert not options & {"noexec", "noatime", "allow_other"}


def test_the_kernel_shows_every_option(attached: Callable[..., int], tree: Path) -> None:
    attached("ro,suid,dev,noexec,noatime,nodiratime,sync,dirsync,lazytime,allow_other,max_read=8192")
    options = mount_options(str(tree / "mount"))
    wanted = {"ro", "noexec", "noatime", "nodiratime", "sync", "dirsync", "lazytime", "allow_other", "max_read=8192"}
    assert wanted <= options
    assert not options & {"nosuid", "nodev"}


def test_only_root_and_the_owner_still_lets_the_kernel_ask_the_daemon(attached: Callable[..., int], tree: Path) -> None:
    attached("allow_root")
    assert "allow_other" in mount_options(str(tree / "mount"))


@pytest.mark.usefixtures("fuse", "impatient")
def test_a_mountpoint_with_any_name_is_found_again(tmp_path: Path) -> None:
    mountpoint = os.fsdecode(os.fsencode(tmp_path) + b"/a b\n\\ \xff,#")
    os.mkdir(mountpoint)
    descriptor = mounts.attach(mountpoint, "so\\urce, b", Options())
    try:
        found = mounts.find(mountpoint)
        assert found is not None
        assert (found.mountpoint, found.source) == (mountpoint, "so\\urce, b")
    finally:
        mounts.detach(mountpoint, lazy=True)
        os.close(descriptor)
    assert mounts.find(mountpoint) is None


@pytest.mark.usefixtures("impatient")
def test_a_silent_mount_counts_as_alive_and_a_second_one_is_refused(attached: Callable[..., int], tree: Path) -> None:
    attached()
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    found = mounts.find(mountpoint)
    assert found is not None
    assert (found.alive, found.pid, found.socket) == (True, None, None)
    already = f"{mountpoint}: already a notifyfs mount"
    assert refusal(mounts.check, source, mountpoint).startswith(already)
    assert refusal(mounts.attach, mountpoint, source, Options()).startswith(already)
    assert mounts.recover(mountpoint) is False


def test_a_mount_whose_descriptor_is_closed_is_dead_and_cleared_away(attached: Callable[..., int], tree: Path) -> None:
    os.close(attached())
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    found = mounts.find(mountpoint)
    assert found is not None
    assert not found.alive
    mounts.check(source, mountpoint)
    assert mounts.recover(mountpoint) is True
    assert line_of(mountpoint) is None
    assert mounts.recover(mountpoint) is False


def test_what_is_not_mounted_cannot_be_detached(tree: Path) -> None:
    mountpoint = str(tree / "mount")
    assert refusal(mounts.detach, mountpoint) == f"{mountpoint}: not mounted; `notifyfs list` says what is"


def test_the_background_queue_is_raised(attached: Callable[..., int], tree: Path) -> None:
    attached()
    line = line_of(str(tree / "mount"))
    assert line is not None
    assert mounts.raise_background(line.device) is None
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "fusectl", "fusectl", directory], check=True)
        try:
            connection = Path(directory, line.device.partition(":")[2])
            assert (connection / "max_background").read_text() == "65535\n"
            assert (connection / "congestion_threshold").read_text() == "65535\n"
        finally:
            subprocess.run(["umount", directory], check=True)


@pytest.mark.usefixtures("fuse")
def test_a_connection_that_does_not_exist_is_named() -> None:
    reason = mounts.raise_background("0:999999")
    assert reason is not None
    assert reason.endswith("/999999/max_background: No such file or directory")


def test_a_missing_device_is_a_message(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def without_fuse(path: str, *arguments: int) -> int:
        return real_open("/no/such/device" if path == "/dev/fuse" else path, *arguments)

    monkeypatch.setattr(kernel.os, "open", without_fuse)
    said = refusal(mounts.attach, str(tree / "mount"), "x", Options())
    assert said.startswith("/dev/fuse: does not exist; load the module with `modprobe fuse`")


# As a user, through fusermount3.


@pytest.fixture
def user_tree(fuse: None) -> Iterator[str]:
    """Make a directory of uid 65534 outside pytest's own, which is private to root."""
    with tempfile.TemporaryDirectory() as directory:
        os.mkdir(f"{directory}/mount")
        for path in (directory, f"{directory}/mount"):
            os.chown(path, NOBODY, NOBODY)
        yield directory
        while line_of(f"{directory}/mount"):
            mounts.detach(f"{directory}/mount", lazy=True)


def test_a_user_mounts_and_unmounts_through_fusermount3(user_tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", user_tree)
    mountpoint = f"{user_tree}/mount"

    def mount_and_unmount() -> list[object]:
        descriptor = mounts.attach(mountpoint, "a,b\\c", Options.parse(["ro,noexec,noatime,max_read=8192"]))
        line = line_of(mountpoint)
        assert line is not None
        seen = [
            os.get_inheritable(descriptor),
            line.fstype,
            line.source,
            line.user_id,
            sorted(mount_options(mountpoint)),
        ]
        mounts.detach(mountpoint)
        os.close(descriptor)
        return [*seen, line_of(mountpoint)]

    said = as_nobody(mount_and_unmount)
    assert isinstance(said, list), said
    *seen, options, after = said
    assert seen == [False, "fuse.notifyfs", "a,b\\c", NOBODY]
    assert {"ro", "noexec", "nosuid", "nodev", "noatime", "max_read=8192", "default_permissions"} <= set(options)
    assert after is None


@pytest.mark.parametrize(
    ("words", "owner", "said"),
    [
        ("suid", NOBODY, "suid and dev are for root to give; leave them out, or mount as root"),
        ("", 0, "the mountpoint must be yours to write; choose one of your own"),
    ],
)
def test_a_user_s_refusal_has_a_remedy(
    user_tree: str, monkeypatch: pytest.MonkeyPatch, words: str, owner: int, said: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", user_tree)
    os.chown(f"{user_tree}/mount", owner, owner)
    os.chmod(f"{user_tree}/mount", 0o755)

    def try_it() -> str:
        return refusal(mounts.attach, f"{user_tree}/mount", "x", Options.parse([words]))

    assert as_nobody(try_it) == f"{user_tree}/mount: {said}"


def test_a_user_without_fusermount3_is_told_the_package(user_tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", user_tree)
    monkeypatch.setenv("PATH", user_tree)
    said = as_nobody(lambda: refusal(mounts.attach, f"{user_tree}/mount", "x", Options()))
    assert said == "fusermount3: No such file or directory; install the package fuse3, or run as root"


def test_a_user_cannot_detach_root_s_mount(attached: Callable[..., int], tree: Path) -> None:
    attached("allow_other")
    mountpoint = str(tree / "mount")
    os.chmod(tree, 0o755)
    said = as_nobody(lambda: refusal(mounts.detach, mountpoint))
    assert isinstance(said, str)
    assert said.startswith(f"{mountpoint}: ")
    assert "Traceback" not in said
    assert line_of(mountpoint) is not None


# A daemon that is killed.


@pytest.mark.usefixtures("fuse")
def test_a_killed_daemon_s_mount_is_recovered_and_mounts_again(tree: Path) -> None:
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    (tree / "source" / "file").write_text("here")
    mount = [sys.executable, "-m", "notifyfs", "mount", source, mountpoint]
    try:
        first = subprocess.run(mount, check=True, capture_output=True, timeout=30).stdout.decode().strip()
        found = mounts.find(mountpoint)
        assert found is not None
        assert found.pid is not None
        assert (found.alive, found.socket, found.source) == (True, first, source)
        os.kill(found.pid, signal.SIGKILL)
        wait_until(lambda: (dead := mounts.find(mountpoint)) and not dead.alive)
        assert subprocess.run(mount, check=True, capture_output=True, timeout=30).stdout.decode().strip() == first
        again = mounts.find(mountpoint)
        assert again is not None
        assert again.pid not in (None, found.pid)
        assert [line.mountpoint for line in mountinfo.read()].count(mountpoint) == 1
        assert (tree / "mount" / "file").read_text() == "here"
        with (tree / "mount" / "file").open():
            assert "in use; `fuser -vm" in refusal(mounts.detach, mountpoint)
    finally:
        subprocess.run([sys.executable, "-m", "notifyfs", "umount", mountpoint], check=True, timeout=30)
    assert line_of(mountpoint) is None
