"""How records leave: in the connection's stream, or as packets on a descriptor of their own.

Both know how much of what they sent the subscriber has not read, because that is still in the
queue as far as inotify is concerned.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import trio

from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from notifyfs.system import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.core.queue import Item, Queue

CHUNK: Final = 2048
"""Bytes sent at once in a stream, and taken at once for packets."""

# In a stream only the whole socket tells whether what was sent was read. So little is sent ahead:
# the kernel makes this its minimum (SOCK_MIN_SNDBUF, 4,608), which holds at most nine of the
# smallest buffers.
_STREAM_BUFFER: Final = 1
_STREAM_AHEAD: Final = 9
# On an event descriptor: room for a full queue of the usual size (768 bytes of kernel memory for
# a short record, Linux 6.18), so that all is there to be read when a barrier has answered.
_PACKET_BUFFER: Final = 8 << 20
_FEW_SENT: Final = 1024
_SO_SNDBUFFORCE: Final = 32


class Bell:
    """Rung by those who must not wait; waited for by the one who can."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake who waits, now or later."""
        self._event.set()

    async def wait_rung(self) -> None:
        """Return once it was rung since the last time."""
        await self._event.wait()
        self._event = trio.Event()


class Outlet(Protocol):
    """Where the events of one instance leave."""

    def unread(self) -> int:
        """How many events that were taken from the queue the client has not read, at most."""
        ...

    async def send(self, queue: Queue) -> None:
        """Send all that is queued, as the gates open and the client makes room."""
        ...

    async def send_until(self, queue: Queue, number: int) -> None:
        """Send until ``queue.left`` is *number*. What comes later is not waited for."""
        ...


async def pass_doubts(queue: Queue) -> None:
    """Wait until it is decided what is in doubt now. What comes into doubt later is not waited for."""
    for gate in queue.doubts:
        await gate.opened()


class Stream:
    """The connection itself. What is staged is sent in that order, by whoever flushes."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sending = trio.Lock()
        self._staged: deque[tuple[bytes, int, int]] = deque()  # bytes, the events in them, a descriptor or -1
        self._held = 0  # events staged and not sent yet
        self._ahead: deque[int] = deque(maxlen=_STREAM_AHEAD)  # events in each of the last sends
        self._reply_first: trio.Event | None = None
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _STREAM_BUFFER)

    def close(self) -> None:
        """Close the descriptors that were not sent; the connection is the caller's."""
        for _, _, descriptor in self._staged:
            if descriptor >= 0:
                os.close(descriptor)
        self._staged.clear()

    async def send(self, queue: Queue) -> None:
        """Send all that is queued, as the gates open and the client makes room."""
        while await self._send_some(queue):
            pass

    async def send_until(self, queue: Queue, number: int) -> None:
        """Send until ``queue.left`` is *number*; some of it may still be staged."""
        while queue.left < number:
            await self._send_some(queue)

    async def _send_some(self, queue: Queue) -> bool:
        """Send some of what may leave, or wait until something may; whether there was anything."""
        if self._reply_first is not None:
            await self._reply_first.wait()
        if self._stage(queue):
            await self.flush()
        elif (gate := queue.gate) is not None:
            await gate.opened()
        else:
            return bool(queue)  # the gate has been opened just now
        return True

    def _stage(self, queue: Queue) -> bool:
        """Take some events, to be sent next; whether there were any that may leave."""
        taken = queue.take(CHUNK)
        if taken:
            self._staged.append((b"".join(packet for item in taken for packet in packets_of(item)), len(taken), -1))
            self._held += len(taken)
        return bool(taken)

    def reply_first(self) -> None:
        """Send no event before the next reply, which is under way: it may tell of a watch that the reply names."""
        self._reply_first = trio.Event()

    def stage_reply(self, reply: bytes, descriptor: int = -1) -> None:
        """Send *reply* next, and *descriptor* with it, which is closed here then."""
        self._staged.append((reply, 0, descriptor))
        if self._reply_first is not None:
            self._reply_first.set()
            self._reply_first = None

    async def flush(self) -> None:
        """Send all that is staged."""
        try:
            self._sending.acquire_nowait()  # ``acquire`` goes round the loop even where nobody else has it
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            while self._staged:
                data, events, descriptor = self._staged[0]
                if not syscalls.unread_by_peer(self._socket.fileno()):
                    self._ahead.clear()
                try:
                    sent = self._write(data, descriptor)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                    continue
                # No await since the bytes left: the client may have read them, and what it does next
                # must not be merged with them.
                if descriptor >= 0:
                    os.close(descriptor)
                if sent < len(data):
                    self._staged[0] = (data[sent:], events, -1)
                else:
                    self._staged.popleft()
                    self._held -= events
                    self._ahead.append(events)
        finally:
            self._sending.release()

    def _write(self, data: bytes, descriptor: int) -> int:
        # trio's own send goes round its loop.
        if descriptor < 0:
            return os.write(self._socket.fileno(), data)
        connection = socket.socket(fileno=self._socket.fileno())
        try:
            return socket.send_fds(connection, [data], [descriptor])
        finally:
            connection.detach()

    def unread(self) -> int:
        """How many events the client has not read, at most."""
        if not syscalls.unread_by_peer(self._socket.fileno()):
            self._ahead.clear()
        return self._held + sum(self._ahead)


