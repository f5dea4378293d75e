"""Through which name something was done.

FUSE names an inode where inotify names an entry. A handle remembers the entry it was opened
through; for the rest this finds out, or gives every entry that it may have been.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from notifyfs.core.changes import Change
from notifyfs.system.callers import descriptor_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from notifyfs.core.changes import Operation
    from notifyfs.core.entries import Entry, Inode
    from notifyfs.core.watches import Watches
    from notifyfs.system.callers import Caller

_MOST_THREADS: Final = 1024  # more than are ever between a LOOKUP and the request that it was for
_UNDER_WAY: Final = 0.1
"""Seconds for which a request may be under way that was looked up when its file had one name."""
_MOST_CACHED: Final = 1024  # files linked a moment ago: their first names are expired anyway


class Attribution:
    """Which entry an inode was reached through.

    *expire* makes the kernel ask for a name, in the directory with this node number, before it uses it again;
    *timeout*: seconds, of *clock*, that it may use an entry without asking.
    """

    def __init__(
        self,
        watches: Watches,
        expire: Callable[[int, bytes], None],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._watches = watches
        self._expire = expire
        self._timeout = max(timeout, _UNDER_WAY)
        # The name by which a thread has just looked up a file that has several: FUSE's next
        # request from that thread names only the inode.
        self._looked: dict[int, Entry] = {}
        # The name of a file that had only this one until it was linked, and until when the kernel
        # may still use it without a LOOKUP.
        self._cached: dict[Inode, tuple[Entry, float]] = {}

    def looked_up(self, thread: int, entry: Entry) -> None:
        """Remember that *thread* has just looked this name up, if its file has others."""
        if entry.inode.names is None:
            return
        self._looked.pop(thread, None)
        self._looked[thread] = entry
        if len(self._looked) > _MOST_THREADS:
            del self._looked[next(iter(self._looked))]

    def moved_on(self, thread: int) -> None:
        """*thread*'s last lookup was for a request that changes names: it says nothing of the next one."""
        self._looked.pop(thread, None)

    def opened(self, inode: Inode, caller: Caller) -> Entry:
        """The name through which the caller is opening *inode*, as far as it can be known."""
        return inode.entry if inode.names is None else self._named(inode, inode.names, caller.thread)[0]

    def changed(self, operation: Operation, inode: Inode, caller: Caller, entry: Entry | None = None) -> Change | None:
        """The change of *inode*'s attributes: through *entry*, or else to each name that Linux may have told.

        None where that could not be found out, and everybody who listens was told of an overflow.
        """
        locked = ((inode.number, b""),)
        if entry is None and inode.names is None:
            return Change(operation, inode.entry, caller, None, False, (), locked)  # noqa: FBT003 - each request pays for words
        others: list[Entry] = []
        if entry is None and self._watches.listening:
            try:
                entry, *others = self._heard(self.reached(inode, caller))
            except Exception as error:  # noqa: BLE001 - handed on: the change was made, and is no error of its caller's
                self._watches.fail(f"finding the name by which {inode!r} was changed", error)
                return None
        return Change(operation, entry or inode.entry, caller, others=(*others,), locked=locked)

    def reached(self, inode: Inode, caller: Caller) -> list[Entry]:
        """The name through which the caller changed *inode*; or all that it may be, the likeliest first."""
        if inode.names is None:
            return [inode.entry]
        used = inode.used
        path = descriptor_path(caller.thread) if used else b""
        through = [name for name in used or () if path and path.endswith(_path(name))]
        if through:
            self._looked.pop(caller.thread, None)  # that was for something else, such as a stat
            return through
        looked = self._looked.get(caller.thread)
        if looked is not None and looked.inode is inode and not looked.live:
            return [self._looked.pop(caller.thread)]  # removed since: Linux tells that name all the same (6.18)
        return self._named(inode, inode.names, caller.thread)

    def _heard(self, names: list[Entry]) -> list[Entry]:
        """Without those that nobody can hear of, but for the first."""
        if len(names) == 1 or self._watches.accounts.recursive:
            return names
        return [names[0], *(name for name in names[1:] if name.parent.watches)]

    def linked(self, inode: Inode) -> None:
        """*inode*, until now with one name, is getting another: make the kernel ask for the first again."""
        now = self._clock()
        while self._cached and (
            (oldest := next(iter(self._cached.items())))[1][1] < now or len(self._cached) >= _MOST_CACHED
        ):
            del self._cached[oldest[0]]
        self._cached.pop(inode, None)
        self._cached[inode] = (inode.entry, now + self._timeout)
        self.moved(inode.entry)

    def moved(self, entry: Entry) -> None:
        """*entry* has this name now: make the kernel ask for it, should it think that it need not."""
        if entry.inode in self._cached:
            self._expire(entry.parent.number, entry.name)

    def _named(self, inode: Inode, names: Iterable[Entry], thread: int) -> list[Entry]:
        looked = self._looked.pop(thread, None)
        if looked is not None and looked.inode is inode and looked.live:
            return [looked]
        # No LOOKUP came before: it is the one name that the kernel may use without asking, or it was
        # reached by a descriptor.
        cached, until = self._cached.get(inode, (inode.entry, 0.0))
        used = [*(inode.used or ())]
        if until > self._clock() and cached.live:
            used = [cached, *(name for name in used if name is not cached)]
        return used or [name for name in names if name.live]


def _path(entry: Entry) -> bytes:
    """Where *entry* is, or was, below the mount's root: ``/d/f``."""
    names = []
    while entry.name:
        names.append(entry.name)
        entry = entry.parent.entry
    return b"/".join((*names, b"")[::-1])
