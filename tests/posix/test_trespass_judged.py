"""What the kernel lets pass by attributes of the past, the source judges once more.

The user makes a file that the mount knows, removes it in the source, and another user makes a private one
of the same name there: it gets the same inode number, and the kernel still takes it for the first one's.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.conftest import wait_until
from tests.posix.test_trespass import mount
from tests.support.posix import (
    GROUP_OBJ,
    MASK,
    NOBODY,
    OTHER,
    OTHERS,
    SUPPLEMENTARY,
    USER,
    USER_OBJ,
    USER_TAG,
    acl,
    as_user,
    become,
    collect,
    get,
    mode_of,
    opened,
    start_child,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["mount"]

SECRET = b"another's"
ATTRIBUTE = "user.secret"


def make_as(uid: int, path: Path, content: bytes, mode: int) -> int:
    """A file (a directory without content) of this user's, at once under its name; its inode number."""
    if content:
        path.write_bytes(content)
    else:
        path.mkdir()
        (path / "inside").write_bytes(SECRET)
    os.chown(path, uid, uid)
    os.chmod(path, mode)
    return path.stat().st_ino


def remove(path: Path) -> None:
    if path.is_dir():
        (path / "inside").unlink(missing_ok=True)
        path.rmdir()
    else:
        path.unlink()


def exchanged(mount: Mount, name: str, content: bytes) -> Path:
    """The user's file or directory, known to the kernel, and by now another's under the same name and number."""
    path = mount.source / name
    for _ in range(200):
        first = make_as(USER, path, content, 0o777)
        os.stat(mount.root / name)
        remove(path)
        if make_as(OTHER, path, content and SECRET, 0o700) == first:
            os.setxattr(path, ATTRIBUTE, SECRET)
            return path
        remove(path)
    raise AssertionError("this file system does not use a number again")


def read(name: bytes, root: int) -> object:
    fd = os.open(name, os.O_RDONLY, dir_fd=root)
    return os.read(fd, 100)


def with_path(call: Callable[[bytes], object]) -> Callable[[bytes, int], object]:
    """For a call that takes no directory: from the working directory."""

    def use(name: bytes, root: int) -> object:
        os.fchdir(root)
        return call(name)

    return use


FILES: dict[str, Callable[[bytes, int], object]] = {
    "open": read,
    "open to write": lambda name, root: os.open(name, os.O_WRONLY, dir_fd=root),
    "open and truncate": lambda name, root: os.open(name, os.O_WRONLY | os.O_TRUNC, dir_fd=root),
    "execute": with_path(lambda name: os.execv(name, [name])),  # noqa: S606 - exec(2) itself
    "chmod": with_path(lambda name: os.chmod(name, 0o666)),
    "chown": with_path(lambda name: os.chown(name, -1, SUPPLEMENTARY)),
    "utimes": with_path(lambda name: os.utime(name, (1, 1))),
    "truncate": with_path(lambda name: os.truncate(name, 0)),
    "get an attribute": with_path(lambda name: os.getxattr(name, ATTRIBUTE)),
    "set an attribute": with_path(lambda name: os.setxattr(name, ATTRIBUTE, b"mine")),
    "remove an attribute": with_path(lambda name: os.removexattr(name, ATTRIBUTE)),
    "unlink": lambda name, root: os.unlink(name, dir_fd=root),
    "rename": lambda name, root: os.rename(name, b"elsewhere", src_dir_fd=root, dst_dir_fd=root),
    "chmod by a descriptor": with_path(lambda name: os.chmod(b"/proc/self/fd/%d" % os.open(name, os.O_PATH), 0o666)),
}

DIRECTORIES: dict[str, Callable[[bytes, int], object]] = {
    "list": with_path(os.listdir),
    "look below": with_path(lambda name: os.stat(name + b"/inside")),
    "read below": lambda name, root: read(name + b"/inside", root),
    "create below": with_path(lambda name: os.open(name + b"/new", os.O_CREAT | os.O_WRONLY)),
    "make a directory below": with_path(lambda name: os.mkdir(name + b"/new")),
    "make a link below": with_path(lambda name: os.symlink(b"x", name + b"/new")),
    "remove below": with_path(lambda name: os.unlink(name + b"/inside")),
    "rename below": with_path(lambda name: os.rename(name + b"/inside", name + b"/outside")),
    "move away": with_path(lambda name: os.rename(name, b"open/mine")),
}


def outcome(mount: Mount, use: Callable[[bytes, int], object], name: str) -> object:
    """The errno that the user gets, or what was got."""
    root = os.open(mount.root, os.O_PATH)  # pytest's own directories are closed to the user

    def trespass() -> object:
        try:
            return use(os.fsencode(name), root)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    try:
        return as_user(trespass)
    finally:
        os.close(root)


def state(path: Path) -> object:
    found = os.lstat(path)
    content = sorted(os.listdir(path)) if path.is_dir() else path.read_bytes()
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content, os.getxattr(path, ATTRIBUTE)


