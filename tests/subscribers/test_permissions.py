"""Who may watch what: real unprivileged processes (setuid in a child) on a mount that admits them."""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.support import wireclient as w
from tests.support.posix import collect, start_child
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.conftest import Mount

T = TypeVar("T")

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


def test_only_root_and_the_daemons_user_may_watch_recursively(mount: Mount, tree: Path) -> None:
    tree.chmod(0o777)

    assert watching(mount, tree, w.CREATE | w.RECURSIVE) == -errno.EPERM
    assert watching(mount, tree, w.CREATE) == 1
    assert watching(mount, tree, w.CREATE | w.RECURSIVE, uid=0) == 1


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


# What else could tell a user of what is closed to that user


def received(wire: Wire) -> bytes:
    """All that comes when a client asks whatever it may ask, and who did what."""
    heard = []
    for wd, mask, name in ((w.STATISTICS, mask, b"") for mask in range(4)):
        events, reply = wire.until_reply(wire.send(wd, mask, name))
        heard += [*events, reply]
    heard += wire.events()
    return b"".join(record.field for record in heard)


def heard_of(act: Callable[[], object], listen: Callable[[Callable[[], None]], T]) -> T:
    """What *listen* returns to a user; it is given a function that has root *act* in another process."""
    (ready, go), (done, finish) = os.pipe(), os.pipe()

    def acting() -> None:
        os.read(ready, 1)
        try:
            act()
        finally:
            os.write(finish, b"x")

    def meanwhile() -> None:
        os.write(go, b"x")
        os.read(done, 1)

    child = start_child(acting)
    try:
        return w.as_user(USER, lambda: listen(meanwhile))
    finally:
        os.write(go, b"x")  # should *listen* have failed before
        collect(child)
        for descriptor in (ready, go, done, finish):
            os.close(descriptor)


def test_no_name_that_is_closed_to_a_user_is_in_any_answer(mount: Mount, tree: Path) -> None:
    tree.chmod(0o755)
    for name, mode in (("open", 0o755), ("closed", 0o700)):
        (tree / name).mkdir()
        (tree / name).chmod(mode)
    secret = made(tree / "closed/a-secret-name", 0o600)

    def listen(meanwhile: Callable[[], None]) -> tuple[bytes, dict[str, object]]:
        with Wire(mount) as wire:
            greeting = wire.hello()
            wire.add(w.ALL_EVENTS | w.ORIGIN, tree / "open")
            meanwhile()
            return received(wire), greeting

    def act() -> None:
        (tree / "closed/another-secret-name").mkdir()
        w.touch(secret)
        secret.rename(tree / "open/told")
        os.link(tree / "open/told", tree / "closed/third-secret-name")
        (tree / "closed/third-secret-name").chmod(0o640)
        (tree / "open/told").rename(secret)

    heard, greeting = heard_of(act, listen)
    assert heard.count(b"told") == 2, "it came, and it went"
    assert b"secret" not in heard
    assert b"closed" not in heard
    assert greeting.keys() == {
        *("version", "mountpoint", "source", "pid", "max_queued_events", "max_user_instances", "max_user_watches")
    }


def test_of_a_file_with_a_name_in_a_closed_directory_a_user_hears_without_that_name(mount: Mount, tree: Path) -> None:
    tree.chmod(0o755)
    (tree / "closed").mkdir(mode=0o700)
    shown = made(tree / "shown", 0o644)
    os.link(shown, tree / "closed/hidden")

    def listen(meanwhile: Callable[[], None]) -> list[tuple[int, int, bytes]]:
        with Wire(mount) as wire:
            wire.add(w.MODIFY, tree)
            wire.add(w.MODIFY, shown)
            meanwhile()
            return wire.told()

    told = heard_of(lambda: (tree / "closed/hidden").write_bytes(b"x"), listen)
    assert told == [(2, w.MODIFY, b"")], "as in Linux: the file's own watch tells, no name does"


def test_a_users_descriptor_of_something_else_is_refused(mount: Mount, tree: Path) -> None:
    file = made(tree / "f", 0o644)
    for path, how, result in (
        (mount.source / tree.name / "f", os.O_PATH, errno.EXDEV),
        ("/", os.O_PATH, errno.EXDEV),
        ("/proc/self", os.O_PATH, errno.EXDEV),
        (file, os.O_RDONLY, errno.EINVAL),
        ("/dev/null", os.O_RDWR, errno.EINVAL),
    ):
        descriptor = os.open(path, how)
        assert watching(mount, file, descriptor=descriptor) == -result, path
        os.close(descriptor)


def test_a_user_s_link_and_way_out_of_the_mount_are_refused(mount: Mount, tree: Path) -> None:
    tree.chmod(0o755)
    for name, target in (("absolute", "/etc/passwd"), ("relative", "../" * 9 + "etc/passwd"), ("up", "../..")):
        (tree / name).symlink_to(target)
        assert watching(mount, tree / name) == -errno.EXDEV, name
        assert watching(mount, tree / name, w.MODIFY | w.DONT_FOLLOW) == 1, "the link itself is inside"
    (tree / "closed").mkdir(mode=0o700)
    (tree / "closed" / "out").symlink_to("/etc/passwd")
    assert watching(mount, tree / "closed" / "out") == REFUSED, "not even that it leads out"


def test_what_a_user_may_not_watch_alone_is_not_watched_recursively_or_with_origins(mount: Mount, tree: Path) -> None:
    (tree / "open").mkdir(mode=0o755)
    (tree / "open").chmod(0o755)
    tree.chmod(0o755)
    directory = os.open(tree / "open", os.O_PATH)
    file = made(tree / "f", 0o600)

    assert watching(mount, tree, w.CREATE | w.RECURSIVE, descriptor=directory) == -errno.EPERM
    assert watching(mount, file, w.MODIFY | w.ORIGIN) == REFUSED
    assert watching(mount, file, w.ISDIR) == REFUSED, "not even a watch for nothing"
    os.close(directory)


def test_who_must_not_make_names_in_the_run_directory_cannot(mount: Mount) -> None:
    """Or anybody could put a socket of one's own where a mount's is looked for."""
    place = os.path.dirname(mount.socket)
    found = os.stat(place)
    assert (found.st_uid, stat.S_IMODE(found.st_mode) & 0o022) == (0, 0)

    def trespass() -> list[int]:
        results = []
        for attempt in (
            lambda: os.unlink(mount.socket),
            lambda: os.mknod(f"{place}/x"),
            lambda: os.rename(mount.socket, f"{place}/x"),
        ):
            try:
                attempt()
                results.append(0)
            except OSError as error:
                results.append(error.errno or 0)
        return results

    assert w.as_user(USER, trespass) == [errno.EACCES] * 3


@pytest.fixture
def unable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Mount:
    """A mount for all users whose daemon, root, has not the capability to be one of them (setfsuid(2))."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-setuid --inh-caps=-setuid {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found: Mount = request.getfixturevalue("open_mount")
    return found


def test_a_daemon_that_cannot_be_the_user_judges_nobody_as_root(unable: Mount) -> None:
    """setfsuid(2) does not say that it failed."""
    secret = made(unable.source / "secret", 0o600)
    shown = unable.root / "secret"
    assert watching(unable, shown) == REFUSED
    assert watching(unable, shown, uid=0) == 1

    def create() -> int:
        try:
            os.close(os.open(unable.root / "new", os.O_CREAT | os.O_WRONLY))
        except OSError as error:
            return -(error.errno or 0)
        return 0

    assert w.as_user(USER, create) == -errno.EPERM
    assert os.listdir(unable.source) == [secret.name], "least of all a file of root's"
