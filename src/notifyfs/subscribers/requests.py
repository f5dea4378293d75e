"""What each request does: a record and its descriptors in, a reply out."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, NamedTuple

import attrs

from notifyfs.core.filters import MOST, MOST_OF_USER, Draft
from notifyfs.protocol import flags, records, requests
from notifyfs.system.callers import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.entries import Inode
    from notifyfs.core.instances import Instance, Watch
    from notifyfs.protocol.records import Record
    from notifyfs.subscribers.capabilities import Capabilities
    from notifyfs.subscribers.descriptors import Descriptors
    from notifyfs.subscribers.resolve import Peer


class Reply(NamedTuple):
    """What a request is answered with."""

    result: int = 0
    payload: bytes = b""
    descriptor: int = -1
    """To be sent with it, unless it is -1."""


class Delivery(NamedTuple):
    """What a request may ask of how its connection delivers."""

    move: Callable[[], int]
    """Deliver events on a descriptor of their own from now on: the client's end."""
    pending: Callable[[], int]
    """Bytes of events that are not sent, and that a reply does not wait for."""
    reply_first: Callable[[], None]
    """Send no event before the reply."""


class Requests:
    """The requests of one connection, of *peer*; its watches are *instance*'s. Each is done before the next."""

    def __init__(self, mount: Capabilities, peer: Peer, instance: Instance, delivery: Delivery) -> None:
        self._mount = mount
        self._peer = peer
        self._instance = instance
        self._delivery = delivery
        self._draft = Draft(
            peer.pid,
            peer.uid,
            MOST if peer.trusted else MOST_OF_USER,
            lambda cost: mount.watches.accounts.draft(instance, cost),
            mount.watches.accounts.shared(peer.uid).verdicts,
        )
        self._first = True

    async def prepare(self, record: Record, *, by_path: bool) -> int:
        """Wait for what *record* needs and what may hang.

        0, or the errno for an add *by_path* of one who could not reach the mountpoint.
        """
        if record.wd != requests.ADD:
            return 0
        unreached = await self._mount.reaches(self._peer) if by_path else 0
        await self._mount.source_answers()
        return unreached

    async def do(self, record: Record, descriptors: Descriptors, unreached: int) -> Reply:
        """Do what *record* asks, now; *unreached* as ``prepare`` said. OSError: its errno is the answer.

        Only who has added a watch waits then, for what the watch needs.
        """
        first, self._first = self._first, False
        kind, mask = record.wd, record.mask
        if kind == requests.ADD:
            return await self._add(record, descriptors, unreached)
        if kind == requests.HELLO:
            return self._hello(record, first=first)
        if kind == requests.FILTER:
            self._draft.add(mask, record.name)
            return Reply()
        if kind == requests.STATISTICS:
            return self._statistics(record)
        if mask or record.name:
            raise OSError(errno.EINVAL, "this request takes neither mask nor name")
        if kind > 0:
            actor = Caller(self._peer.pid, self._peer.uid, self._peer.gid)
            self._mount.watches.remove(self._instance, kind, actor)
            return Reply()
        if kind == requests.PENDING:
            return Reply(self._delivery.pending())
        raise OSError(errno.EINVAL, "unknown request", str(kind))

    async def _add(self, record: Record, descriptors: Descriptors, unreached: int) -> Reply:
        watches, resolver = self._mount.watches, self._mount.resolver
        chosen = self._draft.take() if record.mask & flags.X_FILTER else None
        watches.check(record.mask)

        def watch(inode: Inode) -> Watch:
            wd = watches.add(self._instance, inode, record.mask, chosen, by_path=not descriptors)
            return self._instance.watches[wd]

        if descriptors:
            if record.name:
                raise OSError(errno.EINVAL, "a name and a descriptor")
            inode = resolver.descriptor(descriptors.only(), record.mask, self._peer)
            try:
                watched = watch(inode)
            finally:
                watches.inodes.reap(inode)
        elif unreached:
            raise OSError(unreached, "the mountpoint is out of reach")
        else:
            watched = await resolver.path(record.name, record.mask, self._peer, watch)
        self._delivery.reply_first()
        await self._mount.attend(watched.inode, watched.mask)
        return Reply(watched.wd)

    def _hello(self, record: Record, *, first: bool) -> Reply:
        if not first or record.name != requests.GREETING or record.mask & ~requests.EVENT_FD:
            raise OSError(errno.EINVAL, "hello comes first, as 'notifyfs 1'")
        about = {**self._mount.about, **attrs.asdict(self._mount.watches.accounts.limits)}
        for path in ("source", "mountpoint"):  # both may be long: the reply is one record all the same
            if len(answer := json.dumps(about).encode()) >= records.MAX_LEN:
                about[path] = None
        if len(answer) >= records.MAX_LEN:
            answer = json.dumps(about).encode()
        return Reply(0, answer, self._delivery.move() if record.mask & requests.EVENT_FD else -1)

    def _statistics(self, record: Record) -> Reply:
        if record.mask == requests.STATISTICS_INSTANCES and not self._peer.trusted:
            raise OSError(errno.EPERM, "other users' instances")
        return Reply(0, self._mount.statistics.answer(record, self._instance))
