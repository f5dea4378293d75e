"""A server of subscribers without a mount: the core's ``Tree``, and clients on a real socket in the same loop."""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from notifyfs.core.accounts import Limits
from notifyfs.core.changes import Change
from notifyfs.fuse.deaths import InDoubt
from notifyfs.observe.statistics import Statistics
from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import Parser, Record
from notifyfs.subscribers.capabilities import Capabilities
from notifyfs.subscribers.server import Server
from tests.support.tree import Nobody, Tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from notifyfs.core.entries import Inode
    from notifyfs.core.queue import Gate

T = TypeVar("T")

HELD = {"inodes": 1, "open_files": 0, "descriptors": 0}


class Served:
    """A directory ``s``, a file ``f``, and a server of both at *path*. More *given* are ``Capabilities``."""

    def __init__(self, path: Path, limits: Limits | None = None, **given: Any) -> None:
        self._gates: tuple[Gate, ...] = ()
        self.tree = Tree(
            hide=lambda _locked: self._gates,
            doubt=InDoubt,
            limits=limits or Limits(),
        )
        self.tree.watches.close(self.tree.instance)
        self.tree.play("mkdir s, make f")
        self.statistics = Statistics(self.tree.watches, self.tree.changes, lambda: HELD)
        self.server = Server(
            Capabilities(watches=self.tree.watches, resolver=self, statistics=self.statistics, **given)  # type: ignore[arg-type]
        )
        self._path = path
        self._connections: list[trio.socket.SocketType] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.setblocking(False)  # noqa: FBT003 - socket's own signature

    async def serve(self) -> None:
        await self.server.accept(self._listener)

    async def connect(self) -> Client:
        connection = trio.socket.socket(socket.AF_UNIX)
        self._connections.append(connection)
        await connection.connect(str(self._path))
        return Client(connection)

    def close(self) -> None:
        """Close every client's end."""
        for connection in self._connections:
            connection.close()

    async def path(self, path: bytes, _mask: int, _peer: object, use: Callable[[Inode], T]) -> T:
        """Find it, as the resolver does."""
        try:
            inode = self.tree.at(path.decode()).inode
        except AssertionError:
            raise OSError(errno.ENOENT, "no such name") from None
        return use(inode)

    def make(self, path: str, *gates: Gate) -> None:
        """Create a name; the events leave when the *gates* are open."""
        self._gates = gates
        place, name = self.tree._place(path)  # noqa: SLF001 - this is another verb of its language
        entry = self.tree.inodes.enter(place, name, 1, 1000 + self.tree.changes.last, is_dir=False)
        entry.inode.lookups += 1
        self.tree.changes.tell(Change("make", entry, Nobody(), locked=((place.number, name),)))


class Client:
    """The other end of one connection."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self.connection = connection
        self._parser = Parser()
        self._arrived: deque[Record] = deque()
        self._cookie = 0

    async def send(self, wd: int, mask: int = 0, name: bytes = b"") -> int:
        """Send a request; its cookie."""
        self._cookie += 1
        await self.connection.send(bytes(Record(wd, mask, self._cookie, name)))
        return self._cookie

    async def record(self) -> Record:
        """The next record; EOFError at the end."""
        while not self._arrived:
            data = await self.connection.recv(1 << 16)
            if not data:
                raise EOFError
            self._parser.feed(data)
            self._arrived.extend(self._parser)
        return self._arrived.popleft()

    async def rest(self) -> list[Record]:
        """All until the end."""
        records: list[Record] = []
        try:
            while True:
                records.append(await self.record())
        except EOFError:
            return records

    async def reply(self) -> tuple[list[Record], Record]:
        """The events before the next reply, and the reply."""
        events: list[Record] = []
        while not (record := await self.record()).mask & flags.X_REPLY:
            events.append(record)
        assert record.cookie <= self._cookie
        return events, record

    async def ask(self, wd: int, mask: int = 0, name: bytes = b"") -> int:
        """Ask for something before which no event comes: the result."""
        cookie = await self.send(wd, mask, name)
        events, reply = await self.reply()
        assert (events, reply.cookie) == ([], cookie)
        return reply.wd

    async def add(self, mask: int, path: bytes = b"") -> int:
        """A watch; its descriptor."""
        wd = await self.ask(requests.ADD, mask, path)
        assert wd > 0
        return wd

    async def events(self) -> list[Record]:
        """What was told until now."""
        await self.send(requests.PENDING)
        events, reply = await self.reply()
        assert reply.wd == 0
        return events
