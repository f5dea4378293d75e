# ruff: noqa: S606 - exec(2) itself is tested
"""What programs build on besides locks: mapped files, programs started from the tree, SQLite."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import mmap
import os
import signal
import sqlite3
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.posix import by_both, collect, fails, get, in_child, opened, put, start_child

if TYPE_CHECKING:
    from tests.support.posix import Place


pytest_plugins = ["tests.support.posix"]


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


WRITERS, ROUNDS = 4, 15


def connect() -> sqlite3.Connection:
    return sqlite3.connect("data.db", timeout=30, isolation_level=None)


def write_notes(writer: int) -> None:
    database = connect()
    for number in range(ROUNDS):
        database.execute("begin immediate")
        (total,) = database.execute("select total from account").fetchone()
        database.execute("insert into note values (?, ?, ?)", (writer, number, "x" * 2000))
        database.execute("update account set total = ?", (total + 1,))
        database.execute("commit")
    database.close()


def look_until_all_is_written() -> int:
    """How many looks it took."""
    database = connect()
    looks = 0
    while True:
        total, notes = database.execute("select total, (select count(*) from note) from account").fetchone()
        assert total == notes, "half a transaction was seen"
        looks += 1
        if total == WRITERS * ROUNDS:
            database.close()
            return looks


@by_both
@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_sqlite_with_four_writers(place: Place, journal: str) -> None:
    database = connect()
    assert database.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    database.execute("create table account(id integer primary key, total integer)")
    database.execute("insert into account values (1, 0)")
    database.execute("create table note(writer, number, text)")
    database.close()

    children = [start_child(lambda writer=writer: write_notes(writer)) for writer in range(WRITERS)]
    reader = start_child(look_until_all_is_written)
    for child in children:
        collect(child)
    assert collect(reader) >= 1
    database = connect()
    assert database.execute("select total from account").fetchone() == (WRITERS * ROUNDS,)
    (different,) = database.execute("select count(distinct writer * 1000 + number) from note").fetchone()
    assert different == WRITERS * ROUNDS
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    assert os.listdir(".") == ["data.db"] or journal == "persist"
    behind = sqlite3.connect(place.source / "data.db")
    assert behind.execute("pragma integrity_check").fetchone() == ("ok",)
    assert behind.execute("select total from account").fetchone() == (WRITERS * ROUNDS,)
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
