"""All subscribers of one mount: accepting them, their limits, and their end.

A bad, slow or dying client ends its own connection and nothing else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from notifyfs.protocol import records
from notifyfs.subscribers.connection import Subscriber

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from notifyfs.subscribers.capabilities import Capabilities

log = logging.getLogger(__name__)

_GRACE: Final = 1.0  # seconds that a subscriber has to read its last events after an unmount
_MOST_STRANGERS: Final = 64
_STRANGER: Final = 5.0  # seconds that a connection over the limit has for its first request


class Server:
    """All subscribers of one *mount*."""

    def __init__(self, mount: Capabilities) -> None:
        self._mount = mount
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

    async def _turn_away(self, refusal: Coroutine[None, None, None]) -> None:
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
            subscriber = Subscriber(stream.socket, self._mount, self._turn_away)
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
