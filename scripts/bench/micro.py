"""Single operations: the same loop in every place, seconds for one operation.

Each is done in the current directory, so that nobody is charged for the way there.
"""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from scripts.bench.measuring import clocked
from scripts.bench.processes import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from scripts.bench.measuring import Course
    from scripts.bench.peers import Place

HANGS = 120.0
"""Seconds after which a loop's mount is given up."""

PAYLOAD = bytes(range(100))
NAME = "user.bench"
UNCACHED: Final = ("notifyfs-never", "null-never", "null-turns-never")
BIG = "big"
LISTED = "listed"
KIB = 1024


@attrs.frozen
class Work:
    """*loop* does the operation *count* times with what *prepare* has made in the current directory."""

    name: str
    loop: Callable[[Any], None]
    prepare: Callable[[Place, int], Any]
    count: int
    quick: int = 5
    peers: tuple[str, str, str] = ("notifyfs", "null", "null-turns")
    """Of a request: who is compared; what the kernel would keep needs other options."""


def _names(count: int, letter: str = "f") -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def nothing(_place: Place, count: int) -> list[str]:
    """Names only."""
    return _names(count)


def files(_place: Place, count: int) -> list[str]:
    """Small files, made through the mount."""
    names = _names(count)
    for name in names:
        Path(name).write_bytes(bytes(4 * KIB))
    return names


def seen(place: Place, count: int) -> list[str]:
    """Small files that have been looked at."""
    names = files(place, count)
    stat(names)
    return names


def known(place: Place, count: int) -> list[str]:
    """Small files that have been read."""
    names = files(place, count)
    open_read_close(names)
    return names


def unknown(place: Place, count: int) -> list[str]:
    """Files that are new in the source; the mount has not been asked for them yet."""
    names = _names(count, "seed")
    if place.stored:
        here = place.backing / Path.cwd().relative_to(place.root)
        for name in names:
            (here / name).touch()
    return names


def descriptor(_place: Place, count: int) -> tuple[int, int]:
    """An open file of 4 KiB, with an extended attribute."""
    fd = os.open("f", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(4 * KIB))
    os.setxattr(fd, NAME, b"value")
    return fd, count


def direct(place: Place, count: int) -> tuple[int, int]:
    """The same file, open past the page cache."""
    fd, _ = descriptor(place, count)
    os.close(fd)
    return os.open("f", os.O_RDONLY | os.O_DIRECT), count


def stat(names: Iterable[str]) -> None:
    """stat(2)."""
    call = os.stat
    for name in names:
        call(name)


def open_read_close(names: Iterable[str]) -> None:
    """open(2), read(2) of all that is in it, close(2)."""
    open_, read, close, flags = os.open, os.read, os.close, os.O_RDONLY
    for name in names:
        fd = open_(name, flags)
        read(fd, 4096)
        close(fd)


def _create(names: Iterable[str]) -> None:
    open_, write, close, flags = os.open, os.write, os.close, os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in names:
        fd = open_(name, flags, 0o644)
        write(fd, PAYLOAD)
        close(fd)


def _chmod(names: Iterable[str]) -> None:
    call = os.chmod
    for name in names:
        call(name, 0o600)


def _rename(names: Iterable[str]) -> None:
    call = os.rename
    for name in names:
        call(name, "r" + name)


def _unlink(names: Iterable[str]) -> None:
    call = os.unlink
    for name in names:
        call(name)


def _mkdir(names: Iterable[str]) -> None:
    call = os.mkdir
    for name in names:
        call(name)


def _missing(names: Iterable[str]) -> None:
    exists = os.access
    for name in names:
        exists(name, os.F_OK)


def _list(times: int) -> None:
    call = os.listdir
    for _ in range(times):
        call()


def _fstat(prepared: tuple[int, int]) -> None:
    fd, count = prepared
    call = os.fstat
    for _ in range(count):
        call(fd)
    os.close(fd)


def _fchmod(prepared: tuple[int, int]) -> None:
    fd, count = prepared
    call = os.fchmod
    for number in range(count):
        call(fd, 0o600 | number & 1)
    os.close(fd)


def _fgetxattr(prepared: tuple[int, int]) -> None:
    fd, count = prepared
    call = os.getxattr
    for _ in range(count):
        call(fd, NAME)
    os.close(fd)


def _pread(prepared: tuple[int, int]) -> None:
    fd, count = prepared
    call, buffers = os.preadv, [bytearray(4 * KIB)]
    for _ in range(count):
        call(fd, buffers, 0)
    os.close(fd)


def _pwrite(prepared: tuple[int, int]) -> None:
    fd, count = prepared
    call, block = os.pwrite, bytes(4 * KIB)
    for _ in range(count):
        call(fd, block, 0)
    os.close(fd)


