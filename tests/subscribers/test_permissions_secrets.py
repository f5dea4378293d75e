"""What else could tell a user of what is closed to that user: names, errors, descriptors, the run directory."""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TYPE_CHECKING, TypeVar

import pytest

from tests.subscribers.test_permissions import REFUSED, USER, made, mount, root_only, tree, watching
from tests.support import wireclient as w
from tests.support.posix import collect, start_child
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["mount", "root_only", "tree"]


T = TypeVar("T")


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
        *(
            "version",
            "kernel",
            "mountpoint",
            "source",
            "pid",
            "max_queued_events",
            "max_user_instances",
            "max_user_watches",
            "max_user_queued_bytes",
        )
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
    (tree / "searched").mkdir()
    (tree / "searched").chmod(0o711)
    directory = os.open(tree / "searched", os.O_PATH)
    file = made(tree / "f", 0o600)

    assert watching(mount, tree / "open", w.CREATE | w.RECURSIVE) == 1
    assert watching(mount, tree / "searched", w.CREATE | w.RECURSIVE) == REFUSED
    assert watching(mount, tree, w.CREATE | w.RECURSIVE, descriptor=directory) == REFUSED
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
