"""Calls on the source that may take long, left to a thread.

A function in steps is a generator. Nothing of what it changes is half changed where it yields: a call
to be made in a thread, of which it is sent the outcome. Other requests are served meanwhile. Where nothing
takes long it yields nothing, and is as good as a plain function.

What takes long is known before: by what is asked (blocks to free, a lease to break), or because the source
was slow a moment ago (a journal that is being written, a disk that does not keep up with what is written).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from resource import RUSAGE_THREAD, getrusage
from time import perf_counter, thread_time
from typing import Any, Final, NamedTuple, TypeVar

from notifyfs.system import syscalls

T = TypeVar("T")

_LONG: Final = 0.002
"""Seconds after which a call has taken long."""
_SHARE: Final = 20
"""For so many times as long as it took others are made in threads: at most so much of the time everybody waits."""
_MOST: Final = 2.0
"""Seconds, but for no longer than this."""
_SUSPICION: Final = 1.0
"""Seconds for which calls are looked at closely (1.5 us each) after one that took long."""

FEW_BLOCKS: Final = 128
"""64 KiB, in units of 512 bytes. To free 16 separate blocks of 4 KiB takes ext4 1.4 ms, 256 18 ms, 4,000 262 ms
where it discards them; one MiB in one piece 0.3 ms (Linux 6.18)."""
_BLOCK: Final = 512


class Apart(NamedTuple):
    """A call to be made in a thread."""

    user: int
    """On whose behalf: a user has so many threads."""
    call: Callable[[], Any]


class Until(Exception):  # noqa: N818 - no error, but a way out that costs nothing where it is not taken
    """Raised by who has done nothing yet, and has to wait: for something that will come about on the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._then: list[Callable[[], None]] = []

    def then(self, act: Callable[[], None]) -> None:
        """Call *act* when it has."""
        self._then.append(act)

    def come(self) -> None:
        """It has."""
        for act in self._then:
            act()


Steps = Generator[Apart, Any, T]
"""What a function in steps returns, and what it does in the end."""


During = Callable[[], AbstractContextManager[None]]
"""What is to be so while a call is made in a thread."""


class _Thread(threading.local):
    alone = False
    """Whether it has a umask of its own."""


class Pace:
    """Whether the source is slow at present. *clock* is in seconds.

    A call that took long may just have lost its processor to others. So from then on, for a while, it is
    looked at what each call used: one that slept, or computed, for so long says that the source is slow.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._until = 0.0
        self._suspected = 0.0  # until then
        # Without a umask for each thread nothing may be made there.
        self._most = _MOST if _can_be_alone() else 0.0

    @property
    def slow(self) -> bool:
        """Whether the source is slow at present."""
        return self._clock() < self._until

    def do(self, user: int, call: Callable[..., T], *fds: int, during: During = nullcontext) -> Steps[T]:
        """Return what *call* does with these descriptors: at once, or in a thread while the source is slow.

        Then it is done in *during*, which is over when it is this function's turn again.
        """
        began = self._clock()
        if began < self._suspected:
            if began < self._until:
                with during():
                    return (yield from self.apart(user, partial(self._alone, call), *fds))
            return self._closely(call, *fds)
        # As ``timed``, in place: to ask for the time once more, and call it, made unlink(2) 3 % slower (Linux 6.18).
        try:
            return call(*fds)
        finally:
            if (now := self._clock()) - began > _LONG:
                self._suspected = now + _SUSPICION

    @staticmethod
    def apart(user: int, call: Callable[..., T], *fds: int) -> Steps[T]:
        """Return what *call* does with these descriptors in a thread."""
        # Of their own: those that are kept for reuse may be closed meanwhile.
        return (yield Apart(user, partial(_call, call, [os.dup(fd) for fd in fds])))  # type: ignore[no-any-return]

    def free(self, user: int, act: Callable[[bool], Callable[..., T]], fd: int, *, much: bool) -> Steps[T]:
        """Return what a call does that frees blocks of the file that *fd* refers to, and may have to break a lease.

        *act* gives it: one that waits for the lease, or (False) one that raises BlockingIOError instead.
        """
        if not much:
            with suppress(BlockingIOError):
                return (yield from self.do(user, act(False), fd))  # noqa: FBT003 - it is the only one
        return (yield from self.apart(user, act(True), fd))  # noqa: FBT003 - as above

    def timed(self, call: Callable[..., T], *args: object) -> T:
        """Return what *call* does, which counts; from any thread."""
        began = self._clock()
        if began < self._suspected:
            return self._closely(call, *args)
        try:
            return call(*args)
        finally:
            if (now := self._clock()) - began > _LONG:
                self._suspected = now + _SUSPICION

    def _closely(self, call: Callable[..., T], *args: object) -> T:
        slept, computed, began = getrusage(RUSAGE_THREAD).ru_nvcsw, thread_time(), self._clock()
        try:
            return call(*args)
        finally:
            now = self._clock()
            took = now - began
            if took > _LONG and (
                getrusage(RUSAGE_THREAD).ru_nvcsw > slept or thread_time() - computed > took / 2  # not just preempted
            ):
                self._until = max(self._until, now + min(took * _SHARE, self._most))
                self._suspected = max(self._until, now) + _SUSPICION

    def _alone(self, call: Callable[..., T], *fds: int) -> T:
        """In a thread: what is made there has the umask of its maker."""
        if not _thread.alone:
            syscalls.unshare_umask()
            _thread.alone = True
        return self._closely(call, *fds)


def frees_much(found: os.stat_result, size: int = 0) -> bool:
    """Whether it may take long to make a file, *found* like this, *size* bytes long."""
    if size >= found.st_size:  # only what was allocated beyond its end
        size = max(found.st_size, 0)
        return found.st_blocks - size // _BLOCK > FEW_BLOCKS
    return found.st_blocks > FEW_BLOCKS


def _call(call: Callable[..., T], fds: list[int]) -> T:
    try:
        return call(*fds)
    finally:
        for fd in fds:
            os.close(fd)


def _can_be_alone() -> bool:
    """Whether a thread can have a umask of its own (unshare(2), which a container's seccomp filter may refuse)."""
    answers: list[bool] = []

    def attempt() -> None:
        try:
            syscalls.unshare_umask()
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=attempt, name="probe")
    thread.start()
    thread.join()
    return bool(answers)


_thread: Final = _Thread()
