"""SQLite in WAL mode: several writers and readers at once, one writer killed, and not one transaction lost.

The shared memory of the WAL index is a shared map of a file on the mount, and the locks are fcntl(2)'s: both must hold
between processes.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

from scripts.reliability.stage import Clock, Failed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scripts.reliability.stage import Place

ACCOUNTS = 1000
TOTAL = ACCOUNTS * 100
READERS = 2


def work(place: Place, *, seconds: int, writers: int) -> None:
    """See the module."""
    clock, path = Clock(), place.root / "work.db"
    _create(path)
    deadline = time.monotonic() + seconds
    processes = [_start(_write, path, number, deadline) for number in range(writers)]
    doomed = _start(_write, path, writers, deadline + 600)
    processes += [_start(_read, path, number, deadline) for number in range(READERS)]
    time.sleep(seconds / 2)
    os.kill(doomed[0], signal.SIGKILL)
    told = [_result(*process) for process in processes]
    os.waitpid(doomed[0], 0)
    least = _last(doomed[1])
    written, read = sum(told[:writers]), sum(told[writers:])
    clock.done(
        f"{writers} writers: {written} transactions; one more killed after {least}; {READERS} readers: {read} sums"
    )
    for each, root in (("the mount", place.root), ("the source", place.source)):
        with closing(sqlite3.connect(root / "work.db")) as database:
            verdict = database.execute("pragma integrity_check").fetchall()
            (rows,) = database.execute("select count(*) from log").fetchone()
            (killed,) = database.execute("select count(*) from log where writer = ?", (writers,)).fetchone()
            (total,) = database.execute("select sum(balance) from account").fetchone()
        if verdict != [("ok",)]:
            raise Failed(f"integrity_check by {each} says {verdict}")
        if rows - killed != written or killed not in {least, least + 1} or total != TOTAL:
            raise Failed(
                f"by {each}: {rows - killed} of {written} transactions, {killed} of the killed writer's {least},"
                f" balances sum to {total}, not {TOTAL}"
            )
        clock.done(f"by {each}: integrity_check ok, {rows} transactions, balances sum to {total}")
    place.check()


def _create(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        (mode,) = database.execute("pragma journal_mode = wal").fetchone()
        if mode != "wal":
            raise Failed(f"SQLite has no WAL here, but {mode}")
        with database:
            database.execute("create table account (id integer primary key, balance integer not null)")
            database.execute(
                "create table log (writer integer, number integer, text text, primary key (writer, number))"
            )
            database.executemany("insert into account values (?, 100)", ((number,) for number in range(ACCOUNTS)))


def _write(path: Path, me: int, deadline: float, say: Callable[[int], object]) -> None:
    """Move money and log it, each time in one transaction; say how many are committed."""
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as database:
        database.execute("pragma synchronous = full")
        number = 0
        while time.monotonic() < deadline:
            payer, payee = (number * 7 + me) % ACCOUNTS, (number * 13 + me * 31) % ACCOUNTS
            database.execute("begin immediate")
            database.execute("update account set balance = balance - 1 where id = ?", (payer,))
            database.execute("update account set balance = balance + 1 where id = ?", (payee,))
            database.execute("insert into log values (?, ?, ?)", (me, number, "x" * (number % 2000)))
            database.execute("commit")
            number += 1
            say(number)


def _read(path: Path, _me: int, deadline: float, say: Callable[[int], object]) -> None:
    """Each snapshot must be of whole transactions."""
    with closing(sqlite3.connect(path, timeout=60)) as database:
        number = 0
        while time.monotonic() < deadline:
            (total,) = database.execute("select sum(balance) from account").fetchone()
            if total != TOTAL:
                raise Failed(f"a reader saw balances of {total}, not {TOTAL}")
            number += 1
            say(number)
            time.sleep(0.002)


def _start(
    function: Callable[[Path, int, float, Callable[[int], object]], None], path: Path, number: int, deadline: float
) -> tuple[int, int]:
    """Run *function* in another process: its id, and a descriptor of a file that has the last number said."""
    fd = os.memfd_create("count")
    pid = os.fork()
    if pid:
        return pid, fd
    code = 1
    try:
        function(path, number, deadline, lambda count: os.pwrite(fd, b"%20d" % count, 0))
        code = 0
    except Exception as error:  # noqa: BLE001 - it is printed, and the exit code tells the parent
        print(f"{function.__name__} {number}: {error!r}", flush=True)
    finally:
        os._exit(code)


def _result(pid: int, fd: int, seconds: float = 600) -> int:
    """What the process said last; Failed unless it ended well."""
    watched = os.pidfd_open(pid)
    ready, _, _ = select.select([watched], [], [], seconds)
    os.close(watched)
    if not ready:
        os.kill(pid, signal.SIGKILL)
        raise Failed(f"process {pid} hangs")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise Failed(f"process {pid} ended with {code}")
    return _last(fd)


def _last(fd: int) -> int:
    return int(os.pread(fd, 20, 0) or b"0")
