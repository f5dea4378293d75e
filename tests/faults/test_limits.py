"""A daemon that runs out of something: descriptors, memory, a reader of its log, subscribers that read."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notifyfs.protocol import flags
from tests.conftest import SOURCES, STARTED, wait_until
from tests.support.faults import Asker, ask, limited, root_only, stopped, tmpfs
from tests.support.kernel import Event
from tests.support.posix import collect, fails, get, put, start_child
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

__all__ = ["ask"]

pytestmark = root_only

MEBIBYTE = 1 << 20
MANY = 100_000
"""Names in a directory: their list takes some 15 MiB of the daemon's memory."""
PIPE = 65536
"""Bytes that fit in a pipe, pipe(7)."""


# Out of descriptors


def test_out_of_descriptors_is_the_opener_s_trouble_only(mount: Mount) -> None:
    for number in range(50):
        put(mount.source / f"f{number}")
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"", flags.OPEN | flags.CREATE)
    opened: list[int] = []
    highest = max(map(int, os.listdir(f"/proc/{mount.pid}/fd")))
    waiting: list[Subscriber] = []
    late = threading.Thread(target=lambda: waiting.append(Subscriber(mount.socket)))
    with contextlib.ExitStack() as stack:
        stack.callback(subscriber.close)
        with limited(mount.pid, resource.RLIMIT_NOFILE, highest + 10):
            with fails(errno.EMFILE, errno.ENFILE):
                for number in range(50):
                    opened.append(os.open(mount.root / f"f{number}", os.O_RDONLY))
                    stack.callback(os.close, opened[-1])
            for refused in (lambda: put(mount.root / "new"), lambda: os.listdir(mount.root)):
                with fails(errno.EMFILE, errno.ENFILE):
                    refused()
            assert os.read(opened[0], 9) == b"content"
            assert subscriber.drain() == [Event(1, flags.OPEN, 0, b"f%d" % number) for number in range(len(opened))]
            late.start()  # a connection for which the daemon has no descriptor
            for _ in range(20):
                mounted = subscriber.statistics()["mount"]
                assert (mounted["instances"], mounted["open_files"]) == (1, len(opened))
    late.join(10)
    assert waiting, "who connected meanwhile is not served afterwards"
    waiting[0].close()
    put(mount.root / "new")
    assert get(mount.source / "new") == b"content"
    assert len(os.listdir(mount.root)) == 51
    mount.check()


# Out of memory


def test_out_of_memory_is_an_errno_of_that_request(mount: Mount) -> None:
    names = {f"{number:06}" for number in range(MANY)}
    (mount.source / "large").mkdir()
    for name in names:
        os.mknod(mount.source / "large" / name)
    put(mount.source / "file")
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"", flags.CREATE)
    assert get(mount.root / "file") == b"content"
    status = Path(f"/proc/{mount.pid}/status").read_text("ascii")
    used = int(status.partition("VmSize:")[2].split()[0]) * 1024
    with limited(mount.pid, resource.RLIMIT_AS, used + 4 * MEBIBYTE):
        with fails(errno.ENOMEM):
            os.listdir(mount.root / "large")
        mount.check()
        put(mount.root / "meanwhile")
        assert get(mount.root / "meanwhile") == b"content"
    assert subscriber.drain() == [Event(1, flags.CREATE, 0, b"meanwhile")]
    subscriber.close()
    assert set(os.listdir(mount.root / "large")) == names


# A log that takes no more