@pytest.mark.parametrize("trick", FILES)
def test_a_file_that_took_a_known_one_s_place_is_its_owner_s_alone(mount: Mount, trick: str) -> None:
    path = exchanged(mount, "f", b"#!/bin/true\n")
    before = state(path)
    assert outcome(mount, FILES[trick], "f") in ("EACCES", "EPERM")
    assert state(path) == before


@pytest.mark.parametrize("trick", DIRECTORIES)
def test_a_directory_that_took_a_known_one_s_place_is_its_owner_s_alone(mount: Mount, trick: str) -> None:
    (mount.source / "open").mkdir()
    (mount.source / "open").chmod(0o777)
    path = exchanged(mount, "d", b"")
    before = state(path)
    assert outcome(mount, DIRECTORIES[trick], "d") in ("EACCES", "EPERM")
    assert state(path) == before


@pytest.mark.parametrize("trick", ["open", "open to write", "truncate"])
def test_its_owner_has_what_the_source_gives(mount: Mount, trick: str) -> None:
    """Whoever is let by the source is let, although the kernel would not: no request is lost over it."""
    path = exchanged(mount, "f", b"mine")
    root = os.open(mount.root, os.O_PATH)
    as_user(lambda: FILES[trick](b"f", root) and None, OTHER, OTHER)
    os.close(root)
    assert path.read_bytes() == (b"" if trick == "truncate" else SECRET)


def test_a_permission_taken_back_in_the_source_is_gone_at_once(mount: Mount) -> None:
    file = mount.source / "f"
    make_as(USER, file, b"mine", 0o644)
    assert outcome(mount, read, "f") == b"mine"
    os.chown(file, 0, 0)
    file.chmod(0o600)
    assert outcome(mount, read, "f") == "EACCES"
    assert outcome(mount, FILES["chmod"], "f") == "EPERM"


def test_an_access_list_taken_back_in_the_source_is_gone_at_once(mount: Mount) -> None:
    """Owner, group and mode stay as they are."""
    file = mount.source / "f"
    file.write_bytes(b"shared")
    rows = [(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 0, NOBODY), (MASK, 4, NOBODY), (OTHERS, 0, NOBODY)]
    os.setxattr(file, "system.posix_acl_access", acl(rows[0], (USER_TAG, 4, USER), *rows[1:]))
    assert outcome(mount, read, "f") == b"shared"
    mode = mode_of(file)
    os.setxattr(file, "system.posix_acl_access", acl(rows[0], (USER_TAG, 4, OTHER), *rows[1:]))
    assert mode_of(file) == mode
    assert outcome(mount, read, "f") == "EACCES"


def tree_of_another_s(mount: Mount) -> Path:
    """The directory d of OTHER's with d/e/old, all open to everybody, and known to the kernel."""
    (mount.source / "d/e").mkdir(parents=True)
    (mount.source / "d/e/old").write_bytes(b"open")
    for path in (mount.source / "d/e/old", mount.source / "d/e", mount.source / "d"):
        os.chown(path, OTHER, OTHER)
        path.chmod(0o755)
    os.setxattr(mount.source / "d/e/old", ATTRIBUTE, b"open")
    assert outcome(mount, read, "d/e/old") == b"open"
    return mount.source / "d"


HIDDEN: dict[str, Callable[[int], object]] = {
    "read what is new": lambda root: read(b"d/e/new", root),
    "read what was there": lambda root: read(b"d/e/old", root),
    "list": lambda root: os.listdir(os.open(b"d/e", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)),
    "get an attribute": lambda root: (os.fchdir(root), os.getxattr(b"d/e/old", ATTRIBUTE)),
}


@pytest.mark.parametrize("trick", HIDDEN)
def test_a_directory_made_private_in_the_source_hides_all_below(mount: Mount, trick: str) -> None:
    private = tree_of_another_s(mount)
    private.chmod(0o700)
    (private / "e/new").write_bytes(SECRET)
    (private / "e/old").write_bytes(SECRET)
    os.setxattr(private / "e/old", ATTRIBUTE, SECRET)
    later = time.monotonic() + 0.01  # what was just found to be open is not looked at for 2 ms
    wait_until(lambda: time.monotonic() > later)
    assert outcome(mount, lambda _, root: HIDDEN[trick](root), "") == "EACCES"


def readable(name: bytes) -> bool:
    try:
        return bool(get(name))
    except OSError as error:
        assert error.errno in (errno.EACCES, errno.ESTALE)  # noqa: PT017 - or it is read
        return False


