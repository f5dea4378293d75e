"""The face of the PyPI package inotify_simple 2.0, for files on notifyfs mounts."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import select
import stat
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from notifyfs.client.blocking import Connection, deadline_in, find_socket, seconds_left
from notifyfs.protocol.flags import (
    DONT_FOLLOW,
    IGNORED,
    ISDIR,
    MASK_ADD,
    MASK_CREATE,
    ONLYDIR,
    UNMOUNT,
    WATCH_BITS,
    X_FILTER,
    X_ORIGIN,
)
from notifyfs.protocol.records import Parser, Record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

BARRIER_SECONDS: Final = 1.0
"""How long ``INotify.read`` waits for a daemon that does not answer its barrier."""


class Event(NamedTuple):
    """One inotify event: as inotify_simple's. ``name`` is decoded with ``os.fsdecode``, "" where there is none."""

    wd: int
    mask: int
    cookie: int
    name: str


def parse_events(data: bytes) -> list[Event]:
    """Return the events in *data*, as read from an inotify descriptor or an ``EVENT_FD`` one.

    ValueError when it is not a sequence of whole records.
    """
    parser = Parser()
    parser.feed(data)
    events = [Event(wd, mask, cookie, os.fsdecode(name)) for wd, mask, cookie, name in parser]
    if parser.waiting:
        raise ValueError(f"{parser.waiting} bytes of an unfinished event")
    return events


class _Source:
    """One mount that an ``INotify`` watches: its connection, and what its watch descriptors are called here."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.names: dict[int, int] = {}


class _Watch(NamedTuple):
    source: _Source
    wd: int
    is_dir: bool


class INotify:
    """inotify_simple's ``INotify``, for files on notifyfs mounts: change the import and nothing else.

    The mounts are found from the paths that are watched; several are fine (events of one mount are in
    order among themselves). Like the kernel's, a read tells everything that system calls which have
    returned did: it asks the daemon first. ``nonblocking`` turns that off, so that ``read(0)`` never
    waits for the daemon (with a hung one it would, ``BARRIER_SECONDS``) and tells what has arrived.

    When a mount ends, its watches get UNMOUNT and IGNORED (also when its daemon was killed) and nothing
    follows; a path on a new mount can be watched then. ``fileno()`` can be polled from the start, but
    not read with ``os.read``: it is an epoll descriptor.

    Args:
        inheritable: programs executed by this process inherit the descriptors.
        nonblocking: as above.

    """

    def __init__(self, inheritable: bool = False, nonblocking: bool = False) -> None:  # noqa: FBT001, FBT002 - inotify_simple's signature
        self._epoll = select.epoll()
        self._inheritable = inheritable
        self._nonblocking = nonblocking
        self._lock = threading.Lock()
        self._sources: list[_Source] = []
        self._watches: dict[int, _Watch] = {}
        self._last_wd = 0
        os.set_inheritable(self._epoll.fileno(), inheritable)

    def add_watch(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes], mask: int) -> int:
        """Watch *path* for the events in *mask*; the watch descriptor.

        OSError: what inotify_add_watch(2) lists; ENOTSUP when *path* is on no notifyfs mount;
        EMFILE already here (inotify_init(2) would have said it) when the user has ``max_user_instances``.
        """
        self.fileno()
        mask = operator.index(mask) & 0xFFFFFFFF
        if not mask or mask & ~WATCH_BITS or mask & (X_ORIGIN | X_FILTER) or not ~mask & (MASK_ADD | MASK_CREATE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        how = os.O_PATH | os.O_CLOEXEC
        how |= (os.O_NOFOLLOW if mask & DONT_FOLLOW else 0) | (os.O_DIRECTORY if mask & ONLYDIR else 0)
        descriptor = os.open(os.fsencode(path), how)
        try:
            with self._lock:
                socket_path = find_socket(descriptor)
                try:
                    source = self._source(socket_path)
                    wd = source.connection.add_watch_fd(mask, descriptor)
                except ConnectionResetError:  # the mount that was known by this socket has ended; this is a new one
                    source = self._source(socket_path)
                    wd = source.connection.add_watch_fd(mask, descriptor)
                if wd not in source.names:
                    self._last_wd += 1
                    source.names[wd] = self._last_wd
                    self._watches[self._last_wd] = _Watch(source, wd, stat.S_ISDIR(os.fstat(descriptor).st_mode))
                return source.names[wd]
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(descriptor)

    def rm_watch(self, wd: int) -> None:
        """End a watch; IGNORED follows. OSError: EINVAL for an unknown *wd*."""
        self.fileno()
        with self._lock:
            watch = self._watches.get(wd)
            if watch is None:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            watch.source.connection.remove_watch(watch.wd)

    def read(self, timeout: float | None = None, read_delay: float | None = None) -> list[Event]:
        """Return the events that are there; else those that come within *timeout*, [] if none do.

        Args:
            timeout: milliseconds; None or negative: wait for ever.
            read_delay: milliseconds to let more events gather once the first has come, if it had to be waited for.

        """
        deadline = deadline_in(None if timeout is None else timeout / 1000)
        events = self._available(ask=not self._nonblocking)
        while not events and timeout != 0:
            if not self._epoll.poll(seconds_left(deadline), 1):
                break
            if read_delay is not None:
                time.sleep(read_delay / 1000)
            events = self._available(ask=False)
        return events

    def fileno(self) -> int:
        """Return a descriptor that select, poll, epoll and asyncio may wait for; ValueError when closed."""
        return self._epoll.fileno()

    fd = property(fileno, doc="The same as ``fileno()``.")

    def close(self) -> None:
        """End the instance and all its watches. May be called again."""
        self._epoll.close()
        for source in self._sources:
            source.connection.close()
        self._sources.clear()
        self._watches.clear()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._epoll.closed

    def __enter__(self) -> Self:
        """Return the instance itself."""
        self.fileno()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _source(self, socket_path: str) -> _Source:
        for source in self._sources:
            if source.connection.socket_path == socket_path and not source.connection.hung_up:
                return source
        connection = Connection(socket_path, event_fd=True)
        connection.set_inheritable(self._inheritable)
        self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._sources.append(_Source(connection))
        return self._sources[-1]

    def _available(self, *, ask: bool) -> list[Event]:
        """Every event that has arrived; with *ask*, those of all returned system calls."""
        self.fileno()
        events: list[Event] = []
        with self._lock:
            for source in list(self._sources):
                if ask:
                    # A mount that has ended or hangs: what has arrived is all there is.
                    with contextlib.suppress(ConnectionResetError, TimeoutError):
                        source.connection.sync(BARRIER_SECONDS)
                try:
                    events += self._renamed(source, source.connection.read(0))
                except EOFError:
                    events += self._ended(source)
                    self._sources.remove(source)
                    self._epoll.unregister(source.connection.fileno())
                    source.connection.close()
        return events

    def _renamed(self, source: _Source, records: Iterable[Record]) -> list[Event]:
        events = []
        for wd, mask, cookie, name in records:
            known = source.names.get(wd, wd)
            events.append(Event(known, mask, cookie, os.fsdecode(name)))
            if mask & IGNORED:
                del source.names[wd]
                del self._watches[known]
        return events

    def _ended(self, source: _Source) -> list[Event]:
        """Say what a killed daemon could not: the watches that it still had end, the newest first as in Linux."""
        events = []
        for wd in sorted(source.names.values(), reverse=True):
            is_dir = self._watches.pop(wd).is_dir
            events += [Event(wd, UNMOUNT | (ISDIR if is_dir else 0), 0, ""), Event(wd, IGNORED, 0, "")]
        return events
