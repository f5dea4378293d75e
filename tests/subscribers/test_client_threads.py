"""A connection that is used by several threads, and by a process that has forked."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from notifyfs import Connection, Event, Filter, INotify, flags
from notifyfs.protocol.records import Record
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

EVENT_FD = pytest.mark.parametrize("event_fd", [False, True], ids=["stream", "event_fd"])
SECONDS = 10


class Task(threading.Thread):
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)  # a call that never returns fails its test, and not the whole run
        self._call = call
        self.outcome: Future[Any] = Future()
        self.start()

    def run(self) -> None:
        try:
            self.outcome.set_result(self._call())
        except BaseException as error:  # noqa: BLE001 - whatever it is
            self.outcome.set_exception(error)

    def waits(self, *, where: str = "poll") -> None:
        """Return once it waits in the kernel function with *where* in its name."""

        def is_there() -> bool:
            assert not self.outcome.done(), f"it did not wait: {self.outcome}"
            return where in Path(f"/proc/self/task/{self.native_id}/wchan").read_text("ascii")

        wait_until(is_there)

    def result(self) -> Any:
        """What the call gave or raised; TimeoutError after ``SECONDS``."""
        return self.outcome.result(SECONDS)


@contextlib.contextmanager
def stopped(mount: Mount) -> Iterator[None]:
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(mount.pid, signal.SIGCONT)


def in_child(call: Callable[[], object]) -> object:
    """What *call* gives in a forked child, in words; it has ``SECONDS`` for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        try:
            answer = repr(call())
        except BaseException as error:  # noqa: BLE001 - whatever it is
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answers:
        answer = answers.read().decode()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"it did not return within {SECONDS} s"
    return answer


# Close


@EVENT_FD
def test_close_wakes_a_read(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    connection = Connection(mount.socket, event_fd=event_fd)
    connection.add_watch(flags.CREATE)
    reader = Task(connection.read)
    reader.waits()
    connection.close()
    with pytest.raises(OSError, match="this connection is closed") as caught:
        reader.result()
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, mount.socket)


