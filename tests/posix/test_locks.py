"""Locks: flock(2), records, waiting, deadlocks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import struct
import time
from typing import TYPE_CHECKING

from tests.support.posix import by_both, collect, fails, in_child, opened, put, start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

F_OFD_GETLK, F_OFD_SETLK = 36, 37


@contextlib.contextmanager
def holding(take: Callable[[], object]) -> Iterator[int]:
    """Another process holds what *take* takes, from before the block until after it."""
    taken, say_taken = os.pipe()
    done, say_done = os.pipe()

    def hold() -> None:
        take()
        os.write(say_taken, b".")
        os.close(say_done)
        select.select([done], [], [])

    holder = start_child(hold)
    try:
        assert select.select([taken], [], [], 10)[0], "the other process did not get it"
        yield holder[0]
    finally:
        os.close(say_done)
        collect(holder)
        for end in (taken, say_taken, done):
            os.close(end)


def lock(kind: int, start: int = 0, size: int = 0) -> bytes:
    """A struct flock."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, size, 0)


@by_both
def test_flock(place: Place) -> None:
    put("f")

    def take(how: int) -> Callable[[], int]:
        def function() -> int:
            fd = os.open("f", os.O_RDWR)
            fcntl.flock(fd, how)
            return fd

        return function

    with opened("f", os.O_RDWR) as fd, opened("f", os.O_RDWR) as other:
        with holding(take(fcntl.LOCK_EX)):
            for how in (fcntl.LOCK_EX, fcntl.LOCK_SH):
                with fails(errno.EWOULDBLOCK):
                    fcntl.flock(fd, how | fcntl.LOCK_NB)
        with holding(take(fcntl.LOCK_SH)):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with fails(errno.EWOULDBLOCK):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        copy = os.dup(fd)
        os.close(copy)
        with fails(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@by_both
def test_record_locks(place: Place) -> None:
    put("f", b"x" * 100)

    def take() -> None:
        fd = os.open("f", os.O_RDWR)
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 10, 10))
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_RDLCK, 50, 10))

    with opened("f", os.O_RDWR) as fd:
        with holding(take) as holder:
            for kind in (fcntl.F_WRLCK, fcntl.F_RDLCK):
                with fails(errno.EAGAIN, errno.EACCES):
                    fcntl.fcntl(fd, fcntl.F_SETLK, lock(kind, 19, 1))
            fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 20, 30))
            fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_RDLCK, 50, 10))
            with fails(errno.EAGAIN, errno.EACCES):
                fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 55, 1))
            found = fcntl.fcntl(fd, fcntl.F_GETLK, lock(fcntl.F_RDLCK, 0, 0))
            assert struct.unpack("hhqqi4x", found) == (fcntl.F_WRLCK, 0, 10, 10, holder)
            with opened("f", os.O_RDWR) as open_file, fails(errno.EAGAIN, errno.EACCES):
                fcntl.fcntl(open_file, F_OFD_SETLK, lock(fcntl.F_WRLCK, 10, 1))
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK))
        os.close(os.open("f", os.O_RDONLY))  # any close of the file ends a process's locks (fcntl(2))
        assert in_child(lambda: free("f"))
        with opened("f", os.O_RDWR) as read_only, opened("f") as reading:
            fcntl.fcntl(read_only, fcntl.F_SETLK, lock(fcntl.F_RDLCK))
            with fails(errno.EBADF):
                fcntl.fcntl(reading, fcntl.F_SETLK, lock(fcntl.F_WRLCK))


def free(name: str) -> bool:
    """Whether nobody else holds a lock."""
    with opened(name, os.O_RDWR) as fd:
        found = fcntl.fcntl(fd, fcntl.F_GETLK, lock(fcntl.F_WRLCK))
        return bool(struct.unpack("hhqqi4x", found)[0] == fcntl.F_UNLCK)


@by_both
def test_a_waiter_gets_the_lock_when_it_is_free(place: Place) -> None:
    put("f")
    for take in (
        lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
        lambda fd: fcntl.fcntl(fd, fcntl.F_SETLKW, lock(fcntl.F_WRLCK)),
    ):
        with opened("f", os.O_RDWR) as fd:
            take(fd)

            def wait(take: Callable[[int], object] = take) -> float:
                with opened("f", os.O_RDWR) as own:
                    take(own)
                    return time.monotonic()

            waiter = start_child(wait)
            assert not select.select([waiter[1]], [], [], 0.1)[0], "it did not wait"
            released = time.monotonic()
            fcntl.flock(fd, fcntl.LOCK_UN)
            fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_UNLCK))
            assert collect(waiter) >= released


@by_both
def test_a_killed_holder_loses_its_lock_and_a_signal_ends_the_waiting(place: Place) -> None:
    put("f")
    ready, say_ready = os.pipe()

    def hold() -> None:
        fd = os.open("f", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK))
        os.write(say_ready, b".")
        signal.pause()

    child, pipe = start_child(hold)
    os.read(ready, 1)

    class Interrupted(Exception):  # noqa: N818 - not an error
        pass

    def interrupt(_number: int, _frame: object) -> None:
        raise Interrupted

    def wait() -> bool:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with opened("f", os.O_RDWR) as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
            except Interrupted:
                return True
        return False

    assert in_child(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with opened("f", os.O_RDWR) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        fcntl.fcntl(fd, fcntl.F_SETLKW, lock(fcntl.F_WRLCK))
    for end in (ready, say_ready, pipe):
        os.close(end)


@by_both
def test_a_deadlock_is_found(place: Place) -> None:
    put("f", b"ab")
    with opened("f", os.O_RDWR) as fd:
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 0, 1))
        ready, say_ready = os.pipe()

        def other() -> bool:
            with opened("f", os.O_RDWR) as own:
                fcntl.fcntl(own, fcntl.F_SETLK, lock(fcntl.F_WRLCK, 1, 1))
                os.write(say_ready, b".")
                try:
                    fcntl.fcntl(own, fcntl.F_SETLKW, lock(fcntl.F_WRLCK, 0, 1))
                except OSError as error:
                    return error.errno == errno.EDEADLK
                return False

        child = start_child(other)
        os.read(ready, 1)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLKW, lock(fcntl.F_WRLCK, 1, 1))
            here = False
        except OSError as error:
            here = error.errno == errno.EDEADLK
        fcntl.fcntl(fd, fcntl.F_SETLK, lock(fcntl.F_UNLCK))
        assert here != collect(child), "exactly one hears of it"
        os.close(ready)
        os.close(say_ready)


def test_locks_are_the_mounts_own(place: Place) -> None:
    """pyfuse3 passes no locks on: users of the mount see each other's, users of the source do not."""
    put("f")
    with opened("f", os.O_RDWR) as fd, opened(place.source / "f", os.O_RDWR) as behind:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if place.mounted:
            fcntl.flock(behind, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            with fails(errno.EWOULDBLOCK):
                fcntl.flock(behind, fcntl.LOCK_EX | fcntl.LOCK_NB)
