"""kill -9, of the daemon and of its callers: what was acknowledged stays, and the next mount needs no help."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from conftest import Mount, wait_until
from faults_support import forget
from notifyfs.core import flags
from notifyfs.mounts import kernel, mountinfo
from posix_support import collect, fails, get, put, start_child
from subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = random.Random(4711).randbytes(32 << 20)  # noqa: S311 - to tell lost bytes from others
AT_ONCE = 1008
SYNC_EACH = 16 * AT_ONCE
CALLERS, TOGETHER = 300, 4
"""So many at once, because then the freeze shows each time, if its cure is taken away."""
HEARTBEAT = 1.0
"""Seconds that the daemon may take to answer, on a machine that does other things too."""


class Broken(NamedTuple):
    """How an endless work came to its end."""

    done: int
    """What was acknowledged before: bytes, or steps."""
    first: int
    """The errno then."""
    then: int
    """The errno of the next attempt."""


def until_broken(work: Callable[[int], int]) -> Broken:
    """Do *work* until it fails, and once more; each time it is given how much is done, and says how much it did."""
    done = 0
    while True:
        try:
            done += work(done)
        except OSError as error:
            try:
                work(done)
            except OSError as again:
                return Broken(done, error.errno or 0, again.errno or 0)
            raise AssertionError("it failed, and then it did not") from error


@contextlib.contextmanager
def left_open(path: Path, flags: int) -> Iterator[int]:
    """A descriptor whose file system dies meanwhile: close(2) tells that too."""
    fd = os.open(path, flags, 0o644)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def write_content(path: Path) -> Broken:
    with left_open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as fd:

        def write(done: int) -> int:
            if done % SYNC_EACH < AT_ONCE:
                os.fsync(fd)
            return os.write(fd, CONTENT[done : done + AT_ONCE])  # perhaps less: the first page's part of it

        return until_broken(write)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def change_names(directory: Path) -> Broken:
    return until_broken(lambda number: change_name(directory, number))


def change_name(directory: Path, number: int) -> int:
    """Step *number*: every third creates a file, the next renames it, the next removes an older one."""
    step, number = number % 3, number // 3
    if step == 0:
        put(directory / f"{number}.new", b"%d" % number)
    elif step == 1:
        os.rename(directory / f"{number}.new", directory / f"{number}")
    elif number >= 5:
        os.unlink(directory / f"{number - 5}")
    return 1


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


def kill_under_load(mount: Mount, here: Path, behind: Path) -> None:
    """Kill the daemon while four processes work in *here*, and judge what *behind*, the same in the source, holds."""
    files = ["content0", "content1", "content2"]
    writers = [start_child(lambda name=name: write_content(here / name)) for name in files]  # type: ignore[misc]
    changer = start_child(lambda: change_names(here / "names"))
    try:
        wait_until(lambda: all(size_of(behind / name) > 100 * AT_ONCE for name in files))
        wait_until(lambda: any(int(name.partition(".")[0]) > 50 for name in os.listdir(behind / "names")))
    finally:
        mount.process.kill()
        mount.process.wait()
        ends: list[Broken] = [collect(child) for child in (*writers, changer)]
    assert {end.first for end in ends} <= {errno.ECONNABORTED, errno.ENOTCONN}
    assert {end.then for end in ends} == {errno.ENOTCONN}
    for name, end in zip(files, ends, strict=False):
        content = get(behind / name)
        assert end.done <= len(content) <= end.done + AT_ONCE
        assert content == CONTENT[: len(content)]
    steps = ends[-1].done
    assert set(os.listdir(behind / "names")) in (names_after(steps), names_after(steps + 1))


def test_a_daemon_killed_under_load_loses_nothing_acknowledged_and_mounts_again(doomed: Callable[[], Mount]) -> None:
    for round_ in range(3):
        mount = doomed()  # from the second round on, over a dead mount
        here = mount.root / f"round{round_}"
        (here / "names").mkdir(parents=True)
        put(here / "held")
        with contextlib.closing(Subscriber(mount.socket)) as subscriber, left_open(here / "held", os.O_RDONLY) as held:
            subscriber.add(os.fsencode(here.name), flags.CREATE)
            kill_under_load(mount, here, mount.source / here.name)
            for call in (os.fsync, lambda fd: os.fchmod(fd, 0o600)):
                with fails(errno.ENOTCONN):
                    call(held)
            for path_call in (lambda path: os.stat(path / "absent"), lambda path: put(path / "new"), os.listdir):
                with fails(errno.ENOTCONN):
                    path_call(here)
            assert {event.mask for event in subscriber.drain()} == {flags.CREATE}
            with pytest.raises((EOFError, OSError)):
                subscriber.statistics()
        with fails(errno.ECONNREFUSED):
            Subscriber(mount.socket)

    mount = doomed()
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]
    assert mounts.count(str(mount.root)) == 1, "a dead mount is left below the live one"
    for path in (path for path in mount.source.rglob("*") if path.is_file()):
        assert get(mount.root / path.relative_to(mount.source)) == get(path)
    put(mount.root / "after")
    assert get(mount.source / "after") == b"content"
    mount.finish()


def change_mode(path: Path) -> Broken:
    def change(done: int) -> int:
        path.chmod(0o600 + done % 2)
        return 1

    return until_broken(change)


def test_a_daemon_killed_while_it_waits_for_the_kernel_lets_go_of_everybody(doomed: Callable[[], Mount]) -> None:
    """Its thread waits for a lock in the kernel; who has that waits for the daemon. Without the guard 5 of 10 hang."""
    for _ in range(6):
        mount = doomed()
        device = mountinfo.top(str(mount.root), mountinfo.read())
        assert device is not None
        abort = kernel.open_abort(device.device)
        put(mount.root / "file")
        try:
            with contextlib.closing(Subscriber(mount.socket)) as subscriber:
                subscriber.add(b"file", flags.ATTRIB)
                changers = [start_child(lambda: change_mode(mount.root / "file")) for _ in range(2)]  # noqa: B023 - now
                for _ in range(50):
                    assert {event.mask for event in subscriber.drain()} <= {flags.ATTRIB}
                mount.process.kill()
                mount.process.wait(10)
                ends: list[Broken] = [collect(child) for child in changers]
        finally:
            os.write(abort, b"1")  # should it hang: whoever comes next must not
            os.close(abort)
        assert {end.first for end in ends} <= {errno.ECONNABORTED, errno.ENOTCONN}
        assert {end.then for end in ends} == {errno.ENOTCONN}


def test_the_guard_goes_with_its_daemon(doomed: Callable[[], Mount]) -> None:
    def of_mine() -> list[str]:
        children = Path(f"/proc/{mount.process.pid}/task/{mount.process.pid}/children").read_text("ascii").split()
        return [Path(f"/proc/{child}/comm").read_text("utf-8").strip() for child in children]

    mount = doomed()
    (guard,) = Path(f"/proc/{mount.process.pid}/task/{mount.process.pid}/children").read_text("ascii").split()
    wait_until(lambda: of_mine() == ["notifyfs-guard"])
    assert len(os.listdir(f"/proc/{guard}/fd")) == 1, "it keeps something else open"
    os.kill(int(guard), signal.SIGTERM)
    os.kill(int(guard), signal.SIGUSR1)
    put(mount.root / "file")
    assert of_mine() == ["notifyfs-guard"], "it ends only with the daemon"
    mount.finish()
    assert not os.path.exists(f"/proc/{guard}")


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
    """TOGETHER processes that ask the mount without a pause, killed at the end of the block."""
    busy, tell = os.pipe()
    children = []
    try:
        for _ in range(TOGETHER):
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
    """pyfuse3 reads the request of a caller that is gone, and would sleep until the next: and nobody else asks here."""
    slowest = 0.0
    with contextlib.closing(Subscriber(mount.socket, timeout=10 * HEARTBEAT)) as heart:
        for _ in range(CALLERS // TOGETHER):
            with callers(mount.root):
                heart.statistics()
            for _ in range(10):
                start = time.monotonic()
                heart.statistics()
                slowest = max(slowest, time.monotonic() - start)
    assert slowest < HEARTBEAT
    put(mount.root / "after")
    assert get(mount.source / "after") == b"content"
