"""The source side of the daemon on a plain directory: no mount, no FUSE, no loop."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, TypeVar

from notifyfs.core.changes import Change, Changes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.core.watches import Watches
from notifyfs.passthrough.attributes import Attributes
from notifyfs.passthrough.attribution import Attribution
from notifyfs.passthrough.files import Files
from notifyfs.passthrough.judgement import Judgement
from notifyfs.passthrough.listing import Listings
from notifyfs.passthrough.names import Names
from notifyfs.passthrough.pace import Pace
from notifyfs.passthrough.permission import Permission
from notifyfs.passthrough.source import Source
from notifyfs.system.callers import Caller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from notifyfs.core.entries import Inode
    from notifyfs.core.queue import Gate
    from notifyfs.passthrough.pace import Steps

T = TypeVar("T")


class Directory:
    """The rooms of ``passthrough`` on *root*; what they ask of the kernel is noted in ``expired`` and ``forgotten``."""

    def __init__(self, root: Path, most: int) -> None:
        self.root = root
        self.source = Source(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), 64)
        self.expired: list[tuple[int, bytes]] = []
        self.forgotten: list[int] = []
        self.came: list[bytes] = []
        self.changes = Changes()
        self.watches = Watches(self.source.inodes, self.changes, doubt=_undecided)
        judgement = Judgement(self.forgotten.append, None, doubts=True)
        self.clock = 0.0
        self.pace = Pace(lambda: self.clock)
        permission = Permission(self.source, judgement, self.pace, judges=False)
        self.now = 100.0
        self.attribution = attribution = Attribution(
            self.watches, lambda parent, name: self.expired.append((parent, name)), 1.0, lambda: self.now
        )
        self.names = Names(self.source, permission, attribution)
        self.files = Files(self.source, permission, attribution, self.watches, forget=self.forgotten.append, most=most)
        self.listings = Listings(self.source)
        self.attributes = Attributes(self.source, permission, judgement, attribution, self.files)
        self.caller = Caller(os.getpid(), os.geteuid(), os.getegid())

    @property
    def top(self) -> Inode:
        """The root's inode."""
        return self.source.inodes.root

    def look(self, name: bytes, parent: Inode | None = None) -> Inode:
        """Look *name* up, as the kernel would."""
        inode = self.names.look_up(parent or self.top, name, self.caller)[0].inode
        inode.lookups += 1
        return inode

    def watch(self, inode: Inode, mask: int) -> None:
        """Somebody watches *inode*."""
        instance = Instance(0, Queue(10, lambda: 0), lambda: None)
        self.watches.open(instance)
        self.watches.add(instance, inode, mask)

    def close(self) -> None:
        """Close every descriptor."""
        for handle in list(self.files.handles.values()):
            self.files.close(handle)
            os.close(handle.fd)
        self.source.close()


@contextlib.contextmanager
def directory(root: Path, most: int = 1 << 20) -> Iterator[Directory]:
    """One in *root*, which is made; so many files may be open."""
    root.mkdir()
    place = Directory(root, most)
    try:
        yield place
    finally:
        place.close()


def done(steps: Steps[T]) -> T:
    """What *steps* do, all here."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.call()
            except OSError as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


def brief(change: Change | None) -> tuple[str, bytes, bool]:
    """What was done, to which name, and whether the file died of it."""
    assert change is not None
    return change.operation, change.entry.name, change.dies


def _undecided(_give_up: object) -> Gate:
    raise AssertionError("nobody watches here")
