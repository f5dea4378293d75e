"""A process that is a user for good: it has the recursive watches and the kernel's, and does what that user does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.kernel import Event, Inotify
from tests.support.subscriber import Subscriber

from notifyfs.protocol import flags
from scripts.recursive.operations import USERS, Hands

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from scripts.recursive.operations import Operation

WATCHED = flags.ALL_EVENTS & ~flags.ACCESS
PATIENCE = 60
WAYS = ("by path", "by descriptor")

Told = tuple[int, bytes, int]
"""Mask, path below the watched directory, cookie."""


class Heard(NamedTuple):
    """What both sides told since the last time."""

    kernel: list[Told]
    ours: list[Told]


class _Ears:
    """The two sides by one *way* of naming the watched directory, *top*: a descriptor, or a path."""

    def __init__(self, socket: str, way: str, top: int) -> None:
        self._top = top
        self._by_path = way == WAYS[0]
        self._kernel = Inotify(b"/")
        self._places: dict[int, bytes] = {}
        self._ours = Subscriber(socket)

    def begin(self, path: bytes) -> None:
        mask = WATCHED | flags.X_RECURSIVE
        if self._by_path:
            self._ours.add(path, mask)
        else:
            self._ours.add_fd(self._top, mask)

    def watch_anew(self, top: bytes, below: list[bytes]) -> list[bytes]:
        """Have the kernel watch what it lets this user watch: *top*, an absolute path, and what is *below*."""
        for wd in self._places:
            with contextlib.suppress(OSError):
                self._kernel.remove(wd)
        self._kernel.drain()
        self._places.clear()
        start = top if self._by_path else b"/proc/self/fd/%d" % self._top
        for place in (b"", *below):
            with contextlib.suppress(PermissionError):
                self._places[self._kernel.add(os.path.join(start, place) if place else start, WATCHED)] = place
        return list(self._places.values())

    def read(self) -> Heard:
        theirs = []
        for event in self._kernel.drain():
            place = self._places.get(event.wd)
            if place is not None and (event.name or not place) and not event.mask & flags.IGNORED:
                theirs.append((event.mask, os.path.join(place, event.name), event.cookie))
        return Heard(theirs, [_told(event) for event in self._ours.drain()])


def _told(event: Event) -> Told:
    return event.mask, event.name, event.cookie


class Listener:
    """The handle of such a process. *top* is an ``O_PATH`` descriptor of the watched directory, which it inherits."""

    def __init__(self, name: str, socket: str, base: Path, top: int) -> None:
        self.name = name
        self._pipe, theirs = multiprocessing.Pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                self._pipe.close()
                _serve(theirs, name, socket, base, top)
            except BaseException:  # noqa: BLE001 - the parent hears of it by the missing answer
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(0)
        theirs.close()

    def ask(self, verb: str, *words: object) -> Any:
        """Have it do something; what it answers. EOFError, TimeoutError: it does not."""
        self._pipe.send((verb, words))
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError(f"{self.name} gave no answer to {verb} {words}")
        return self._pipe.recv()

    def do(self, operation: Operation) -> str:
        """Do it as this user."""
        return str(self.ask("do", operation))

    def close(self) -> None:
        """End it."""
        self._pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _serve(pipe: Connection, name: str, socket: str, base: Path, top: int) -> None:
    uid, groups = USERS[name]
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.umask(0)
    hands = Hands(base)
    ears = [_Ears(socket, way, top) for way in WAYS]
    while True:
        try:
            verb, words = pipe.recv()
        except EOFError:
            return
        if verb == "do":
            pipe.send(hands.do(*words))
        elif verb == "close":
            pipe.send(hands.close())
        elif verb == "begin":
            pipe.send([each.begin(*words) for each in ears])
        elif verb == "watch":
            pipe.send([each.watch_anew(*words) for each in ears])
        else:
            pipe.send([each.read() for each in ears])
