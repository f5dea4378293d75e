"""The loop: rounds on mounts, each with a tree of its own, and their logs."""

# ruff: noqa: S101, S311 - as in the tests, which this extends; chance that can be repeated is what is wanted

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

import attrs
from tests.support import kernel
from tests.support.wireclient import ADD, ALL_EVENTS, IGNORED, ORIGIN, PENDING, RECURSIVE, Client, origin_of

from scripts import ROOT
from scripts.overlap import sources
from scripts.overlap.check import check
from scripts.overlap.hands import ATTRIBUTE
from scripts.overlap.log import VOICES, Heard, Log, Operation, Thing
from scripts.overlap.worker import ATTRIBUTES, BIG, BLOCKS, DIRECTORIES, LOG, MAPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount
    from tests.support.wireclient import Record

ROUNDS_A_MOUNT = 10
OPERATIONS = 1200
"""Of all processes in one round, unless told otherwise. What they tell fits into every queue."""
USERS = (0, 12345, 0, 12346)
PATIENCE = 240.0
"""Seconds that a round may take."""
WATCHED_FILES = ("a", "b", "d1/a", "d2/a", "d1/s/a", ATTRIBUTES, LOG, MAPPED, BIG[0])
OPTIONS = ((), (), ("access=exact",), ("cache=never",), ("cache=always",))


class Hung(Exception):  # noqa: N818 - a finding, no error of the fuzzer's
    """A process did not answer: the mount hangs, or the process has died."""