def test_who_stands_below_a_directory_that_is_made_private_goes_on(mount: Mount) -> None:
    """As on Linux: a walk from the working directory does not lead through what is above."""
    private = tree_of_another_s(mount)
    root, ready, go = os.open(mount.root, os.O_PATH), os.pipe(), os.pipe()

    def stay() -> list[bytes]:
        os.fchdir(os.open("d/e", os.O_PATH | os.O_DIRECTORY, dir_fd=root))
        os.write(ready[1], b"!")
        os.read(go[0], 1)
        wait_until(lambda: readable(b"old"))  # for 0.1 s it may have been walking from above
        return [get("old") for _ in range(5)]

    child = start_child(stay, lambda: become(USER, USER, ()))
    os.read(ready[0], 1)
    private.chmod(0o700)
    os.write(go[1], b"!")
    assert collect(child) == [b"open"] * 5
    for end in (root, *ready, *go):
        os.close(end)


def test_a_file_that_may_be_read_only_now_is_not_truncated(mount: Mount) -> None:
    """O_RDONLY|O_TRUNC is legal, and takes permission to write."""
    file = mount.source / "f"
    make_as(OTHER, file, b"kept", 0o666)
    assert outcome(mount, read, "f") == b"kept"
    file.chmod(0o644)
    assert outcome(mount, lambda name, root: os.open(name, os.O_RDONLY | os.O_TRUNC, dir_fd=root), "f") == "EACCES"
    assert file.read_bytes() == b"kept"


@pytest.mark.parametrize("how", ["truncate", "utimes", "set an attribute", "get an attribute"])
def test_somebody_s_open_descriptor_is_not_everybody_s_way(mount: Mount, how: str) -> None:
    private = tree_of_another_s(mount)
    file = private / "e/old"
    file.chmod(0o666)
    os.stat(mount.root / "d/e/old")
    with opened(mount.root / "d/e/old", os.O_RDONLY) as fd:
        private.chmod(0o700)
        file.write_bytes(SECRET)
        os.setxattr(file, ATTRIBUTE, SECRET)
        before = state(file)
        later = time.monotonic() + 0.01
        wait_until(lambda: time.monotonic() > later)

        def use(name: bytes, root: int) -> object:
            os.close(fd)  # the user's own process has none
            return with_path(os.utime)(name, root) if how == "utimes" else FILES[how](name, root)

        assert outcome(mount, use, "d/e/old") in ("EACCES", "ESTALE")
        assert state(file) == before


def test_no_link_leads_out_of_a_directory_made_private(mount: Mount) -> None:
    private = tree_of_another_s(mount)
    (private / "e/old").chmod(0o666)
    os.stat(mount.root / "d/e/old")
    private.chmod(0o700)
    later = time.monotonic() + 0.01
    wait_until(lambda: time.monotonic() > later)
    link = with_path(lambda name: os.link(name, b"stolen"))
    assert outcome(mount, link, "d/e/old") in ("EACCES", "ESTALE")
    assert not (mount.source / "stolen").exists()


def test_many_at_once_are_not_let_after_the_first(mount: Mount) -> None:
    private = tree_of_another_s(mount)
    names = [b"d/e/%d" % number for number in range(24)]
    for name in names:
        (mount.source / os.fsdecode(name)).write_bytes(b"open")
        os.stat(os.path.join(os.fsencode(mount.root), name))
    private.chmod(0o700)
    later = time.monotonic() + 0.01
    wait_until(lambda: time.monotonic() > later)

    def trespass(_: bytes, root: int) -> int:
        seen: list[object] = []

        def look(name: bytes) -> None:
            with suppress(OSError):
                seen.append(read(name, root))

        threads = [threading.Thread(target=look, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(seen)

    assert outcome(mount, trespass, "") == 0


def test_an_append_reaches_the_file_that_has_the_name_now(mount: Mount) -> None:
    (mount.source / "log").write_bytes(b"one\n")
    os.chmod(mount.root / "log", 0o664)  # after which the daemon has a descriptor of it
    (mount.source / ".log").write_bytes(b"two\n")
    (mount.source / ".log").rename(mount.source / "log")
    with opened(mount.root / "log", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"three\n")
    assert (mount.source / "log").read_bytes() == b"two\nthree\n"


def test_what_is_changed_through_an_open_descriptor_still_works_after_a_change_in_the_source(mount: Mount) -> None:
    """fchmod(2) and its like have no path that the kernel could walk again: no ESTALE for them."""
    file = mount.source / "f"
    make_as(USER, file, b"mine", 0o644)
    root = os.open(mount.root, os.O_PATH)

    ready = os.pipe()

    def change() -> None:
        fd = os.open("f", os.O_RDWR, dir_fd=root)
        os.write(opened[1], b"!")
        os.read(ready[0], 1)
        os.fchmod(fd, 0o600)
        os.utime(fd, (1, 1))
        os.setxattr(fd, ATTRIBUTE, b"mine")
        assert os.getxattr(fd, ATTRIBUTE) == b"mine"
        os.ftruncate(fd, 1)

    opened = os.pipe()
    child = start_child(change, lambda: become(USER, USER, ()))
    os.read(opened[0], 1)
    file.chmod(0o640)
    os.write(ready[1], b"!")
    collect(child)
    assert (mode_of(file), file.read_bytes()) == (0o600, b"m")
    for end in (root, *ready, *opened):
        os.close(end)
