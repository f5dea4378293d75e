"""The whole: two trees, the mount, the processes, and what is made of a difference."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import shutil
import signal
import struct
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tests.conftest import Mount

from scripts.compare.known import KNOWN
from scripts.compare.tree import differences
from scripts.compare.worker import Difference, Places, Worker, replay
from scripts.fuzz.shrink import shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self

    from scripts.compare.operations import Operation

PATIENCE = 120
"""Seconds without any progress of a process, after which the mount is said to hang."""

SHRINKING = 60.0
"""Seconds that a difference may take to be made small."""


class Found(NamedTuple):
    """A difference: whose, what, the operations up to it, and the fewest that still show it."""

    process: int
    done: int
    what: str
    prefix: list[Operation]
    fewest: list[Operation]
    """Empty if it does not show again when that process works alone."""


class Comparer:
    """Two trees below a new directory in *under*, one of them mounted with *options*; a context manager.

    *without* has the words of ``known.KNOWN`` that are left out.
    """

    def __init__(
        self,
        under: Path,
        options: Sequence[str],
        say: Callable[[str], None],
        without: frozenset[str] = frozenset(KNOWN),
    ) -> None:
        self._say = say
        self._without = without
        self.outcomes: Counter[str] = Counter()
        """How often an operation gave each errno, or was done."""
        self._base = Path(tempfile.mkdtemp(prefix="notifyfs-compare-", dir=under))
        self._base.chmod(0o755)
        aside, plain = self._base / "aside", self._base / "plain"
        for made in (aside, plain, self._base / "mounted"):
            made.mkdir()
            made.chmod(0o755)
        self._mount = Mount(self._base / "mounted", ("allow_other", "suid", "dev", *options))
        self._mount.source.chmod(0o755)
        self.places = Places(plain, self._mount.root, aside)
        if plain.stat().st_dev == self._mount.root.stat().st_dev:
            raise AssertionError(f"{self._mount.root} is not mounted: this would compare like with like")
        for root in (self.places.plain, self.places.mount):
            for name in ("serial", "free", "free/d0", "free/d1", "free/d2"):
                (root / name).mkdir()
                (root / name).chmod(0o1777 if name == "serial" else 0o777)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError):
            self._mount.finish()
        shutil.rmtree(self._base)

    def run(
        self,
        seed: int,
        processes: int,
        operations: int,
        session: int = 5000,
        *,
        only: int | None = None,
    ) -> Found | None:
        """Compare; the first difference, made small, or None.

        Each of *processes* does *operations*; *only*: that session of each.
        """
        children = {}
        for number in range(processes):
            pid, fd = self._start(number, lambda worker: worker.run(operations, session, only), seed)
            children[fd] = (number, pid)
        found = self._watch(children)
        self._mount.check()
        if found is not None:
            number, done, what, history = found
            self._say(f"process {number} found after {done} operations, now making it small: {what}\n")
            return self._smaller(Found(number, done, what, history, []))
        return self._end(processes, operations)

    def _end(self, processes: int, operations: int) -> Found | None:
        """Compare what all have made, by the mount and, when that is gone, by the source."""
        logs = [_records(root / "free" / "log") for root in (self.places.plain, self.places.mount)]
        for root in (self.places.plain, self.places.mount):  # its order is the processes'
            with contextlib.suppress(FileNotFoundError):
                (root / "free" / "log").unlink()
        done = processes * operations
        if logs[0] != logs[1]:
            return Found(-1, done, "the log that all append to has other records on the mount", [], [])
        found = differences(str(self.places.plain), str(self.places.mount))
        if not found:
            found = differences(str(self._mount.source), str(self.places.mount), same=True)
        if not found:
            self._mount.finish()
            found = differences(str(self.places.plain), str(self._mount.source))
        return Found(-1, done, "the trees differ in the end:\n" + "\n".join(found[:20]), [], []) if found else None

    def _start(self, number: int, work: Callable[[Worker], None], seed: int) -> tuple[int, int]:
        """A child process, and the pipe on which it tells."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid:
            os.close(theirs)
            return pid, ours
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

            def tell(what: object) -> None:
                data = pickle.dumps(what)
                with open(theirs, "wb", closefd=False) as pipe:
                    pipe.write(struct.pack("=I", len(data)) + data)

            worker = Worker(self.places, seed, number, tell, self._without)
            try:
                work(worker)
                tell(worker.outcomes)
            except Difference as difference:
                tell((worker.done, difference.what, difference.operations))
            except BaseException:  # noqa: BLE001 - told to the parent
                tell((worker.done, "the comparer failed: " + traceback.format_exc(), []))
        finally:
            os._exit(0)

    def _watch(self, children: dict[int, tuple[int, int]]) -> tuple[int, int, str, list[Operation]] | None:
        """Wait until all have ended, or one has found something, which ends the others."""
        counts = {number: 0 for number, _ in children.values()}
        began = time.monotonic()
        try:
            while children:
                ready, _, _ = select.select(list(children), [], [], PATIENCE)
                if not ready:
                    return -1, sum(counts.values()), f"no progress for {PATIENCE} s: the mount hangs", []
                for fd in ready:
                    number, pid = children[fd]
                    told = _told(fd)
                    if isinstance(told, int):
                        counts[number] = told
                        total, seconds = sum(counts.values()), time.monotonic() - began
                        self._say(f"{total} operations, {total / seconds:.0f} a second")
                        continue
                    del children[fd]
                    os.close(fd)
                    os.waitpid(pid, 0)
                    if isinstance(told, tuple):
                        return (number, *told)
                    self.outcomes += cast("Counter[str]", told)
            return None
        finally:
            for fd, (_, pid) in children.items():
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                os.close(fd)

    def _smaller(self, found: Found) -> Found:
        """The shortest prefix that shows it again, done alone, and the fewest operations of that."""
        shown = self._again(found.process, found.prefix)
        if shown is None:
            return found
        good = 0
        while shown[0] - good > 1:  # trees are compared at the end: the first operation that matters may be earlier
            middle = (shown[0] + good) // 2
            earlier = self._again(found.process, found.prefix[:middle])
            if earlier is None:
                good = middle
            else:
                shown = earlier
        prefix = found.prefix[: shown[0]]

        def fails(trial: Any) -> bool:
            return self._again(found.process, trial) is not None

        fewest = cast("list[Operation]", shrink(cast("Any", prefix), fails, SHRINKING))
        last = self._again(found.process, fewest)
        return found._replace(what=(last or shown)[1], prefix=prefix, fewest=fewest)

    def _again(self, number: int, history: list[Operation]) -> tuple[int, str] | None:
        return replay(self.places, number, history, without=self._without)


def _told(fd: int) -> object:
    head = os.read(fd, 4)
    if not head:
        return 0, "the process died", []
    (length,) = struct.unpack("=I", head)
    data = b""
    while len(data) < length:
        data += os.read(fd, length - len(data))
    return pickle.loads(data)  # noqa: S301 - our own child wrote it


def _records(path: Path) -> Iterator[bytes] | list[bytes]:
    return sorted(path.read_bytes().splitlines()) if path.exists() else []
