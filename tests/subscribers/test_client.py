"""``notifyfs.INotify`` is inotify_simple's on a mount, and ``Connection`` speaks the protocol.

Each program of ``PROGRAMS`` runs twice, with the kernel's inotify (through inotify_simple's own three calls, made
here with ctypes) and with ours, on the same mount.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import notifyfs
from notifyfs import Connection, Event, INotify, flags, masks, parse_events
from notifyfs.client import find_socket
from notifyfs.protocol.records import Origin, Record
from tests.conftest import SOURCES, Mount, wait_until
from tests.support.kernel import Inotify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def place(shared: Callable[..., Mount], request: pytest.FixtureRequest) -> Path:
    """Make a directory of this test's own on the session's mount."""
    directory = shared().root / f"{request.node.originalname}-{abs(hash(request.node.name))}"
    directory.mkdir()
    return directory


@pytest.fixture
def inotify() -> Iterator[INotify]:
    with INotify() as instance:
        yield instance


def dead(daemon: Mount) -> None:
    """Kill the daemon as the kernel would: without a word."""
    daemon.process.kill()
    daemon.process.wait()


def dies_with(daemon: Mount) -> contextlib.AbstractContextManager[None]:
    """Kill a mount's daemon at the end of the block, and leave the fixture nothing to complain of."""

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        yield
        dead(daemon)
        clear = [sys.executable, "-m", "notifyfs", "umount", daemon.root]
        subprocess.run(clear, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(SOURCES)})
        daemon.process.returncode = 0  # what was done to it is no complaint of the fixture's

    return block()


# The programs: what both must do alike.


def files(place: Path) -> None:
    (place / "f").write_text("x")
    (place / "f").rename(place / "g")
    (place / "g").chmod(0o600)
    (place / "g").unlink()


def directories(place: Path) -> None:
    (place / "s").mkdir()
    os.listdir(place / "s")
    (place / "s").rename(place / "t")
    (place / "t").rmdir()


def odd_names(place: Path) -> None:
    for name in (b"\xff\xfe", b"a" * 255, b" ", "é".encode()):
        os.mkdir(os.fsencode(place) + b"/" + name)


def many(place: Path) -> None:
    for number in range(2000):
        (place / f"f{number}").mkdir()


@pytest.mark.parametrize("program", [files, directories, odd_names, many])
def test_a_read_tells_all_that_the_kernel_tells(place: Path, inotify: INotify, program: Callable[[Path], None]) -> None:
    kernel = Inotify(os.fsencode(place))
    kernel.add(b"", masks.ALL_EVENTS)
    inotify.add_watch(place, masks.ALL_EVENTS)
    program(place)
    told = inotify.read(timeout=0)
    first = min((event.cookie for event in told if event.cookie), default=0)
    expected = kernel.drain()
    before = min((event.cookie for event in expected if event.cookie), default=0)
    kernel.close()
    assert [event._replace(cookie=event.cookie and event.cookie - first) for event in told] == [
        Event(wd, mask, cookie and cookie - before, os.fsdecode(name)) for wd, mask, cookie, name in expected
    ]


def error_of(call: Callable[[], object]) -> tuple[type[BaseException], int | None] | object:
    """Return what *call* does, or its error."""
    try:
        return call()
    except OSError as error:
        return type(error), error.errno


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("f", flags.CREATE),
        ("f/", flags.CREATE),
        ("f", flags.CREATE | flags.ONLYDIR),
        ("", flags.CREATE),
        ("missing", flags.CREATE),
        ("missing", 0),
        ("f", 0),
        ("f", 0x00100000),
        ("f", flags.CREATE | 0x00100000),
        ("f", flags.MODIFY | flags.MASK_ADD | flags.MASK_CREATE),
        ("f", flags.ISDIR),
        ("f", flags.ONESHOT),
        ("link", flags.CREATE | flags.DONT_FOLLOW),
        ("link", flags.CREATE | flags.ONLYDIR),
        ("link", flags.CREATE | flags.DONT_FOLLOW | flags.ONLYDIR),
        ("dangling", flags.CREATE),
        ("dangling", flags.ATTRIB | flags.DONT_FOLLOW),
        ("loop", flags.CREATE),
        ("x" * 256, flags.CREATE),
        ("x/" * 2100, flags.CREATE),
    ],
)
def test_add_watch_has_the_kernels_errors(place: Path, inotify: INotify, name: str, mask: int) -> None:
    (place / "f").touch()
    (place / "s").mkdir()
    (place / "link").symlink_to("s")
    (place / "dangling").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    base = os.fsencode(place) + b"/"
    path = base + name.encode() if name else b""
    kernel = Inotify(b"")
    expected = error_of(lambda: kernel.add(path, mask))
    kernel.close()
    assert error_of(lambda: inotify.add_watch(path, mask)) == expected