SINGLE: Final = (
    Work("stat", stat, seen, 200),
    Work("stat, first time", stat, unknown, 200),
    Work("open-read-close", open_read_close, known, 200),
    Work("create-write-close", _create, nothing, 200),
    Work("chmod", _chmod, seen, 200),
    Work("rename", _rename, seen, 200),
    Work("unlink", _unlink, seen, 200),
    Work("mkdir", _mkdir, nothing, 200),
)
"""On small files, each in a new directory."""

REQUESTS: Final = (
    Work("GETATTR: fstat", _fstat, descriptor, 500, peers=UNCACHED),
    Work("LOOKUP: access of a missing name", _missing, nothing, 500),
    Work("SETATTR: fchmod", _fchmod, descriptor, 500),
    Work("GETXATTR: fgetxattr", _fgetxattr, descriptor, 500),
    Work("READ: pread of 4 KiB, O_DIRECT", _pread, direct, 500),
    Work("WRITE: pwrite of 4 KiB", _pwrite, descriptor, 500),
)
"""As near to one request as a system call comes."""


def sample(work: Work, place: Place, *, quick: bool) -> dict[str, float]:
    """Seconds for one operation, in a new directory."""
    count = work.quick if quick else work.count
    with in_new_directory(place), within(HANGS, place.process):
        prepared = work.prepare(place, count)
        with clocked() as clock:
            work.loop(prepared)
    return {work.name: clock.seconds / count}


@contextlib.contextmanager
def in_new_directory(place: Place) -> Iterator[None]:
    """Change to a directory that is removed afterwards."""
    # A name that was never used: nobody's cache knows it.
    directory = Path(tempfile.mkdtemp(prefix="work-", dir=place.root))
    with contextlib.chdir(directory):
        yield
    shutil.rmtree(directory)


def single(course: Course, places: Mapping[str, Place]) -> None:
    """Measure each of the operations on small files."""
    for work in SINGLE:
        course.alternate("micro", work.name, places, functools.partial(sample, work, quick=course.quick))


def requests(course: Course, places: Mapping[str, Place]) -> None:
    """Measure what is one request, against the filesystem that does nothing for it."""
    for work in REQUESTS:
        compared = {name: places[name] for name in work.peers}
        course.alternate("requests", work.name, compared, functools.partial(sample, work, quick=course.quick))


def listing(course: Course, places: Mapping[str, Place]) -> None:
    """Measure the names of a directory that has many."""
    count = 50 if course.quick else 10_000
    for place in places.values():
        place.renew()
        directory = (place.backing if place.stored else place.root) / LISTED
        directory.mkdir()
        for name in _names(count, "seed"):
            (directory / name).touch()

    def listed(place: Place) -> dict[str, float]:
        with contextlib.chdir(place.root / LISTED), within(HANGS, place.process), clocked() as clock:
            _list(1)
        return {f"readdir of {count:,}": clock.seconds}

    course.alternate("micro", f"readdir of {count:,}", places, listed)


def blocks(course: Course, places: Mapping[str, Place]) -> None:
    """Measure reading and writing, in order and at random places, by blocks of three sizes."""
    size = KIB * KIB if course.quick else 32 * KIB * KIB
    for place in places.values():
        place.renew()
        with (place.root / BIG).open("wb") as file:
            for _ in range(size // (KIB * KIB)):
                file.write(os.urandom(KIB * KIB))
    for block in (4 * KIB, 128 * KIB, KIB * KIB):
        label = f"{block // KIB} KiB" if block < KIB * KIB else "1 MiB"
        for order in ("sequential", "random"):
            offsets = list(range(0, size, block))
            if order == "random":
                random.Random(block).shuffle(offsets)
            some = offsets[: 50 if course.quick else min(1000, 16 * KIB * KIB // block)]
            name = f"{order} read, {label}"
            wanted = offsets if order == "sequential" else some
            course.alternate("micro", name, places, functools.partial(_read, name, block, wanted))
            name = f"{order} write, {label}"
            course.alternate("micro", name, places, functools.partial(_write, name, block, some))


def _read(name: str, block: int, offsets: list[int], place: Place) -> dict[str, float]:
    """Read twice: what this mount's page cache does not have, though the source's does, and what it may have."""
    taken = {}
    with within(HANGS, place.process):
        if place.mounted:
            fd = os.open(place.root / BIG, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        for again in ("", ", again"):
            fd = os.open(place.root / BIG, os.O_RDONLY)
            buffers, read = [bytearray(block)], os.preadv
            with clocked() as clock:
                for offset in offsets:
                    read(fd, buffers, offset)
            os.close(fd)
            taken[name + again] = clock.seconds / len(offsets)
    return taken


def _write(name: str, block: int, offsets: list[int], place: Place) -> dict[str, float]:
    """Write over what is there: the source's file system has nothing to allocate."""
    data = os.urandom(block)
    with within(HANGS, place.process):
        fd = os.open(place.root / BIG, os.O_WRONLY)
        write = os.pwrite
        with clocked() as clock:
            for offset in offsets:
                write(fd, data, offset)
        os.close(fd)
    return {name: clock.seconds / len(offsets)}
