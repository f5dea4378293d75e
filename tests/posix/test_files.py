# ruff: noqa: S311 - the same random bytes each time are wanted
"""Reading and writing; and what FUSE or pyfuse3 cannot do, with what applications do instead."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING

from tests.support.posix import (
    AT_FDCWD,
    by_both,
    call,
    collect,
    fails,
    get,
    in_child,
    opened,
    put,
    start_child,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

MIB = 1 << 20
RWF_DONTCACHE = 0x80  # linux/fs.h; os has no name for it


@by_both
def test_direct_io(place: Place) -> None:
    block = mmap.mmap(-1, 8192)
    block[:] = bytes(range(256)) * 32
    with opened("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
        for number in range(4):
            assert os.pwritev(fd, [block], number * 8192) == 8192
        back = mmap.mmap(-1, 8192)
        assert os.preadv(fd, [back], 8192) == 8192
        assert back[:] == block[:]
        assert os.preadv(fd, [back], 4 * 8192) == 0
        with opened("f") as buffered:
            assert os.pread(buffered, 8192, 16384) == block[:]
        put("f", b"short")
        assert os.preadv(fd, [back], 0) == 5
        assert back[:5] == b"short"
    assert get(place.source / "f") == b"short"


@by_both
def test_synchronous_writes_are_in_the_source_when_they_return(place: Place) -> None:
    for name, flag in (("sync", os.O_SYNC), ("dsync", os.O_DSYNC)):
        with opened(name, os.O_WRONLY | os.O_CREAT | flag) as fd:
            os.write(fd, b"x" * 10000)
            assert get(place.source / name) == b"x" * 10000
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"y" * 10000)
        os.fdatasync(fd)
        os.fsync(fd)
        assert get(place.source / "f") == b"y" * 10000
    with opened(".") as fd:
        os.fsync(fd)
        os.fdatasync(fd)
    os.sync()


@by_both
def test_a_sparse_file_has_holes_that_read_as_zeros(place: Place) -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"head", 0)
        os.pwrite(fd, b"tail", 64 * MIB)
        found = os.fstat(fd)
        assert found.st_size == 64 * MIB + 4
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 < MIB
        assert os.stat("f").st_blocks == os.stat(place.source / "f").st_blocks
        assert os.pread(fd, 5000, 32 * MIB) == b"\0" * 5000
        assert os.pread(fd, 10, 64 * MIB - 2) == b"\0\0tail"
        os.ftruncate(fd, 128 * MIB)
        assert os.pread(fd, 4, 128 * MIB - 4) == b"\0" * 4
        os.ftruncate(fd, 2)
        os.ftruncate(fd, 6)
        assert os.pread(fd, 10, 0) == b"he\0\0\0\0"
        os.pwrite(fd, b"far", 5 << 40)
        assert os.fstat(fd).st_size == (5 << 40) + 3
        assert os.pread(fd, 10, 5 << 40) == b"far"
        with fails(errno.EFBIG):
            os.pwrite(fd, b"x", 1 << 60)


@by_both
def test_cp_and_tar_keep_the_holes(place: Place) -> None:
    with opened("f", os.O_WRONLY | os.O_CREAT) as fd:
        os.pwrite(fd, b"tail", 16 * MIB)
    subprocess.run(["cp", "--sparse=auto", "f", "copied"], check=True)
    subprocess.run(["tar", "-cSf", "f.tar", "f"], check=True)
    os.mkdir("out")
    subprocess.run(["tar", "-xf", "f.tar", "-C", "out"], check=True)
    subprocess.run(["cmp", "f", "copied"], check=True)
    subprocess.run(["cmp", "f", "out/f"], check=True)
    os.sync()
    assert os.stat(place.source / "copied").st_blocks * 512 < MIB
    assert os.stat(place.source / "out/f").st_blocks * 512 < MIB
    assert os.stat("f.tar").st_size < MIB


@by_both
def test_big_writes_and_odd_pieces(place: Place) -> None:
    content = random.Random(1).randbytes(5 * MIB + 4321)
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        assert os.write(fd, content) == len(content)
        assert os.pread(fd, len(content) + 10, 0) == content
        changed = bytearray(content)
        pieces = random.Random(2)
        for _ in range(200):
            at, size = pieces.randrange(len(content)), pieces.randrange(1, 9000)
            piece = pieces.randbytes(size)
            os.pwrite(fd, piece, at)
            if at + size > len(changed):
                changed.extend(bytes(at + size - len(changed)))
            changed[at : at + size] = piece
            start = max(0, at - 10)
            assert os.pread(fd, size + 20, start) == changed[start : start + size + 20]
        assert os.writev(fd, [b"a" * 3000, b"", b"b" * 3000]) == 6000
        changed[len(content) : len(content) + 6000] = b"a" * 3000 + b"b" * 3000
    assert get("f") == changed
    assert get(place.source / "f") == changed


@by_both
def test_reading_at_the_end_and_writing_nothing(place: Place) -> None:
    put("f", b"12345")
    with opened("f", os.O_RDWR) as fd:
        assert os.pread(fd, 10, 3) == b"45"
        assert os.pread(fd, 10, 5) == b""
        assert os.pread(fd, 10, 1 << 40) == b""
        assert os.read(fd, 0) == b""
        assert os.pwrite(fd, b"", 100) == 0
        assert os.fstat(fd).st_size == 5
        assert os.lseek(fd, -2, os.SEEK_END) == 3
        assert os.read(fd, 10) == b"45"
        with fails(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
    put("empty", b"")
    assert get("empty") == b""


@by_both
def test_what_one_writes_the_other_reads_at_once(place: Place) -> None:
    put("f", b"")
    ours, theirs = os.pipe()
    answers, answer = os.pipe()

    def read() -> bool:
        with opened("f") as fd:
            for number in range(200):
                os.read(ours, 1)
                expected = b"%05d" % number
                if os.pread(fd, 5, number * 5) != expected or os.fstat(fd).st_size != number * 5 + 5:
                    return False
                os.write(answer, b".")
        return True

    reader = start_child(read)
    with opened("f", os.O_WRONLY) as fd:
        for number in range(200):
            os.write(fd, b"%05d" % number)
            os.write(theirs, b".")
            os.read(answers, 1)
    assert collect(reader)
    for end in (ours, theirs, answers, answer):
        os.close(end)


@by_both
def test_threads_that_write_their_own_parts(place: Place) -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:

        def write(part: int) -> None:
            for number in range(100):
                os.pwrite(fd, b"%d" % part * 1000, (number * 4 + part) * 1000)

        threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert get("f") == b"".join(b"%d" % part * 1000 for part in range(4)) * 100


@by_both
def test_copying_inside_the_kernel(place: Place) -> None:
    content = random.Random(3).randbytes(MIB + 77)
    put("f", content)
    with opened("f") as source, opened("copied", os.O_RDWR | os.O_CREAT) as target:
        assert copy(lambda left: os.copy_file_range(source, target, left), len(content))
        assert get("copied") == content
    with opened("f") as source, opened("sent", os.O_RDWR | os.O_CREAT) as target:
        done = 0
        while done < len(content):
            done += os.sendfile(target, source, done, len(content) - done)
        assert get("sent") == content
    ours, theirs = os.pipe()
    with opened("f") as source, opened("spliced", os.O_RDWR | os.O_CREAT) as target:
        while (count := os.splice(source, theirs, 65536)) > 0:
            while count:
                count -= os.splice(ours, target, count)
    os.close(ours)
    os.close(theirs)
    assert get("spliced") == content


def copy(piece: Callable[[int], int], size: int) -> bool:
    while size > 0:
        count = piece(size)
        if not count:
            return False
        size -= count
    return True


@by_both
def test_the_file_size_limit_holds(place: Place) -> None:
    def body() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with opened("f", os.O_WRONLY | os.O_CREAT) as fd:
            assert os.write(fd, b"x" * 8000) == 5000
            with fails(errno.EFBIG):
                os.write(fd, b"x")
            with fails(errno.EFBIG):
                os.ftruncate(fd, 6000)

    in_child(body)
    assert os.stat("f").st_size == 5000


@by_both
def test_statfs_is_the_sources(place: Place) -> None:
    here, behind = os.statvfs("."), os.statvfs(place.source)
    for field in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
        assert getattr(here, field) == getattr(behind, field), field
    assert 0 < here.f_bavail <= here.f_bfree <= here.f_blocks
    put("f")
    with opened("f") as fd:
        assert os.fstatvfs(fd).f_namemax == 255


# What FUSE or pyfuse3 do not have: the plain directory can, the mount says that it cannot, and programs do without.


@by_both
def test_fallocate_is_refused_and_posix_fallocate_works(place: Place) -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.write(fd, b"head")
        if place.mounted:
            with fails(errno.EOPNOTSUPP):
                call("fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(MIB))
        else:
            call("fallocate", fd, 0, ctypes.c_long(0), ctypes.c_long(MIB))
        os.posix_fallocate(fd, 0, MIB)
        assert os.fstat(fd).st_size == MIB
        assert os.pread(fd, 6, 0) == b"head\0\0"
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 >= MIB


@by_both
def test_tmpfile_is_refused_and_temporary_files_work(place: Place) -> None:
    if place.mounted:
        with fails(errno.EOPNOTSUPP):
            os.open(".", os.O_TMPFILE | os.O_RDWR)
    else:
        os.close(os.open(".", os.O_TMPFILE | os.O_RDWR))
    with tempfile.TemporaryFile(dir=".") as file:
        file.write(b"temporary")
        file.seek(0)
        assert file.read() == b"temporary"
        assert not os.listdir(".")


@by_both
def test_holes_are_not_found_on_the_mount(place: Place) -> None:
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"head", 0)
        os.pwrite(fd, b"tail", MIB)
        os.fsync(fd)
        data, hole = os.lseek(fd, 100_000, os.SEEK_DATA), os.lseek(fd, 0, os.SEEK_HOLE)
        assert (data, hole) == ((100_000, MIB + 4) if place.mounted else (MIB, 4096))
        with fails(errno.ENXIO):
            os.lseek(fd, 2 * MIB, os.SEEK_DATA)


@by_both
def test_flags_of_the_inode_cannot_be_asked_on_the_mount(place: Place) -> None:
    get_flags = 0x80086601  # FS_IOC_GETFLAGS
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        if place.mounted:
            with fails(errno.ENOTTY):
                fcntl.ioctl(fd, get_flags, b"\0" * 8)
        else:
            assert len(fcntl.ioctl(fd, get_flags, b"\0" * 8)) == 8
        with opened("g", os.O_RDWR | os.O_CREAT) as other, fails(errno.EOPNOTSUPP):
            fcntl.ioctl(other, 0x40049409, fd)  # FICLONE: ext4 has none either


@by_both
def test_the_birth_time_is_missing_on_the_mount(place: Place) -> None:
    put("f")
    buffer = ctypes.create_string_buffer(256)
    call("statx", AT_FDCWD, b"f", 0, 0xFFF, buffer)
    (mask,) = struct.unpack_from("=I", buffer)
    assert mask & 0x7FF == 0x7FF
    assert bool(mask & 0x800) == (not place.mounted), "STATX_BTIME"


@by_both
def test_only_the_plain_directory_reads_without_waiting(place: Place) -> None:
    """preadv2(2) with RWF_NOWAIT; who asks for that reads again without it, in a thread."""
    put("f", b"in the page cache")
    buffer = bytearray(100)
    with opened("f") as fd:
        assert os.preadv(fd, [buffer], 0) == 17
        if place.mounted:
            for flag in (os.RWF_NOWAIT, RWF_DONTCACHE):
                with fails(errno.EOPNOTSUPP):
                    os.preadv(fd, [buffer], 0, flag)
        else:
            assert os.preadv(fd, [buffer], 0, os.RWF_NOWAIT) == 17
        assert os.preadv(fd, [buffer], 0, os.RWF_HIPRI) == 17
