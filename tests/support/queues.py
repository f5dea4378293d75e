"""A queue and who reads it, and what is put into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from notifyfs.core.queue import Queue
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Record

if TYPE_CHECKING:
    from notifyfs.core.queue import Item

EVERYTHING = 1 << 62


class Subscriber:
    """A queue, and a reader at the other end of its socket."""

    def __init__(self, limit: int = 100) -> None:
        self.unread: list[Item] = []
        self.asked = 0
        self.queue = Queue(limit, self._count)

    def _count(self) -> int:
        self.asked += 1
        return len(self.unread)

    def tell(self, *records: Record) -> None:
        for record in records:
            self.queue.append(record)

    def send(self, most: int = EVERYTHING) -> None:
        self.unread += self.queue.take(most)

    def read(self, count: int) -> list[Record]:
        read, self.unread = self.unread[:count], self.unread[count:]
        return [item.record for item in read]

    def drain(self) -> list[Record]:
        self.send()
        return self.read(len(self.unread))


def modify(name: bytes = b"f", wd: int = 1) -> Record:
    return Record(wd, flags.MODIFY, 0, name)


def origin(pid: int) -> Origin:
    return Origin(1, 0, pid, 0, 0)
