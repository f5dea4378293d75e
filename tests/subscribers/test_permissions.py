"""Who may watch what: real unprivileged processes (setuid in a child) on a mount that admits them."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.conftest import Mount

USER, OTHER_USER, GROUP = 12345, 12346, 5555
REFUSED = -errno.EACCES


@pytest.fixture(autouse=True)
def root_only() -> None:
    """Becoming another user takes root."""
    if os.getuid():
        pytest.skip("only root can become another user")


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount that admits other users."""
    return shared("allow_other")


@pytest.fixture
def tree(mount: Mount, tmp_path: Path) -> Path:
    """An empty directory of this test's own in the mount."""
    directory = mount.root / tmp_path.name
    directory.mkdir(mode=0o755)
    return directory


def made(path: Path, mode: int, uid: int = 0, gid: int = 0) -> Path:
    """A file with these permissions."""
    w.touch(path)
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


def watching(  # noqa: PLR0913 - credentials have many parts
    mount: Mount,
    path: Path,
    mask: int = w.MODIFY,
    *,
    uid: int = USER,
    gid: int | None = None,
    groups: Iterable[int] = (),
    descriptor: int | None = None,
) -> int:
    """What the daemon answers to a real user who wants to watch *path*, or *descriptor* instead."""

    def ask() -> int:
        with Wire(mount) as wire:
            return wire.watch(mask, path) if descriptor is None else wire.add_descriptor(mask, descriptor)

    return w.as_user(uid, ask, gid=gid, groups=groups)


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "groups", "result"),
    [
        (0o644, 0, 0, (), 1),
        (0o600, 0, 0, (), REFUSED),
        (0o311, 0, 0, (), REFUSED),
        (0o400, USER, 0, (), 1),
        (0o044, USER, 0, (), REFUSED),
        (0o040, 0, USER, (), 1),
        (0o004, 0, USER, (), REFUSED),
        (0o640, 0, GROUP, (), REFUSED),
        (0o640, 0, GROUP, (GROUP,), 1),
        (0o640, 0, GROUP, (1, 2, 3, GROUP), 1),
        (0o640, 0, GROUP, (*range(10000, 11000), GROUP), 1),
        (0o640, 0, GROUP, (1, 2, 3), REFUSED),
        (0o604, 0, GROUP, (GROUP,), REFUSED),
    ],
    ids=[
        "all may read",
        "only root may read",
        "nobody may read",
        "the owner may read",
        "the owner may not read though all others may",
        "the group may read",
        "the group may not read though all others may",
        "another group may read",
        "a supplementary group may read",
        "the last of several supplementary groups may read",
        "one of a thousand supplementary groups may read",
        "none of the supplementary groups may read",
        "the supplementary group may not read though all others may",
    ],
)
def test_watching_takes_read_permission(  # noqa: PLR0913, PLR0917 - a table
    mount: Mount, tree: Path, mode: int, uid: int, gid: int, groups: tuple[int, ...], result: int
) -> None:
    file = made(tree / "f", mode, uid, gid)

    assert watching(mount, file, groups=groups) == result
    assert watching(mount, file, uid=0) == 1, "root may"


def test_watching_a_directory_takes_read_permission_on_it(mount: Mount, tree: Path) -> None:
    for name, mode, result in (("searched", 0o711, REFUSED), ("read", 0o744, 1), ("both", 0o755, 1)):
        (tree / name).mkdir()
        (tree / name).chmod(mode)

        assert watching(mount, tree / name, w.CREATE) == result, name


