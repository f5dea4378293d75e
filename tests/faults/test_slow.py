"""A call that takes long: its caller waits, and nobody else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.conftest import wait_until
from tests.support.faults import ask, root_only
from tests.support.kernel import Inotify
from tests.support.posix import put
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount
    from tests.support.faults import Asker

__all__ = ["ask"]

pytestmark = root_only

ALL = flags.ALL_EVENTS
CONTENT = b"content"

BREAKS: dict[str, tuple[int, Callable[[Path], object]]] = {
    "open to read": (fcntl.F_WRLCK, lambda path: os.close(os.open(path, os.O_RDONLY))),
    "open to write": (fcntl.F_WRLCK, lambda path: os.close(os.open(path, os.O_RDWR))),
    "open to write what is only read": (fcntl.F_RDLCK, lambda path: os.close(os.open(path, os.O_WRONLY))),
    "open to truncate": (fcntl.F_WRLCK, lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))),
    "open to truncate and read": (fcntl.F_RDLCK, lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))),
    "truncate": (fcntl.F_WRLCK, lambda path: os.truncate(path, 3)),
    "truncate what is only read": (fcntl.F_RDLCK, lambda path: os.truncate(path, 3)),
}
"""The lease that is held, and what breaks it (fcntl(2), F_SETLEASE)."""


@contextlib.contextmanager
def leased(path: Path, kind: int) -> Iterator[Callable[[], bool]]:
    """Somebody has a lease on the file; says whether it is being broken. It is given back at the end."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
        yield lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE) != kind
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        os.close(fd)
        signal.signal(signal.SIGIO, before)


def told(watcher: Inotify | Subscriber, much: int) -> list[object]:
    """What *watcher* is told, once that are *much* events."""
    events: list[object] = []
    wait_until(lambda: events.extend(watcher.drain()) or len(events) >= much)
    return events


@pytest.mark.parametrize("how", BREAKS)
def test_who_waits_for_a_lease_waits_alone(mount: Mount, ask: Callable[..., Asker], how: str) -> None:
    kind, breaks = BREAKS[how]
    put(mount.source / "file", CONTENT)
    put(mount.source / "other", CONTENT)
    judge = Inotify(os.fsencode(mount.root))
    with contextlib.closing(judge), contextlib.closing(Subscriber(mount.socket)) as subscriber:
        for watcher in (judge, subscriber):
            watcher.add(b"", ALL)
            watcher.add(b"file", ALL)
        with leased(mount.source / "file", kind) as broken:
            waiting = ask(lambda: breaks(mount.root / "file"))
            wait_until(broken)
            # The daemon can be asked for anything else, that very file included.
            assert ask((mount.root / "other").read_bytes).result() == CONTENT
            assert ask(lambda: (mount.root / "file").stat().st_size).result() == len(CONTENT)
            assert not waiting.answered(0)
        waiting.result()
        expected = told(judge, 4)
        assert told(subscriber, len(expected)) == expected
        size = (mount.root / "file").stat().st_size
        assert size == (mount.source / "file").stat().st_size
        assert size == (0 if "open to truncate" in how else 3 if "truncate" in how else len(CONTENT))
    mount.check()


def test_a_file_removed_while_somebody_waits_to_open_it_lives_as_long_as_that(
    mount: Mount, ask: Callable[..., Asker]
) -> None:
    put(mount.source / "file", CONTENT)
    judge = Inotify(os.fsencode(mount.root))
    with contextlib.closing(judge), contextlib.closing(Subscriber(mount.socket)) as subscriber:
        for watcher in (judge, subscriber):
            watcher.add(b"", ALL)
            watcher.add(b"file", ALL)
        with leased(mount.source / "file", fcntl.F_WRLCK) as broken:
            waiting = ask((mount.root / "file").read_bytes)
            wait_until(broken)
            ask(lambda: os.unlink(mount.root / "file")).result()
        assert waiting.result() == CONTENT
        expected = told(judge, 10)
        assert told(subscriber, len(expected)) == expected
    mount.check()
