"""Who waits for what the kernel has not decided, or not finished: those whom it concerns, and nobody else."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import wireclient as w
from tests.support.faults import root_only
from tests.support.wireclient import Wire, readable, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

ATTEMPTS = 10
"""How often to try, at most: an idle machine starves whom it should each time."""
BOTH_WAYS = pytest.mark.parametrize("event_fd", [False, True], ids=["stream", "descriptor"])


# A death in doubt


@BOTH_WAYS
def test_a_death_in_doubt_delays_only_who_watches_the_dying(mount: Mount, *, event_fd: bool) -> None:
    """Five times, for a machine has other things to do; in doubt it is for 0.2 s each time."""
    here, elsewhere = mount.root / "here", mount.root / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    took = []
    with Wire(mount) as mourner, Wire(mount, event_fd=event_fd) as other:
        places = [other.add(w.CREATE | w.DELETE, place) for place in (here, elsewhere)]
        for number in range(5):
            name = str(number)
            file = w.touch(here / name)
            wd = mourner.add(w.DELETE_SELF, file)
            other.events()
            held = os.open(file, os.O_PATH)
            began = time.monotonic()
            file.unlink()
            (elsewhere / name).mkdir()
            heard = other.told()
            took.append(time.monotonic() - began)
            assert heard == [
                (places[0], w.DELETE, name.encode()),
                (places[1], w.CREATE | w.ISDIR, name.encode()),
            ]
            assert mourner.told() == [], "it lives on"
            os.close(held)
            told: list[tuple[int, int, bytes]] = []
            wait_until(lambda told=told: told.extend(mourner.told()) or told, "the death is told")
            wait_until(lambda told=told: told.extend(mourner.told()) or len(told) >= 2, "the watch ends")
            assert told == [(wd, w.DELETE_SELF, b""), (wd, w.IGNORED, b"")]
    assert min(took) < 0.1, f"all waited: {took}"


# A change that cannot be seen


class Remover:
    """A process that removes one file, and can be kept from running once the daemon has answered."""

    def __init__(self, file: Path) -> None:
        self.file = file
        reader, self._go = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._go)
            os.stat(file.parent)
            os.stat(file)  # or it would first ask what they are, and then have to run to remove it
            os.read(reader, 1)
            os.unlink(file)
            os._exit(0)
        os.close(reader)
        wait_until(lambda: self._call() not in {"", "running"}, "it waits for its turn")
        self._waiting = self._call()

    def begin(self) -> None:
        """Let it ask; this returns when it waits for the answer."""
        os.write(self._go, b"x")
        wait_until(lambda: self._call() not in {"", "running", self._waiting}, "it waits for the daemon")

    def starve(self, processor: int) -> None:
        """Let it run only there."""
        os.sched_setaffinity(self.pid, {processor})

    def feed(self, processor: int) -> None:
        """Let it run."""
        os.sched_setaffinity(self.pid, {processor})

    def end(self) -> None:
        """AssertionError unless it has done it."""
        os.close(self._go)
        assert os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) == 0

    def _call(self) -> str:
        """Its system call, by number (proc_pid_syscall(5))."""
        return Path(f"/proc/{self.pid}/syscall").read_text("ascii").split()[0]


@contextmanager
def kept_busy(processor: int) -> Iterator[None]:
    """Let a process spin there that goes before all others: for less than a second (sched(7))."""
    pid = os.fork()
    if not pid:
        os.sched_setaffinity(0, {processor})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        while True:
            pass
    try:
        wait_until(lambda: os.sched_getscheduler(pid) == os.SCHED_FIFO, "it takes the processor")
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def stopped(mount: Mount) -> Iterator[None]:
    """Stop the daemon."""
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{mount.pid}/stat").read_text("ascii").split()[2] == "T", "it stops")
        yield
    finally:
        os.kill(mount.pid, signal.SIGCONT)


@pytest.fixture
def processors() -> Iterator[tuple[int, int]]:
    """A processor for us and whom we start, and one for who is to starve."""
    before = os.sched_getaffinity(0)
    if len(before) < 2:
        pytest.skip("nobody can be kept from running on the only processor")
    ours, other, *_ = sorted(before)
    os.sched_setaffinity(0, {ours})
    yield ours, other
    os.sched_setaffinity(0, before)


def told_early(mount: Mount, wire: Wire, files: tuple[Path, Path], processors: tuple[int, int]) -> bool | None:
    """Whether the second of *files* could still be seen when its removal was told; None: its remover was not starved.

    A removal cannot be seen yet, and the pump and a request wait for it. Then there is a second one, and
    the first can be seen.
    """
    ours, other = processors
    first, second = (Remover(file) for file in files)
    with ExitStack() as stack:
        stack.callback(first.end)
        stack.callback(second.end)
        stack.enter_context(kept_busy(other))
        stack.callback(second.feed, ours)
        for remover in (first, second):
            with stopped(mount):
                remover.begin()
                remover.starve(other)
            removed = mount.source / remover.file.relative_to(mount.root)
            wait_until(lambda removed=removed: not removed.exists(), "it is done")
            os.statvfs(mount.root)  # it is told
            if remover is first:
                wire.send(w.PENDING)
                wait_until(lambda: not w.unread_by_peer(wire.socket.fileno()), "the request is read")
                for _ in range(3):
                    os.statvfs(mount.root)
        first.feed(ours)
        assert readable(wire.events_fd, w.PATIENCE)
        heard = wire.packets()
        starved = files[1].exists()
        if len(heard) < 2 and readable(wire.events_fd, 0.05):
            heard += wire.packets()
        early = len(heard) == 2 and files[1].exists()
        second.feed(ours)
        if len(heard) < 2:
            assert readable(wire.events_fd, w.PATIENCE)
            heard += wire.packets()
            assert not files[1].exists()
    assert [event.name for event in heard] == [os.fsencode(file.name) for file in files]
    return early if starved else None


@root_only
def test_no_event_is_told_before_its_change_can_be_seen_however_many_wait(
    processors: tuple[int, int], mounted: Callable[..., Mount]
) -> None:
    mount = mounted(cache="always")
    places = [mount.root / name for name in ("a", "b")]
    verdicts: list[bool] = []
    with Wire(mount, event_fd=True) as wire:
        for place in places:
            place.mkdir()
            wire.add(w.DELETE, place)
        for attempt in range(ATTEMPTS):
            first, second = (w.touch(place / f"{place.name}{attempt}") for place in places)
            verdict = told_early(mount, wire, (first, second), processors)
            verdicts += [] if verdict is None else [verdict]
            wire.until_reply(wire.number)
            if len(verdicts) == 3:
                break
    assert verdicts, "the callers could not be kept from running"
    assert not any(verdicts)
