"""Opening: what is made, emptied, appended to or refused."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

from tests.support.posix import (
    by_both,
    collect,
    fails,
    get,
    mode_of,
    opened,
    put,
    start_child,
)

if TYPE_CHECKING:
    from tests.support.posix import Place


pytest_plugins = ["tests.support.posix"]


@by_both
def test_append_goes_to_the_end_whatever_the_position(place: Place) -> None:
    put("f", b"start")
    with opened("f", os.O_RDWR | os.O_APPEND) as one, opened("f", os.O_WRONLY) as two:
        os.write(one, b"1")
        os.pwrite(two, b"two", 6)
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"end")
        assert get("f") == b"start1twoend"
        assert os.lseek(one, 0, os.SEEK_CUR) == 12
        os.pwrite(one, b"!", 0)  # Linux appends all the same: pwrite(2), BUGS
        assert get("f") == b"start1twoend!"
        fcntl.fcntl(one, fcntl.F_SETFL, fcntl.fcntl(one, fcntl.F_GETFL) & ~os.O_APPEND)
        os.pwrite(one, b"S", 0)
        fcntl.fcntl(two, fcntl.F_SETFL, os.O_APPEND)
        os.write(two, b"?")
    assert get("f") == b"Start1twoend!?"
    assert get(place.source / "f") == b"Start1twoend!?"


@by_both
def test_appends_of_several_processes_are_all_there(place: Place) -> None:
    put("log", b"")

    def write(writer: int) -> None:
        with opened("log", os.O_WRONLY | os.O_APPEND) as fd:
            for number in range(200):
                os.write(fd, b"%d:%03d;" % (writer, number) * 5)

    writers = [start_child(lambda writer=writer: write(writer)) for writer in range(4)]
    for writer in writers:
        collect(writer)
    lines = get("log").split(b";")[:-1]
    assert len(lines) == 4 * 200 * 5
    for writer in range(4):
        mine = [line for line in lines if line.startswith(b"%d:" % writer)]
        assert mine == [b"%d:%03d" % (writer, number) for number in range(200) for _ in range(5)]


@by_both
def test_excl_makes_or_fails(place: Place) -> None:
    put("f")
    os.mkdir("d")
    os.symlink("nowhere", "l")
    for name in ("f", "d", "l"):
        with fails(errno.EEXIST):
            os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    assert not os.path.exists("nowhere")
    os.close(os.open("new", os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    assert mode_of("new") == 0


@by_both
def test_of_many_exclusive_creators_one_wins(place: Place) -> None:
    def race() -> int:
        won = 0
        for number in range(100):
            try:
                os.close(os.open(f"f{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                won += 1
            except FileExistsError:
                pass
        return won

    racers = [start_child(race) for _ in range(4)]
    assert sum(collect(racer) for racer in racers) == 100


@by_both
def test_trunc_empties_what_exists(place: Place) -> None:
    put("f", b"content")
    with opened("f") as reader:
        os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))
        assert os.fstat(reader).st_size == 0
        assert os.read(reader, 10) == b""
    put("f", b"content")
    os.close(os.open("f", os.O_RDONLY | os.O_TRUNC))
    assert get(place.source / "f") == b""
    put("f", b"content")
    os.close(os.open("f", os.O_RDWR | os.O_CREAT | os.O_TRUNC))
    assert os.stat("f").st_size == 0


@by_both
def test_trunc_takes_write_permission(place: Place) -> None:
    put("f", b"content", 0o444)
    if os.geteuid():
        for how in (os.O_WRONLY, os.O_RDONLY, os.O_RDWR):
            with fails(errno.EACCES):
                os.open("f", how | os.O_TRUNC)
        with fails(errno.EACCES):
            os.truncate("f", 0)
        assert get("f") == b"content"
    # The mode is for those who come later: the creator's own descriptor may write.
    with opened("new", os.O_WRONLY | os.O_CREAT, 0o444) as fd:
        os.write(fd, b"written")
        os.ftruncate(fd, 3)
    assert get("new") == b"wri"


@by_both
def test_open_refuses_what_it_should(place: Place) -> None:
    os.mkdir("d")
    put("f")
    os.symlink("f", "l")
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_WRONLY | os.O_TRUNC):
        with fails(errno.EISDIR):
            os.open("d", flags)
    with fails(errno.ENOTDIR):
        os.open("f", os.O_RDONLY | os.O_DIRECTORY)
    with fails(errno.ENOTDIR):
        os.open("f/x", os.O_RDONLY)
    with fails(errno.ENOENT):
        os.open("none", os.O_RDWR)
    with fails(errno.ENOENT):
        os.open("none/f", os.O_WRONLY | os.O_CREAT)
    with fails(errno.ELOOP):
        os.open("l", os.O_RDONLY | os.O_NOFOLLOW)
    with fails(errno.EISDIR):
        os.open("new/", os.O_WRONLY | os.O_CREAT)
    with opened("f", os.O_RDONLY) as fd, fails(errno.EBADF):
        os.write(fd, b"x")
    with opened("f", os.O_WRONLY) as fd, fails(errno.EBADF):
        os.read(fd, 1)
    with opened("f", os.O_RDONLY) as fd, fails(errno.EINVAL):
        os.ftruncate(fd, 0)
    with opened("d") as fd, fails(errno.EISDIR):
        os.read(fd, 1)
    with opened("f", os.O_RDWR) as fd:
        with fails(errno.EINVAL):
            os.pread(fd, 1, -1)
        with fails(errno.EINVAL):
            os.ftruncate(fd, -1)
    with fails(errno.EISDIR):
        os.truncate("d", 0)
    with opened("f", 3) as fd:  # neither for reading nor for writing (open(2))
        with fails(errno.EBADF):
            os.read(fd, 1)
        assert os.fstat(fd).st_size == 7


@by_both
def test_an_o_path_descriptor_only_names(place: Place) -> None:
    put("f")
    os.symlink("nowhere", "l")
    for name in ("f", "l"):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW)
        assert os.fstat(fd).st_ino == os.lstat(name).st_ino
        with fails(errno.EBADF):
            os.read(fd, 1)
        os.close(fd)
