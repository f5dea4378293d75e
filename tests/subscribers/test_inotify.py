"""``notifyfs.INotify`` is inotify_simple's on a mount.

Each program of ``PROGRAMS`` runs twice, with the kernel's inotify (through inotify_simple's own three calls, made
here with ctypes) and with ours, on the same mount.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs import Connection, Event, INotify, flags, masks, parse_events
from tests.conftest import Mount, wait_until
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
