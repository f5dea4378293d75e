"""A path is judged from the root of the file system down: who could not walk to the mountpoint hears nothing of it.

Real unprivileged processes, as everywhere. The mount admits all users, and so does its socket: only the directories
above the mountpoint say who may name what.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.faults import FaultySource, ask, root_only, stopped
from tests.support.posix import opened
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.conftest import Mount
    from tests.support.faults import Asker

__all__ = ["ask"]

pytestmark = root_only

USER, GROUP = 12345, 5555
REFUSED = -errno.EACCES


@pytest.fixture
def base() -> Iterator[Path]:
    """Give a directory that every user can reach, with an open source in it."""
    with tempfile.TemporaryDirectory(prefix="notifyfs-reach-") as name:
        base = Path(name)
        base.chmod(0o755)
        (base / "source").mkdir()
        (base / "source" / "file").touch()
        yield base


@pytest.fixture
def below(base: Path, mounted: Callable[..., Mount]) -> Iterator[Callable[..., Mount]]:
    """Give a function that mounts on a place in *base* that may lie deep, for all users."""
    mounts: list[Mount] = []

    def below(place: str, *words: str) -> Mount:
        (base / place).mkdir(parents=True)
        mounts.append(mounted("allow_other", *words, source=base / "source", root=base / place))
        return mounts[-1]

    yield below
    for mount in mounts:
        mount.unmount()


def watching(mount: Mount, path: bytes = b"", *, uid: int = USER, groups: Iterable[int] = (), fd: int = -1) -> int:
    """What the daemon answers to a real user who wants to watch *path* below the root, or *fd* instead."""

    def asked() -> int:
        with Wire(mount) as wire:
            return wire.watch(w.CREATE, path) if fd < 0 else wire.add_descriptor(w.CREATE, fd)

    return w.as_user(uid, asked, groups=groups)


@pytest.mark.parametrize("closed", ["a", "a/b", "a/b/c"])
def test_one_closed_directory_above_the_mountpoint_keeps_a_user_out(
    base: Path, below: Callable[..., Mount], closed: str
) -> None:
    mount = below("a/b/c/mnt")
    assert watching(mount) == 1
    (base / closed).chmod(0o700)
    for path in (b"", b"file", b"absent", b"/"):
        assert watching(mount, path) == REFUSED, "not even whether a name exists"
    assert watching(mount, uid=0) == 1, "root may walk there"


def test_each_add_is_judged_by_the_permissions_of_its_moment(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/mnt")
    (base / "a").chmod(0o700)
    assert watching(mount) == REFUSED
    (base / "a").chmod(0o711)
    assert watching(mount) == 1
    os.chown(base / "a", 0, GROUP)
    (base / "a").chmod(0o710)
    assert watching(mount) == REFUSED
    assert watching(mount, groups=(1, GROUP)) == 1, "a supplementary group may search it"
    os.chown(base / "a", USER, 0)
    assert watching(mount) == 1, "the owner may"
    (base / "a").chmod(0o677)
    assert watching(mount) == REFUSED, "the owner may not, though all others may"


def test_a_watch_that_is_there_goes_on_when_the_way_is_closed(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/mnt")
    ready, go = os.pipe(), os.pipe()

    def listen() -> list[bytes]:
        with Wire(mount) as wire:
            wire.add(w.CREATE)
            os.write(ready[1], b"1")
            os.read(go[0], 1)
            refused = wire.watch(w.MODIFY, b"file")
            return [event.name for event in wire.events()] + [str(refused).encode()]

    with contextlib.ExitStack() as stack:
        for fd in (*ready, *go):
            stack.callback(os.close, fd)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                os.write(ready[1], b",".join(w.as_user(USER, listen)))
            os._exit(0)
        assert os.read(ready[0], 1) == b"1"
        (base / "a").chmod(0o700)
        (mount.root / "new").touch()
        os.write(go[1], b"1")
        assert os.read(ready[0], 100) == b"new,%d" % REFUSED
        os.waitpid(child, 0)


def test_the_way_is_found_after_a_directory_above_was_renamed(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/b/mnt")
    (base / "closed").mkdir(mode=0o700)
    (base / "a" / "b").rename(base / "closed" / "b")
    moved = [watching(mount), watching(mount, uid=0)]
    (base / "a" / "b" / "mnt").mkdir(parents=True)
    moved.append(watching(mount))
    (base / "a" / "b" / "mnt").rmdir()
    (base / "a" / "b").rmdir()
    (base / "closed" / "b").rename(base / "a" / "b")  # where it is unmounted
    assert moved == [REFUSED, 1, REFUSED], "another directory that has its name now changes nothing"
    assert watching(mount) == 1


def test_a_directory_that_is_bound_into_itself_is_not_taken_for_the_top(
    base: Path, below: Callable[..., Mount]
) -> None:
    (base / "closed" / "open" / "again").mkdir(parents=True)
    subprocess.run(["mount", "--bind", base / "closed" / "open", base / "closed" / "open" / "again"], check=True)
    mount = below("closed/open/again/mnt")
    try:
        assert watching(mount) == 1
        (base / "closed").chmod(0o700)
        assert watching(mount) == REFUSED
    finally:
        mount.unmount()
        assert mount.process.wait(20) == 0
        subprocess.run(["umount", base / "closed" / "open" / "again"], check=True)


def test_a_descriptor_proves_the_way(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/mnt")
    (base / "a").chmod(0o700)
    with opened(mount.root, os.O_PATH) as fd:
        assert watching(mount, fd=fd) == 1


def test_with_reach_socket_who_may_connect_begins_at_the_mountpoint(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/mnt", "reach=socket")
    (base / "a").chmod(0o700)
    (base / "source" / "closed").mkdir(mode=0o700)
    (base / "source" / "closed" / "file").touch()
    assert watching(mount) == 1
    assert watching(mount, b"file") == 1
    assert watching(mount, b"closed/file") == REFUSED, "inside it is judged as ever"


def test_a_filter_that_was_drafted_for_an_add_out_of_reach_is_used_up(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/mnt")
    (base / "a").chmod(0o700)

    def asked() -> tuple[int, ...]:
        with Wire(mount) as wire:
            return wire.ask(-4, 1, b"*.o"), wire.watch(w.CREATE | 0x40000), wire.watch(w.CREATE | 0x40000)

    assert w.as_user(USER, asked) == (0, REFUSED, -errno.EINVAL)


def test_a_mask_that_makes_no_sense_is_refused_first(base: Path, below: Callable[..., Mount]) -> None:
    mount = below("a/mnt")
    (base / "a").chmod(0o700)

    def asked() -> int:
        with Wire(mount) as wire:
            return wire.watch(0)

    assert w.as_user(USER, asked) == -errno.EINVAL


def held_up(wire: Wire, root: int, mount: Mount, ask: Callable[[Callable[[], object]], Asker]) -> Asker:
    """Somebody who names a path while a directory above does not answer; everybody else is answered."""

    def add() -> int:
        with Wire(mount) as other:
            return other.watch(w.CREATE)

    asker = ask(add)
    w.wait_until(lambda: wire.statistics()["mount"]["instances"] == 2, "the second connection")
    for name in ("one", "two"):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=root))
        assert [event.name for event in wire.events()] == [name.encode()]
    assert not asker.answered(0)
    return asker


@pytest.fixture
def hung(fuse: None, base: Path) -> Iterator[FaultySource]:
    """Give a file system of somebody's, at ``hung``, that can be stopped."""
    hung = FaultySource(base / "hung")
    yield hung
    hung.close()


