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

from notifyfs.client.blocking import Connection, find_socket
from notifyfs.client.waiting import Waiting, deadline_in
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


_NO_ANSWER: Final = {errno.ECONNRESET, errno.ETIMEDOUT, errno.EBADF}
"""A mount that has ended (another thread may have closed the connection) or hangs: what has arrived is all there is."""


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
        self.adding = 0
        """How many adds are under way: events of a new watch may be read before its adder knows of it."""
        self.ended: dict[int, int] = {}
        """The names of watches that ended meanwhile."""


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

    Threads may use one instance at the same time; an event goes to one of those that read. ``close()`` wakes a read,
    which is then a ValueError. After a fork only the process that made the instance can use it (OSError: EBADF in the
    other, which may close its copy); the kernel's is shared, and a half of the events goes to each.

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
        self._owner = os.getpid()
        self._closed = False
        self._lock = threading.RLock()  # around the tables, held while nothing waits
        self._waiting = Waiting(self._lock, self._epoll)
        self._connecting = threading.Lock()  # one connection for one mount
        self._sources: list[_Source] = []
        self._watches: dict[int, _Watch] = {}
        self._last_wd = 0
        os.set_inheritable(self._epoll.fileno(), inheritable)

    def add_watch(self, path: str | bytes | os.PathLike[str] | os.PathLike[bytes], mask: int) -> int:
        """Watch *path* for the events in *mask*; the watch descriptor.

        OSError: what inotify_add_watch(2) lists; ENOTSUP when *path* is on no notifyfs mount;
        EMFILE already here (inotify_init(2) would have said it) when the user has ``max_user_instances``.
        """
        self._check()
        mask = operator.index(mask) & 0xFFFFFFFF
        if not mask or mask & ~WATCH_BITS or mask & (X_ORIGIN | X_FILTER) or not ~mask & (MASK_ADD | MASK_CREATE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        how = os.O_PATH | os.O_CLOEXEC
        how |= (os.O_NOFOLLOW if mask & DONT_FOLLOW else 0) | (os.O_DIRECTORY if mask & ONLYDIR else 0)
        descriptor = os.open(os.fsencode(path), how)
        try:
            socket_path = find_socket(descriptor)
            try:
                return self._add(self._source(socket_path), mask, descriptor)
            except ConnectionResetError:  # the mount that was known by this socket has ended; this is a new one
                return self._add(self._source(socket_path), mask, descriptor)
        except OSError as error:
            self._check()
            raise OSError(error.errno, error.strerror, path) from None
        finally:
            os.close(descriptor)

    def rm_watch(self, wd: int) -> None:
        """End a watch; IGNORED follows. OSError: EINVAL for an unknown *wd*."""
        self._check()
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
            with self._lock:
                self._check()
                if not self._waiting.wait(deadline):
                    break
            if read_delay is not None:
                time.sleep(read_delay / 1000)
            events = self._available(ask=False)
        return events

    def fileno(self) -> int:
        """Return a descriptor that select, poll, epoll and asyncio may wait for; ValueError when closed."""
        if self._closed:
            raise ValueError("I/O operation on closed INotify")
        return self._epoll.fileno()

    fd = property(fileno, doc="The same as ``fileno()``.")

    def close(self) -> None:
        """End the instance and all its watches. May be called again, and while others read."""
        ours = self._owner == os.getpid()
        with self._lock if ours else contextlib.nullcontext():  # a fork leaves it as it was, held or not
            self._closed = True
            for source in self._sources:
                source.connection.close()
            self._sources.clear()
            self._watches.clear()
            (self._waiting.close if ours else self._waiting.close_copy)()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    def __enter__(self) -> Self:
        """Return the instance itself."""
        self.fileno()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _check(self) -> None:
        """ValueError: closed. OSError: EBADF, this is a child process."""
        self.fileno()
        if self._owner != os.getpid():
            raise OSError(errno.EBADF, f"this INotify belongs to process {self._owner}; make another after a fork")

    def _source(self, socket_path: str) -> _Source:
        """Return the living mount that has this socket; an add is under way there."""
        with self._connecting:
            with self._lock:
                self._check()
                for source in self._sources:
                    if source.connection.socket_path == socket_path and not source.connection.hung_up:
                        source.adding += 1
                        return source
            connection = Connection(socket_path, event_fd=True)
            with self._lock:
                if self._closed:
                    connection.close()
                self._check()
                connection.set_inheritable(self._inheritable)
                self._epoll.register(connection.fileno(), select.EPOLLIN)
                source = _Source(connection)
                source.adding += 1
                self._sources.append(source)
                return source

    def _add(self, source: _Source, mask: int, descriptor: int) -> int:
        """Watch there; the watch descriptor. ConnectionResetError: the mount has ended."""
        is_dir = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        try:
            wd = source.connection.add_watch_fd(mask, descriptor)
            with self._lock:
                if wd in source.ended:
                    return source.ended[wd]
                if source not in self._sources:
                    raise ConnectionResetError(errno.ECONNRESET, "the mount has ended")
                known = self._known(source, wd)
                self._watches[known] = _Watch(source, wd, is_dir)
                return known
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            # Another thread has read the end of the mount, and closed the connection.
            raise ConnectionResetError(errno.ECONNRESET, "the mount has ended") from None
        finally:
            with self._lock:
                source.adding -= 1
                if not source.adding:
                    source.ended.clear()

    def _known(self, source: _Source, wd: int) -> int:
        """What that mount's watch *wd* is called here; who sees it first names it, its adder or its first event."""
        if wd not in source.names:
            self._last_wd += 1
            source.names[wd] = self._last_wd
            self._watches[self._last_wd] = _Watch(source, wd, is_dir=False)
        return source.names[wd]

    def _available(self, *, ask: bool) -> list[Event]:
        """Every event that has arrived; with *ask*, those of all returned system calls."""
        self._check()
        for source in list(self._sources) if ask else ():
            try:
                source.connection.sync(BARRIER_SECONDS)
            except OSError as error:
                if error.errno not in _NO_ANSWER:
                    raise
        events: list[Event] = []
        with self._lock:
            self._check()
            for source in list(self._sources):
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
            known = self._known(source, wd) if wd > 0 else wd
            events.append(Event(known, mask, cookie, os.fsdecode(name)))
            if mask & IGNORED:
                del source.names[wd]
                del self._watches[known]
                if source.adding:
                    source.ended[wd] = known
        return events

    def _ended(self, source: _Source) -> list[Event]:
        """Say what a killed daemon could not: the watches that it still had end, the newest first as in Linux."""
        events = []
        for wd in sorted(source.names.values(), reverse=True):
            is_dir = self._watches.pop(wd).is_dir
            events += [Event(wd, UNMOUNT | (ISDIR if is_dir else 0), 0, ""), Event(wd, IGNORED, 0, "")]
        return events
