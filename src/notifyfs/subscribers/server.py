"""Subscriber side: one connection on the control socket = one inotify instance.

``docs/protocol.md`` is the contract. A bad, slow or dying client ends its own
connection and nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING, Final

import attrs
import trio

from notifyfs.core.filters import MOST, MOST_OF_USER, Draft
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.protocol import flags, records, requests
from notifyfs.protocol.records import HEADER, Record
from notifyfs.subscribers.delivery import CHUNK, Packets, Stream
from notifyfs.subscribers.descriptors import Descriptors, room_for_more
from notifyfs.subscribers.resolve import Peer
from notifyfs.system import syscalls
from notifyfs.system.callers import Caller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from notifyfs.core.inodes import Inode
    from notifyfs.core.watches import Watches
    from notifyfs.observe.statistics import Statistics
    from notifyfs.subscribers.resolve import Resolver

log = logging.getLogger(__name__)

_MOST_FDS: Final = 253  # SCM_MAX_FD, unix(7)
_ALL: Final = 1 << 62

_GRACE: Final = 1.0  # seconds that a subscriber has to read its last events after an unmount
_MOST_STRANGERS: Final = 64
_STRANGER: Final = 5.0  # seconds that a connection over the limit has for its first request


@attrs.frozen(kw_only=True)
class Limits:
    """Mount options of the same names; the defaults are Linux's (inotify(7), /proc interfaces)."""

    max_queued_events: int = 16384
    max_user_instances: int = 128
    max_user_watches: int = 1048576


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


class Server:
    """All subscribers of one mount."""

    def __init__(  # noqa: PLR0913 - each is a capability of its own
        self,
        watches: Watches,
        resolver: Resolver,
        limits: Limits,
        *,
        settled: Callable[[], Awaitable[None]],
        decided: Callable[[], Awaitable[None]],
        about: dict[str, object],
        statistics: Statistics,
    ) -> None:
        self.watches = watches
        self.resolver = resolver
        self.limits = limits
        self.settled = settled
        """Waits until the changes told so far can be seen through the mount."""
        self.decided = decided
        """Waits until no event is held back."""
        self.source_answers: Callable[[], Awaitable[None]] | None = None
        """Waits until a path can be looked up without hanging; None where it always can."""
        self.reaches: Callable[[Peer], Awaitable[int]] | None = None
        """Says 0, or why a user could not reach the mountpoint (an errno); None where that does not matter."""
        self.about = about
        """What a hello says of the mount."""
        self.statistics = statistics
        self._accepting = trio.CancelScope()
        self._strangers = 0
        self._subscribers: set[Subscriber] = set()

    async def accept(self, listener: socket.socket) -> None:
        """Serve connections until cancelled, and new ones until they are no longer taken."""
        trio_listener = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        async with trio.open_nursery() as nursery:
            with self._accepting:
                await trio.serve_listeners(self._serve, [trio_listener], handler_nursery=nursery)

    def take_no_more(self) -> None:
        """Close the listener."""
        self._accepting.cancel()

    async def finish(self) -> None:
        """When there is no more to tell: let each subscriber read what it still can, then end its stream."""
        with trio.move_on_after(_GRACE):
            async with trio.open_nursery() as nursery:
                for subscriber in list(self._subscribers):
                    nursery.start_soon(subscriber.finish)

    async def turn_away(self, refusal: Coroutine[None, None, None]) -> None:
        """Run *refusal* of a connection over the limit; at once, or not at all, when too many wait for theirs."""
        if self._strangers >= _MOST_STRANGERS:
            refusal.close()
            return
        self._strangers += 1
        try:
            with trio.move_on_after(_STRANGER):
                await refusal
        finally:
            self._strangers -= 1

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self._accepting.cancel_called:
            await stream.aclose()  # it came while the others were being ended
            return
        try:
            subscriber = Subscriber(stream.socket, self)
            self._subscribers.add(subscriber)
            try:
                await subscriber.run()
            finally:
                self._subscribers.discard(subscriber)
                subscriber.close()
        except (OSError, EOFError, records.FramingError, trio.ClosedResourceError) as error:
            log.debug("subscriber gone: %r", error)
        except Exception:
            log.exception("subscriber ended by a fault of ours")


