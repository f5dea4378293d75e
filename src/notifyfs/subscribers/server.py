"""All subscribers of one mount: accepting them, their limits, and their end.

A bad, slow or dying client ends its own connection and nothing else.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.protocol import records
from notifyfs.subscribers.connection import Subscriber
from notifyfs.subscribers.resolve import Peer
from notifyfs.subscribers.turns import Turns
from notifyfs.system import syscalls

if TYPE_CHECKING:
    from notifyfs.subscribers.capabilities import Capabilities

log = logging.getLogger(__name__)

_GRACE: Final = 1.0  # seconds that a subscriber has to read its last events after an unmount
_MOST_STRANGERS: Final = 64
"""Connections of one user over the limit that are told so; others are closed without a word."""
_MOST_ACCEPTED: Final = 64
"""Connections that are accepted in one turn."""
_PAUSE: Final = 0.1  # seconds after which to accept again where there was no room for a descriptor
_NOBODY: Final = -1


class Server:
    """All subscribers of one *mount*."""

    def __init__(self, mount: Capabilities) -> None:
        self._mount = mount
        self._turns = Turns(mount.pressed)
        self._accepting = trio.CancelScope()
        self._served: Counter[int] = Counter()  # connections of each user
        self._strangers: Counter[int] = Counter()  # those over the limit
        self._subscribers: set[Subscriber] = set()

    async def accept(self, listener: socket.socket) -> None:
        """Serve connections until cancelled, and new ones until they are no longer taken."""
        async with trio.open_nursery() as keeping:
            keeping.start_soon(self._turns.keep)
            async with trio.open_nursery() as nursery:
                with self._accepting, listener:
                    await self._turns.run(_NOBODY, self._accept(listener, nursery))
            keeping.cancel_scope.cancel()

    def take_no_more(self) -> None:
        """Close the listener."""
        self._accepting.cancel()

    async def finish(self) -> None:
        """When there is no more to tell: let each subscriber read what it still can, then end its stream."""
        with trio.move_on_after(_GRACE):
            async with trio.open_nursery() as nursery:
                for subscriber in list(self._subscribers):
                    nursery.start_soon(subscriber.finish)

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                for _ in range(_MOST_ACCEPTED):
                    self._admit(listener.accept()[0], nursery)
            except BlockingIOError:
                pass
            except OSError as error:  # no room for a descriptor, mostly: it stays readable
                log.warning("no connection can be accepted: %s", error)
                await trio.sleep(_PAUSE)

    def _admit(self, connection: socket.socket, nursery: trio.Nursery) -> None:
        """Have *connection* served, unless it was hung up already, or its user has too many."""
        caller = _caller(connection)
        if caller is None:
            connection.close()
            return
        counts, uid = self._served, caller[1]
        if counts[uid] >= self._mount.watches.accounts.limits.max_user_instances:
            counts = self._strangers
            if counts[uid] >= _MOST_STRANGERS:
                connection.close()
                return
        counts[uid] += 1
        nursery.start_soon(self._serve, connection, caller, counts)

    async def _serve(self, connection: socket.socket, caller: tuple[int, int, int], counts: Counter[int]) -> None:
        uid = caller[1]
        try:
            await self._turns.run(uid, self._serve_in_turn(connection, caller, stranger=counts is self._strangers))
        except (OSError, EOFError, records.FramingError, trio.ClosedResourceError) as error:
            log.debug("subscriber gone: %r", error)
        except Exception:
            log.exception("subscriber ended by a fault of ours")
        finally:
            counts[uid] -= 1
            if not counts[uid]:
                del counts[uid]
            connection.close()

    async def _serve_in_turn(self, connection: socket.socket, caller: tuple[int, int, int], *, stranger: bool) -> None:
        if self._accepting.cancel_called or _hung_up(connection):
            return
        peer = Peer(*caller, syscalls.peer_groups(connection.fileno()))
        subscriber = Subscriber(connection, self._mount, peer)
        self._subscribers.add(subscriber)
        try:
            await (subscriber.refuse() if stranger else subscriber.run())
        finally:
            self._subscribers.discard(subscriber)
            with trio.CancelScope(shield=True):
                await subscriber.close()


def _caller(connection: socket.socket) -> tuple[int, int, int] | None:
    """Process, user and group of who connected, as they were then; None where it has hung up, and nothing comes."""
    if _hung_up(connection):
        return None
    connection.setblocking(False)  # noqa: FBT003 - socket's own signature
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


def _hung_up(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
