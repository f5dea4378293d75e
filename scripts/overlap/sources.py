"""Sources that are slow in one way or another, each mounted by notifyfs."""

# ruff: noqa: S101, S311 - as in the tests, which this extends; chance is what is wanted

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import Mount

from scripts import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST = 0.03
"""Seconds that a lease is kept, or an inner daemon stands still, at most."""


@contextlib.contextmanager
def mounted(kind: str, options: tuple[str, ...]) -> Iterator[Mount]:
    """A mount for all users over a source of this *kind* (``KINDS``)."""
    with tempfile.TemporaryDirectory(
        prefix="notifyfs-overlap-", dir=_MEMORY if kind in {"memory", "apart"} else None
    ) as base:
        place = Path(base)
        place.chmod(0o755)
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(_source(kind, place))
            if kind == "apart":
                stack.enter_context(_python_path(Path(__file__).parent / "apart"))
            mount = Mount(place / "outer", ("allow_other", *options), source)
            stack.callback(mount.finish)
            yield mount


@contextlib.contextmanager
def _python_path(folder: Path) -> Iterator[None]:
    """What is started meanwhile finds *folder* first, but for what ``Mount`` puts before."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(folder)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        os.environ |= {} if before is None else {"PYTHONPATH": before}


@contextlib.contextmanager
def _source(kind: str, place: Path) -> Iterator[Path]:
    if kind != "fuse":
        (place / "source").mkdir()
        yield place / "source"
        return
    inner = Mount(place / "inner", ("allow_other", "cache=never"))
    inner.source.chmod(0o755)
    try:
        with _every_now_and_then(lambda: _still(inner.pid)):
            yield inner.root
    finally:
        inner.finish()


def _still(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(random.uniform(0, LONGEST))
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _every_now_and_then(what: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(random.uniform(0, LONGEST)):
            what()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def disturbed(kind: str, tree: Path) -> Iterator[None]:
    """What makes a source of this *kind* slow, in the *tree* of one round."""
    if kind != "leases":
        yield
        return
    holder = subprocess.Popen(
        [sys.executable, "-m", "scripts.overlap.sources", str(tree)], cwd=ROOT, stdin=subprocess.PIPE
    )
    assert holder.stdin is not None
    try:
        yield
    finally:
        holder.stdin.close()
        holder.wait()


def hold_leases(tree: str) -> None:
    """Hold leases of files in *tree*, each for a random time after somebody wants it, until standard input ends."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    held: dict[int, float] = {}
    while not select.select([0], [], [], random.uniform(0, LONGEST / 10))[0]:
        now = time.monotonic()
        for descriptor in [descriptor for descriptor, until in held.items() if until <= now]:
            os.close(descriptor)
            del held[descriptor]
        above, _, files = random.choice([*os.walk(tree)])
        if files and len(held) < 4:  # noqa: PLR2004 - some, not all
            with contextlib.suppress(OSError):  # removed, no file, or open for writing
                descriptor = os.open(
                    os.path.join(above, random.choice(files)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                )
                held[descriptor] = now + random.uniform(0, LONGEST)
                fcntl.fcntl(descriptor, fcntl.F_SETLEASE, random.choice([fcntl.F_RDLCK, fcntl.F_WRLCK]))


KINDS = ("disk", "memory", "leases", "apart", "fuse")
"""The disk where temporary files are (its truncation is slow); memory; the disk, and leases held of its files; memory,
where the daemon makes its calls slowly, in threads (``apart``); and another mount of notifyfs, which stands still now
and then."""
_MEMORY = "/dev/shm"  # noqa: S108 - a file system in memory is what is wanted

if __name__ == "__main__":
    hold_leases(sys.argv[1])
