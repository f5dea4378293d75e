"""The client of ``wireclient`` with the face of ``kernel.Inotify``, so that a script can be played to both."""

from __future__ import annotations

import collections
import json
import os
import select
from typing import Any

from tests.support.kernel import Event
from tests.support.wireclient import (
    ADD,
    GREETING,
    HEADER,
    HELLO,
    IGNORED,
    PENDING,
    REPLY,
    STATISTICS,
    Client,
    Record,
    field_of,
    unread,
)


class _Client(Client):
    may_break_off = True


class Subscriber:
    """One connection, which is one inotify instance. Paths are relative to *base*, below the mount's root.

    Args:
        path: the socket's.
        base: prefix of every watched path.
        event_fd: take the events from a descriptor of their own.
        timeout: seconds that any reply may take; TimeoutError after that.

    """

    def __init__(self, path: str, base: bytes = b"", *, event_fd: bool = False, timeout: float = 20) -> None:
        self._path = path
        self._base = base
        self._events: collections.deque[Event] = collections.deque()
        self._read_early = False
        self._client = _Client(path, event_fd=event_fd, timeout=timeout)
        try:
            self.hello: dict[str, Any] = self._client.greeting or json.loads(self._ask(HELLO, 0, GREETING).name)
            assert len(self._client.descriptors) == event_fd, "a descriptor that was not asked for"
        except BaseException:
            self._client.close()
            raise

    def add(self, path: bytes, mask: int) -> int:
        """Watch *path* (no leading ``/``; empty is the base itself); the watch descriptor."""
        return self._ask(ADD, mask, b"/".join(filter(None, [self._base, path]))).wd

    def add_fd(self, descriptor: int, mask: int) -> int:
        """Watch the file that *descriptor* refers to, whatever its names are now."""
        opened = os.open(f"/proc/self/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
        try:
            return self._ask(ADD, mask, descriptors=[opened]).wd
        finally:
            os.close(opened)

    def remove(self, wd: int) -> None:
        """Remove the watch *wd*."""
        self._ask(wd, 0)

    def statistics(self) -> dict[str, Any]:
        """Ask for the counters of this instance and of the mount."""
        counters: dict[str, Any] = json.loads(self._ask(STATISTICS, 0).name)
        return counters

    def pending(self) -> int:
        """How many bytes of events wait to be read: what FIONREAD says of an inotify descriptor."""
        unsent = self._ask(PENDING, 0).wd
        if self._client.events_fd < 0:  # all of them came before the reply
            return sum(HEADER.size + len(field_of(event.name)) for event in self._events)
        return unsent + unread(self._client.events_fd)

    def wait(self, seconds: float) -> bool:
        """Whether an event is there to be read, or comes within *seconds* (or the mount has ended)."""
        client = self._client
        descriptor = client.socket.fileno() if client.events_fd < 0 else client.events_fd
        return bool(self._events) or bool(select.select([descriptor], [], [], seconds)[0])

    def drain(self) -> list[Event]:
        """Every event of every system call that has returned."""
        try:
            while True:
                unsent = self._ask(PENDING, 0).wd
                self._read_packets()
                if self._client.events_fd < 0 or not unsent:
                    break
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._read_to_the_end()  # the mount has ended: what it said last is still here
            self._read_packets()
        events, self._events = list(self._events), collections.deque()
        return events

    @property
    def event_descriptor(self) -> int:
        """The descriptor of its own that the events come on."""
        assert self._client.events_fd >= 0
        return self._client.events_fd

    def another(self) -> Subscriber:
        """Start a second connection beside this one."""
        return Subscriber(self._path, self._base)

    def close(self) -> None:
        """End the instance."""
        self._client.close()

    def _ask(self, wd: int, mask: int, name: bytes = b"", descriptors: list[int] | None = None) -> Record:
        """Send one request; its reply. A negative result raises OSError."""
        events, reply = self._client.until_reply(self._client.send(wd, mask, name, descriptors=descriptors or ()))
        self._keep(events)
        self._read_early = True
        if reply.wd < 0:
            raise OSError(-reply.wd, os.strerror(-reply.wd), name or f"wd {wd}")
        return reply

    def _read_to_the_end(self) -> None:
        try:
            while True:
                record = self._client.record()
                self._keep([] if record.mask & REPLY else [record])
        except (EOFError, ConnectionResetError):
            pass

    def _keep(self, records: list[Record]) -> None:
        assert not records or self._client.events_fd < 0, f"events on a connection that carries replies only: {records}"
        for record in records:
            event = _event(record)
            # A request in the middle of a script reads the events before its reply. The kernel's queue still holds its
            # own then and merges an equal one into the last of them: so the first event after it is compared too.
            last = self._events[-1] if self._read_early and self._events else None
            self._read_early = False
            if last is None or last._replace(cookie=event.cookie) != event or event.mask & IGNORED:
                self._events.append(event)

    def _read_packets(self) -> None:
        if self._client.events_fd >= 0:
            self._events += map(_event, self._client.packets())


def _event(record: Record) -> Event:
    return Event(record.wd, record.mask, record.cookie, record.field.rstrip(b"\0"))