@contextlib.contextmanager
def logging_to(directory: Path, stderr: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A mount of *directory*/source that logs all to *stderr*; ended by hand, whatever happens."""
    for made in ("source", "mount"):
        (directory / made).mkdir()
    words = [word for option in options for word in ("-o", option)]
    process = subprocess.Popen(
        [sys.executable, "-m", "notifyfs", "mount", "-f", "-d", *words, directory / "source", directory / "mount"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
        start_new_session=True,
    )
    STARTED.add(process)
    assert process.stdout is not None
    socket = Path()
    try:
        assert select.select([process.stdout], [], [], 20)[0], "not mounted"
        socket = Path(os.fsdecode(process.stdout.readline().rstrip()))
        assert socket.is_socket(), "not mounted"
        yield process
    finally:
        process.kill()
        process.wait()
        STARTED.discard(process)
        process.stdout.close()
        subprocess.run(["umount", "-l", directory / "mount"], check=False, capture_output=True)
        if socket.is_socket():  # it did not end well
            socket.unlink()
            socket.with_name("state").unlink(missing_ok=True)


def fail_often(root: Path) -> None:
    """Operations that a daemon that logs all has a line for each."""
    for number in range(3000):
        with fails(errno.ENOENT):
            os.stat(root / f"absent{number}")
    put(root / "file")


def test_a_log_that_nobody_reads_stalls_nothing(
    fuse: None, tmp_path: Path, ask: Callable[[Callable[[], object]], Asker]
) -> None:
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reader)
        try:
            process = stack.enter_context(logging_to(tmp_path, writer))
        finally:
            os.close(writer)
        ask(lambda: fail_often(tmp_path / "mount")).result(20)
        assert len(os.read(reader, PIPE)) > PIPE // 2, "so little is logged that the pipe was never full"
        assert get(tmp_path / "source" / "file") == b"content"
        ask(lambda: fail_often(tmp_path / "mount")).result(20)  # it is full again
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_log_whose_reader_is_gone_stalls_nothing(
    fuse: None, tmp_path: Path, ask: Callable[[Callable[[], object]], Asker]
) -> None:
    reader, writer = os.pipe()
    try:
        with logging_to(tmp_path, writer) as process:
            os.close(reader)
            ask(lambda: fail_often(tmp_path / "mount")).result(20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    finally:
        os.close(writer)


def test_a_log_on_a_full_disk_stalls_nothing(
    fuse: None, tmp_path: Path, ask: Callable[[Callable[[], object]], Asker]
) -> None:
    with (
        tmpfs(tmp_path / "disk", "size=16k") as disk,
        (tmp_path / "stderr").open("wb") as stderr,
        logging_to(tmp_path, stderr.fileno(), f"log={disk}/log") as process,
    ):
        ask(lambda: fail_often(tmp_path / "mount")).result(20)
        assert os.statvfs(disk).f_bavail == 0, "the disk was never full"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text("utf-8")


# Subscribers that die or stall

MADE = 1500
"""Files that each of two creators makes."""
MOST = 400
"""max_queued_events."""


def create(directory: Path, prefix: str) -> None:
    for number in range(MADE):
        os.mknod(directory / f"{prefix}{number}")


def watch_and_read(socket: str, count: int) -> list[bytes]:
    """Subscribe, say so, and read as fast as it comes: the names of *count* events."""
    subscriber = Subscriber(socket, event_fd=True)
    subscriber.add(b"", flags.CREATE)
    names: list[bytes] = []
    while len(names) < count:
        assert subscriber.wait(20), f"nothing after {len(names)} of {count} events"
        names += [event.name for event in subscriber.drain()]
    return names


def watch_and_stall(socket: str) -> None:
    subscriber = Subscriber(socket)
    subscriber.add(b"", flags.CREATE)
    signal.pause()


def instances(subscriber: Subscriber) -> Any:
    return subscriber.statistics()["mount"]["instances"]


def test_subscribers_that_die_or_stall_under_load_are_nobody_else_s_trouble(
    mounted: Callable[..., Mount], ask: Callable[[Callable[[], object]], Asker]
) -> None:
    mount = mounted(max_queued_events=MOST)
    with contextlib.ExitStack() as stack:
        asking, stalled = Subscriber(mount.socket), Subscriber(mount.socket)
        stack.callback(asking.close)
        stack.callback(stalled.close)
        stalled.add(b"", flags.CREATE)
        reading = [ask(lambda: watch_and_read(mount.socket, 2 * MADE)) for _ in range(2)]
        dying = [start_child(lambda: watch_and_stall(mount.socket)) for _ in range(5)]
        asleep = start_child(lambda: watch_and_stall(mount.socket))
        try:
            wait_until(lambda: asking.statistics()["mount"]["watches"] == 9)
            with stopped(asleep[0]):
                creators = [start_child(lambda prefix=prefix: create(mount.root, prefix)) for prefix in "ab"]  # type: ignore[misc]
                for number, (child, pipe) in enumerate(dying, 1):
                    wait_until(lambda: len(os.listdir(mount.source)) > 300 * number)  # noqa: B023
                    os.kill(child, signal.SIGKILL)
                    os.close(pipe)
                    os.waitpid(child, 0)
                for creator in creators:
                    collect(creator)
                told = [reader.result() for reader in reading]
                wait_until(lambda: instances(asking) == 3)
        finally:
            os.kill(asleep[0], signal.SIGKILL)
            os.close(asleep[1])
            os.waitpid(asleep[0], 0)
        for names in told:
            assert [name for name in names if name.startswith(b"a")] == [b"a%d" % number for number in range(MADE)]
            assert [name for name in names if name.startswith(b"b")] == [b"b%d" % number for number in range(MADE)]
        late = stalled.drain()
        assert late[-1] == Event(-1, flags.Q_OVERFLOW)
        assert [event.name for event in late[:-1]] == told[0][: len(late) - 1]
        assert MOST <= len(late) - 1 < 2 * MADE
        wait_until(lambda: instances(asking) == 2)
