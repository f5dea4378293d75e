"""Notes to the kernel: one stuck inode holds up nobody else, and what is about one inode keeps its order."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from typing import TYPE_CHECKING, Final

import pytest

from notifyfs.fuse import device, notify
from notifyfs.fuse.notify import Notify
from tests.conftest import wait_until
from tests.support.byhand import FILES, READ, WRITE, A, B, ByHand, by_hand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INVAL_INODE, INVAL_ENTRY = 2, 3
FULL: Final = 1 << 16


class Pipe:
    """In place of /dev/fuse: takes notes until it is full, and then holds up whoever writes, as a lock does."""

    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()
        fcntl.fcntl(self.writes, fcntl.F_SETPIPE_SZ, FULL)  # of several pages: in one, only a reader wakes a writer

    def fill(self) -> None:
        os.write(self.writes, b"\0" * FULL)

    def notes(self, number: int) -> list[tuple[int, int, bytes]]:
        """The next *number* of notes: code, inode, and name or offset."""
        read = []
        for _ in range(number):
            length, code, _ = struct.unpack("=IiQ", os.read(self.reads, 16))
            body = os.read(self.reads, length - 16)
            read.append((code, struct.unpack_from("=Q", body)[0], body[16:-1] if code == INVAL_ENTRY else body[8:16]))
        return read

    def drain(self) -> None:
        """Take the filling, and what waited behind it."""
        os.read(self.reads, FULL)

    def is_empty(self) -> bool:
        return fcntl.ioctl(self.reads, 0x541B, b"\0" * 4) == b"\0" * 4  # FIONREAD


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for end in (made.reads, made.writes):
        os.close(end)


@pytest.fixture
def writers() -> list[threading.Thread]:
    """The threads that were started."""
    return []


@pytest.fixture
def make(writers: list[threading.Thread]) -> Iterator[Callable[..., Notify]]:
    """Give a function that makes one, whose threads end with the test."""
    made: list[Notify] = []

    def start(run: Callable[[], None]) -> None:
        writers.append(threading.Thread(target=run, daemon=True))
        writers[-1].start()

    def make(fuse: int, *, waits: bool = True, expires: bool = True) -> Notify:
        made.append(Notify(fuse, waits=waits, expires=expires, start=start))
        return made[-1]

    yield make
    for each in made:
        each.close()
    for writer in writers:
        writer.join(10)
        assert not writer.is_alive()


@pytest.fixture
def served(fuse: None) -> Iterator[ByHand]:
    with by_hand() as served:
        yield served


def sleeps(thread: threading.Thread) -> bool:
    """In the kernel, for a lock (proc_pid_stat(5))."""
    with open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "D"


def alive(writers: list[threading.Thread]) -> int:
    return sum(writer.is_alive() for writer in writers)


# What is written, and in which order


def test_what_is_about_one_inode_is_written_in_order(pipe: Pipe, make: Callable[..., Notify]) -> None:
    done = threading.Event()
    notes = make(pipe.writes)
    notes.drop_pages(7)
    notes.expire(7, b"name")
    notes.ask(7, (), done.set)
    assert done.wait(10)
    assert pipe.notes(3) == [(INVAL_INODE, 7, b"\0" * 8), (INVAL_ENTRY, 7, b"name"), (INVAL_ENTRY, 7, b"/")]


def test_the_order_holds_while_the_inode_is_stuck_and_others_are_served(
    pipe: Pipe, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    order: list[int] = []
    pipe.fill()
    notes = make(pipe.writes)
    for number in range(10):
        notes.ask(7, (), lambda number=number: order.append(number))  # type: ignore[misc]
    for _ in range(3):
        notes.relieve()
    assert len(writers) == 1, "nobody else waits"
    pipe.drain()
    wait_until(lambda: len(order) == 10)
    assert order == list(range(10))


def test_attributes_are_forgotten_at_once(pipe: Pipe, make: Callable[..., Notify]) -> None:
    make(pipe.writes).forget_attributes(7)
    assert not pipe.is_empty()
    assert pipe.notes(1) == [(INVAL_INODE, 7, b"\xff" * 8)]


def test_where_expiring_would_unhash_it_is_left_alone(pipe: Pipe, make: Callable[..., Notify]) -> None:
    done = threading.Event()
    notes = make(pipe.writes, expires=False)
    notes.expire(7, b"name")
    notes.ask(7, (), done.set)
    assert done.wait(10)
    assert pipe.notes(1) == [(INVAL_ENTRY, 7, b"/")]
    assert pipe.is_empty()


def test_an_error_of_the_kernel_is_an_answer(make: Callable[..., Notify], pipe: Pipe) -> None:
    """After the unmount, for one; here the descriptor cannot be written to."""
    done = threading.Event()
    notes = make(pipe.reads)
    notes.forget_attributes(7)
    notes.ask(7, (), done.set)
    assert done.wait(10)


def test_a_question_whose_answer_fails_does_not_end_the_writer(
    pipe: Pipe, make: Callable[..., Notify], caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    notes = make(pipe.writes)
    notes.ask(7, (), lambda: {}["answer"])
    notes.ask(7, (), done.set)
    assert done.wait(10)
    assert "KeyError" in caplog.text


# Who waits for whom


def test_a_stuck_directory_holds_up_no_other(
    served: ByHand, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    """The old one wrote all from one thread: the answer about the other directory came with that about the first."""
    os.stat(served.path("b/file"))
    stuck, free = threading.Event(), threading.Event()
    notes = make(served.fuse)
    with served.unanswered(device.UNLINK, lambda: os.unlink(served.path("a/file"))):
        notes.ask(A, (), stuck.set)
        wait_until(lambda: sleeps(writers[0]))
        notes.ask(B, (), free.set)
        assert not free.is_set()
        notes.relieve()
        assert free.wait(10)
        assert not stuck.is_set()
    assert stuck.wait(10)


def test_a_reader_that_is_stuck_holds_up_no_other(
    served: ByHand, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    """Dropping pages waits for a read under way: they are locked."""
    file = os.open(served.path("a/file"), os.O_RDONLY)
    dropped, free = threading.Event(), threading.Event()
    notes = make(served.fuse)
    with served.unanswered(READ, lambda: os.read(file, 4)):
        notes.drop_pages(FILES[A])
        notes.flush(dropped.set)
        wait_until(lambda: sleeps(writers[0]))
        notes.ask(A, (), free.set)
        notes.relieve()
        assert free.wait(10)
        assert not dropped.is_set()
    assert dropped.wait(10)
    os.close(file)


def test_no_writer_is_added_while_one_is_free_or_nothing_waits(
    pipe: Pipe, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    notes = make(pipe.writes)
    notes.relieve()
    pipe.fill()
    notes.ask(7, (), lambda: None)
    notes.relieve()
    assert len(writers) == 1
    pipe.drain()


def test_there_are_sixteen_writers_at_most_and_one_in_the_end(
    pipe: Pipe, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    answered: list[int] = []
    pipe.fill()
    notes = make(pipe.writes)
    for number in range(40):
        notes.ask(number, (), lambda number=number: answered.append(number))  # type: ignore[misc]

    def relieved(count: int) -> bool:
        notes.relieve()
        return len(writers) == count

    wait_until(lambda: relieved(notify._MOST_WRITERS))  # noqa: SLF001 - what is tested
    for _ in range(100):
        notes.relieve()
    assert len(writers) == notify._MOST_WRITERS == 16  # noqa: SLF001
    assert sorted(answered) == [*range(16, 40)], "those that no writer has begun do not wait for them"
    pipe.drain()
    wait_until(lambda: len(answered) == 40 and alive(writers) == 1)

    done = threading.Event()
    notes.ask(1, (), done.set)
    assert done.wait(10), "the one that is left goes on"


def test_where_no_thread_can_be_had_the_one_that_is_there_does_all(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[threading.Thread] = []

    def start(run: Callable[[], None]) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(threading.Thread(target=run))
        started[0].start()

    answered = [threading.Event() for _ in range(3)]
    notes = Notify(pipe.writes, waits=True, expires=True, start=start)
    pipe.fill()
    for number, event in enumerate(answered):
        notes.ask(number, (), event.set)
    wait_until(lambda: (notes.relieve(), "no thread" in caplog.text)[1])
    pipe.drain()
    assert all(event.wait(10) for event in answered)
    notes.close()
    started[0].join(10)
    assert not started[0].is_alive()


def test_who_asks_too_often_about_one_inode_is_answered_at_once_and_nobody_else(
    pipe: Pipe, make: Callable[..., Notify], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "_MOST_WAITING", 3)
    answered: list[str] = []
    pipe.fill()
    notes = make(pipe.writes)
    for _ in range(3):
        notes.ask(7, (), lambda: answered.append("stuck"))
    notes.ask(7, (), lambda: answered.append("at once"))
    notes.ask(8, (), lambda: answered.append("other"))
    assert answered == ["at once"]
    assert "does not take notes" in caplog.text
    pipe.drain()
    wait_until(lambda: len(answered) == 5)


# Flushing


def test_a_flush_with_nothing_to_write_is_done_at_once(pipe: Pipe, make: Callable[..., Notify]) -> None:
    """A question that waits is nothing to write."""
    done: list[str] = []
    notes = make(pipe.writes)
    notes.flush(lambda: done.append("first"))
    pipe.fill()
    notes.ask(7, (), lambda: done.append("answered"))
    notes.flush(lambda: done.append("second"))
    assert done == ["first", "second"]
    pipe.drain()
    wait_until(lambda: len(done) == 3)


def test_a_flush_is_done_once_all_is_written_that_was_put_before(pipe: Pipe, make: Callable[..., Notify]) -> None:
    flushed = threading.Event()
    pipe.fill()
    notes = make(pipe.writes)
    for number in range(5):
        notes.drop_pages(number)
    notes.flush(flushed.set)
    notes.expire(9, b"later")
    assert not flushed.is_set()
    pipe.drain()
    assert flushed.wait(10)
    written = pipe.notes(6)
    assert {number for _, number, _ in written[:5]} == set(range(5))


# What a question waits for


def test_a_question_about_a_directory_is_answered_when_the_unlink_in_it_has_ended(
    served: ByHand, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    done = threading.Event()
    notes = make(served.fuse)
    with served.unanswered(device.UNLINK, lambda: os.unlink(served.path("a/file"))):
        notes.ask(A, (), done.set)
        wait_until(lambda: sleeps(writers[0]))
        assert not done.is_set()
    assert done.wait(10)


def test_a_question_about_a_file_is_answered_when_the_write_to_it_has_ended(
    served: ByHand, make: Callable[..., Notify], writers: list[threading.Thread]
) -> None:
    file = os.open(served.path("a/file"), os.O_WRONLY)
    done = threading.Event()
    notes = make(served.fuse)
    with served.unanswered(WRITE, lambda: os.write(file, b"much more")):
        notes.ask(FILES[A], (), done.set)
        wait_until(lambda: sleeps(writers[0]))
        assert not done.is_set()
    assert done.wait(10)
    os.close(file)


# The second best, where the kernel does not wait


def test_there_the_attributes_are_forgotten_at_once_and_the_name_expires(
    pipe: Pipe, make: Callable[..., Notify]
) -> None:
    done = threading.Event()
    notes = make(pipe.writes, waits=False)
    notes.ask(7, (b"name",), done.set)
    assert done.wait(10)
    assert pipe.notes(2) == [(INVAL_INODE, 7, b"\xff" * 8), (INVAL_ENTRY, 7, b"name")]


@pytest.mark.parametrize(("expires", "names"), [(True, ()), (False, (b"name",))])
def test_there_without_a_name_that_can_expire_the_attributes_are_all(
    pipe: Pipe,
    make: Callable[..., Notify],
    expires: bool,  # noqa: FBT001 - a parameter of the test
    names: tuple[bytes, ...],
) -> None:
    done = threading.Event()
    notes = make(pipe.writes, waits=False, expires=expires)
    notes.ask(7, names, done.set)
    assert done.wait(10)
    assert pipe.notes(1) == [(INVAL_INODE, 7, b"\xff" * 8)]
    assert pipe.is_empty()


def test_there_whoever_looks_at_a_file_asks_for_its_attributes(served: ByHand, make: Callable[..., Notify]) -> None:
    """Which the kernel would keep for an hour; and while the write has not ended."""
    file = os.open(served.path("a/file"), os.O_WRONLY)
    os.stat(served.path("a/file"))
    before = served.asked(device.GETATTR, FILES[A])
    notes = make(served.fuse, waits=False)
    with served.unanswered(WRITE, lambda: os.write(file, b"much more")):
        done = threading.Event()
        notes.ask(FILES[A], (), done.set)
        assert done.wait(10)
        os.stat(served.path("a/file"))
        assert served.asked(device.GETATTR, FILES[A]) == before + 1
    os.close(file)


def test_there_whoever_uses_a_removed_name_asks_for_it(served: ByHand, make: Callable[..., Notify]) -> None:
    """Which the kernel would find for an hour: so nobody finds it while the unlink that was answered has not ended."""
    os.stat(served.path("a/file"))
    served.gone.add((A, b"file"))
    os.stat(served.path("a/file"))
    done = threading.Event()
    notes = make(served.fuse, waits=False)
    notes.ask(A, (b"file",), done.set)
    assert done.wait(10)
    with pytest.raises(FileNotFoundError):
        os.stat(served.path("a/file"))
