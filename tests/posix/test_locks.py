# ruff: noqa: S606 - exec(2) itself is tested
"""What programs build on: locks, mapped files, programs started from the tree, SQLite."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import mmap
import os
import select
import signal
import sqlite3
import stat
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import by_both, collect, fails, get, in_child, opened, put, start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

F_OFD_GETLK, F_OFD_SETLK = 36, 37


@contextlib.contextmanager
def holding(take: Callable[[], object]) -> Iterator[int]:
    """Another process holds what *take* takes, from before the block until after it."""
    taken, say_taken = os.pipe()
    done, say_done = os.pipe()

    def hold() -> None:
        take()
        os.write(say_taken, b".")
        os.close(say_done)
        select.select([done], [], [])

    holder = start_child(hold)
    try:
        assert select.select([taken], [], [], 10)[0], "the other process did not get it"
        yield holder[0]
    finally:
        os.close(say_done)
        collect(holder)
        for end in (taken, say_taken, done):
            os.close(end)


def lock(kind: int, start: int = 0, size: int = 0) -> bytes:
    """A struct flock."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, size, 0)


@by_both
def test_flock(place: Place) -> None:
    put("f")

    def take(how: int) -> Callable[[], int]:
        def function() -> int:
            fd = os.open("f", os.O_RDWR)
            fcntl.flock(fd, how)
            return fd

        return function

    with opened("f", os.O_RDWR) as fd, opened("f", os.O_RDWR) as other:
        with holding(take(fcntl.LOCK_EX)):
            for how in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                with fails(errno.EWOULDBLOCK):
                    fcntl.flock(fd, how | fcntl.LOCK_NB)
        with holding(take(fcntl.LOCK_SH)):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with fails(errno.EWOULDBLOCK):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        copy = os.dup(fd)
        os.close(copy)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@by_both
def test_record_locks(place: Place) -> None:
    put("f", b"x" * 100)

    def take() -> None:
        fd = os.open("f", os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 10, 10))
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_RDLCK, 50, 10))

    with opened("f", os.O_RDWR) as fd:
        with holding(take) as holder:
            for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK):
                with fails(errno.EAGAIN, errno.EACCES):
                    fcntl.fcntl(fd, fcntl.F_SETLK, lock(kind, 19, 1))
            fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 20, 30))
            fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_RDLCK, 50, 10))
            with fails(errno.EAGAIN, errno.EACCES):
                fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 55, 1))
            found = fcntl.fcntl(fd, fcntl.F_GETLK, lock(fcntl.F_RDLCK, 0, 0))
            assert struct.unpack("hhqqi4x", found) == (fcntl.F_WRLCK, 0, 10, 10, holder)
            with opened("f", os.O_RDWR) as open_file, fails(errno.EAGAIN, errno.EACCES):
                fcntl.fcntl(open_file, F_OFD_SETLK, lock(fcntl.F_WRLCK, 10, 1))
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK))
        os.close(os.open("f", os.O_RDONLY))  # any close of the file ends a process's locks (fcntl(2))
        assert in_child(lambda: free("f"))
        with opened("f", os.O_RDWR) as read_only, opened("f") as reading:
            fcntl.fcntl(read_only, fcntl.F_SETLK, lock(fcntl.F_RDLCK))
            with fails(errno.EBADF):
                fcntl.fcntl(reading, fcntl.F_SETLK, lock(fcntl.F_WRLCK))


def free(name: str) -> bool:
    """Whether nobody else holds a lock."""
    with opened(name, os.O_RDWR) as fd:
        found = fcntl.fcntl(fd, fcntl.F_GETLK, lock(fcntl.F_WRLCK))
        return bool(struct.unpack("hhqqi4x", found)[0] == fcntl.F_UNLCK)


@by_both
def test_a_waiter_gets_the_lock_when_it_is_free(place: Place) -> None:
    put("f")
    for take in (
        lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
        lambda fd: fcntl.fcntl(fd, fcntl.F_SETLKW, lock(fcntl.F_WRLCK)),
    ):
        with opened("f", os.O_RDWR) as fd:
            take(fd)

            def wait(take: Callable[[int], object] = take) -> float:
                with opened("f", os.O_RDWR) as own:
                    take(own)
                    return time.monotonic()

            waiter = start_child(wait)
            assert not select.select([waiter[1]], [], [], 0.1)[0], "it did not wait"
            released = time.monotonic()
            fcntl.flock(fd, fcntl.LOCK_UN)
            fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_UNLCK))
            assert collect(waiter) >= released


