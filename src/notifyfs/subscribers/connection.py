"""One connection on the control socket, and so one inotify instance. ``docs/protocol.md`` is the contract."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.protocol import flags, records
from notifyfs.protocol.records import HEADER, Record
from notifyfs.subscribers.delivery import Bell, Packets, Stream, pass_doubts
from notifyfs.subscribers.descriptors import Descriptors
from notifyfs.subscribers.requests import Delivery, Reply, Requests
from notifyfs.system.closing import room_for_more

if TYPE_CHECKING:
    from notifyfs.subscribers.capabilities import Capabilities
    from notifyfs.subscribers.delivery import Outlet
    from notifyfs.subscribers.resolve import Peer

log = logging.getLogger(__name__)

_MOST_FDS: Final = 253  # SCM_MAX_FD, unix(7)
_ROOM_FOR_FDS: Final = socket.CMSG_SPACE(4 * _MOST_FDS)
_STRANGER: Final = 5.0  # seconds that a connection over the limit has for its first request
_ENDED_AT_ONCE: Final = 200  # watches: half a millisecond


class Subscriber:
    """Reads requests, answers them, and sends the instance's events. *sock* does not block.

    Its requests are run in turns (``turns.Turns.run``): wherever one waits, others go on.
    """

    def __init__(self, sock: socket.socket, mount: Capabilities, peer: Peer) -> None:
        self._socket = sock
        self._mount = mount
        self._peer = peer
        self._bell = Bell()
        self._stream = Stream(sock)
        self._packets: Packets | None = None
        self._pumping = trio.CancelScope()
        self._pump_ended = trio.Event()
        accounts = mount.watches.accounts
        self._shared = accounts.shared(peer.uid)  # for as long as this lives
        self._queue = Queue(accounts.limits.max_queued_events, self._unread, self._shared.room)
        self._instance = Instance(self._peer.uid, self._queue, self._bell.ring, mount.judge(self._peer))
        self._requests = Requests(
            mount, self._peer, self._instance, Delivery(self._move, self._pending, self._stream.reply_first)
        )

    async def close(self) -> None:
        """Free every descriptor, and the instance, some watches at a time: others go on in between."""
        watches = self._mount.watches
        self._mount.statistics.books.close(self._instance)
        if self._packets is not None:
            self._packets.close()
        self._stream.close()
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        while watches.close(self._instance, _ENDED_AT_ONCE):
            await trio.lowlevel.checkpoint()
        # Both refer to this: without that, all is freed at once (``daemon.garbage``).
        self._queue.close()
        del self._requests

    async def run(self) -> None:
        """Serve until the client hangs up. OSError: EMFILE, as ``watches.Watches.open`` says."""
        self._mount.watches.open(self._instance)
        self._mount.statistics.books.open(self._instance, self._peer.pid)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump)
            try:
                while True:
                    await trio.lowlevel.wait_readable(self._socket)  # also where more is there already: a turn each
                    await self._respond()
            except (EOFError, OSError) as error:
                log.debug("subscriber gone: %r", error)
            except records.FramingError as error:
                with contextlib.suppress(OSError):  # it may be gone without waiting for the answer
                    await self._barrier()
                    await self._answer(error.args[0], Reply(-errno.EPROTO))
                    self._discard_input()
            nursery.cancel_scope.cancel()

    async def refuse(self) -> None:
        """Answer the first request with EMFILE, and no other."""
        with trio.move_on_after(_STRANGER):
            record, descriptors = await self._request()
            descriptors.close()
            await self._answer(record.cookie, Reply(-errno.EMFILE))
            self._discard_input()

    async def finish(self) -> None:
        """Send what is queued, then end the stream; cancelled, end it at once."""
        try:
            if self._packets is not None:
                self._pumping.cancel()
                await self._pump_ended.wait()
            await self._outlet.send(self._queue)
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
            unreached = await self._requests.prepare(record, by_path=not descriptors)
            await self._barrier()
            try:
                reply = await self._requests.do(record, descriptors, unreached)
            except OSError as error:
                reply = Reply(-(error.errno or errno.EIO))
            if record.wd > 0:
                await self._barrier()  # IGNORED comes before the reply
        await self._answer(record.cookie, reply)

    async def _barrier(self) -> None:
        """Send every event that is queued now, as far as there is room; not what comes meanwhile."""
        await pass_doubts(self._queue)
        await self._outlet.send_until(self._queue, self._queue.entered)

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
            # Without room the kernel closes them, and does not wait for it.
            room = _ROOM_FOR_FDS if room_for_more(self._peer.uid) else 0
            try:
                more, ancillary, message_flags, _ = self._socket.recvmsg(
                    count - len(data), room, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            descriptors.take(ancillary, truncated=bool(message_flags & socket.MSG_CTRUNC))
            if not more:
                raise EOFError
            data += more
        return data

    # Sending

    @property
    def _outlet(self) -> Outlet:
        return self._stream if self._packets is None else self._packets

    def _unread(self) -> int:
        return self._outlet.unread()

    def _move(self) -> int:
        self._packets = Packets(large=self._mount.watches.accounts.afford_large(self._instance))
        return self._packets.give()

    def _pending(self) -> int:
        if self._packets is None:
            return 0  # all that was queued when the request was read is sent before the reply
        return self._queue.bytes + self._packets.waiting

    async def _answer(self, cookie: int, reply: Reply) -> None:
        if self._packets is None:
            self._queue.forget_tail()
        self._stream.stage_reply(bytes(Record(reply.result, flags.X_REPLY, cookie, reply.payload)), reply.descriptor)
        await self._stream.flush()

    async def _pump(self) -> None:
        """Send events as they come."""
        try:
            with self._pumping:
                while True:
                    await self._bell.wait_rung()
                    await self._outlet.send(self._queue)
        except OSError as error:
            log.debug("subscriber gone: %r", error)
            self._socket.shutdown(socket.SHUT_RD)  # its requests end with it
        finally:
            self._pump_ended.set()

    def _discard_input(self) -> None:
        # Closing with unread requests would turn the client's end of file into ECONNRESET
        # (unix(7), kernel: unix_release_sock).
        try:
            while os.read(self._socket.fileno(), 65536):
                pass
        except OSError:
            pass  # nothing more to read, or gone: both are what we want