def test_masks_of_watches_change_as_in_the_kernel(place: Path, inotify: INotify) -> None:
    assert inotify.add_watch(place, flags.CREATE) == 1
    assert inotify.add_watch(bytes(place), flags.DELETE | flags.MASK_ADD) == 1
    (place / "s").mkdir()
    (place / "s").rmdir()
    assert inotify.add_watch(str(place), flags.OPEN) == 1
    (place / "t").mkdir()
    with pytest.raises(FileExistsError):
        inotify.add_watch(place, flags.OPEN | flags.MASK_CREATE)
    inotify.rm_watch(1)
    assert inotify.add_watch(place, flags.OPEN) == 2
    assert inotify.read(timeout=0) == [
        (1, flags.CREATE | flags.ISDIR, 0, "s"),
        (1, flags.DELETE | flags.ISDIR, 0, "s"),
        (1, flags.IGNORED, 0, ""),
    ]


@pytest.mark.parametrize("wd", [1, 0, -1, -2, -3, 99])
def test_rm_watch_of_an_unknown_watch_is_einval(place: Path, inotify: INotify, wd: int) -> None:
    with pytest.raises(OSError, match="Invalid argument") as before_any:
        inotify.rm_watch(wd)
    inotify.add_watch(place, flags.OPEN)
    inotify.rm_watch(1)
    with pytest.raises(OSError, match="Invalid argument") as after:
        inotify.rm_watch(wd)
    assert before_any.value.errno == after.value.errno == errno.EINVAL