@by_both
def test_a_killed_holder_loses_its_lock_and_a_signal_ends_the_waiting(place: Place) -> None:
    put("f")
    ready, say_ready = os.pipe()

    def hold() -> None:
        fd = os.open("f", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK))
        os.write(say_ready, b".")
        signal.pause()

    child, pipe = start_child(hold)
    os.read(ready, 1)

    class Interrupted(Exception):  # noqa: N818 - not an error
        pass

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    def wait() -> bool:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with opened("f", os.O_RDWR) as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except Interrupted:
                return True
        return False

    assert in_child(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with opened("f", os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.fcntl(fd, fcntl.F_SETLKW, lock(fcntl.F_WRLCK))
    for end in (ready, say_ready, pipe):
        os.close(end)


@by_both
def test_a_deadlock_is_found(place: Place) -> None:
    put("f", b"ab")
    with opened("f", os.O_RDWR) as fd:
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 0, 1))
        ready, say_ready = os.pipe()

        def other() -> bool:
            with opened("f", os.O_RDWR) as own:
                fcntl.fcntl(own, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 1, 1))
                os.write(say_ready, b".")
                try:
                    fcntl.fcntl(own, fcntl.F_SETLKW, lock(fcntl.F_WRLCK, 0, 1))
                except OSError as error:
                    return error.errno == errno.EDEADLK
                return False

        child = start_child(other)
        os.read(ready, 1)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLKW, lock(fcntl.F_WRLCK, 1, 1))
            here = False
        except OSError as error:
            here = error.errno == errno.EDEADLK
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_UNLCK))
        assert here != collect(child), "exactly one hears of it"
        os.close(ready)
        os.close(say_ready)


