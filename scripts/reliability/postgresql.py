"""PostgreSQL with its data directory on the mount: benchmarked, killed, recovered, and examined by its own tools.

pgbench says how many transactions were acknowledged, and each leaves a row: after the recovery none may be missing, and
the sums of the four tables must agree, as they do after each transaction.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from scripts.reliability.stage import Clock, Failed, group_of, run

if TYPE_CHECKING:
    from scripts.reliability.stage import Place

USER = "postgres"
PORT = "54329"
SUMS = (
    "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),"
    " (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)"
)


class Database:
    """A cluster of one database, ``bench``; its socket and its log are not on the mount."""

    def __init__(self, place: Place) -> None:
        self._binaries = _binaries()
        self._place = place
        self.data = place.directory("postgresql", USER) / "data"
        self._log = place.aside / "postgresql.log"
        self._server: subprocess.Popen[str] | None = None

    def _popen(
        self, program: str, *words: str | Path, stdout: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start one of PostgreSQL's programs."""
        return subprocess.Popen(
            [self._binaries / program, *words],
            cwd=self._place.aside,
            env={"PATH": "/usr/bin:/bin", "PGHOST": str(self._place.aside), "PGPORT": PORT, "LC_ALL": "C.UTF-8"},
            user=USER,
            group=group_of(USER),
            extra_groups=[],
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, program: str, *words: str | Path, seconds: float = 900) -> str:
        """Run one of PostgreSQL's programs, which must succeed."""
        return run(
            self._binaries / program,
            *words,
            user=USER,
            directory=self._place.aside,
            seconds=seconds,
            environment={"PGHOST": str(self._place.aside), "PGPORT": PORT, "PGDATA": str(self.data)},
        )

    def start(self) -> None:
        """Start the server, and return when it answers: after a crash that is after the recovery.

        It is our own child: the next one takes a zombie, which only its parent can end, for a server that runs.
        """
        settings = ["listen_addresses=", f"unix_socket_directories={self._place.aside}", f"port={PORT}"]
        with self._log.open("ab") as log:
            self._server = self._popen(
                "postgres", "-D", self.data, *(word for each in settings for word in ("-c", each)), stdout=log
            )
        deadline = time.monotonic() + 120
        while self._popen("pg_isready", "-q", stdout=subprocess.DEVNULL).wait():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the server does not answer:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Shut down cleanly; at once if nothing is running."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)  # "fast shutdown"
            self._server.wait(120)

    def ask(self, statement: str) -> str:
        """One statement's rows."""
        return self.call("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "bench", "-c", statement).strip()

    def bench(self, seconds: int, clients: int) -> subprocess.Popen[str]:
        """Start pgbench without its vacuum, which would empty the history."""
        return self._popen("pgbench", "-n", "-c", str(clients), "-j", "2", "-T", str(seconds), "bench")

    def kill(self) -> None:
        """``kill -9`` of the postmaster; returns when it and all that it had started are gone."""
        if self._server is None:
            raise Failed("the server was not started")
        family = _children(self._server.pid)
        self._server.kill()
        self._server.wait()
        deadline = time.monotonic() + 60
        while left := [process for process in family if _lives(process)]:
            if time.monotonic() > deadline:
                raise Failed(f"60 s after the postmaster was killed its processes {left} are still there")
            time.sleep(0.05)

    def log(self) -> str:
        """What the server has logged."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def consistent(self, acknowledged: int, in_flight: int) -> int:
        """Failed unless the sums agree and no acknowledged transaction is missing; the number of rows."""
        sums = self.ask(SUMS).split("|")
        if len(set(sums)) != 1:
            raise Failed(f"the sums of accounts, tellers, branches and history differ: {sums}")
        rows = int(self.ask("select count(*) from pgbench_history"))
        if not acknowledged <= rows <= acknowledged + in_flight:
            raise Failed(f"{acknowledged} transactions were acknowledged, the history has {rows}")
        return rows


def work(place: Place, *, seconds: int, scale: int, clients: int) -> None:
    """See the module."""
    database = Database(place)
    try:
        _work(place, database, seconds=seconds, scale=scale, clients=clients)
    finally:
        database.stop()
    place.check()


def _work(place: Place, database: Database, *, seconds: int, scale: int, clients: int) -> None:
    clock = Clock()
    database.call("initdb", "--data-checksums", "--auth=trust", "--username=postgres")
    database.start()
    clock.done("initdb --data-checksums, and start")
    database.call("createdb", "bench")
    database.call("pgbench", "-i", "-q", "-s", str(scale), "bench")
    clock.done(f"pgbench -i -s {scale}")

    bench = database.bench(seconds, clients)
    time.sleep(seconds / 2)
    database.kill()
    first = _result(bench, aborted=True)
    clock.done(f"pgbench -c {clients}, and kill -9 of the postmaster: {first} transactions acknowledged")
    database.start()
    if "automatic recovery in progress" not in database.log():
        raise Failed(f"PostgreSQL did not recover:\n{database.log()[-2000:]}")
    rows = database.consistent(first, clients)
    redo = re.findall(r"redo (?:starts|done) at \S+", database.log())
    clock.done(f"recovery ({', '.join(redo)}): {rows} rows, sums agree")

    second = _result(database.bench(seconds - seconds // 2, clients), aborted=False)
    clock.done(f"pgbench again: {second} transactions acknowledged")
    rows = database.consistent(rows + second, 0)
    database.call("pg_amcheck", "--install-missing", "--heapallindexed", "--parent-check", "-d", "bench")
    clock.done(f"pg_amcheck --heapallindexed --parent-check: nothing found; {rows} rows, sums agree")

    size = _restored(place, database)
    clock.done(f"pg_dump, restored, and dumped again: the same {size >> 20} MiB")
    database.stop()
    said = database.call("pg_checksums", "--check", "-D", database.data)
    clock.done("clean stop; pg_checksums: " + ", ".join(re.findall(r"(?:Blocks scanned|Bad checksums): +\d+", said)))
    bad = [
        line for line in database.log().splitlines() if re.search(r"PANIC|could not (?:fsync|write|read|open)", line)
    ]
    if bad:
        raise Failed(f"PostgreSQL complained:\n{chr(10).join(bad[:20])}")


def _restored(place: Place, database: Database) -> int:
    """Dump, restore, and dump again; the dump's size. Failed: the two differ."""
    dump = database.data.parent / "dump.sql"
    database.call("pg_dump", "-f", dump, "bench")
    database.call("createdb", "copy")
    database.call("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", "copy", "-f", dump)
    again = place.aside / "again.sql"
    database.call("pg_dump", "-f", again, "copy")
    if _statements(dump) != _statements(again):
        raise Failed("the dump of the restored dump differs")
    return dump.stat().st_size


def _result(bench: subprocess.Popen[str], *, aborted: bool) -> int:
    said, _ = bench.communicate(timeout=1200)
    found = re.search(r"number of transactions actually processed: (\d+)", said)
    if found is None or ("aborted" in said) != aborted:
        raise Failed(f"pgbench did not end as expected:\n{said[-2000:]}")
    speed = re.search(r"tps = ([\d.]+)", said)
    print(f"            pgbench: {speed.group(1) if speed else '?'} transactions a second")
    return int(found.group(1))


def _statements(dump: Path) -> list[str]:
    """A dump without what is new each time."""
    lines = dump.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith(("--", "\\restrict", "\\unrestrict"))]


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        raise Failed("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    return found[-1].parent


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
