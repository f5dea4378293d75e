# ruff: noqa: S311 - the same random choices each time are wanted
"""Changes to the source behind the mount: never another file's data, ESTALE or the truth, and soon the new state."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import subprocess
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Mount, wait_until
from tests.support.posix import (
    EXCHANGE,
    collect,
    fails,
    get,
    mode_of,
    opened,
    put,
    rename2,
    start_child,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest_plugins = ["tests.support.posix"]

WITHIN = 3.0
"""Seconds after which the new state must be seen: the default policy caches for one."""


def seen(path: Path) -> os.stat_result | int:
    """Attributes, or the errno."""
    try:
        return os.lstat(path)
    except OSError as error:
        return error.errno or 0


def test_what_is_new_behind_the_mount_is_there_at_once(mount: Mount) -> None:
    assert not (mount.root / "f").exists()
    put(mount.source / "f", b"new")
    assert get(mount.root / "f") == b"new"
    assert os.listdir(mount.root) == ["f"]
    (mount.source / "d/e").mkdir(parents=True)
    put(mount.source / "d/e/f", b"deep")
    assert get(mount.root / "d/e/f") == b"deep"


def test_changed_content_is_seen_by_the_next_open_after_the_cache_time(mount: Mount) -> None:
    root, source = mount.root / "f", mount.source / "f"
    put(source, b"one")
    assert get(root) == b"one"
    for content in (b"a longer one", b"short", b"SHORT"):
        put(source, content)
        wait_until(lambda content=content: get(root) == content, WITHIN)
        wait_until(lambda content=content: os.stat(root).st_size == len(content), WITHIN)


def test_changed_content_of_the_same_size_and_mtime_is_seen(mount: Mount) -> None:
    root, source = mount.root / "f", mount.source / "f"
    put(source, b"before")
    os.utime(source, ns=(5, 5))
    assert get(root) == b"before"
    put(source, b"after!")
    os.utime(source, ns=(5, 5))
    wait_until(lambda: get(root) == b"after!", WITHIN)


def test_an_open_file_that_is_changed_behind_the_mount(mount: Mount) -> None:
    root, source = mount.root / "f", mount.source / "f"
    put(source, b"12345")
    with opened(root) as fd:
        assert os.read(fd, 5) == b"12345"
        with opened(source, os.O_WRONLY | os.O_APPEND) as behind:
            os.write(behind, b"67890")
        wait_until(lambda: os.fstat(fd).st_size == 10, WITHIN)
        assert os.pread(fd, 10, 0) == b"1234567890"
        os.truncate(source, 2)
        wait_until(lambda: os.fstat(fd).st_size == 2, WITHIN)
        assert os.pread(fd, 10, 0) == b"12"


def test_changed_attributes_are_seen_after_the_cache_time(mount: Mount) -> None:
    put(mount.source / "f")
    assert mode_of(mount.root / "f") == 0o644
    os.chmod(mount.source / "f", 0o600)
    os.setxattr(mount.source / "f", "user.a", b"b")
    os.link(mount.source / "f", mount.source / "g")
    assert os.getxattr(mount.root / "f", "user.a") == b"b"
    wait_until(lambda: mode_of(mount.root / "f") == 0o600, WITHIN)
    wait_until(lambda: os.stat(mount.root / "f").st_nlink == 2, WITHIN)


def test_a_file_removed_behind_the_mount(mount: Mount) -> None:
    for name in ("f", "g", "h"):
        put(mount.source / name, name.encode())
    with opened(mount.root / "f", os.O_RDWR) as fd:
        os.stat(mount.root / "g")
        for name in ("f", "g", "h"):
            os.unlink(mount.source / name)
        assert os.pread(fd, 10, 0) == b"f"
        assert os.pwrite(fd, b"still", 0) == 5
        assert os.pread(fd, 10, 0) == b"still"
        for name in ("f", "g", "h"):
            with fails(errno.ENOENT, errno.ESTALE):
                os.unlink(mount.root / name)
            wait_until(lambda name=name: seen(mount.root / name) == errno.ENOENT, WITHIN)
        assert not os.listdir(mount.root)
        put(mount.root / "f", b"again")
        assert get(mount.source / "f") == b"again"
        assert os.pread(fd, 10, 0) == b"still"


def test_a_file_replaced_behind_the_mount(mount: Mount) -> None:
    put(mount.source / "f", b"old")
    with opened(mount.root / "f", os.O_RDWR) as fd:
        put(mount.source / "f.new", b"new")
        os.rename(mount.source / "f.new", mount.source / "f")
        assert os.pread(fd, 10, 0) == b"old"
        os.pwrite(fd, b"OLD", 0)
        os.ftruncate(fd, 2)
        assert os.fstat(fd).st_size == 2
        wait_until(lambda: get(mount.root / "f") == b"new", WITHIN, "an ESTALE is no answer after the cache time")
        assert get(mount.source / "f") == b"new"
        assert os.fstat(fd).st_size == 2
        assert os.stat(mount.root / "f").st_ino != os.fstat(fd).st_ino


KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: put(path, b"a file"),
    "directory": lambda path: path.mkdir(),
    "symlink": lambda path: path.symlink_to("a link"),
    "fifo": os.mkfifo,
}


def test_another_kind_of_file_behind_the_mount(mount: Mount) -> None:
    """Also with the same inode number, which ext4 hands out again at once."""
    pairs = [(old, new) for old in KINDS for new in KINDS]
    for old, new in pairs:
        KINDS[old](mount.source / f"{old}-{new}")
        os.lstat(mount.root / f"{old}-{new}")
    assert len(os.listdir(mount.root)) == len(pairs)
    reused = 0
    for old, new in pairs:
        path = mount.source / f"{old}-{new}"
        number = os.lstat(path).st_ino
        path.rmdir() if old == "directory" else path.unlink()
        KINDS[new](path)
        reused += os.lstat(path).st_ino == number
    assert reused, "no number was used again: this file system tests less than it should"

    def kind(path: Path) -> int:
        found = seen(path)
        return -found if isinstance(found, int) else stat.S_IFMT(found.st_mode)

    for old, new in pairs:
        path = mount.root / f"{old}-{new}"
        expected = kind(mount.source / path.name)
        wait_until(lambda path=path, expected=expected: kind(path) == expected, WITHIN, f"{path.name}: {kind(path):o}")
        if new == "file":
            wait_until(lambda path=path: seen_content(path) == b"a file", WITHIN, path.name)
        elif new == "directory":
            put(path / "f")
            assert os.listdir(mount.source / path.name) == ["f"]
            os.unlink(path / "f")
        elif new == "symlink":
            assert os.readlink(path) == "a link"
        (os.rmdir if new == "directory" else os.unlink)(path)
    assert not os.listdir(mount.source)


@pytest.mark.parametrize("maker", ["source", "root"], ids=["behind the mount", "through the mount"])
def test_a_reused_number_is_another_file(mount: Mount, maker: str) -> None:
    """ext4 gives a new file the number of one just removed: the old one's pages must not show up in it."""
    for number in range(20):
        old, new = f"old-{number}", f"new-{number}"
        put(mount.source / old, b"old " * 1000)
        assert get(mount.root / old) == b"old " * 1000
        before = os.stat(mount.source / old).st_ino
        os.unlink(mount.source / old)
        put(getattr(mount, maker) / new, b"new " * 1000)
        found = seen_content(mount.root / new)
        assert found == b"new " * 1000, f"{found!r:.20}; {before} was used again: {os.stat(mount.source / new).st_ino}"
        assert os.stat(mount.root / new).st_size == 4000