def test_a_directory_above_that_does_not_answer_holds_up_who_names_a_path_and_nobody_else(
    hung: FaultySource, below: Callable[..., Mount], ask: Callable[[Callable[[], object]], Asker]
) -> None:
    mount = below("hung/mnt")
    with opened(mount.root) as root, opened(mount.root, os.O_PATH) as path, Wire(mount) as wire:
        with stopped(hung.pid):
            assert wire.add_descriptor(w.CREATE, path) == 1
            asker = held_up(wire, root, mount, ask)
        assert asker.result() == 1
    mount.unmount()
    assert mount.process.wait(20) == 0


def test_a_file_system_that_covers_a_directory_above_later_holds_up_nobody_either(
    base: Path, hung: FaultySource, below: Callable[..., Mount], ask: Callable[[Callable[[], object]], Asker]
) -> None:
    """As a user with fusermount3 can do it in a directory of one's own."""
    mount = below("a/b/mnt")
    with opened(mount.root) as root, opened(mount.root, os.O_PATH) as path, Wire(mount) as wire:
        subprocess.run(["mount", "--bind", hung.root, base / "a"], check=True)
        try:
            with stopped(hung.pid):
                assert wire.add_descriptor(w.CREATE, path) == 1
                asker = held_up(wire, root, mount, ask)
            asker.result()
        finally:
            subprocess.run(["umount", base / "a"], check=True)