class Packets:
    """The event descriptor: a packet socket on which each record is one packet; *large*: with much room.

    What the client has not read is told by SIOCOUTQ, from what each packet weighs. (FIONREAD on its
    end says it in bytes, but the kernel counts them anew each time: 0.5 ms for a full queue.)

    A client that closes its end hears no more events, as from a closed inotify descriptor.
    """

    def __init__(self, *, large: bool = True) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._ours.setblocking(False)  # noqa: FBT003 - socket's own signature
        if large:
            try:
                self._ours.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _PACKET_BUFFER)
            except PermissionError:
                self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET_BUFFER)
        self._waiting: deque[tuple[bytes, int]] = deque()  # taken and not sent yet; 1 with the last of an event
        self._sent: deque[tuple[int, int]] = deque()  # of each packet that is perhaps unread: weight, and the same
        self._weight = 0  # of all of them
        self._unread = 0  # events in both
        self._enough = _FEW_SENT  # packets in ``_sent`` at which to ask which of them were read
        self._deaf = False

    def close(self) -> None:
        """Close our end; the client's then reads end of file."""
        self._ours.close()
        self._theirs.close()

    def give(self) -> int:
        """The client's end, to be sent to it and closed: only when nobody else has it can we see it closed."""
        return self._theirs.detach()

    @property
    def waiting(self) -> int:
        """Bytes taken from the queue that the socket had no room for."""
        return sum(len(packet) for packet, _ in self._waiting)

    async def send(self, queue: Queue) -> None:
        """Send all that is queued, as the gates open and the client makes room."""
        while True:
            if not self._push(queue):
                await trio.lowlevel.wait_writable(self._ours)
            elif (gate := queue.gate) is not None:
                await gate.opened()
            elif not queue:
                return

    async def send_until(self, queue: Queue, number: int) -> None:
        """Send until ``queue.left`` is *number*, as far as there is room."""
        while self._push(queue) and queue.left < number:
            if (gate := queue.gate) is not None:
                await gate.opened()

    def _push(self, queue: Queue) -> bool:
        """Send what may leave, as far as there is room; whether that was room enough."""
        if not self._deaf:
            try:
                return self._push_packets(queue)
            except (BrokenPipeError, ConnectionResetError):  # reset: with packets that were not read
                self._deaf = True
                self._waiting.clear()
                self._sent.clear()
                self._weight = self._unread = 0
        queue.take(sys.maxsize)
        return True

    def _push_packets(self, queue: Queue) -> bool:
        waiting, send = self._waiting, self._ours.send
        while True:
            while waiting:
                packet, last = waiting[0]
                try:
                    send(packet)
                except BlockingIOError:
                    return False
                del waiting[0]
                weight = _weight(len(packet))
                self._sent.append((weight, last))
                self._weight += weight
                if len(self._sent) >= self._enough:
                    self.unread()
                    self._enough = max(_FEW_SENT, 2 * len(self._sent))
            taken = queue.take(CHUNK)
            if not taken:
                return True
            self._unread += len(taken)
            for item in taken:
                *before, packet = packets_of(item)
                waiting.extend((each, 0) for each in before)
                waiting.append((packet, 1))

    def unread(self) -> int:
        """How many events the client has not read."""
        if self._deaf:
            return 0
        unread = syscalls.unread_by_peer(self._ours.fileno())
        while self._sent and (self._weight > unread or not unread):
            weight, events = self._sent.popleft()
            self._weight -= weight
            self._unread -= events
        return self._unread


@functools.cache
def _weight(size: int) -> int:
    """Bytes of kernel memory that a packet of *size* bytes takes, as SIOCOUTQ counts it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with ours, theirs:
        ours.send(bytes(size))
        return syscalls.unread_by_peer(ours.fileno())


def packets_of(item: Item) -> Iterator[bytes]:
    """The records of one event: its origin, if it has one, and itself."""
    record, origin, _ = item
    if origin is not None:
        yield bytes(Record(record.wd, flags.X_ORIGIN, record.cookie, bytes(origin)))
    yield bytes(record)
