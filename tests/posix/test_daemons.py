"""Daemons with few descriptors, and daemons of unprivileged users through fusermount3."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from notifyfs.fuse import probe
from tests.conftest import Mount, wait_until
from tests.support import wireclient
from tests.support.posix import (
    EXCHANGE,
    as_user,
    become,
    call,
    fails,
    get,
    in_child,
    mode_of,
    opened,
    put,
    rename2,
)
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["tests.support.posix"]

NAMED_USER, NAMED_GROUP = 65534, 65534  # fusermount3 wants one that /etc/passwd knows: nobody
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_BIND = 0x20000, 0x4000, 1 << 18, 4096


# Few descriptors


@contextlib.contextmanager
def started_by(monkeypatch: pytest.MonkeyPatch, wrapper: Path, *words: str) -> Iterator[None]:
    """Daemons are started by *words* in the shell, which ends in the real Python."""
    wrapper.write_text(f'#!/bin/sh\n{" ".join(words)} {sys.executable} "$@"\n', "utf-8")
    wrapper.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(wrapper))
        yield


def make_tree(source: Path) -> int:
    """5,000 files in 500 directories, three levels deep."""
    for one in range(10):
        for two in range(49):
            directory = source / f"{one}/{two}"
            directory.mkdir(parents=True)
            for three in range(10):
                os.mknod(directory / f"f{three}")
        for three in range(10):
            os.mknod(source / f"{one}/g{three}")
    return 10 + 490 + 4900 + 100


def walk(root: Path) -> int:
    done = subprocess.run(["find", root, "-mindepth", "1", "-ls"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert not done.stderr
    return done.stdout.count(b"\n")


@pytest.mark.parametrize("limit", [256, 128])
def test_a_walk_needs_few_descriptors(
    mounted: Callable[..., Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    with started_by(monkeypatch, tmp_path / "python", f"ulimit -n {limit}; exec"):
        mount = mounted()
    assert resource.prlimit(mount.pid, resource.RLIMIT_NOFILE) == (limit, limit)
    count = make_tree(mount.source)

    assert walk(mount.root) == count
    assert len(os.listdir(f"/proc/{mount.pid}/fd")) < limit
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(opened(mount.root / f"{n % 10}/{n}/f1", os.O_RDWR)) for n in range(40)]
        for number, fd in enumerate(held):
            os.write(fd, b"%d" % number)
        assert walk(mount.root) == count
        assert [int(get(mount.source / f"{n % 10}/{n}/f1")) for n in range(40)] == list(range(40))
    subprocess.run(["rm", "-r", *(mount.root / name for name in os.listdir(mount.root))], check=True)
    assert not os.listdir(mount.source)


def test_out_of_descriptors_is_emfile_and_passes(
    mounted: Callable[..., Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many open files as the daemon may have: an honest error, no short listing, and then all is well again."""
    with started_by(monkeypatch, tmp_path / "python", "ulimit -n 256; exec"):
        mount = mounted()
    for number in range(400):
        put(mount.source / f"f{number}", b"%d" % number)
    with contextlib.ExitStack() as stack:
        with fails(errno.EMFILE):
            for number in range(400):
                stack.enter_context(opened(mount.root / f"f{number}"))
        try:
            assert len(os.listdir(mount.root)) == 400
        except OSError as error:
            assert error.errno == errno.EMFILE  # noqa: PT017
    # Each close is told to the daemon after close(2) has returned.
    wait_until(lambda: len(os.listdir(f"/proc/{mount.pid}/fd")) < 100)
    assert get(mount.root / "f399") == b"399"
    assert len(os.listdir(mount.root)) == 400


def test_a_lower_limit_while_it_runs(mount: Mount) -> None:
    make_tree(mount.source)
    walk(mount.root)
    now = len(os.listdir(f"/proc/{mount.pid}/fd"))
    resource.prlimit(mount.pid, resource.RLIMIT_NOFILE, (now + 20, now + 20))
    assert walk(mount.root) == 5500


# A daemon of an unprivileged user, through fusermount3