@EVENT_FD
def test_close_wakes_every_read(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    connection = Connection(mount.socket, event_fd=event_fd)
    first = Task(connection.read)
    first.waits()
    others = [Task(connection.read) for _ in range(3)]
    for other in others:
        other.waits(where="futex")
    connection.close()
    for reader in (first, *others):
        with pytest.raises(OSError, match="this connection is closed"):
            reader.result()


@EVENT_FD
def test_close_wakes_a_request(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    connection = Connection(mount.socket, event_fd=event_fd)
    with stopped(mount):
        asker = Task(connection.pending)
        asker.waits()
        connection.close()
        with pytest.raises(OSError, match="this connection is closed"):
            asker.result()


def test_close_wakes_the_drop_in_s_read(mount: Mount) -> None:
    inotify = INotify()
    inotify.add_watch(mount.root, flags.CREATE)
    reader = Task(inotify.read)
    reader.waits()
    inotify.close()
    with pytest.raises(ValueError, match="closed"):
        reader.result()


def test_a_signal_handler_may_close(mount: Mount) -> None:
    """It runs in the thread that waits, or that holds the lock."""
    connection = Connection(mount.socket)
    connection.add_watch(flags.CREATE)
    before = signal.signal(signal.SIGUSR1, lambda *_: connection.close())
    main = threading.main_thread()

    def disturb() -> None:
        wait_until(lambda: "poll" in Path(f"/proc/self/task/{main.native_id}/wchan").read_text("ascii"))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    try:
        disturber = Task(disturb)
        with pytest.raises(OSError, match="this connection is closed"):
            connection.read(SECONDS)
        disturber.result()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_descriptor_that_nobody_asked_for_is_closed_with_the_rest(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    hello = b'{"max_queued_events": 10}'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            end, _ = listener.accept()
            with end:
                assert end.recv(100)
                socket.send_fds(end, [bytes(Record(0, flags.X_REPLY, 1, hello))], [end.fileno()])

        server = Task(serve)
        with Connection(str(tmp_path / "s"), timeout=SECONDS) as connection:
            assert connection.hello["max_queued_events"] == 10
            server.result()
    server.join()
    assert os.listdir("/proc/self/fd") == before


@EVENT_FD
def test_what_is_closed_says_so(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    connection = Connection(mount.socket, event_fd=event_fd)
    connection.close()
    connection.close()
    assert connection.fileno() == -1
    for call in (connection.read, connection.pending, connection.sync, connection.statistics):
        with pytest.raises(OSError, match="this connection is closed") as caught:
            call()
        assert caught.value.errno == errno.EBADF


@EVENT_FD
def test_closing_leaves_no_descriptor(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        connection = Connection(mount.socket, event_fd=event_fd)
        reader = Task(connection.read)
        reader.waits()
        connection.close()
        with pytest.raises(OSError, match="closed"):
            reader.result()
        reader.join()
    assert os.listdir("/proc/self/fd") == before


# Several at once


@EVENT_FD
def test_threads_may_ask_while_another_reads(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    for name in "abcd":
        (mount.root / name).mkdir()
    with Connection(mount.socket, event_fd=event_fd, timeout=SECONDS) as connection:
        told: list[Record] = []

        def read() -> None:
            while not told or told[-1].name != b"end":
                told.extend(connection.read())

        def work(name: str) -> list[int]:
            wds = []
            for number in range(30):
                wds.append(connection.add_watch(flags.CREATE, name.encode()))
                (mount.root / name / str(number)).mkdir()
                assert connection.statistics()["instance"]["watches"] >= 1
                connection.remove_watch(wds[-1])
            return wds

        reader = Task(read)
        with ThreadPoolExecutor(4) as pool:
            wds = dict(zip("abcd", pool.map(work, "abcd"), strict=True))
        connection.add_watch(flags.CREATE)
        (mount.root / "end").mkdir()
        reader.result()
    for mine in wds.values():
        heard = [(record.wd, record.mask, record.name) for record in told if record.wd in mine]
        expected = [
            (wd, mask, name)
            for number, wd in enumerate(mine)
            for mask, name in ((flags.CREATE | flags.ISDIR, b"%d" % number), (flags.IGNORED, b""))
        ]
        assert heard == expected
    assert len(told) == 4 * 30 * 2 + 1


@EVENT_FD
def test_what_one_thread_takes_in_wakes_the_one_that_reads(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd, timeout=SECONDS) as connection:
        connection.add_watch(flags.CREATE)
        for number in range(200):
            reader = Task(connection.read)
            (mount.root / str(number)).mkdir()
            connection.sync()
            assert [record.name for record in reader.result()] == [b"%d" % number]


def test_a_read_without_waiting_does_not_wait_for_the_request_of_another_thread(mount: Mount) -> None:
    with Connection(mount.socket) as connection:
        connection.add_watch(flags.CREATE)
        with stopped(mount):
            asker = Task(connection.pending)
            asker.waits()
            assert Task(lambda: connection.read(0)).result() == []
        assert asker.result() == 0


def test_the_drop_in_s_read_without_waiting_does_not_wait_for_an_add(mount: Mount) -> None:
    with INotify(nonblocking=True) as inotify:
        inotify.add_watch(mount.root, flags.CREATE)
        with stopped(mount):
            adder = Task(lambda: inotify.add_watch(mount.root, flags.CREATE))
            adder.waits(where="request_wait_answer")  # of FUSE: it asks for the socket
            assert Task(lambda: inotify.read(0)).result() == []
        assert adder.result() == 1


def test_a_request_that_was_given_up_leaves_no_half_of_its_filter(mount: Mount) -> None:
    """Its rules fill the socket; the add could not be sent, and must not be when its descriptor is gone."""
    with Connection(mount.socket) as connection:
        place = os.open(mount.root, os.O_PATH)
        connection.timeout = 0.2
        with stopped(mount), pytest.raises(TimeoutError, match="does not answer"):
            connection.add_watch_fd(
                flags.CREATE, place, filter=Filter(exclude=["a", *(f"{n:04000}" for n in range(200))])
            )
        os.close(place)
        connection.timeout = SECONDS
        assert connection.add_watch(flags.CREATE, filter=Filter(exclude=["b"])) == 1
        for name in ("0" * 200, "a", "b"):
            (mount.root / name).mkdir()
        connection.sync()
        assert [record.name for record in connection.read(0)] == [b"0" * 200, b"a"]
        assert connection.statistics()["instance"]["watches"] == 1


# After a fork


@EVENT_FD
def test_a_child_is_told_to_make_its_own(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd, timeout=SECONDS) as connection:
        connection.add_watch(flags.CREATE)
        (mount.root / "a").mkdir()
        for call in (
            lambda: connection.add_watch(flags.CREATE),
            lambda: connection.remove_watch(1),
            lambda: connection.read(0),
            lambda: connection.read(settle=0),
            connection.read,
            connection.pending,
            connection.statistics,
            connection.sync,
        ):
            answer = in_child(call)
            assert answer == (
                f"OSError: [Errno 9] this connection belongs to process {os.getpid()}; make another after a fork: "
                f"{mount.socket!r}"
            )
        assert in_child(connection.close) == "None"
        (mount.root / "b").mkdir()
        connection.sync()
        assert [record.name for record in connection.read(0)] == [b"a", b"b"]
        assert connection.add_watch(flags.CREATE) == 1


def test_a_child_gets_its_answer_whatever_its_parent_s_threads_were_doing(mount: Mount) -> None:
    with Connection(mount.socket) as connection, stopped(mount):
        asker = Task(connection.pending)
        asker.waits()
        assert "make another after a fork" in str(in_child(connection.pending))
        assert in_child(connection.close) == "None"
        os.kill(mount.pid, signal.SIGCONT)
        assert asker.result() == 0


def test_a_child_cannot_use_the_drop_in(mount: Mount) -> None:
    with INotify() as inotify:
        inotify.add_watch(mount.root, flags.CREATE)
        for call in (
            lambda: inotify.read(0),
            lambda: inotify.add_watch(mount.root, flags.CREATE),
            lambda: inotify.rm_watch(1),
        ):
            assert "make another after a fork" in str(in_child(call))
        assert in_child(inotify.close) == "None"
        (mount.root / "a").mkdir()
        assert [event.name for event in inotify.read(0)] == ["a"]


def test_events_that_come_before_the_answer_to_the_add_have_its_number(mount: Mount) -> None:
    """The reader has them before the adder has run again."""
    with INotify(nonblocking=True) as inotify:
        inotify.add_watch(mount.root, flags.CREATE)
        told: list[Event] = []

        def read() -> None:
            while "end" not in {event.name for event in told}:
                told.extend(inotify.read(SECONDS * 1000))

        reader = Task(read)
        over = threading.Event()

        def touch() -> None:
            while not over.is_set():
                for number in range(50):
                    with contextlib.suppress(FileNotFoundError):
                        os.utime(mount.root / str(number))

        toucher = Task(touch)
        wds = {}
        for number in range(50):
            (mount.root / str(number)).mkdir()
            wds[number] = inotify.add_watch(mount.root / str(number), flags.ATTRIB | flags.ONESHOT)
        over.set()
        toucher.result()
        for number in wds:
            os.utime(mount.root / str(number))
        (mount.root / "end").mkdir()
        reader.result()
    heard = [event for event in told if event.wd != 1]
    assert sorted(wds.values()) == list(range(2, 52))
    assert sorted(heard) == sorted(
        event
        for wd in wds.values()
        for event in (Event(wd, flags.ATTRIB | flags.ISDIR, 0, ""), Event(wd, flags.IGNORED, 0, ""))
    )


def test_a_program_that_is_started_meanwhile_is_no_harm(mount: Mount) -> None:
    with Connection(mount.socket, timeout=SECONDS) as connection:
        connection.add_watch(flags.CREATE)
        subprocess.run(["mkdir", mount.root / "a"], check=True)
        connection.sync()
        assert [record.name for record in connection.read(0)] == [b"a"]