def test_a_file_moved_behind_the_mount(mount: Mount) -> None:
    (mount.source / "d").mkdir()
    for name in ("open", "closed", "looked"):
        put(mount.source / name, name.encode())
        assert get(mount.root / name) == name.encode()
    with opened(mount.root / "open", os.O_RDWR) as fd:
        for name in ("open", "closed", "looked"):
            os.rename(mount.source / name, mount.source / f"d/{name}-moved")
            wait_until(
                lambda name=name: seen_content(mount.root / f"d/{name}-moved") == name.encode(),
                WITHIN,
                f"{name}: {seen_content(mount.root / f'd/{name}-moved')!r}",
            )
        assert os.pread(fd, 10, 0) == b"open"
        assert os.fstat(fd).st_ino == os.stat(mount.root / "d/open-moved").st_ino
        os.chmod(mount.root / "d/closed-moved", 0o600)
        os.rename(mount.root / "d/closed-moved", mount.root / "back")
        assert get(mount.source / "back") == b"closed"
        os.unlink(mount.root / "d/looked-moved")
        assert os.listdir(mount.source / "d") == ["open-moved"]


def test_a_directory_moved_behind_the_mount(mount: Mount) -> None:
    (mount.source / "a/b").mkdir(parents=True)
    (mount.source / "z").mkdir()
    put(mount.source / "a/b/f", b"content")
    with opened(mount.root / "a/b") as directory, opened(mount.root / "a/b/f", os.O_RDWR) as fd:
        os.rename(mount.source / "a/b", mount.source / "z/c")
        assert os.pread(fd, 10, 0) == b"content"
        wait_until(lambda: seen(mount.root / "a/b/f") == errno.ENOENT, WITHIN)
        assert get(mount.root / "z/c/f") == b"content"
        assert os.fstat(fd).st_ino == os.stat(mount.root / "z/c/f").st_ino
        assert os.listdir(directory) == ["f"]
        made = os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=directory)
        os.close(made)
        assert sorted(os.listdir(mount.source / "z/c")) == ["f", "new"]


