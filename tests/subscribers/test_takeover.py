"""A mount that lives on out of sight while a later one takes its socket's path: its subscribers are told the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Mount, wait_until
from tests.support import wireclient as w
from tests.support.faults import root_only
from tests.support.posix import call, get, in_child, opened, put
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [root_only, pytest.mark.usefixtures("fuse")]

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
THE_END = [(1, w.UNMOUNT | w.ISDIR, b""), (1, w.IGNORED, b"")]


def notifyfs(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "notifyfs", *words], check=True, capture_output=True, timeout=30)


def end_of(wire: Wire) -> list[tuple[int, int, bytes]]:
    return [record.brief for record in wire.until_end()]


@contextlib.contextmanager
def mounted_in(directory: Path, *words: str) -> Iterator[Callable[[], Mount]]:
    """Give a function that mounts the same source in the same place, again and again; all end with the block."""
    (directory / "source").mkdir()
    with contextlib.ExitStack() as stack:

        def again() -> Mount:
            mount = Mount(directory, words, directory / "source", directory / "root")
            stack.callback(mount.finish)
            return mount

        yield again


def lose_the_socket(directory: Path, *words: str) -> None:
    """A mount is detached while somebody is in it, and another is made in its place."""
    with mounted_in(directory, *words) as again:
        old = again()
        with opened(old.root) as inside, Wire(old) as plain, Wire(old, event_fd=True) as packets:
            for wire in (plain, packets):
                wire.add(w.CREATE)
            notifyfs("umount", "-l", old.root)
            put(f"/proc/self/fd/{inside}/before")
            for wire in (plain, packets):
                assert wire.told() == [(1, w.CREATE, b"before")], "while nobody else has the socket, all goes on"

            new = again()
            assert new.socket == old.socket
            assert end_of(plain) == THE_END
            assert end_of(packets) == []
            assert [record.brief for record in packets.packets()] == THE_END
            assert f"{old.socket}: a later daemon has this socket now" in old.log

            put(f"/proc/self/fd/{inside}/after")
            assert get(f"/proc/self/fd/{inside}/before") == b"content", "the file system goes on serving"
            with Wire(new) as wire:
                assert wire.add(w.CREATE) == 1
                put(new.root / "heard")
                assert wire.told() == [(1, w.CREATE, b"heard")]
        assert old.process.wait(20) == 0
        with Wire(new) as wire:
            assert wire.add(w.CREATE) == 1, "the end of the old one costs the new one nothing"


def test_a_mount_that_was_detached_in_use_ends_its_subscribers_when_the_next_one_has_their_socket(
    tmp_path: Path,
) -> None:
    lose_the_socket(tmp_path)


def test_with_a_socket_of_one_s_own_too(tmp_path: Path) -> None:
    lose_the_socket(tmp_path, f"socket={tmp_path}/socket")


def test_where_the_kernel_s_inotify_cannot_be_had_too() -> None:
    """In a user namespace, whose limit is its own."""

    def first() -> None:
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        for name, text in (("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1")):
            Path("/proc/self", name).write_text(text, "ascii")
        Path("/proc/sys/user/max_inotify_instances").write_text("0", "ascii")

    def scenario() -> None:
        with tempfile.TemporaryDirectory() as directory:
            lose_the_socket(Path(directory))

    in_child(scenario, first)


def test_a_container_keeps_the_old_mount_and_its_reader_is_told_the_end(tmp_path: Path) -> None:
    with mounted_in(tmp_path) as again:
        old = again()
        asleep = ["unshare", "--mount", "--propagation", "private", "sleep", "infinity"]
        with Wire(old) as wire, subprocess.Popen(asleep) as container:
            try:
                here = os.readlink("/proc/self/ns/mnt")
                wait_until(lambda: os.readlink(f"/proc/{container.pid}/ns/mnt") != here)
                wait_until(lambda: Path(f"/proc/{container.pid}/comm").read_text("ascii") == "sleep\n")
                wire.add(w.CREATE)
                notifyfs("umount", "-l", old.root)
                again()
                assert end_of(wire) == THE_END
                inside = Path(f"/proc/{container.pid}/root{old.root}")
                put(inside / "new")
                assert get(old.source / "new") == b"content"
                assert old.process.poll() is None
            finally:
                container.send_signal(signal.SIGTERM)
        assert old.process.wait(20) == 0


def test_a_subscriber_that_does_not_read_is_ended_all_the_same(tmp_path: Path) -> None:
    with mounted_in(tmp_path) as again:
        old = again()

        def sockets() -> int:
            return sum(each.startswith("socket:") for each in w.descriptors_of(old.pid))

        before = sockets()
        with opened(old.root), Wire(old) as wire:
            wire.add(w.CREATE)
            for number in range(3000):
                put(old.root / f"{number}-{'x' * 200}", b"")
            notifyfs("umount", "-l", old.root)
            again()
            wait_until(lambda: sockets() < before, what="the end of the connection and of the listener")
            assert wire.until_end()[0].mask == w.CREATE


@pytest.mark.parametrize("option", ["socket", "log"])
@pytest.mark.parametrize("how", ["below the mountpoint", "through a link"])
def test_what_the_mount_would_hide_is_refused(tmp_path: Path, option: str, how: str) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "link").symlink_to("tree")
    path = tmp_path / ("tree" if how == "below the mountpoint" else "link") / "it"
    done = subprocess.run(
        [sys.executable, "-m", "notifyfs", "mount", "-o", f"{option}={path}", tmp_path / "tree", tmp_path / "tree"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    mounted = os.path.ismount(tmp_path / "tree")
    if mounted:
        subprocess.run(["umount", tmp_path / "tree"], check=True)
    what, value = {"socket": ("control socket", "PATH"), "log": ("log", "FILE")}[option]
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        (
            f"notifyfs: {path}: the {what} would be hidden by the mount on {tmp_path}/tree; "
            f"choose another with -o {option}={value}\n"
        ),
    )
    assert (os.listdir(tmp_path / "tree"), mounted) == ([], False)