def test_search_permission_is_needed_on_every_directory_on_the_way(mount: Mount, tree: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    file = made(tree / "a" / "b" / "f", 0o644)
    (tree / "link").symlink_to("a/b/f")
    (tree / "a").chmod(0o744)

    assert watching(mount, file) == REFUSED
    assert watching(mount, tree / "link") == REFUSED
    assert watching(mount, tree / "a" / "absent") == REFUSED, "not even whether it exists"
    (tree / "a").chmod(0o711)
    assert watching(mount, file) == 1
    assert watching(mount, tree / "link") == 1


def test_search_permission_is_needed_even_to_turn_back(mount: Mount, tree: Path) -> None:
    (tree / "closed").mkdir(mode=0o700)
    made(tree / "f", 0o644)

    assert watching(mount, tree / "closed" / ".." / "f") == REFUSED


def test_search_permission_may_come_from_a_supplementary_group(mount: Mount, tree: Path) -> None:
    (tree / "d").mkdir()
    os.chown(tree / "d", 0, GROUP)
    (tree / "d").chmod(0o710)
    file = made(tree / "d" / "f", 0o644)

    assert watching(mount, file) == REFUSED
    assert watching(mount, file, groups=[GROUP]) == 1


def test_a_descriptor_proves_the_way(mount: Mount, tree: Path) -> None:
    (tree / "closed").mkdir(mode=0o700)
    file = made(tree / "closed" / "f", 0o644)
    descriptor = os.open(file, os.O_PATH)

    assert watching(mount, file) == REFUSED
    assert watching(mount, file, descriptor=descriptor) == 1
    os.close(descriptor)


def test_a_descriptor_does_not_replace_read_permission(mount: Mount, tree: Path) -> None:
    file = made(tree / "f", 0o640, 0, GROUP)
    descriptor = os.open(file, os.O_PATH)

    assert watching(mount, file, descriptor=descriptor) == REFUSED
    assert watching(mount, file, descriptor=descriptor, groups=[GROUP]) == 1
    os.close(descriptor)


def test_permission_is_asked_when_the_watch_is_added_and_not_later(mount: Mount, tree: Path) -> None:
    file = made(tree / "f", 0o644)
    added, go = os.pipe(), os.pipe()

    def watch_and_wait() -> tuple[int, list[tuple[int, int, bytes]], int]:
        with Wire(mount) as wire:
            wd = wire.watch(w.ATTRIB, file)
            os.write(added[1], b"x")
            os.read(go[0], 1)
            told = wire.told()
            return wd, told, wire.watch(w.MODIFY, file)

    def forbid() -> None:
        os.read(added[0], 1)
        file.chmod(0o600)
        os.write(go[1], b"x")

    child = os.fork()
    if not child:
        forbid()
        os._exit(0)
    try:
        assert w.as_user(USER, watch_and_wait) == (1, [(1, w.ATTRIB, b"")], REFUSED)
    finally:
        os.waitpid(child, 0)
        for descriptor in (*added, *go):
            os.close(descriptor)


def test_the_credentials_are_those_of_the_connection_and_not_of_the_daemon(mount: Mount, tree: Path) -> None:
    file = made(tree / "f", 0o600, USER, USER)

    assert watching(mount, file, uid=USER) == 1
    assert watching(mount, file, uid=OTHER_USER) == REFUSED
    assert watching(mount, file, uid=OTHER_USER, gid=USER) == REFUSED
    assert watching(mount, file, uid=OTHER_USER, gid=0, groups=[0]) == REFUSED, "root's group is not root"


def test_a_refused_watch_tells_nothing(mount: Mount, tree: Path) -> None:
    file = made(tree / "f", 0o600)

    def told() -> list[tuple[int, int, bytes]]:
        with Wire(mount) as wire:
            assert wire.watch(w.ATTRIB, file) == REFUSED
            os.write(go, b"x")
            os.read(done, 1)
            return wire.told()

    (wait, go), (done, finish) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(wait, 1)
        file.chmod(0o400)
        os.write(finish, b"x")
        os._exit(0)
    try:
        assert w.as_user(USER, told) == []
    finally:
        os.waitpid(child, 0)
        for descriptor in (wait, go, done, finish):
            os.close(descriptor)


def test_the_origin_names_the_real_user_who_did_it(mount: Mount, tree: Path) -> None:
    tree.chmod(0o777)
    with Wire(mount) as wire:
        wire.add(w.CREATE | w.ORIGIN, tree)
        directory = os.open(tree, os.O_PATH)
        pid = w.as_user(USER, lambda: (os.mkdir("d", dir_fd=directory), os.getpid())[1], gid=GROUP)
        os.close(directory)
        before, event = wire.events()

    origin = w.origin_of(before)
    assert event.brief == (1, w.CREATE | w.ISDIR, b"d")
    assert (origin.uid, origin.gid, origin.pid) == (USER, GROUP, pid)


def test_a_mount_that_admits_nobody_else_lets_nobody_else_watch(shared: Callable[..., Mount]) -> None:
    mount = shared()

    def ask() -> int:
        try:
            with Wire(mount) as wire:
                return wire.watch(w.CREATE)
        except PermissionError:
            return REFUSED

    assert w.as_user(USER, ask) == REFUSED


@pytest.mark.parametrize(
    ("options", "owner", "mode"),
    [
        ((), (0, 0), 0o600),
        (("uid=nobody",), (65534, 0), 0o600),
        (("gid=12345",), (0, 12345), 0o660),
        (("allow_other",), (0, 0), 0o666),
    ],
)
def test_the_socket_belongs_to_whom_the_options_say(
    mounted: Callable[..., Mount], options: tuple[str, ...], owner: tuple[int, int], mode: int
) -> None:
    found = os.stat(mounted(*options).socket)
    assert ((found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode)) == (owner, mode)
