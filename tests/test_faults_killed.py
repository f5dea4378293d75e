"""kill -9, of the daemon under load and of its callers: what was acknowledged stays, and the next mount needs no help."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from conftest import Mount, wait_until
from faults_support import forget
from notifyfs.core import flags
from posix_support import collect, fails, get, opened, put, start_child
from subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECORD = struct.Struct("=Q1000x")
SYNC_EACH = 16
CLIENTS, AT_ONCE = 300, 10
HEARTBEAT = 1.0
"""Seconds that the daemon may take to answer, on a machine that does other things too."""


class Broken(NamedTuple):
    """How an endless work came to its end."""

    done: int
    """What was acknowledged before."""
    first: int
    """The errno then."""
    then: int
    """The errno of the next attempt."""


def until_broken(work: Callable[[int], object]) -> Broken:
    """Do *work* with 0, 1, 2, ... until it fails, and once more."""
    for number in itertools.count():
        try:
            work(number)
        except OSError as error:
            try:
                work(number)
            except OSError as again:
                return Broken(number, error.errno or 0, again.errno or 0)
            raise AssertionError("it failed, and then it did not") from error
    raise AssertionError


def write_records(path: Path) -> Broken:
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:

        def write(number: int) -> None:
            if number % SYNC_EACH == SYNC_EACH - 1:
                os.fsync(fd)
            os.write(fd, RECORD.pack(number))

        return until_broken(write)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def change_names(directory: Path) -> Broken:
    return until_broken(lambda number: change_name(directory, number))


def change_name(directory: Path, number: int) -> None:
    """Step *number*: every third creates a file, the next renames it, the next removes an older one."""
    step, number = number % 3, number // 3
    if step == 0:
        put(directory / f"{number}.new", b"%d" % number)
    elif step == 1:
        os.rename(directory / f"{number}.new", directory / f"{number}")
    elif number >= 5:
        os.unlink(directory / f"{number - 5}")


def names_after(steps: int) -> set[str]:
    """What ``change_name`` leaves when that many steps are done."""
    names = set()
    for number in range(steps):
        step, subject = number % 3, number // 3
        if step == 0:
            names.add(f"{subject}.new")
        elif step == 1:
            names ^= {f"{subject}.new", f"{subject}"}
        elif subject >= 5:
            names.remove(f"{subject - 5}")
    return names


@pytest.fixture
def doomed(fuse: None, tmp_path: Path) -> Iterator[Callable[[], Mount]]:
    """Give a function that mounts the same source on the same mountpoint each time; its daemons may be killed."""
    mounts: list[Mount] = []

    def mount() -> Mount:
        mounts.append(Mount(tmp_path, ()))
        return mounts[-1]

    yield mount
    for made in mounts:
        forget(made)


def test_a_daemon_killed_under_load_loses_nothing_acknowledged_and_mounts_again(doomed: Callable[[], Mount]) -> None:
    for round_ in range(3):
        mount = doomed()  # from the second round on, over a dead mount
        here = mount.root / f"round{round_}"
        behind = mount.source / here.name
        (here / "names").mkdir(parents=True)
        put(here / "held")
        subscriber = Subscriber(mount.socket)
        subscriber.add(os.fsencode(here.name), flags.ALL_EVENTS)
        files = [here / f"records{number}" for number in range(3)]
        with opened(here / "held") as held:
            writers = [start_child(lambda file=file: write_records(file)) for file in files]  # type: ignore[misc]
            changer = start_child(lambda: change_names(here / "names"))
            wait_until(lambda: all(size_of(behind / file.name) > 100 * RECORD.size for file in files))  # noqa: B023
            wait_until(lambda: (behind / "names" / "50").exists())  # noqa: B023
            mount.process.kill()
            mount.process.wait()

            for file, child in zip(files, writers, strict=True):
                broken: Broken = collect(child)
                assert broken.first in (errno.ECONNABORTED, errno.ENOTCONN)
                assert broken.then == errno.ENOTCONN
                content = get(behind / file.name)
                expected = b"".join(map(RECORD.pack, range(broken.done + 1)))
                assert content in (expected, expected[: -RECORD.size]), f"{broken}, {len(content)} bytes"
            broken = collect(changer)
            assert broken.first in (errno.ECONNABORTED, errno.ENOTCONN)
            assert broken.then == errno.ENOTCONN
            assert set(os.listdir(behind / "names")) in (names_after(broken.done), names_after(broken.done + 1))
            for call in (lambda: os.fstat(held), lambda: os.read(held, 1), lambda: os.stat(here), lambda: put(here / "x")):
                with fails(errno.ENOTCONN):
                    call()
            told = subscriber.drain()  # to the end of its stream
            assert {event.name for event in told} >= {os.fsencode(file.name) for file in files}
            subscriber.close()
        with fails(errno.ECONNREFUSED):
            Subscriber(mount.socket)

    mount = doomed()
    assert [line.split()[4] for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines()].count(
        str(mount.root)
    ) == 1
    for round_ in range(3):
        for name in os.listdir(mount.source / f"round{round_}" / "names"):
            path = Path(f"round{round_}") / "names" / name
            assert get(mount.root / path) == get(mount.source / path)
    put(mount.root / "after")
    assert get(mount.source / "after") == b"content"
    mount.finish()


# Callers


def ask_for_ever(directory: bytes, busy: int) -> None:
    for number in itertools.count():  # a name that is not there is asked for each time
        if number == 5:
            os.write(busy, b"!")
        try:
            os.stat(b"%s/%d" % (directory, number))
        except FileNotFoundError:
            continue
        raise AssertionError


@contextlib.contextmanager
def callers(root: Path) -> Iterator[None]:
    """AT_ONCE processes that ask the mount without a pause, killed at the end of the block."""
    busy, tell = os.pipe()
    children = []
    try:
        for _ in range(AT_ONCE):
            child = os.fork()
            if not child:
                try:
                    ask_for_ever(os.fsencode(root), tell)
                finally:
                    os._exit(1)
            children.append(child)
        for _ in children:
            assert select.select([busy], [], [], 20)[0], "the mount does not answer"
            os.read(busy, 1)
        yield
    finally:
        os.close(busy)
        os.close(tell)
        for child in children:
            os.kill(child, signal.SIGKILL)
        ended = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    assert ended == {-signal.SIGKILL}


def test_callers_killed_in_the_middle_of_their_requests_never_freeze_the_daemon(mount: Mount) -> None:
    """pyfuse3 reads the request of a caller that is gone, and would sleep until the next: nobody else is here to ask."""
    slowest = 0.0
    with contextlib.closing(Subscriber(mount.socket, timeout=10 * HEARTBEAT)) as heart:
        for _ in range(CLIENTS // AT_ONCE):
            with callers(mount.root):
                heart.statistics()
            for _ in range(10):
                start = time.monotonic()
                heart.statistics()
                slowest = max(slowest, time.monotonic() - start)
    assert slowest < HEARTBEAT
    put(mount.root / "after")
    assert get(mount.source / "after") == b"content"