def own_device(base: Path) -> str:
    """How users get at /dev/fuse here: by its mode, or by a node of this process's own mount namespace."""
    if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        return "by its mode"
    node = base / "fuse"
    if not node.exists():
        os.mknod(node, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
        node.chmod(0o666)
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    call("mount", bytes(node), b"/dev/fuse", None, ctypes.c_ulong(MS_BIND), None)
    open_to_all(Path(sys.base_prefix))
    return "by a node in a mount namespace of its own"


def open_to_all(path: Path) -> None:
    """Where a directory above *path* is closed to users (pyenv in /root): show them *path* alone, in this namespace."""
    closed = next((each for each in reversed(path.parents) if not each.stat().st_mode & 1), None)
    if closed is None:
        return
    with opened(path, os.O_PATH) as fd:
        call("mount", b"none", bytes(closed), b"tmpfs", ctypes.c_ulong(0), b"mode=755")
        path.mkdir(parents=True)
        call("mount", b"/proc/self/fd/%d" % fd, bytes(path), None, ctypes.c_ulong(MS_BIND), None)


def as_who_may_mount(base: Path, name: str, body: Callable[[Path], None]) -> None:
    """Run *body* as a user who may mount, with a directory of this user's own."""
    if os.getuid():
        pytest.skip("only root can become another user")
    directory = base / name
    directory.mkdir()
    os.chown(directory, NAMED_USER, NAMED_GROUP)

    def first() -> None:
        own_device(base)
        become(NAMED_USER, NAMED_GROUP, ())
        os.environ["XDG_RUNTIME_DIR"] = str(directory)

    in_child(lambda: body(directory), first)


def users_own(base: Path, name: str, body: Callable[[Mount], None]) -> None:
    """Run *body* as a user, with a mount that this user has made."""

    def run(directory: Path) -> None:
        mount = Mount(directory / "m", ())
        try:
            assert os.stat(f"/proc/{mount.pid}").st_uid == NAMED_USER
            body(mount)
            mount.check()
        finally:
            os.chdir("/")
            mount.finish()

    as_who_may_mount(base, name, run)


def test_a_users_own_mount_does_what_a_directory_does(fuse: None, posix_base: Path) -> None:
    def body(mount: Mount) -> None:
        plain = mount.root.parent / "plain"
        plain.mkdir()
        for root in (plain, mount.root):
            os.chdir(root)
            os.umask(0o027)
            put("f", b"content", 0o666)
            os.mkdir("d", 0o777)
            assert (mode_of("f"), mode_of("d")) == (0o640, 0o750)
            assert (os.stat("f").st_uid, os.stat("f").st_gid) == (NAMED_USER, NAMED_GROUP)
            os.link("f", "d/h")
            os.symlink("f", "l")
            os.mkfifo("p")
            os.rename("d", "e")
            rename2(b"f", b"l", EXCHANGE)
            os.setxattr("l", "user.a", b"b")
            os.utime("l", ns=(1, 2))
            assert (get("e/h"), os.stat("l").st_nlink, os.stat("l").st_mtime_ns) == (b"content", 2, 2)
            with opened("gone", os.O_RDWR | os.O_CREAT) as fd:
                os.unlink("gone")
                os.write(fd, b"x")
                os.fchmod(fd, 0o600)
                os.ftruncate(fd, 100)
                assert (os.fstat(fd).st_size, os.fstat(fd).st_nlink, mode_of(fd)) == (100, 0, 0o600)
            os.chmod("l", 0)
            with fails(errno.EACCES):
                get("l")
            os.chmod("l", 0o6755)
            with opened("l", os.O_WRONLY) as fd:
                os.write(fd, b"x")
            assert mode_of("l") == 0o755, "setuid and setgid are cleared"
            with fails(errno.EPERM):
                os.chown("l", 0, -1)
            with fails(errno.EPERM):
                os.mknod("dev", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            assert sorted(os.listdir(".")) == ["e", "f", "l", "p"]

    users_own(posix_base, "one", body)


def test_a_users_own_mount_gives_no_rights_that_the_user_has_not(fuse: None, posix_base: Path) -> None:
    def body(mount: Mount) -> None:
        put(mount.source / "mine")
        os.symlink("/etc/shadow", mount.source / "l")
        with fails(errno.EACCES):
            get(mount.root / "l")
        assert get(mount.root / "mine") == b"content"

    users_own(posix_base, "two", body)


def test_a_users_own_mount_refuses_its_user_nothing_after_a_change_in_the_source(fuse: None, posix_base: Path) -> None:
    def body(mount: Mount) -> None:
        put(mount.source / "f")
        (mount.source / "d").mkdir()
        with opened(mount.root / "f", os.O_RDWR) as fd:
            for number, mode in enumerate((0o775, 0o700, 0o750)):
                os.stat(mount.root / "d")
                (mount.source / "d").chmod(mode)
                (mount.source / "f").chmod(mode)
                os.mkdir(mount.root / "d" / str(number))
                os.symlink("x", mount.root / "d" / f"l{number}")
                os.fchmod(fd, 0o600)
                os.utime(fd)
                os.setxattr(fd, "user.x", b"1")

    users_own(posix_base, "changed", body)


def test_a_users_own_mount_walks_with_few_descriptors(fuse: None, posix_base: Path) -> None:
    def body(mount: Mount) -> None:
        resource.prlimit(mount.pid, resource.RLIMIT_NOFILE)
        count = make_tree(mount.source)
        assert walk(mount.root) == count
        subprocess.run(["rm", "-r", *(mount.root / name for name in os.listdir(mount.root))], check=True)

    users_own(posix_base, "three", body)


def test_root_is_kept_out_of_a_users_own_mount(fuse: None, posix_base: Path) -> None:
    """FUSE's rule without allow_other, which is why the mount is tested in the user's own process."""

    def body(mount: Mount) -> None:
        done = subprocess.run(["stat", mount.root], capture_output=True, check=False)
        assert done.returncode == 0
        line = next(
            line for line in Path("/proc/self/mountinfo").read_text("utf-8").split("\n") if str(mount.root) in line
        )
        assert f"user_id={NAMED_USER}" in line
        assert "nosuid" in line
        assert "nodev" in line
        assert "allow_other" not in line

    users_own(posix_base, "four", body)


def test_what_the_kernel_does_is_tried_through_fusermount3_just_as_well(fuse: None, posix_base: Path) -> None:
    expected = probe.examine()

    def body(directory: Path) -> None:
        tempfile.tempdir = str(directory)
        assert probe.examine() == expected
        assert os.listdir(directory) == []
        assert "notifyfs-probe" not in Path("/proc/self/mountinfo").read_text("utf-8")

    as_who_may_mount(posix_base, "prober", body)


def test_a_fusermount3_that_hangs_does_not_keep_a_mount_from_starting(fuse: None, posix_base: Path) -> None:
    """Not while what the kernel does is tried: nothing is relied on then."""

    def body(directory: Path) -> None:
        (directory / "fusermount3").write_text(f"#!/bin/sh\nexec cat {directory}/never\n")
        (directory / "fusermount3").chmod(0o755)
        os.mkfifo(directory / "never")
        os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
        assert probe.examine() == probe.Kernel()

    as_who_may_mount(posix_base, "hangs", body)


def test_hello_says_that_closes_may_come_late_where_fusectl_cannot_be_had(fuse: None, posix_base: Path) -> None:
    def body(mount: Mount) -> None:
        with wireclient.Wire(mount) as wire:
            kernel = wire.hello()["kernel"]
        late = "a close may be told after later operations" in mount.log
        assert kernel == attrs.asdict(probe.examine()) | {"release_in_order": not late}
        assert late != os.path.ismount("/sys/fs/fuse/connections")

    users_own(posix_base, "late", body)


def test_while_a_signalled_daemon_waits_for_fusermount3_it_goes_on_serving(fuse: None, posix_base: Path) -> None:
    def body(directory: Path) -> None:
        # It waits with the mount only, not with the one that the probe makes.
        (directory / "fusermount3").write_text(
            f"#!/bin/sh\n"
            f'case "$*" in -u*{directory}/m/*) : >{directory}/started; read -r _ <{directory}/go;; esac\n'
            f'exec {shutil.which("fusermount3")} "$@"\n'
        )
        (directory / "fusermount3").chmod(0o755)
        os.mkfifo(directory / "go")
        os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"
        mount = Mount(directory / "m", ())
        try:
            os.kill(mount.pid, signal.SIGTERM)
            wait_until((directory / "started").exists)
            with contextlib.closing(Subscriber(mount.socket, timeout=5)) as subscriber:
                subscriber.add(b"", 0x100)
                put(mount.root / "new")
                assert [event.name for event in subscriber.drain()] == [b"new"]
        finally:
            with opened(directory / "go", os.O_RDWR) as go:  # opened both ways, nobody waits for the other end
                os.write(go, b"\n")
                mount.finish()

    as_who_may_mount(posix_base, "five", body)


def test_a_mount_without_allow_other_is_closed_to_others(mount: Mount) -> None:
    def body() -> int | None:
        try:
            os.stat(".")
        except OSError as error:
            return error.errno
        return None

    with contextlib.chdir(mount.root):
        assert as_user(body) == errno.EACCES


def test_roots_daemon_keeps_only_the_capabilities_that_it_needs(mount: Mount) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{mount.pid}/status").read_text("utf-8").splitlines()
        if ":\t" in line
    )
    kept = {number for number in range(64) if int(status["CapPrm"], 16) >> number & 1}
    assert kept <= {0, 1, 2, 3, 4, 6, 7, 12, 19, 21, 24, 27, 31, 33}
    assert not kept & {13, 16, 17, 22, 25}, "raw sockets, modules, raw I/O, reboot, time: of no use to a file system"
    assert status["NoNewPrivs"] == "1"