class Worker:
    """A process that does operations (``worker``). It is no fork: it must not inherit what the fuzzer holds."""

    def __init__(self, number: int) -> None:
        uid = USERS[number % len(USERS)]
        command = [sys.executable, "-m", "scripts.overlap.worker", str(number), str(uid)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        self.pid = self._process.pid
        self._stdin, self._stdout = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._answer = b""

    def begin(self, base: Path, seed: str, count: int) -> None:
        """Let it work."""
        self._answer = b""
        self._stdin.write(json.dumps([str(base), seed, count]).encode() + b"\n")

    def done(self) -> list[Operation] | None:
        """What it did, when it has."""
        while select.select([self._stdout], [], [], 0)[0]:
            more = os.read(self._stdout.fileno(), 1 << 20)
            if not more:
                raise Hung(f"process {self.pid} died")
            self._answer += more
            if more.endswith(b"\n"):
                return [Operation(*row) for row in json.loads(self._answer)]
        return None

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()


class Voice:
    """One subscriber."""

    def __init__(self, path: str, base: str, watched: list[str], mask: int, *, event_fd: bool = False) -> None:
        self._client = Client(path, event_fd=event_fd, timeout=PATIENCE)
        self._origin: Record | None = None
        for wd, name in enumerate(watched, 1):
            assert self._client.ask(ADD, mask, os.path.join(base, name).rstrip("/").encode()) == wd

    def read(self) -> list[Heard]:
        """All that is queued now."""
        records = self._client.events()
        while self._client.events_fd >= 0 and self._client.ask(PENDING):
            records += self._client.packets()
        return [heard for record in records if (heard := self._heard(record)) is not None]

    def _heard(self, record: Record) -> Heard | None:
        if record.mask & ORIGIN:
            self._origin = record
            return None
        stamp = (0, 0, 0)
        if self._origin is not None:
            origin, self._origin = origin_of(self._origin), None
            stamp = (origin.sequence, origin.pid, origin.time_ns)
        return Heard(record.wd, record.mask, record.cookie, record.name.decode(), *stamp)

    def close(self) -> None:
        """End the instance."""
        self._client.close()


class Kernel:
    """The kernel's instance, with the same watches."""

    def __init__(self, base: Path, watched: list[str]) -> None:
        self._inotify = kernel.Inotify(os.fsencode(base))
        for wd, name in enumerate(watched, 1):
            assert self._inotify.add(name.encode(), ALL_EVENTS) == wd

    def read(self) -> list[Heard]:
        """All that is queued now."""
        return [Heard(*event[:3], event.name.decode()) for event in self._inotify.drain()]

    def close(self) -> None:
        """End the instance."""
        self._inotify.close()


@attrs.define
class Totals:
    """What was done."""

    rounds: int = 0
    operations: int = 0
    failed: int = 0
    overlapping: int = 0
    """Operations that were begun before the one before them, in the order of beginning, was over."""
    heard: int = 0
    seconds: float = 0.0
    last: Log | None = None
    findings: list[tuple[Log, list[str]]] = attrs.field(factory=list)

    def count(self, log: Log) -> None:
        """One round more."""
        self.rounds, self.last = self.rounds + 1, log
        self.operations += len(log.operations)
        self.failed += sum(bool(operation.result) for operation in log.operations)
        self.heard += sum(map(len, log.heard.values()))
        end = 0
        for operation in sorted(log.operations, key=lambda operation: operation.begin):
            self.overlapping += operation.begin < end
            end = max(end, operation.end)

    def __str__(self) -> str:
        return (
            f"{self.operations} operations ({self.failed} failed, {self.overlapping} overlapped one before) in "
            f"{self.rounds} rounds, {self.seconds:.0f} s, {self.heard} events heard; rounds with contradictions: "
            f"{len(self.findings)}"
        )


class Arena:
    """Mounts, processes and totals. A context manager. *size*: operations in one round; *out*: where logs are to go.

    *options* of all mounts; none given: each mount has others.
    """

    def __init__(  # noqa: PLR0913 - what may be chosen
        self,
        seed: int,
        processes: int,
        kinds: tuple[str, ...],
        say: Callable[[str], None],
        *,
        size: int = OPERATIONS,
        out: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.totals = Totals()
        self._seed = seed
        self._kinds = kinds
        self._say = say
        self._size = size
        self._out = out
        self._options = options
        self._workers = [Worker(number) for number in range(processes)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()

    def run(self, *, operations: int, seconds: float, keep_going: bool) -> Totals:
        """Play rounds until one of the limits is reached, or a contradiction is found and not *keep_going*."""
        began, number = time.monotonic(), 0
        totals = self.totals
        while totals.operations < operations and totals.seconds < seconds:
            kind = self._kinds[number // ROUNDS_A_MOUNT % len(self._kinds)]
            options = self._options or random.Random(f"{self._seed}.{number}").choice(OPTIONS)
            with sources.mounted(kind, options) as mount:
                for _ in range(ROUNDS_A_MOUNT):
                    self._one(mount, kind, options, number)
                    number += 1
                    totals.seconds = time.monotonic() - began
                    over = totals.seconds >= seconds or totals.operations >= operations
                    if over or (totals.findings and not keep_going):
                        return totals
        return totals

    def _one(self, mount: Mount, kind: str, options: tuple[str, ...], number: int) -> None:
        log = Round(mount, self._workers, kind, f"{self._seed}.{number}").play(self._size)
        log.header |= {"options": options}
        self.totals.count(log)
        found = check(log)
        try:
            mount.check()
        except AssertionError as error:
            found.append(str(error))
        if found:
            self._say(f"===== round {self._seed}.{number} ({kind} {' '.join(options)})\n" + "\n".join(found))
            if self._out is not None:
                self._out.mkdir(parents=True, exist_ok=True)
                log.save(path := self._out / f"{self._seed}.{number}.log")
                self._say(f"===== --check {path}")
            self.totals.findings.append((log, found))


class Round:
    """One tree, in which *workers* work at once."""

    def __init__(self, mount: Mount, workers: list[Worker], kind: str, seed: str) -> None:
        self._mount, self._workers, self._kind, self._seed = mount, workers, kind, seed
        self._base = f"r{seed.rpartition('.')[2]}"
        self._tree = mount.source / self._base
        self._watched = [*DIRECTORIES, *WATCHED_FILES]
        self._chance = random.Random(f"{seed}.round")

    def play(self, size: int) -> Log:
        """Let them do so many operations: what was done and heard."""
        self._plant()
        pids = [worker.pid for worker in self._workers]
        header = {"seed": self._seed, "source": self._kind, "pids": pids, "daemon": self._mount.pid}
        log = Log(header | {"watched": self._watched}, self._things(), [], {voice: [] for voice in VOICES}, [])
        voices = self._voices()
        try:
            with sources.disturbed(self._kind, self._tree):
                self._work(log, voices, size // len(self._workers))
            os.statvfs(self._mount.root)
            self._listen_to_the_end(log, voices)
        finally:
            for voice in voices.values():
                voice.close()
        log.after = self._things()
        shutil.rmtree(self._mount.root / self._base)  # not behind the mount: inode numbers come again
        return log

    def _voices(self) -> dict[str, Voice | Kernel]:
        path, base, watched = self._mount.socket, self._base, self._watched
        return {
            "kernel": Kernel(self._mount.root / base, watched),
            "stream": Voice(path, base, watched, ALL_EVENTS),
            "packets": Voice(path, base, watched, ALL_EVENTS, event_fd=True),
            "origins": Voice(path, base, watched, ALL_EVENTS | ORIGIN, event_fd=True),
            "tree": Voice(path, base, [""], ALL_EVENTS | ORIGIN | RECURSIVE),
        }

    def _work(self, log: Log, voices: dict[str, Voice | Kernel], share: int) -> None:
        for worker in self._workers:
            worker.begin(self._mount.root / self._base, self._seed, share)
        working = [*self._workers]
        deadline = time.monotonic() + PATIENCE
        while working:
            voice = self._chance.choice(VOICES)
            log.heard[voice] += voices[voice].read()
            for worker in [*working]:
                if (done := worker.done()) is not None:
                    log.operations += done
                    working.remove(worker)
            if time.monotonic() > deadline:
                raise Hung(f"processes {[worker.pid for worker in working]} do not end")
            select.select([], [], [], self._chance.uniform(0, 0.05))

    @staticmethod
    def _listen_to_the_end(log: Log, voices: dict[str, Voice | Kernel]) -> None:
        """Until every watch that the kernel has ended has ended here: deaths may be in doubt for a moment."""
        deadline = time.monotonic() + 2
        while True:
            for name, voice in voices.items():
                log.heard[name] += voice.read()
            ended = [{event.wd for event in log.heard[voice] if event.mask & IGNORED} for voice in VOICES[:-1]]
            if all(each == ended[0] for each in ended) or time.monotonic() > deadline:
                return
            select.select([], [], [], 0.02)

    def _plant(self) -> None:
        """Make the tree in the source."""
        for path in DIRECTORIES:
            (self._tree / path).mkdir()
            (self._tree / path).chmod(0o777)
        files = [self._tree / path for path in (*WATCHED_FILES, "d1/b", "d2/b", *BIG[1:])]
        for file in files:
            file.write_bytes(b"0123456789")
            file.chmod(0o666)
        descriptors = [os.open(self._tree / path, os.O_WRONLY) for path in BIG]
        for block in range(BLOCKS):
            for descriptor in descriptors:  # in turns: so that no two blocks of one file are neighbours on the disk
                os.posix_fallocate(descriptor, block << 15, 4096)
        for descriptor in descriptors:
            os.fsync(descriptor)
            os.close(descriptor)

    def _things(self) -> list[Thing]:
        things = [self._thing(self._tree)]
        for above, directories, files in os.walk(self._tree):
            below = Path(above)
            things += [self._thing(below / name) for name in sorted(directories + files)]
        return things

    def _thing(self, path: Path) -> Thing:
        found = path.lstat()
        kind = {stat.S_IFDIR: "dir", stat.S_IFREG: "file"}.get(stat.S_IFMT(found.st_mode), "link")
        value = ""
        with contextlib.suppress(OSError):
            value = os.getxattr(path, ATTRIBUTE, follow_symlinks=False).decode()
        name = str(path.relative_to(self._tree))
        ino = (self._mount.root / self._base / name).lstat().st_ino
        return Thing("" if name == "." else name, kind, ino, found.st_size, found.st_mode & 0o7777, value)
