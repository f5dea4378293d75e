"""A subscriber of the control socket, written from docs/protocol.md alone.

It shares nothing with ``notifyfs.client``, so that a misreading of the protocol there
cannot hide here. It has the same face as ``kernel.Inotify``: ``add``, ``remove``,
``pending``, ``wait``, ``drain``, ``close``.
"""

from __future__ import annotations

import array
import collections
import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
import termios
from typing import Any

from tests.support.kernel import Event, parse

HEADER = struct.Struct("=iIII")
IN_IGNORED = 0x8000
IN_X_REPLY = 0x00800000
EVENT_FD = 1


def record(wd: int, mask: int, cookie: int, name: bytes = b"") -> bytes:
    """Make the bytes of one record: ``len`` is 0, or the name and its NULs up to a multiple of 16."""
    size = (len(name) + 1 + 15) // 16 * 16 if name else 0
    return HEADER.pack(wd, mask, cookie, size) + name.ljust(size, b"\0")


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
        self._cookie = 0
        self._stream = b""
        self._descriptors: list[int] = []
        self._events: collections.deque[Event] = collections.deque()
        self._read_early = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._event_fd: int | None = None
        try:
            self._socket.connect(path)
            reply = self._ask(-1, EVENT_FD if event_fd else 0, b"notifyfs 1")
        except BaseException:
            self._socket.close()
            raise
        self.hello: dict[str, Any] = json.loads(reply.name)
        if event_fd:
            (self._event_fd,) = self._descriptors
            os.set_blocking(self._event_fd, False)
        else:
            assert not self._descriptors, "a descriptor that was not asked for"

    def add(self, path: bytes, mask: int) -> int:
        """Watch *path* (no leading ``/``; empty is the base itself); the watch descriptor."""
        return self._ask(0, mask, b"/".join(filter(None, [self._base, path]))).wd

    def add_fd(self, descriptor: int, mask: int) -> int:
        """Watch the file that *descriptor* refers to, whatever its names are now."""
        opened = os.open(f"/proc/self/fd/{descriptor}", os.O_PATH | os.O_CLOEXEC)
        try:
            return self._ask(0, mask, descriptors=[opened]).wd
        finally:
            os.close(opened)

    def remove(self, wd: int) -> None:
        """Remove the watch *wd*."""
        self._ask(wd, 0)

    def statistics(self) -> dict[str, Any]:
        """Ask for the counters of this instance and of the mount."""
        counters: dict[str, Any] = json.loads(self._ask(-2, 0).name)
        return counters

    def pending(self) -> int:
        """How many bytes of events wait to be read: what FIONREAD says of an inotify descriptor."""
        unsent = self._ask(-3, 0).wd
        if self._event_fd is None:  # all of them came before the reply
            return sum(len(record(*event)) for event in self._events)
        return unsent + int.from_bytes(fcntl.ioctl(self._event_fd, termios.FIONREAD, bytes(4)), "little")

    def wait(self, seconds: float) -> bool:
        """Whether an event is there to be read, or comes within *seconds* (or the mount has ended)."""
        descriptor = self._socket if self._event_fd is None else self._event_fd
        return bool(self._events) or bool(select.select([descriptor], [], [], seconds)[0])

    def drain(self) -> list[Event]:
        """Every event of every system call that has returned."""
        try:
            while True:
                unsent = self._ask(-3, 0).wd
                self._read_event_fd()
                if self._event_fd is None or not unsent:
                    break
        except (
            EOFError,
            BrokenPipeError,
            ConnectionResetError,
        ):  # the mount has ended: what it said last is still here
            self._receive_to_the_end()
            self._read_event_fd()
        events, self._events = list(self._events), collections.deque()
        return events

    @property
    def event_descriptor(self) -> int:
        """The descriptor of its own that the events come on."""
        assert self._event_fd is not None
        return self._event_fd

    def another(self) -> Subscriber:
        """Start a second connection beside this one."""
        return Subscriber(self._path, self._base)

    def close(self) -> None:
        """End the instance."""
        self._socket.close()
        if self._event_fd is not None:
            os.close(self._event_fd)
            self._event_fd = None

    def _ask(self, wd: int, mask: int, name: bytes = b"", descriptors: list[int] | None = None) -> Event:
        """Send one request; its reply. A negative result raises OSError."""
        self._cookie += 1
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._socket.sendmsg([record(wd, mask, self._cookie, name)], rights)
        while (reply := self._next_reply()) is None:
            self._receive()
        assert reply.cookie == self._cookie, f"{reply} does not answer request {self._cookie}"
        self._read_early = True
        if reply.wd < 0:
            raise OSError(-reply.wd, os.strerror(-reply.wd), name or f"wd {wd}")
        return reply

    def _receive(self) -> None:
        data, control, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(16))
        for _, _, payload in control:
            numbers = array.array("i")
            numbers.frombytes(payload[: len(payload) // numbers.itemsize * numbers.itemsize])
            self._descriptors += numbers
        if not data:
            raise EOFError
        self._stream += data

    def _receive_to_the_end(self) -> None:
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self._receive()
        self._next_reply()

    def _next_reply(self) -> Event | None:
        """Sort what has arrived: events aside, the first reply out."""
        while len(self._stream) >= HEADER.size:
            wd, mask, cookie, size = HEADER.unpack_from(self._stream)
            assert size <= 4112 and size % 16 == 0, f"a record with a name field of {size} bytes"  # noqa: PT018 - one fact
            if len(self._stream) < HEADER.size + size:
                break
            data, self._stream = self._stream[: HEADER.size + size], self._stream[HEADER.size + size :]
            if mask & IN_X_REPLY:
                return Event(wd, mask, cookie, data[HEADER.size :].rstrip(b"\0"))
            assert self._event_fd is None, f"an event on a connection that carries replies only: {parse(data)}"
            self._keep(parse(data)[0])
        return None

    def _keep(self, event: Event) -> None:
        # A request in the middle of a script reads the events before its reply. The kernel's queue still
        # holds its own then and merges an equal one into the last of them: so the first event after it is compared too.
        again = (
            self._read_early and self._events and self._events[-1][:2] + self._events[-1][3:] == event[:2] + event[3:]
        )
        self._read_early = False
        if not again or event.mask & IN_IGNORED:
            self._events.append(event)

    def _read_event_fd(self) -> None:
        while self._event_fd is not None:
            try:
                packet = os.read(self._event_fd, 8192)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ECONNRESET:
                    raise
                break
            if not packet:
                break
            (event,) = parse(packet)  # one whole record a packet
            self._events.append(event)