def test_locks_are_the_mounts_own(place: Place) -> None:
    """pyfuse3 passes no locks on: users of the mount see each other's, users of the source do not."""
    put("f")
    with opened("f", os.O_RDWR) as fd, opened(place.source / "f", os.O_RDWR) as behind:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if place.mounted:
            fcntl.flock(behind, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            with fails(errno.EWOULDBLOCK):
                fcntl.flock(behind, fcntl.LOCK_EX | fcntl.LOCK_NB)


# Mapped files


@by_both
def test_a_shared_mapping_is_the_file(place: Place) -> None:
    put("f", b"." * 10_000)
    with opened("f", os.O_RDWR) as fd, mmap.mmap(fd, 10_000) as mapped:
        mapped[:5] = b"first"
        assert os.pread(fd, 6, 0) == b"first."
        os.pwrite(fd, b"second", 5000)
        assert mapped[5000:5006] == b"second"
        mapped[9990:] = b"x" * 10
        mapped.flush()
        assert get(place.source / "f") == b"first" + b"." * 4995 + b"second" + b"." * 4984 + b"x" * 10
        mapped[0:1] = b"F"

        def other() -> None:
            with opened("f", os.O_RDWR) as own, mmap.mmap(own, 10_000) as theirs:
                assert theirs[:5] == b"First"
                theirs[5:6] = b"!"

        in_child(other)
        assert mapped[:6] == b"First!"
        os.ftruncate(fd, 20_000)
        assert os.fstat(fd).st_size == 20_000
    assert get("f")[:6] == b"First!"
    with opened("f") as fd, fails(errno.EACCES):
        mmap.mmap(fd, 100, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)


@by_both
def test_a_mapping_outlives_its_descriptor_and_its_name(place: Place) -> None:
    put("f", b"." * 4096)
    os.link("f", "g")
    with opened("f", os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, 4096)
    os.unlink("f")
    mapped[:4] = b"late"
    mapped.flush()
    mapped.close()
    assert get("g")[:5] == b"late."
    assert get(place.source / "g")[:5] == b"late."


@by_both
def test_a_private_mapping_is_ones_own(place: Place) -> None:
    put("f", b"original")
    with opened("f") as fd, mmap.mmap(fd, 8, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
        mapped[:] = b"modified"
        assert get("f") == b"original"
        assert mapped[:] == b"modified"


@by_both
def test_a_page_that_was_cut_off_is_a_bus_error(place: Place) -> None:
    put("f", b"x" * 8192)

    def touch() -> None:
        faulthandler.disable()
        with opened("f", os.O_RDWR) as fd:
            mapped = mmap.mmap(fd, 8192)
            os.ftruncate(fd, 100)
            assert mapped[99:101] == b"x\0"
            assert mapped[5000]

    with pytest.raises(AssertionError, match=rf"status ({int(signal.SIGBUS)}|{signal.SIGBUS | 128})\b"):
        in_child(touch)


# Programs


@by_both
def test_programs_and_scripts_run(place: Place) -> None:
    put("true", get("/bin/true"), 0o755)
    put("script", b"#!/bin/sh\necho from the script $0\nexit 3\n", 0o755)
    put("plain", b"#!/bin/sh\n", 0o644)
    put("broken", b"\x7fELF nonsense", 0o755)
    put("nowhere", b"#!/nonexistent/interpreter\n", 0o755)
    assert subprocess.run(["./true"], check=False).returncode == 0
    done = subprocess.run(["./script"], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (3, b"from the script ./script\n")
    for name, number in (("plain", errno.EACCES), ("broken", errno.ENOEXEC), ("nowhere", errno.ENOENT)):
        with fails(number):
            os.execv(name, [name])
    os.mkdir("d")
    with fails(errno.EACCES):
        os.execv("d", ["d"])


@by_both
def test_a_running_program_is_not_written_to(place: Place) -> None:
    put("sleep", get("/bin/sleep"), 0o755)
    with opened("sleep", os.O_WRONLY), fails(errno.ETXTBSY):
        os.execv("./sleep", ["sleep", "0"])
    process = subprocess.Popen(["./sleep", "60"])
    try:
        with fails(errno.ETXTBSY):
            os.open("sleep", os.O_WRONLY)
        os.unlink("sleep")
        put("sleep", b"a new one")
    finally:
        process.kill()
        process.wait()


@by_both
def test_a_library_is_loaded_from_the_tree(place: Place) -> None:
    def mapped(ending: str) -> str:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return next(line.split()[5] for line in maps if ending in line)

    def body() -> None:  # in a child: ctypes never unloads a library
        ctypes.CDLL("libm.so.6")
        put("copied.so", get(mapped("/libm")), 0o755)
        library = ctypes.CDLL(str(place.root / "copied.so"))
        library.sqrt.restype, library.sqrt.argtypes = ctypes.c_double, [ctypes.c_double]
        assert library.sqrt(144.0) == 12.0
        assert mapped("/copied.so") == str(place.root / "copied.so")

    in_child(body)


@by_both
def test_a_program_is_found_through_a_symlink_and_by_descriptor(place: Place) -> None:
    put("true", get("/bin/true"), 0o755)
    os.symlink("true", "l")
    assert subprocess.run(["./l"], check=False).returncode == 0
    fd = os.open("true", os.O_RDONLY)
    child = os.fork()
    if not child:
        try:
            os.execve(fd, ["true"], {})
        finally:
            os._exit(99)
    os.close(fd)
    assert os.waitpid(child, 0)[1] == 0
    assert stat.S_IMODE(os.stat("true").st_mode) == 0o755


# SQLite


@by_both
@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_sqlite_with_four_writers(place: Place, journal: str) -> None:
    rounds = 15

    def connect() -> sqlite3.Connection:
        return sqlite3.connect("data.db", timeout=30, isolation_level=None)

    database = connect()
    assert database.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    database.execute("create table account(id integer primary key, total integer)")
    database.execute("insert into account values (1, 0)")
    database.execute("create table note(writer, number, text)")
    database.close()

    def write(writer: int) -> None:
        database = connect()
        for number in range(rounds):
            database.execute("begin immediate")
            (total,) = database.execute("select total from account").fetchone()
            database.execute("insert into note values (?, ?, ?)", (writer, number, "x" * 2000))
            database.execute("update account set total = ?", (total + 1,))
            database.execute("commit")
        database.close()

    def read() -> int:
        database = connect()
        looks = 0
        while True:
            total, notes = database.execute("select total, (select count(*) from note) from account").fetchone()
            assert total == notes, "half a transaction was seen"
            looks += 1
            if total == 4 * rounds:
                database.close()
                return looks

    children = [start_child(lambda writer=writer: write(writer)) for writer in range(4)]
    reader = start_child(read)
    for child in children:
        collect(child)
    assert collect(reader) >= 1
    database = connect()
    assert database.execute("select total from account").fetchone() == (4 * rounds,)
    assert database.execute("select count(distinct writer * 1000 + number) from note").fetchone() == (4 * rounds,)
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    assert os.listdir(".") == ["data.db"] or journal == "persist"
    behind = sqlite3.connect(place.source / "data.db")
    assert behind.execute("pragma integrity_check").fetchone() == ("ok",)
    assert behind.execute("select total from account").fetchone() == (4 * rounds,)
    behind.close()


@by_both
def test_sqlite_recovers_from_a_killed_writer(place: Place) -> None:
    database = sqlite3.connect("data.db", isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("create table t(n integer)")
    ready, say_ready = os.pipe()

    def write() -> None:
        own = sqlite3.connect("data.db", isolation_level=None, timeout=10)
        own.execute("insert into t values (1)")
        own.execute("begin immediate")
        own.executemany("insert into t values (?)", [(number,) for number in range(2, 2000)])
        os.write(say_ready, b".")
        signal.pause()

    child, pipe = start_child(write)
    os.read(ready, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in (ready, say_ready, pipe):
        os.close(end)
    database.execute("insert into t values (3000)")
    assert database.execute("select n from t").fetchall() == [(1,), (3000,)]
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
