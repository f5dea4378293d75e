"""Which file is which: other file systems below, changes behind the mount, few descriptors, daemons of users."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import Mount, wait_until
from posix_support import (
    EXCHANGE,
    as_user,
    become,
    call,
    collect,
    fails,
    get,
    in_child,
    mode_of,
    opened,
    put,
    rename2,
    start_child,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest_plugins = ["posix_support"]

WITHIN = 3.0
"""Seconds after which the new state must be seen: the default policy caches for one."""

NAMED_USER, NAMED_GROUP = 65534, 65534  # fusermount3 wants one that /etc/passwd knows: nobody
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_BIND = 0x20000, 0x4000, 1 << 18, 4096


def seen(path: Path) -> os.stat_result | int:
    """Attributes, or the errno."""
    try:
        return os.lstat(path)
    except OSError as error:
        return error.errno or 0


# Identity


def test_numbers_and_links_are_the_sources(mount: Mount) -> None:
    put(mount.source / "f")
    os.link(mount.source / "f", mount.source / "g")
    (mount.source / "d").mkdir()
    for name in ("f", "g", "d"):
        here, behind = os.stat(mount.root / name), os.stat(mount.source / name)
        assert (here.st_ino, here.st_nlink, here.st_mode) == (behind.st_ino, behind.st_nlink, behind.st_mode)
        assert here.st_dev != behind.st_dev
        assert here.st_dev == os.stat(mount.root).st_dev


def test_numbers_are_the_same_after_mounting_again(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    for number in range(20):
        put(source / f"{number}")
    numbers = []
    for _ in range(2):
        mount = mounted(source=source)
        numbers.append({name: os.stat(mount.root / name).st_ino for name in os.listdir(mount.root)})
        mount.unmount()
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == 20


@pytest.fixture
def two_devices(mounted: Callable[..., Mount], tmp_path: Path) -> Iterator[Mount]:
    """Give a mount whose source has a tmpfs at ``other``."""
    if os.getuid():
        pytest.skip("only root mounts a tmpfs")
    source = tmp_path / "tree"
    (source / "other").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", source / "other"], check=True)
    try:
        mount = mounted(source=source)
        yield mount
        mount.unmount()
        mount.process.wait(10)
    finally:
        subprocess.run(["umount", "-l", source / "other"], check=True)


def test_a_file_system_below_the_source(two_devices: Mount) -> None:
    root, source = two_devices.root, two_devices.source
    assert os.stat(source / "other").st_ino == 1, "as FUSE's own root"
    put(root / "f", b"first device")
    put(root / "other/f", b"second device")
    (root / "other/d").mkdir()
    put(root / "other/d/g", b"deep")

    assert get(source / "other/d/g") == b"deep"
    numbers = [os.stat(root / name).st_ino for name in (".", "f", "other", "other/f", "other/d", "other/d/g")]
    assert len(set(numbers)) == len(numbers)
    assert os.stat(root / "other/..").st_ino == os.stat(root).st_ino
    assert os.stat(root / "other/d/..").st_ino == os.stat(root / "other").st_ino
    entries = {entry.name: entry.inode() for entry in os.scandir(root)}
    assert entries == {"f": os.stat(root / "f").st_ino, "other": os.stat(root / "other").st_ino}
    with fails(errno.EXDEV):
        os.rename(root / "f", root / "other/moved")
    with fails(errno.EXDEV):
        os.link(root / "f", root / "other/linked")
    with fails(errno.EBUSY):
        os.rmdir(root / "other")
    with fails(errno.EBUSY):
        os.rename(root / "other", root / "renamed")
    subprocess.run(["mv", root / "f", root / "other/moved"], check=True)
    assert get(root / "other/moved") == b"first device"
    assert sorted(os.listdir(root / "other")) == ["d", "f", "moved"]


def test_equal_numbers_on_two_devices_are_two_files(two_devices: Mount) -> None:
    """A second tmpfs hands out the same small numbers as the first."""
    root, source = two_devices.root, two_devices.source
    (source / "third").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", source / "third"], check=True)
    try:
        for directory in ("other", "third"):
            for number in range(30):
                put(source / directory / f"f{number}", f"{directory} {number}".encode())
        assert [os.stat(source / "other" / f"f{n}").st_ino for n in range(30)] == [
            os.stat(source / "third" / f"f{n}").st_ino for n in range(30)
        ]
        for number in range(30):
            for directory in ("other", "third"):
                assert get(root / directory / f"f{number}") == f"{directory} {number}".encode()
        numbers = {os.stat(root / where / f"f{n}").st_ino for where in ("other", "third") for n in range(30)}
        assert len(numbers) == 60
        with opened(root / "other/f1", os.O_RDWR) as one, opened(root / "third/f1", os.O_RDWR) as two:
            os.unlink(root / "other/f1")
            os.write(one, b"ONE")
            os.write(two, b"TWO")
        assert get(source / "third/f1") == b"TWOrd 1"
    finally:
        subprocess.run(["umount", "-l", source / "third"], check=True)


# Changes behind the mount


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
    os.chdir(mount.source)
    try:
        rename2(b"a", b"b", EXCHANGE)
    finally:
        os.chdir("/")
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


def test_random_changes_behind_the_mount_never_show_another_files_data(mount: Mount) -> None:
    """Each file holds its own inode number; whatever is read must agree with the descriptor it was read from."""
    names = [f"f{number}" for number in range(12)]
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)

    def make(path: Path) -> None:
        """Never under its final name without its content."""
        fresh = path.parent / ".fresh"
        with opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            os.write(fd, b"%020d" % os.fstat(fd).st_ino)
        os.rename(fresh, path)

    def change() -> int:
        choice = random.Random(7)
        for count in range(1_000_000):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                name, other = (mount.source / choice.choice(names) for _ in range(2))
                choice.choice(
                    [
                        lambda: make(name),
                        lambda: os.unlink(name),
                        lambda: os.rename(name, other),
                        lambda: os.link(name, other),
                    ]
                )()
            try:
                if os.read(ours, 1):
                    return count
            except BlockingIOError:
                continue
        return -1

    child = start_child(change)
    choice, answers = random.Random(8), {"read": 0}
    try:
        for _ in range(4000):
            try:
                with opened(mount.root / choice.choice(names)) as fd:
                    content, found = os.read(fd, 100), os.fstat(fd)
                    assert len(content) == 20, content
                    # Numbers that the source has used again get another one in the mount.
                    assert int(content) == found.st_ino or found.st_ino >> 63, f"{content!r} in {found.st_ino}"
                    answers["read"] += 1
            except OSError as error:
                code = errno.errorcode[error.errno or 0]
                answers[code] = answers.get(code, 0) + 1
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


# Mounting over, and mounts in each other


def test_mounting_over_the_source_itself(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    put(tree / "f", b"before")
    with opened(tree) as behind:
        mount = mounted(source=tree, root=tree)
        assert os.stat(tree).st_dev != os.fstat(behind).st_dev
        assert get(tree / "f") == b"before"
        put(tree / "d/g", b"through the mount")
        assert sorted(os.listdir(tree)) == ["d", "f"]
        below = os.open("d/g", os.O_RDONLY, dir_fd=behind)
        assert os.read(below, 100) == b"through the mount"
        os.close(below)
        os.rename(tree / "d", tree / "e")
        mount.check()
        mount.unmount()
        mount.process.wait(10)
    assert get(tree / "e/g") == b"through the mount"


@pytest.mark.parametrize(("source", "root"), [("a", "a/b"), ("a/b", "a")], ids=["mountpoint inside", "source inside"])
def test_mounts_in_each_other_are_refused(fuse: None, tmp_path: Path, source: str, root: str) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(AssertionError, match=r"exit code [1-9]|was not mounted"):
        Mount(tmp_path / "m", (), tmp_path / source, tmp_path / root)
    message = (tmp_path / "m/stderr").read_text("utf-8")
    assert "Traceback" not in message
    assert str(tmp_path / "a") in message
    assert not os.path.ismount(tmp_path / root)


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
    wait_until(lambda: seen_content(mount.root / "f399") == b"399")
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


def users_own(base: Path, name: str, body: Callable[[Mount], None]) -> None:
    """Run *body* as a user, with a mount that this user has made."""
    if os.getuid():
        pytest.skip("only root can become another user")
    directory = base / name
    directory.mkdir()
    os.chown(directory, NAMED_USER, NAMED_GROUP)

    def run() -> None:
        os.environ["XDG_RUNTIME_DIR"] = str(directory)
        mount = Mount(directory / "m", ())
        try:
            assert os.stat(f"/proc/{mount.pid}").st_uid == NAMED_USER
            body(mount)
            mount.check()
        finally:
            os.chdir("/")
            mount.finish()

    def first() -> None:
        own_device(base)
        become(NAMED_USER, NAMED_GROUP, ())

    in_child(run, first)


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


def test_a_mount_without_allow_other_is_closed_to_others(mount: Mount) -> None:
    def body() -> int | None:
        try:
            os.stat(".")
        except OSError as error:
            return error.errno
        return None

    os.chdir(mount.root)
    try:
        assert as_user(body) == errno.EACCES
    finally:
        os.chdir("/")
