"""Names of all kinds, long and deep paths, and files that are no files: FIFOs, sockets, devices."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import by_both, collect, fails, get, in_child, opened, put, start_child

if TYPE_CHECKING:
    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

NAMES = [
    b"\xff",
    b"\xfe\xff\x80",
    b"\xed\xa0\x80",  # a lone surrogate
    b"caf\xc3\xa9",  # composed
    b"cafe\xcc\x81",  # decomposed: another name
    b"caf\xe9",  # Latin-1
    "日本語".encode(),
    "日本語".encode("shift_jis"),
    b"new\nline",
    b"tab\t",
    b"\x01\x7f",
    b" ",
    b"trailing ",
    b"-rf",
    b"'\"`$;&|*?[]{}()<>",
    b"back\\slash",
    b"...",
    b"..a",
    b"a",
    b"A",
    b"x" * 255,
    b"\xff" * 255,
]


@by_both
def test_any_bytes_but_slash_and_nul_are_a_name(place: Place) -> None:
    for number, name in enumerate(NAMES):
        put(name, b"%d" % number)

    assert sorted(os.listdir(b".")) == sorted(NAMES)
    assert sorted(os.listdir(os.fsencode(place.source))) == sorted(NAMES)
    for number, name in enumerate(NAMES):
        assert get(name) == b"%d" % number
        os.mkdir(b"d")
        os.rename(name, b"d/" + name)
        assert os.listdir(b"d") == [name]
        os.symlink(name, b"d/l")
        assert os.readlink(b"d/l") == name
        assert get(b"d/l") == b"%d" % number
        os.unlink(b"d/" + name)
        os.unlink(b"d/l")
        os.rmdir(b"d")
        os.mkdir(name)
        os.rmdir(name)
    assert not os.listdir(b".")


@by_both
@pytest.mark.parametrize("length", [256, 300, 4000])
def test_a_longer_name_is_refused_everywhere(place: Place, length: int) -> None:
    name = b"n" * length
    put(b"f")
    os.mkdir(b"d")
    for action in (
        lambda: put(name),
        lambda: os.mkdir(name),
        lambda: os.mkfifo(name),
        lambda: os.symlink(b"x", name),
        lambda: os.link(b"f", name),
        lambda: os.rename(b"f", name),
        lambda: os.rename(name, b"f"),
        lambda: os.stat(name),
        lambda: os.unlink(name),
        lambda: os.rmdir(name),
        lambda: os.open(b"d/" + name, os.O_RDONLY),
        lambda: os.stat(name + b"/f"),
    ):
        with fails(errno.ENAMETOOLONG):
            action()
    assert sorted(os.listdir(b".")) == [b"d", b"f"]


@by_both
def test_a_path_of_4095_bytes_works_and_one_more_does_not(place: Place) -> None:
    path = os.fsencode(place.root)
    while len(path) < 4095 - 300:
        path += b"/" + b"d" * 200
        os.mkdir(path)
    path += b"/" + b"e" * 100
    os.mkdir(path)
    path += b"/" + b"f" * (4095 - len(path) - 1)
    assert len(path) == 4095

    put(path, b"deep")
    assert get(path) == b"deep"
    os.chmod(path, 0o600)
    os.utime(path, (1, 1))
    os.setxattr(path, "user.a", b"b")
    os.rename(path, path[:-1] + b"g")
    os.link(path[:-1] + b"g", path)
    os.symlink(b"x", path[:-1] + b"l")
    assert len(os.listdir(os.path.dirname(path))) == 3
    for action in (lambda: os.stat(path + b"x"), lambda: put(path + b"x"), lambda: os.mkdir(path + b"/")):
        with fails(errno.ENAMETOOLONG):
            action()
    behind = os.fsencode(place.source) + path[len(os.fsencode(place.root)) :]
    if len(behind) <= 4095:
        assert get(behind) == b"deep"


@by_both
@pytest.mark.parametrize(("name", "levels"), [(b"d" * 200, 60), (b"x", 1200)], ids=["12,000 bytes", "1,200 levels"])
def test_deeper_than_any_path_by_relative_steps(place: Place, name: bytes, levels: int) -> None:
    def down() -> None:
        for _ in range(levels):
            os.mkdir(name)
            os.chdir(name)
        put(b"f", b"bottom")
        os.mkdir(b"sub")
        os.rename(b"f", b"sub/g")
        os.symlink(b"sub/g", b"l")
        os.link(b"sub/g", b"h")
        assert get(b"l") == get(b"h") == b"bottom"
        assert sorted(os.listdir(b".")) == [b"h", b"l", b"sub"]
        os.setxattr(b"h", "user.a", b"b")
        os.truncate(b"h", 3)
        for _ in range(levels):
            os.chdir(b"..")
        assert os.getcwd() == str(place.root)

    in_child(down)

    fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    inner = os.open(b"sub/g", os.O_RDWR, dir_fd=fd)
    assert os.read(inner, 10) == b"bot"
    os.close(inner)
    # Up again, removing: os.rmdir takes no path but a name.
    os.unlink(b"sub/g", dir_fd=fd)
    os.rmdir(b"sub", dir_fd=fd)
    os.unlink(b"l", dir_fd=fd)
    os.unlink(b"h", dir_fd=fd)
    for _ in range(levels):
        above = os.open(b"..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.rmdir(name, dir_fd=above)
        os.close(fd)
        fd = above
    os.close(fd)
    assert not os.listdir(b".")


@by_both
def test_a_fifo_joins_two_processes(place: Place) -> None:
    os.mkfifo("p", 0o600)
    assert stat.S_ISFIFO(os.stat("p").st_mode)
    with fails(errno.ENXIO):
        os.open("p", os.O_WRONLY | os.O_NONBLOCK)

    def write() -> None:
        put("p", b"through the pipe")

    writer = start_child(write)
    assert get("p") == b"through the pipe"
    collect(writer)
    assert os.stat("p").st_size == 0
    os.rename("p", "q")
    os.unlink("q")


@by_both
def test_a_socket_is_reached_by_its_name(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert stat.S_ISSOCK(os.stat("s").st_mode)
        assert stat.S_ISSOCK(os.stat(place.source / "s").st_mode)
        with fails(errno.EADDRINUSE), socket.socket(socket.AF_UNIX) as other:
            other.bind("s")
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("s")
            client.sendall(b"hello")
            connection, _ = server.accept()
            with connection:
                assert connection.recv(10) == b"hello"
        with fails(errno.ENXIO):
            os.open("s", os.O_RDONLY)
    with fails(errno.ECONNREFUSED), socket.socket(socket.AF_UNIX) as client:
        client.connect("s")


def test_devices_work(place: Place) -> None:
    """The mount is one with ``dev``; by default it has nodev."""
    if os.getuid():
        pytest.skip("only root makes devices")
    for name, number in (("null", os.makedev(1, 3)), ("zero", os.makedev(1, 5)), ("big", os.makedev(4000, 1_000_000))):
        os.mknod(name, stat.S_IFCHR | 0o666, number)
        assert os.stat(name).st_rdev == number
        assert os.stat(place.source / name).st_rdev == number
    os.mknod("disk", stat.S_IFBLK | 0o600, os.makedev(7, 250))
    assert stat.S_ISBLK(os.stat("disk").st_mode)
    put("null", b"gone")
    assert get("null") == b""
    with opened("zero") as fd:
        assert os.read(fd, 10) == b"\0" * 10
    with fails(errno.ENXIO):
        os.open("big", os.O_RDONLY)


@by_both
def test_mknod_makes_each_kind_and_refuses_the_rest(place: Place) -> None:
    for name, kind in (("f", stat.S_IFREG), ("p", stat.S_IFIFO), ("s", stat.S_IFSOCK)):
        os.mknod(name, kind | 0o640)
        assert os.lstat(name).st_mode == kind | 0o640
        with fails(errno.EEXIST):
            os.mknod(name, kind | 0o640)
    with fails(errno.EPERM):
        os.mknod("d", stat.S_IFDIR | 0o755)
    with fails(errno.EINVAL):
        os.mknod("l", stat.S_IFLNK | 0o777)


@by_both
def test_a_copied_tree_is_the_same(place: Place) -> None:
    os.makedirs("tree/a/b")
    put("tree/a/f", b"f", 0o640)
    put("tree/a/b/\udcff", b"bytes")
    os.symlink("a/f", "tree/l")
    os.utime("tree/a/f", ns=(123, 456))
    shutil.copytree("tree", "copied", symlinks=True)
    for directory, _, files in os.walk("tree"):
        for name in files:
            old = os.path.join(directory, name)
            new = "copied" + old.removeprefix("tree")
            one, two = os.lstat(old), os.lstat(new)
            assert (one.st_mode, one.st_size, one.st_mtime_ns) == (two.st_mode, two.st_size, two.st_mtime_ns)
            with contextlib.suppress(OSError):
                assert os.readlink(old) == os.readlink(new)
    shutil.rmtree("tree")
    shutil.rmtree("copied")
    assert not os.listdir(".")
