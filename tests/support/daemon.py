"""A daemon without a socket, for sessions without one."""

from __future__ import annotations

import json

from notifyfs.protocol import flags
from notifyfs.protocol.records import Parser, Record
from notifyfs.protocol.session import Session

HELLO = {"version": 1, "mountpoint": "/m", "source": "/s", "max_queued_events": 16384}


class Daemon:
    """The other end of a session, as docs/protocol.md has it, for as long as it behaves.

    Args:
        session: that is served.
        room: how many bytes it takes at a time.

    """

    def __init__(self, session: Session, room: int = 1 << 20) -> None:
        self.session = session
        self.room = room
        self.parser = Parser()
        self.asked: list[Record] = []
        self.descriptors: list[tuple[int, int]] = []
        self.bytes = 0

    def take(self, most: int = 1 << 30) -> None:
        """Let the session send *most* bytes."""
        while most > 0 and (piece := self.session.to_send()) is not None:
            data = piece.data[: min(self.room, most)]
            if piece.descriptor is not None:
                self.descriptors.append((self.bytes, piece.descriptor))
            self.session.sent(len(data))
            self.bytes += len(data)
            most -= len(data)
            self.parser.feed(data)
            self.asked += self.parser

    def reply(self, result: int = 0, name: bytes = b"") -> bytes:
        """Answer the oldest request."""
        return bytes(Record(result, flags.X_REPLY, self.asked.pop(0).cookie, name))


def greeted(*, event_fd: bool = False, room: int = 1 << 20) -> tuple[Session, Daemon]:
    session = Session(event_fd=event_fd)
    daemon = Daemon(session, room)
    daemon.take()
    session.receive(daemon.reply(0, json.dumps(HELLO).encode()), [7] if event_fd else [])
    assert session.greeting.over
    return session, daemon