def test_a_directory_removed_behind_the_mount(mount: Mount) -> None:
    (mount.source / "d/e").mkdir(parents=True)
    put(mount.source / "d/e/f")
    with opened(mount.root / "d/e") as directory:
        assert os.listdir(directory) == ["f"]
        subprocess.run(["rm", "-r", mount.source / "d"], check=True)
        for action in (
            lambda: os.open("new", os.O_WRONLY | os.O_CREAT, dir_fd=directory),
            lambda: os.mkdir("new", dir_fd=directory),
            lambda: os.unlink("f", dir_fd=directory),
        ):
            with fails(errno.ENOENT, errno.ESTALE):
                action()
        with contextlib.suppress(FileNotFoundError):
            assert not os.listdir(directory)
        wait_until(lambda: seen(mount.root / "d") == errno.ENOENT, WITHIN)
        # Another directory of the same name is not the old one.
        (mount.source / "d/e").mkdir(parents=True)
        put(mount.source / "d/e/g")
        assert os.listdir(mount.root / "d/e") == ["g"]


def test_operations_hit_the_file_that_was_meant_or_none(mount: Mount) -> None:
    """Names cached by the kernel while the files behind them change places."""
    for name in "ab":
        put(mount.source / name, name.encode() * 5)
        os.stat(mount.root / name)
    numbers = {name: os.stat(mount.root / name).st_ino for name in "ab"}
    with contextlib.chdir(mount.source):
        rename2(b"a", b"b", EXCHANGE)
    for name in "ab":
        try:
            with opened(mount.root / name) as fd:
                content = os.read(fd, 10)
                assert os.fstat(fd).st_ino == numbers[content[:1].decode()], "one file's data, another's number"
        except OSError as error:
            assert error.errno == errno.ESTALE  # noqa: PT017
    wait_until(lambda: seen_content(mount.root / "a") == b"bbbbb", WITHIN)
    wait_until(lambda: seen_content(mount.root / "b") == b"aaaaa", WITHIN)


def seen_content(path: Path) -> bytes | int:
    try:
        return get(path)
    except OSError as error:
        return error.errno or 0


def make_whole(path: Path) -> None:
    """A file that holds its own inode number; never under its final name without it."""
    fresh = path.parent / ".fresh"
    with opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
        os.write(fd, b"%020d" % os.fstat(fd).st_ino)
    os.rename(fresh, path)


def change_at_random(source: Path, names: list[str], until: int) -> int:
    """Make, remove, move and link *names* until there is something to read from *until*; how often."""
    choice = random.Random(7)
    os.set_blocking(until, False)
    for count in range(1_000_000):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            name, other = (source / choice.choice(names) for _ in range(2))
            action, *paths = choice.choice(
                [(make_whole, name), (os.unlink, name), (os.rename, name, other), (os.link, name, other)]
            )
            action(*paths)
        try:
            if os.read(until, 1):
                return count
        except BlockingIOError:
            continue
    return -1


def read_at_random(root: Path, names: list[str]) -> Counter[str]:
    """Read one of *names* after the other; what is read must agree with the descriptor it was read from."""
    choice, answers = random.Random(8), Counter[str]()
    for _ in range(4000):
        try:
            with opened(root / choice.choice(names)) as fd:
                content, found = os.read(fd, 100), os.fstat(fd)
                assert len(content) == 20, content
                # Numbers that the source has used again get another one in the mount.
                assert int(content) == found.st_ino or found.st_ino >> 63, f"{content!r} in {found.st_ino}"
                answers["read"] += 1
        except OSError as error:
            answers[errno.errorcode[error.errno or 0]] += 1
    return answers


def test_random_changes_behind_the_mount_never_show_another_files_data(mount: Mount) -> None:
    names = [f"f{number}" for number in range(12)]
    ours, theirs = os.pipe()
    child = start_child(lambda: change_at_random(mount.source, names, ours))
    try:
        answers = read_at_random(mount.root, names)
    finally:
        os.write(theirs, b".")
        changes = collect(child)
        os.close(ours)
        os.close(theirs)
    assert changes > 100
    assert answers["read"] > 100, answers
    assert set(answers) <= {"read", "ENOENT", "ESTALE"}, answers
    mount.check()
    for name in names:
        expected = seen_content(mount.source / name)
        wait_until(
            lambda name=name, expected=expected: seen_content(mount.root / name) == expected,
            WITHIN,
            f"{name}: {seen_content(mount.root / name)!r} instead of {expected!r}",
        )
