"""kill -9, of the daemon and of its callers: what was acknowledged stays, and the next mount needs no help."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from notifyfs.mounts import kernel, mountinfo
from notifyfs.protocol import flags
from tests.conftest import SOURCES, Mount, wait_until
from tests.support.faults import forget
from tests.support.posix import collect, fails, get, put, start_child
from tests.support.subscriber import Subscriber

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


def children_of(pid: int) -> list[int]:
    """Those of its first thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def state_of(pid: int, field: str) -> str:
    """One line of /proc/PID/status."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return ("\n" + status).partition(f"\n{field}:")[2].partition("\n")[0].strip()


def guard_of(mount: Mount) -> tuple[int, int]:
    """Wait for the daemon's guard and that one's spare."""

    def both() -> tuple[int, int] | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            (guard,) = children_of(mount.pid)  # and no zombie
            (spare,) = children_of(guard)
            if "Z" not in state_of(guard, "State") + state_of(spare, "State"):
                return guard, spare
        return None

    found: tuple[int, int] = wait_until(both)
    return found


def killed_under_load(
    mount: Mount, *before: Callable[[Mount], int], then: Callable[[Mount], object] = lambda _: None
) -> None:
    """Kill those that are named *before*, and the daemon at once after them, while it waits for the kernel."""
    device = mountinfo.top(str(mount.root), mountinfo.read())
    assert device is not None
    abort = kernel.open_abort(device.device)
    put(mount.root / "file")
    try:
        with contextlib.closing(Subscriber(mount.socket)) as subscriber:
            subscriber.add(b"file", flags.ATTRIB)
            changers = [start_child(lambda: change_mode(mount.root / "file")) for _ in range(2)]
            for _ in range(50):
                assert {event.mask for event in subscriber.drain()} <= {flags.ATTRIB}
            for which in [which(mount) for which in before]:
                os.kill(which, signal.SIGKILL)
            mount.process.kill()
            then(mount)
            mount.process.wait(10)
            ends: list[Broken] = [collect(child) for child in changers]
    finally:
        os.write(abort, b"1")  # should it hang: whoever comes next must not
        os.close(abort)
    assert {end.first for end in ends} <= {errno.ECONNABORTED, errno.ENOTCONN}
    assert {end.then for end in ends} == {errno.ENOTCONN}


def test_a_daemon_killed_while_it_waits_for_the_kernel_lets_go_of_everybody(doomed: Callable[[], Mount]) -> None:
    """Its thread waits for a lock in the kernel; who has that waits for the daemon. Without the guard 5 of 10 hang."""
    for _ in range(6):
        killed_under_load(doomed())


@pytest.mark.parametrize("which", [0, 1], ids=["guard", "spare"])
def test_a_daemon_killed_after_its_guard_lets_go_of_everybody(doomed: Callable[[], Mount], which: int) -> None:
    for _ in range(6):
        killed_under_load(doomed(), lambda mount: guard_of(mount)[which])


def test_when_all_are_killed_at_once_the_readme_s_way_out_lets_go_of_everybody(doomed: Callable[[], Mount]) -> None:
    """Without it, 26 of 80 hung."""

    def way_out(mount: Mount) -> None:
        done = subprocess.run(["umount", "-f", "-c", mount.root], check=False, capture_output=True, timeout=10)
        assert done.returncode == 0 or b"busy" in done.stderr

    assert "`umount -f -c MOUNTPOINT`" in (SOURCES.parent / "README.md").read_text("utf-8")
    for _ in range(6):
        killed_under_load(
            doomed(), *[lambda mount, which=which: guard_of(mount)[which] for which in (0, 1)], then=way_out
        )


def test_a_guard_that_is_killed_has_a_successor_and_leaves_nothing_behind(doomed: Callable[[], Mount]) -> None:
    mount = doomed()
    for round_ in range(1, 6):
        guard, spare = guard_of(mount)
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: mount.log.count("its spare has taken over") == round_)  # noqa: B023 - now
        guard, another = guard_of(mount)
        assert guard == spare
        os.kill(another, signal.SIGKILL)
        wait_until(lambda: guard_of(mount)[1] != another)  # noqa: B023 - the same
    guard, spare = guard_of(mount)
    mount.finish()
    for pid in (guard, spare):
        assert not os.path.exists(f"/proc/{pid}")


def test_a_daemon_without_a_guard_says_what_may_happen(doomed: Callable[[], Mount]) -> None:
    mount = doomed()
    guard, _ = guard_of(mount)
    os.killpg(guard, signal.SIGKILL)
    wait_until(lambda: "the guard was killed, and its spare" in mount.log)
    assert "umount -f -c" in mount.log
    assert not children_of(mount.pid)
    put(mount.root / "file")
    mount.finish()


def test_the_guard_goes_with_its_daemon_and_has_no_rights(doomed: Callable[[], Mount]) -> None:
    mount = doomed()
    guard, spare = guard_of(mount)
    for pid in (guard, spare):
        assert state_of(pid, "Name") == "notifyfs-guard"
        kept = sorted(os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd"))
        assert {Path(name).name for name in kept} == {"abort", "stat", "pipe"}, "it keeps something else open"
        assert {state_of(pid, f"Cap{kind}").strip("0") for kind in ("Inh", "Prm", "Eff", "Amb")} == {""}
        assert state_of(pid, "NoNewPrivs") == "1"
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGUSR1)
    put(mount.root / "file")
    assert guard_of(mount) == (guard, spare), "it ends only with the daemon"
    mount.finish()
    for pid in (guard, spare):
        assert not os.path.exists(f"/proc/{pid}")


HIDDEN = """
mount -t proc -o hidepid=2 proc /proc
"$@" mount "$0/source" "$0/mount" > "$0/socket"
echo content > "$0/mount/file" && "$@" list > "$0/list"
"$@" umount "$0/mount"
"""


def test_a_guard_that_is_shown_no_other_process_ends_no_connection(fuse: None, tmp_path: Path) -> None:
    """With hidepid, who has fewer rights than the daemon cannot find it in /proc: it has not died for that."""
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    command += ["sh", "-ec", HIDDEN, str(tmp_path), sys.executable, "-m", "notifyfs"]
    done = subprocess.run(
        command, check=False, capture_output=True, timeout=30, env=os.environ | {"PYTHONPATH": str(SOURCES)}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert get(tmp_path / "source" / "file") == b"content\n"
    assert b" live" in get(tmp_path / "list")


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
