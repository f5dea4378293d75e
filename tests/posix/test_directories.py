"""Listings: whole, in the right place after seekdir, and right about each entry while the directory changes."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
from typing import TYPE_CHECKING, NamedTuple, Self

import pytest

from tests.support import kernel
from tests.support.posix import by_both, call, collect, fails, in_child, libc, opened, put, start_child

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

MANY = 20_000
_SYS_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)

libc.fdopendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for function, arguments in (
    ("readdir", [ctypes.c_void_p]),
    ("telldir", [ctypes.c_void_p]),
    ("seekdir", [ctypes.c_void_p, ctypes.c_long]),
    ("rewinddir", [ctypes.c_void_p]),
    ("closedir", [ctypes.c_void_p]),
):
    getattr(libc, function).argtypes = arguments


class Dirent(NamedTuple):
    ino: int
    kind: int
    name: bytes


class Directory:
    """opendir(3) and its family."""

    def __init__(self, path: str) -> None:
        self._stream = libc.fdopendir(os.open(path, os.O_RDONLY | os.O_DIRECTORY))

    def read(self) -> Dirent | None:
        entry = libc.readdir(self._stream)
        if not entry:
            return None
        ino, _, _, kind = struct.unpack("=QqHB", ctypes.string_at(entry, 19))
        return Dirent(ino, kind, ctypes.string_at(entry + 19))

    def tell(self) -> int:
        return int(libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        libc.rewinddir(self._stream)

    def __iter__(self) -> Iterator[Dirent]:
        while (entry := self.read()) is not None:
            yield entry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        libc.closedir(self._stream)


def positions(entries: Iterable[kernel.Dirent]) -> list[tuple[bytes, int]]:
    return [(entry.name, entry.following) for entry in entries]


@by_both
def test_every_entry_has_its_kind_and_number(place: Place) -> None:
    put("f")
    os.mkdir("d")
    os.symlink("f", "l")
    os.mkfifo("p")
    os.mknod("s", stat.S_IFSOCK | 0o600)
    os.link("f", "h")
    with Directory(".") as stream:
        entries = {entry.name: entry for entry in stream}

    assert set(entries) == {b".", b"..", b"f", b"d", b"l", b"p", b"s", b"h"}
    for name, entry in entries.items():
        found = os.lstat(name)
        assert entry.ino == found.st_ino, name
        assert entry.kind == stat.S_IFMT(found.st_mode) >> 12, name
    with Directory("d") as stream:
        assert {entry.name: entry.ino for entry in stream} == {b".": os.stat("d").st_ino, b"..": os.stat(".").st_ino}


@by_both
def test_each_listing_starts_afresh(place: Place) -> None:
    assert not os.listdir(".")
    put("a")
    assert os.listdir(".") == ["a"]
    with opened(".") as fd:
        assert os.listdir(fd) == ["a"]
        put("b")
        assert sorted(os.listdir(fd)) == ["a", "b"]
        os.unlink("a")
        assert os.listdir(fd) == ["b"]
    with Directory(".") as one, Directory(".") as two:
        assert {entry.name for entry in one} == {b".", b"..", b"b"}
        put("c")
        one.rewind()
        assert {entry.name for entry in one} == {b".", b"..", b"b", b"c"}
        assert {entry.name for entry in two} == {b".", b"..", b"b", b"c"}


@by_both
@pytest.mark.parametrize("count", [10, 3000])
def test_telldir_and_seekdir(place: Place, count: int) -> None:
    for number in range(count):
        put(f"file-{number}", b"")
    with Directory(".") as stream:
        places = []
        while True:
            position = stream.tell()
            entry = stream.read()
            if entry is None:
                end = position
                break
            places.append((position, entry.name))
        assert len({name for _, name in places}) == count + 2
        assert len({position for position, _ in places}) == count + 2
        for index in [*range(0, count + 2, max(1, count // 200)), count + 1, 0]:
            position, name = places[index]
            stream.seek(position)
            entry = stream.read()
            assert entry is not None
            assert entry.name == name
            if index + 1 < len(places):
                following = stream.read()
                assert following is not None
                assert following.name == places[index + 1][1]
        stream.seek(end)
        assert stream.read() is None
        stream.rewind()
        assert [entry.name for entry in stream] == [name for _, name in places]


@by_both
def test_seekdir_finds_its_place_after_a_removal(place: Place) -> None:
    for number in range(100):
        put(f"f{number}", b"")
    with Directory(".") as stream:
        places = [(stream.tell(), stream.read()) for _ in range(102)]
        names = [entry.name for _, entry in places if entry is not None]
        gone = [name for name in names[10:40] if name not in (b".", b"..")]
        for name in gone:
            os.unlink(name)
        stream.seek(places[50][0])
        assert [entry.name for entry in stream] == names[50:]


@by_both
@pytest.mark.parametrize("count", [10, 3000])
def test_names_come_in_the_source_s_order_and_at_its_positions(place: Place, count: int) -> None:
    for number in range(count):
        put(f"file-{number}", b"")
    with opened(".") as here, opened(place.source) as behind:
        there = positions(kernel.all_entries(behind))
        assert positions(kernel.all_entries(here, 300)) == there
        for index in (0, count // 2, count // 3, count):
            for fd in (here, behind):
                os.lseek(fd, there[index][1], os.SEEK_SET)
            name = next(name for name, _ in there[index:] if name.startswith(b"file") and os.path.exists(name))
            os.unlink(name)
            put(f"new-{index}", b"")
            assert positions(kernel.all_entries(here)) == positions(kernel.all_entries(behind))


@by_both
def test_a_small_buffer_gets_a_few_at_a_time(place: Place) -> None:
    for number in range(50):
        put(f"a-name-of-some-length-{number:03d}", b"")
    with opened(".") as fd:
        buffer = ctypes.create_string_buffer(64)
        names = []
        while size := call("syscall", _SYS_GETDENTS64, fd, buffer, 64):
            at = 0
            while at < size:
                _, _, length, _ = struct.unpack_from("=QqHB", buffer, at)
                names.append(bytes(buffer[at + 19 : at + length]).split(b"\0")[0])
                at += length
        assert len(names) == len(set(names)) == 52
        os.lseek(fd, 0, os.SEEK_SET)
        with fails(errno.EINVAL):
            call("syscall", _SYS_GETDENTS64, fd, ctypes.create_string_buffer(8), 8)


@by_both
def test_removing_what_is_listed_while_it_is_listed(place: Place) -> None:
    os.mkdir("d")
    for number in range(2000):
        put(f"d/{number}", b"")
    with os.scandir("d") as entries:
        removed = 0
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    assert removed == 2000
    os.rmdir("d")


@by_both
def test_a_removed_directory_is_empty(place: Place) -> None:
    os.mkdir("d")
    with opened("d") as fd:
        os.rmdir("d")
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
        os.mkdir("d")
        put("d/f")
        assert os.listdir(fd) == []
        with fails(errno.ENOENT):
            os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=fd)


@by_both
def test_links_count_the_subdirectories(place: Place) -> None:
    for number in range(5):
        assert os.stat(".").st_nlink == 2 + number
        os.mkdir(f"d{number}")
    put("f")
    os.rename("d0", "d1/d0")
    assert os.stat(".").st_nlink == 6
    assert os.stat("d1").st_nlink == 3
    os.rmdir("d2")
    assert os.stat(".").st_nlink == 5
    assert os.stat(place.source).st_nlink == 5


@by_both
def test_operations_relative_to_a_directory_descriptor(place: Place) -> None:
    os.mkdir("d")
    with opened("d") as fd:
        os.rename("d", "moved")
        os.mkdir("sub", dir_fd=fd)
        os.close(os.open("f", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
        os.symlink("f", "l", dir_fd=fd)
        os.rename("f", "sub/f", src_dir_fd=fd, dst_dir_fd=fd)
        os.link("sub/f", "h", src_dir_fd=fd, dst_dir_fd=fd)
        assert sorted(os.listdir(fd)) == ["h", "l", "sub"]
        os.chmod("h", 0o640, dir_fd=fd)
        assert os.stat("moved/sub/f").st_mode & 0o777 == 0o640
        os.unlink("sub/f", dir_fd=fd)
        os.rmdir("sub", dir_fd=fd)

        def body() -> None:
            os.fchdir(fd)
            assert os.getcwd() == str(place.root / "moved")

        in_child(body)
    path = os.open("moved", os.O_PATH | os.O_DIRECTORY)
    try:
        assert os.stat("h", dir_fd=path).st_nlink == 1
        with fails(errno.EBADF):
            call("syscall", _SYS_GETDENTS64, path, ctypes.create_string_buffer(4096), 4096)
    finally:
        os.close(path)


def test_twenty_thousand_entries_read_while_they_change(place: Place) -> None:
    """What stays is listed exactly once, what comes and goes at most once, and nothing that never was."""
    os.mkdir(place.source / "d")
    for number in range(MANY):
        os.mknod(place.source / f"d/stays-{number}")
    assert sum(1 for _ in os.scandir("d")) == MANY
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)

    def change() -> int:
        number = 0
        while True:
            os.mknod(f"d/new-{number}")
            os.rename(f"d/new-{number}", f"d/moved-{number}")
            if number % 3:
                os.unlink(f"d/moved-{number}")
            number += 1
            try:
                os.read(ours, 1)
            except BlockingIOError:
                continue
            return number

    changer = start_child(change)
    try:
        lists = [[entry.name for entry in os.scandir("d")] for _ in range(3)]
    finally:
        os.write(theirs, b".")
        changes = collect(changer)
        os.close(ours)
        os.close(theirs)
    stays = {f"stays-{number}" for number in range(MANY)}
    possible = {f"{kind}-{number}" for kind in ("new", "moved") for number in range(changes)}
    for names in lists:
        assert len(names) == len(set(names)), "listed twice"
        assert stays <= set(names), f"{len(stays - set(names))} are missing"
        assert set(names) - stays <= possible
    assert changes > 10
    left = {f"moved-{number}" for number in range(0, changes, 3)}
    assert set(os.listdir("d")) == stays | left


@by_both
def test_find_and_ls_see_the_tree(place: Place) -> None:
    for number in range(5):
        os.makedirs(f"d{number}/sub")
        for file in range(20):
            put(f"d{number}/sub/f{file}", b"x" * file)
    for command in (
        ["find", ".", "-printf", "%p %y %m %s %n\\n"],
        ["ls", "-lRAn", "--time-style=full-iso"],
        ["du", "-a", "--apparent-size"],
    ):
        here = subprocess.run(command, cwd=place.root, capture_output=True, check=True)
        behind = subprocess.run(command, cwd=place.source, capture_output=True, check=True)
        assert not here.stderr
        assert here.stdout == behind.stdout or sorted(here.stdout.split(b"\n")) == sorted(behind.stdout.split(b"\n"))