class Subscriber:
    """One connection: reads requests, answers them, and sends the instance's events."""

    def __init__(self, sock: trio.socket.SocketType, server: Server) -> None:
        self._socket = sock
        self._server = server
        self._watches = server.watches
        self._peer = peer_of(sock)
        self._bell = Bell()
        self._stream = Stream(sock, server.settled)
        self._packets: Packets | None = None
        self._pumping = trio.CancelScope()
        self._pump_ended = trio.Event()
        self.instance = Instance(self._peer.uid, Queue(server.limits.max_queued_events, self._unread), self._bell.ring)
        trusted = self._peer.uid in (0, os.geteuid())
        self._draft = Draft(
            self._peer.pid,
            self._peer.uid,
            MOST if trusted else MOST_OF_USER,
            lambda cost: self._watches.draft(self.instance, cost),
        )
        self._greeted = False

    def close(self) -> None:
        """Free the instance and every descriptor."""
        self._watches.close(self.instance)
        if self._packets is not None:
            self._packets.close()
        self._stream.close()
        self._socket.close()

    async def run(self) -> None:
        """Serve until the client hangs up."""
        try:
            self._watches.open(self.instance)
        except OSError as error:
            await self._server.turn_away(self._refuse(error.errno or errno.EMFILE))
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump)
            try:
                while True:
                    await self._respond()
            except (EOFError, OSError) as error:
                log.debug("subscriber gone: %r", error)
            except records.FramingError as error:
                with contextlib.suppress(OSError):  # it may be gone without waiting for the answer
                    await self._answer(error.args[0], -errno.EPROTO)
                    self._discard_input()
            nursery.cancel_scope.cancel()

    async def _refuse(self, number: int) -> None:
        record, descriptors = await self._request()
        descriptors.close()
        await self._answer(record.cookie, -number)
        self._discard_input()

    async def finish(self) -> None:
        """Send what is queued, then end the stream; cancelled, end it at once."""
        try:
            if self._packets is not None:
                self._pumping.cancel()
                await self._pump_ended.wait()
                await self._packets.flush(self.instance.queue)
            else:
                self._stream.stage(self.instance.queue, _ALL)
            await self._stream.flush()
        except OSError as error:
            log.debug("subscriber gone at the end: %s", error)
        finally:
            with contextlib.suppress(OSError):  # gone
                self._socket.shutdown(socket.SHUT_RDWR)

    # Requests

    async def _respond(self) -> None:
        record, descriptors = await self._request()
        with descriptors:
            await self._server.decided()
            unreached = 0
            if record.wd == requests.ADD:
                unreached = await self._before_adding(by_path=not descriptors)
            if self._packets is not None:
                await self._packets.push_settled(self.instance.queue)
            try:
                result, payload, sent = self._handle(record, descriptors, unreached)
            except OSError as error:
                result, payload, sent = -(error.errno or errno.EIO), b"", -1
        self._greeted = True
        await self._answer(record.cookie, result, payload, sent)

    async def _before_adding(self, *, by_path: bool) -> int:
        """Wait for what may hang; 0, or the errno for an add *by_path* of one who could not reach the mountpoint."""
        unreached = 0
        if by_path and self._server.reaches is not None:
            unreached = await self._server.reaches(self._peer)
        if self._server.source_answers is not None:
            await self._server.source_answers()
        return unreached

    async def _request(self) -> tuple[Record, Descriptors]:
        """Read the next request and its descriptors.

        One record is read at a time: descriptors belong to the record that they came with, and the
        kernel tells no finer than a read.
        """
        descriptors = Descriptors(self._peer.uid)
        try:
            wd, mask, cookie, size = HEADER.unpack(await self._exactly(HEADER.size, descriptors))
            records.check_size(size, cookie)
            name = await self._exactly(size, descriptors) if size else b""
        except BaseException:
            descriptors.close()
            raise
        return Record(wd, mask, cookie, name.partition(b"\0")[0]), descriptors

    async def _exactly(self, count: int, descriptors: Descriptors) -> bytes:
        data = b""
        while len(data) < count:
            more, ancillary, message_flags, _ = await self._socket.recvmsg(
                # Without room the kernel closes them, and does not wait for it.
                count - len(data),
                socket.CMSG_SPACE(4 * _MOST_FDS) if room_for_more(self._peer.uid) else 0,
                socket.MSG_CMSG_CLOEXEC,
            )
            descriptors.take(ancillary, truncated=bool(message_flags & socket.MSG_CTRUNC))
            if not more:
                raise EOFError
            data += more
        return data

    def _handle(  # noqa: PLR0911 - one for each request
        self, record: Record, descriptors: Descriptors, unreached: int
    ) -> tuple[int, bytes, int]:
        """Do what *record* asks: the reply's wd, its name, and a descriptor to send (or -1)."""
        kind, mask = record.wd, record.mask
        if kind == requests.ADD:
            return self._add(record, descriptors, unreached), b"", -1
        if kind == requests.HELLO:
            return self._hello(record)
        if kind == requests.FILTER:
            self._draft.add(mask, record.name)
            return 0, b"", -1
        if kind == requests.STATISTICS:
            return 0, self._statistics(record), -1
        if mask or record.name:
            raise OSError(errno.EINVAL, "this request takes neither mask nor name")
        if kind > 0:
            self._watches.remove(self.instance, kind, Caller(self._peer.pid, self._peer.uid, self._peer.gid))
            return 0, b"", -1
        if kind == requests.PENDING:
            if self._packets is not None:
                return self.instance.queue.bytes + self._packets.waiting, b"", -1
            return 0, b"", -1  # all of it is sent before this reply
        raise OSError(errno.EINVAL, "unknown request", str(kind))

    def _add(self, record: Record, descriptors: Descriptors, unreached: int) -> int:
        chosen = self._draft.take() if record.mask & flags.X_FILTER else None
        self._watches.check(record.mask)
        inode: Inode
        if descriptors:
            if record.name:
                raise OSError(errno.EINVAL, "a name and a descriptor")
            inode = self._server.resolver.descriptor(descriptors.only(), record.mask, self._peer)
        elif unreached:
            raise OSError(unreached, "the mountpoint is out of reach")
        else:
            inode = self._server.resolver.path(record.name, record.mask, self._peer)
        try:
            return self._watches.add(self.instance, inode, record.mask, chosen)
        finally:
            self._watches.inodes.reap(inode)

    def _hello(self, record: Record) -> tuple[int, bytes, int]:
        if self._greeted or record.name != requests.GREETING or record.mask & ~requests.EVENT_FD:
            raise OSError(errno.EINVAL, "hello comes first, as 'notifyfs 1'")
        about = self._server.about | attrs.asdict(self._server.limits)
        for path in ("source", "mountpoint"):  # both may be long: the reply is one record all the same
            if len(answer := json.dumps(about).encode()) >= records.MAX_LEN:
                about[path] = None
        if len(answer) >= records.MAX_LEN:
            answer = json.dumps(about).encode()
        sent = -1
        if record.mask & requests.EVENT_FD:
            self._packets = Packets(self._server.settled)
            sent = self._packets.give()
        return 0, answer, sent

    def _statistics(self, record: Record) -> bytes:
        if record.mask == requests.STATISTICS_INSTANCES and self._peer.uid not in (0, os.geteuid()):
            raise OSError(errno.EPERM, "other users' instances")

        def pids() -> dict[Instance, int]:
            return {each.instance: each._peer.pid for each in self._server._subscribers}  # noqa: SLF001 - this module's

        return self._server.statistics.answer(record, self.instance, pids)

    # Sending

    async def _answer(self, cookie: int, result: int, payload: bytes = b"", sent: int = -1) -> None:
        """Send every event that is queued now, then the reply, with the descriptor *sent* unless it is -1."""
        if self._packets is None:
            self._stream.stage(self.instance.queue, _ALL)
            self.instance.queue.forget_tail()
        self._stream.stage_reply(bytes(Record(result, flags.X_REPLY, cookie, payload)), sent)
        await self._stream.flush()

    async def _pump(self) -> None:
        """Send events as they come."""
        queue = self.instance.queue
        try:
            with self._pumping:
                while True:
                    await self._bell.wait_rung()
                    if self._packets is not None:
                        await self._packets.flush(queue)
                        continue
                    while queue:
                        self._stream.stage(queue, CHUNK)
                        await self._stream.flush()
        except OSError as error:
            log.debug("subscriber gone: %r", error)
            self._socket.shutdown(socket.SHUT_RD)  # its requests end with it
        finally:
            self._pump_ended.set()

    def _unread(self) -> int:
        return self._stream.unread() if self._packets is None else self._packets.unread()

    def _discard_input(self) -> None:
        # Closing with unread requests would turn the client's end of file into ECONNRESET
        # (unix(7), kernel: unix_release_sock).
        try:
            while os.read(self._socket.fileno(), 65536):
                pass
        except OSError:
            pass  # nothing more to read, or gone: both are what we want


def peer_of(sock: trio.socket.SocketType) -> Peer:
    """The credentials of the process that connected, as they were then."""
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(pid, uid, gid, syscalls.peer_groups(sock.fileno()))
