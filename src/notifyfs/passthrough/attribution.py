"""From what was done to what is told: through which name, and by whom.

FUSE names an inode where inotify names an entry. A handle remembers the entry it was opened
through; for the rest this finds out, or gives every entry that it may have been.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from notifyfs.system.callers import Caller, descriptor_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import RequestContext

    from notifyfs.core.inodes import Entry, Inode
    from notifyfs.core.rules import Renamed
    from notifyfs.core.watches import Watches
    from notifyfs.fuse.visibility import Settling

log = logging.getLogger(__name__)

_MOST_THREADS: Final = 1024  # more than are ever between a LOOKUP and the request that it was for

_MOST_CACHED: Final = 1024  # files linked a moment ago: their first names are expired anyway


class Reporter:
    """Tells the watches of each operation. *timeout*: seconds that the kernel may use an entry without asking."""

    def __init__(self, watches: Watches, settling: Settling, timeout: float) -> None:
        self._watches = watches
        watches.failed = _failed
        self._settling = settling
        self._timeout = timeout
        # The name by which a thread has just looked up a file that has several: FUSE's next
        # request from that thread names only the inode.
        self._looked: dict[int, Entry] = {}
        # The name of a file that had only this one until it was linked, and until when the kernel
        # may still use it without a LOOKUP.
        self._cached: dict[Inode, tuple[Entry, float]] = {}

    def tell(  # noqa: PLR0913 - see Watches.tell
        self,
        operation: str,
        entry: Entry,
        ctx: RequestContext,
        renamed: Renamed | None = None,
        *,
        dies: bool = False,
        changed: Sequence[int] = (),
    ) -> None:
        """Tell an operation that *ctx*'s caller has just done. *changed*: see ``Settling.mark``."""
        if self._watches.total:
            caller = Caller(ctx.pid, ctx.uid, ctx.gid)
            self.tell_by(operation, entry, caller, renamed, dies=dies, changed=changed)

    def tell_by(  # noqa: PLR0913 - see Watches.tell
        self,
        operation: str,
        entry: Entry,
        caller: Caller,
        renamed: Renamed | None = None,
        *,
        dies: bool = False,
        others: Sequence[Entry] = (),
        changed: Sequence[int] = (),
    ) -> None:
        """Tell an operation that *caller* has just done, or did the open(2) for."""
        watches = self._watches
        told = watches.sequence
        watches.tell(operation, entry, caller, renamed, dies=dies, others=others)
        if changed and (watches.sequence != told or watches.undecided):
            self._settling.mark(*changed)

    def looked_up(self, thread: int, entry: Entry) -> None:
        """Remember that *thread* has just looked this name up, if its file has others."""
        if entry.inode.names is None:
            return
        self._looked.pop(thread, None)
        self._looked[thread] = entry
        if len(self._looked) > _MOST_THREADS:
            del self._looked[next(iter(self._looked))]

    def opened(self, inode: Inode, ctx: RequestContext) -> Entry:
        """The name through which the caller is opening *inode*, as far as it can be known."""
        return inode.entry if inode.names is None else self._named(inode, inode.names, ctx.pid)[0]

    def reached(self, inode: Inode, ctx: RequestContext) -> list[Entry]:
        """The name through which the caller changed *inode*; or all that it may be, the likeliest first."""
        names = inode.names
        if names is None:
            return [inode.entry]
        path = descriptor_path(ctx.pid)
        through = [name for name in names if path and name.uses and path.endswith(_path(name))]
        if through:
            self._looked.pop(ctx.pid, None)  # that was for something else, such as a stat
        return through or self._named(inode, names, ctx.pid)

    def _named(self, inode: Inode, names: list[Entry], thread: int) -> list[Entry]:
        looked = self._looked.pop(thread, None)
        if looked is not None and looked.inode is inode and looked.live:
            return [looked]
        # No LOOKUP came before: it is the one name that the kernel may use without asking, or it was
        # reached by a descriptor.
        cached, until = self._cached.get(inode, (inode.entry, 0.0))
        used = [name for name in names if name.uses]
        if until > time.monotonic() and cached.live:
            used = [cached, *(name for name in used if name is not cached)]
        return used or [name for name in names if name.live]

    def linked(self, inode: Inode) -> None:
        """*inode*, until now with one name, is getting another: make the kernel ask for the first again."""
        now = time.monotonic()
        while self._cached and (
            (oldest := next(iter(self._cached.items())))[1][1] < now or len(self._cached) >= _MOST_CACHED
        ):
            del self._cached[oldest[0]]
        self._cached.pop(inode, None)
        self._cached[inode] = (inode.entry, now + self._timeout)
        self.moved(inode.entry)

    def moved(self, entry: Entry) -> None:
        """*entry* has this name now: make the kernel ask for it, should it think that it need not."""
        if entry.inode in self._cached and self._settling.notes is not None:
            self._settling.notes.expire(entry.parent.number, entry.name)

    def tell_change(self, operation: str, inode: Inode, ctx: RequestContext, entry: Entry | None = None) -> None:
        """Tell a change of attributes: through *entry*, or else to each directory that Linux may have told."""
        if self._watches.total:
            try:
                entry, *others = self.reached(inode, ctx) if entry is None else [entry]
            except Exception as error:  # noqa: BLE001 - handed on; as in ``Watches.tell``, the change was made
                self._watches.lose(f"finding the name by which {inode!r} was changed", error)
                return
            self.tell_by(operation, entry, Caller(ctx.pid, ctx.uid, ctx.gid), others=others, changed=(inode.number,))

    def moved_on(self, thread: int) -> None:
        """*thread*'s last lookup was for a request that changes names: it says nothing of the next one."""
        self._looked.pop(thread, None)


def _failed(what: str, error: Exception) -> None:
    log.error("%s failed; all subscribers are told of an overflow", what, exc_info=error)


def _path(entry: Entry) -> bytes:
    """Where *entry* is, or was, below the mount's root: ``/d/f``."""
    path = b""
    while entry.name:
        path, entry = b"/" + entry.name + path, entry.parent.entry
    return path