def test_the_signatures_are_inotify_simples() -> None:
    def parameters(function: Callable[..., object]) -> list[tuple[str, object]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    none = inspect.Parameter.empty
    assert parameters(INotify) == [("inheritable", False), ("nonblocking", False)]
    assert parameters(INotify.add_watch)[1:] == [("path", none), ("mask", none)]
    assert parameters(INotify.rm_watch)[1:] == [("wd", none)]
    assert parameters(INotify.read)[1:] == [("timeout", None), ("read_delay", None)]
    assert Event._fields == ("wd", "mask", "cookie", "name")
    assert masks.CLOSE == flags.CLOSE_WRITE | flags.CLOSE_NOWRITE
    assert flags.from_mask(flags.CREATE | flags.ISDIR) == [flags.CREATE, flags.ISDIR]


def test_a_path_on_no_mount_is_an_error_that_names_it_and_the_remedy(inotify: INotify, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not on a notifyfs mount; make one with `notifyfs mount") as caught:
        inotify.add_watch(tmp_path, flags.CREATE)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTSUP, tmp_path)


def test_recursive_watches_are_taken_and_origins_refused(place: Path, inotify: INotify) -> None:
    (place / "s").mkdir()
    inotify.add_watch(place, flags.CREATE | flags.X_RECURSIVE)
    (place / "s/t").mkdir()
    assert inotify.read(timeout=0) == [(1, flags.CREATE | flags.ISDIR, 0, "s/t")]
    with pytest.raises(OSError, match="Invalid argument"):
        inotify.add_watch(place, flags.CREATE | flags.X_ORIGIN)


@pytest.mark.parametrize("use", ["with", "close", "twice"])
def test_a_closed_instance_says_so(place: Path, use: str) -> None:
    instance = INotify()
    instance.add_watch(place, flags.CREATE)
    assert not instance.closed
    if use == "with":
        with instance as same:
            assert same is instance
    else:
        instance.close()
    if use == "twice":
        instance.close()
    assert instance.closed
    for call in (instance.fileno, instance.read, lambda: instance.add_watch(place, 1), lambda: instance.rm_watch(1)):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_closing_frees_the_watches(place: Path, shared: Callable[..., Mount]) -> None:
    with Connection(shared().socket) as other:
        before = other.statistics()["mount"]["watches"]
        with INotify() as inotify:
            inotify.add_watch(place, flags.CREATE)
            assert other.statistics()["mount"]["watches"] == before + 1
        wait_until(lambda: other.statistics()["mount"]["watches"] == before)


# Waiting


def test_timeouts_are_milliseconds(place: Path, inotify: INotify) -> None:
    inotify.add_watch(place, flags.CREATE)
    for timeout, least, most in ((0, 0.0, 0.09), (100, 0.1, 0.9)):
        start = time.monotonic()
        assert inotify.read(timeout) == []
        assert least <= time.monotonic() - start < most


@pytest.mark.parametrize("timeout", [None, -1, 20_000])
def test_read_waits_for_the_first_event(place: Path, inotify: INotify, timeout: int | None) -> None:
    inotify.add_watch(place, flags.CREATE)
    told: list[list[Event]] = []
    reader = threading.Thread(target=lambda: told.append(inotify.read(timeout)))
    reader.start()
    (place / "s").mkdir()
    reader.join(10)
    assert told == [[(1, flags.CREATE | flags.ISDIR, 0, "s")]]


def test_read_delay_gathers_what_follows(place: Path, inotify: INotify) -> None:
    inotify.add_watch(place, flags.CREATE)
    told: list[list[Event]] = []
    reader = threading.Thread(target=lambda: told.append(inotify.read(read_delay=1000)))
    reader.start()
    wait_until(lambda: "poll" in Path(f"/proc/self/task/{reader.native_id}/wchan").read_text("ascii"))
    for name in "abc":
        (place / name).mkdir()
    reader.join(10)
    assert [event.name for event in told[0]] == ["a", "b", "c"]


def test_a_signal_does_not_end_a_read(place: Path, inotify: INotify) -> None:
    inotify.add_watch(place, flags.CREATE)
    caught = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    main = threading.get_ident()

    def disturb() -> None:
        for _ in range(5):
            signal.pthread_kill(main, signal.SIGUSR1)
        (place / "s").mkdir()

    thread = threading.Thread(target=disturb)
    try:
        thread.start()
        assert [event.name for event in inotify.read(20_000)] == ["s"]
        thread.join()
        assert caught
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("how", ["select", "poll", "epoll"])
def test_the_descriptor_can_be_polled_before_the_first_watch(place: Path, inotify: INotify, how: str) -> None:
    if how == "select":

        def ready(milliseconds: int) -> bool:
            return bool(select.select([inotify], [], [], milliseconds / 1000)[0])
    else:
        poller = select.poll() if how == "poll" else select.epoll()
        poller.register(inotify.fileno(), select.POLLIN)

        def ready(milliseconds: int) -> bool:
            return bool(poller.poll(milliseconds if how == "poll" else milliseconds / 1000))

    assert not ready(0)
    assert inotify.read(timeout=0) == []
    inotify.add_watch(place, flags.CREATE)
    assert not ready(0)
    (place / "s").mkdir()
    assert ready(10_000)
    assert len(inotify.read(timeout=0)) == 1
    assert not ready(0)
    assert inotify.fd == inotify.fileno()


def test_asyncio_can_wait_for_it(place: Path) -> None:
    async def first() -> list[Event]:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[list[Event]] = loop.create_future()
        with INotify(nonblocking=True) as inotify:
            loop.add_reader(inotify.fileno(), lambda: told.done() or told.set_result(inotify.read(timeout=0)))
            inotify.add_watch(place, flags.CREATE)
            await loop.run_in_executor(None, (place / "s").mkdir)
            try:
                return await asyncio.wait_for(told, 10)
            finally:
                loop.remove_reader(inotify.fileno())

    assert asyncio.run(first()) == [(1, flags.CREATE | flags.ISDIR, 0, "s")]


def test_a_stopped_daemon_does_not_hold_up_a_nonblocking_read(mount: Mount) -> None:
    with INotify(nonblocking=True) as inotify, INotify() as patient:
        for instance in (inotify, patient):
            instance.add_watch(mount.root, flags.CREATE)
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            assert inotify.read(timeout=0) == []
            assert time.monotonic() - start < 0.5
            assert patient.read(timeout=0) == []
            assert time.monotonic() - start < 5
        finally:
            os.kill(mount.pid, signal.SIGCONT)
        (mount.root / "s").mkdir()
        # The barrier that was given up on is answered by now; it must not be taken for the next one's answer.
        assert [event.name for event in patient.read(timeout=0)] == ["s"]


def test_threads_may_add_watches_while_another_reads(place: Path, inotify: INotify) -> None:
    told: list[Event] = []

    def read() -> None:
        while "end" not in {event.name for event in told}:
            told.extend(inotify.read(20_000))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        directory = place / str(number)
        directory.mkdir()
        inotify.add_watch(directory, flags.CREATE)
        (directory / "x").mkdir()
    inotify.add_watch(place, flags.CREATE)
    (place / "end").mkdir()
    reader.join(20)
    assert [event.wd for event in told] == [*range(1, 52)]


@pytest.mark.parametrize("inheritable", [False, True])
def test_inheritable_keeps_the_instance_alive_in_a_program_that_is_executed(place: Path, inheritable: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with INotify(inheritable) as inotify:
        inotify.add_watch(place, flags.CREATE)
        assert os.get_inheritable(inotify.fileno()) is inheritable
        seen = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, check=True, text=True
        ).stdout
        ours = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, check=True, text=True).stdout
        inherited = sum(kind in seen for kind in ("eventpoll", "socket:")) if seen else 0
        assert inherited == (2 if inheritable else 0), (seen, ours)


# The end of a mount


def test_an_unmount_is_told_and_then_nothing_happens(mount: Mount, inotify: INotify) -> None:
    (mount.root / "f").touch()
    inotify.add_watch(mount.root, flags.CREATE)
    inotify.add_watch((mount.root / "f"), flags.MODIFY)
    mount.unmount()
    told: list[Event] = []
    while len(told) < 4:
        told += inotify.read(10_000)
    assert told == [
        (2, flags.UNMOUNT, 0, ""),
        (2, flags.IGNORED, 0, ""),
        (1, flags.UNMOUNT | flags.ISDIR, 0, ""),
        (1, flags.IGNORED, 0, ""),
    ]
    assert inotify.read(timeout=50) == []
    assert not select.select([inotify], [], [], 0)[0], "an ended mount must not keep a loop busy"
    with pytest.raises(OSError, match="Invalid argument"):
        inotify.rm_watch(1)


def test_a_killed_daemon_ends_the_watches_all_the_same(mounted: Callable[..., Mount], inotify: INotify) -> None:
    mount, other = mounted(), mounted()
    (mount.root / "f").touch()
    with dies_with(mount):
        assert inotify.add_watch(mount.root, flags.CREATE) == 1
        assert inotify.add_watch(other.root, flags.CREATE) == 2
        assert inotify.add_watch((mount.root / "f"), flags.MODIFY) == 3
        (mount.root / "s").mkdir()
        assert [event.name for event in inotify.read(timeout=0)] == ["s"]
    told: list[Event] = []
    while len(told) < 4:
        told += inotify.read(10_000)
    assert told == [
        (3, flags.UNMOUNT, 0, ""),
        (3, flags.IGNORED, 0, ""),
        (1, flags.UNMOUNT | flags.ISDIR, 0, ""),
        (1, flags.IGNORED, 0, ""),
    ]
    (other.root / "s").mkdir()
    assert [event.wd for event in inotify.read(10_000)] == [2]


def test_a_path_can_be_watched_again_after_its_mount_was_made_anew(
    mounted: Callable[..., Mount], inotify: INotify
) -> None:
    first = mounted()
    assert inotify.add_watch(first.root, flags.CREATE) == 1
    (first.root / "a").mkdir()
    first.finish()
    second = mounted(source=first.source, root=first.root)
    assert second.socket == first.socket
    assert inotify.add_watch(second.root, flags.CREATE) == 2
    (second.root / "b").mkdir()
    told = inotify.read(10_000)
    assert [(event.wd, event.name) for event in told] == [(1, "a"), (1, ""), (1, ""), (2, "b")]


def test_several_mounts_share_an_instance(mounted: Callable[..., Mount], inotify: INotify) -> None:
    roots = [mounted().root, mounted().root]
    assert [inotify.add_watch(root, flags.CREATE) for root in roots] == [1, 2]
    for root in roots:
        (root / "s").mkdir()
    assert sorted(event.wd for event in inotify.read(timeout=0)) == [1, 2]
    inotify.rm_watch(2)
    assert inotify.read(timeout=0) == [(2, flags.IGNORED, 0, "")]
    (roots[1] / "t").mkdir()
    (roots[0] / "t").mkdir()
    assert [event.wd for event in inotify.read(timeout=0)] == [1]


def test_an_overflow_is_told_once(mounted: Callable[..., Mount], inotify: INotify) -> None:
    mount = mounted(max_queued_events=10)
    inotify.add_watch(mount.root, flags.CREATE)
    for number in range(40):
        (mount.root / f"s{number}").mkdir()
    told = inotify.read(timeout=0)
    assert [event.name for event in told[:-1]] == [f"s{number}" for number in range(10)]
    assert told[-1] == (-1, flags.Q_OVERFLOW, 0, "")


def test_too_many_instances_are_emfile_with_the_option_to_raise(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_user_instances=1)
    with INotify() as first, INotify() as second:
        first.add_watch(mount.root, flags.CREATE)
        with pytest.raises(OSError, match="max_user_instances") as caught:
            second.add_watch(mount.root, flags.CREATE)
        assert caught.value.errno == errno.EMFILE
        first.close()
        wait_until(lambda: error_of(lambda: second.add_watch(mount.root, flags.CREATE)) == 1)


def test_too_many_watches_are_enospc_with_the_option_to_raise(mounted: Callable[..., Mount], inotify: INotify) -> None:
    mount = mounted(max_user_watches=1)
    (mount.root / "s").mkdir()
    inotify.add_watch(mount.root, flags.CREATE)
    with pytest.raises(OSError, match="max_user_watches") as caught:
        inotify.add_watch((mount.root / "s"), flags.CREATE)
    assert caught.value.errno == errno.ENOSPC


# Connection


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_connection_adds_reads_and_removes(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    (mount.root / "s").mkdir()
    with Connection(mount.socket, event_fd=event_fd, timeout=10) as connection:
        assert connection.hello["mountpoint"] == str(mount.root)
        assert connection.add_watch(flags.CREATE) == 1
        descriptor = os.open((mount.root / "s"), os.O_PATH)
        assert connection.add_watch_fd(flags.CREATE, descriptor) == 2
        os.close(descriptor)
        assert connection.read(0) == []
        (mount.root / "s/t").mkdir()
        connection.sync()
        assert connection.read(0) == [Record(2, flags.CREATE | flags.ISDIR, 0, b"t")]
        (mount.root / "u").mkdir()
        assert connection.read(10) == [Record(1, flags.CREATE | flags.ISDIR, 0, b"u")]
        connection.remove_watch(2)
        assert connection.read(10) == [Record(2, flags.IGNORED)]
        assert connection.statistics()["instance"]["watches"] == 1
        assert connection.pending() == 0
        with pytest.raises(OSError, match="No such file") as missing:
            connection.add_watch(flags.CREATE, b"missing")
        assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, b"missing")
        with pytest.raises(OSError, match="too long") as long:
            connection.add_watch(flags.CREATE, b"x/" * 3000)
        assert long.value.errno == errno.ENAMETOOLONG
        with pytest.raises(ValueError, match="null byte"):
            connection.add_watch(flags.CREATE, b"a\0b")
        assert connection.add_watch(flags.CREATE, b"s") == 3


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_connection_ends_with_an_eoferror_once_all_is_read(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd) as connection:
        connection.add_watch(flags.CREATE)
        mount.unmount()
        told: list[Record] = []
        while len(told) < 2:
            told += connection.read(10)
        with pytest.raises(EOFError, match="the mount has ended"):
            connection.read(10)
        assert told == [Record(1, flags.UNMOUNT | flags.ISDIR), Record(1, flags.IGNORED)]
        with pytest.raises(ConnectionResetError, match="the mount has ended"):
            connection.add_watch(flags.CREATE)


@pytest.mark.parametrize("event_fd", [False, True])
def test_sync_gathers_more_than_the_socket_holds(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd) as connection:
        connection.add_watch(flags.CREATE | flags.DELETE)
        for _ in range(1500):
            (mount.root / "s").mkdir()
            (mount.root / "s").rmdir()
        connection.sync()
        assert len(connection.read(0)) == 3000


@pytest.mark.parametrize("event_fd", [False, True])
def test_an_origin_record_says_who_did_it(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd) as connection:
        connection.add_watch(flags.CREATE | flags.X_ORIGIN)
        maker = subprocess.Popen(["mkdir", (mount.root / "s")])
        maker.wait()
        connection.sync()
        (origin, event) = connection.read(0)
        assert event == Record(1, flags.CREATE | flags.ISDIR, 0, b"s")
        who = Origin.parse(origin.name)
        assert (who.pid, who.uid, who.gid, who.comm) == (maker.pid, 0, 0, b"mkdir")


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_descriptor_that_is_none_is_ebadf_and_no_harm(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd, timeout=10) as connection:
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            connection.add_watch_fd(flags.CREATE, 1 << 20)
        assert caught.value.errno == errno.EBADF
        assert connection.add_watch(flags.CREATE) == 1


def test_find_socket_knows_paths_and_descriptors(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mount.root)
    (mount.root / "l").symlink_to("nowhere")
    assert {find_socket(str(mount.root)), find_socket(bytes(mount.root)), find_socket(str(tmp_path / "link"))} == {
        mount.socket
    }
    descriptor = os.open((mount.root / "l"), os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(descriptor).st_mode)
    assert find_socket(descriptor) == mount.socket
    os.close(descriptor)
    with pytest.raises(FileNotFoundError):
        find_socket(str(mount.root / "missing"))
    with pytest.raises(OSError, match="not on a notifyfs mount"):
        find_socket("/proc/self")


def test_a_dead_mount_is_named_as_such(mounted: Callable[..., Mount]) -> None:
    mount = mounted()
    with dies_with(mount):
        dead(mount)
        with pytest.raises(OSError, match="daemon is gone; `notifyfs umount") as caught:
            find_socket(str(mount.root))
        assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(ConnectionRefusedError, match="cannot reach the mount's daemon: Connection refused"):
            Connection(mount.socket)


def test_a_socket_path_may_be_longer_than_an_address(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    mount = mounted()
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    (deep / "socket").symlink_to(mount.socket)
    with Connection(str(deep / "socket")) as connection:
        assert connection.hello["mountpoint"] == str(mount.root)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a notifyfs control socket"),
        (struct.pack("=iIII", 0, flags.X_REPLY, 1, 16) + b"no json".ljust(16, b"\0"), "not a notifyfs control socket"),
        (b"", "the mount has ended"),
    ],
)
def test_whoever_answers_must_speak_the_protocol(tmp_path: Path, answer: bytes, complaint: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            end, _ = listener.accept()
            with end:
                end.recv(100)
                end.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OSError, match=complaint):
            Connection(str(tmp_path / "s"))
        thread.join()


def test_a_daemon_that_does_not_answer_is_a_timeout(mount: Mount) -> None:
    with Connection(mount.socket, timeout=0.1) as connection:
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError, match="does not answer"):
                connection.sync()
        finally:
            os.kill(mount.pid, signal.SIGCONT)
        connection.timeout = 10
        assert connection.add_watch(flags.CREATE) == 1


# Without a mount


def test_parse_events_reads_what_the_kernel_wrote(tmp_path: Path) -> None:
    kernel = Inotify(os.fsencode(tmp_path))
    kernel.add(b"", flags.CREATE)
    (tmp_path / "a").mkdir()
    (tmp_path / "bcdefghijklmnopqrstuvwxyz").touch()
    data = os.read(kernel.fd, 4096)
    kernel.close()
    assert parse_events(data) == [
        (1, flags.CREATE | flags.ISDIR, 0, "a"),
        (1, flags.CREATE, 0, "bcdefghijklmnopqrstuvwxyz"),
    ]
    assert parse_events(b"") == []
    with pytest.raises(ValueError, match="5 bytes of an unfinished event"):
        parse_events(data + bytes(5))


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, notifyfs; early = set(sys.modules);"
        "notifyfs.INotify; notifyfs.flags;"
        "print(sorted(m for m in ('socket', 'json', 'ctypes') if m in early), 'INotify' in dir(notifyfs),"
        "      sorted(m for m in ('pyfuse3', 'trio', 'attrs', 'click') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "[] True []"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        notifyfs.nothing  # noqa: B018 - reading it is the test
