"""Watch sets: inode -> watches; a notice -> events in queues."""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.core import filters
from notifyfs.core.instances import Watch
from notifyfs.core.rules import TOLD, Notice, Renamed, notices
from notifyfs.protocol import flags
from notifyfs.protocol.records import MAX_LEN, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from collections.abc import Set as AbstractSet

    from notifyfs.core.filters import Filter
    from notifyfs.core.inodes import Entry, Inode, Inodes
    from notifyfs.core.instances import Actor, Instance

_KEPT: Final = flags.ALL_EVENTS | flags.ONESHOT | flags.EXCL_UNLINK | flags.X_RECURSIVE | flags.X_ORIGIN
_LONGEST_NAME: Final = MAX_LEN - 1
_LAST_WD: Final = 2**31 - 1  # INT_MAX


@attrs.define
class _User:
    instances: int = 0
    watches: int = 0
    filters: int = 0
    """What the filters cost."""
    drafts: int = 0
    """What those cost that no watch has taken yet."""


class Watches:
    """Every watch set. *owner*: the daemon's user.

    Never awaits, so each call is atomic between trio tasks: an ``await`` added here needs a lock
    and a new argument for event order.
    """

    def __init__(
        self, inodes: Inodes, *, owner: int = 0, max_user_instances: int = 128, max_user_watches: int = 1048576
    ) -> None:
        self.inodes = inodes
        self._trusted = (0, owner)
        self.max_user_instances = max_user_instances
        self.max_user_watches = max_user_watches
        self.instances: set[Instance] = set()
        self.total = 0
        """Watches in all; nothing is told while it is 0."""
        self.origins = 0
        """Watches that ask which process it was."""
        self.sequence = 0
        self._recursive = 0
        self._cookie = 0
        self._backlog: deque[tuple[Notice, Actor]] = deque()
        self.undecided: set[Inode] = set()
        """Inodes of which the kernel has not said whether they died; later events wait behind that.

        Where the last name goes and nothing has the file open, Linux tells DELETE_SELF *before* the
        parent's DELETE; unless something else holds it (an O_PATH descriptor, a working directory),
        and then only once that ends. FUSE's FORGET tells which, a moment after the operation.
        """
        self.listening: Callable[[Inode, int], None] = lambda _inode, _mask: None
        """Called with each inode that is watched and the mask asked for."""
        self.doubted: Callable[[], None] = lambda: None
        """Called when a death becomes undecided: ``forgotten`` or ``give_up`` must follow."""
        self.failed: Callable[[str, Exception], None] = _reraise
        """Called with what failed and why; everybody has been told by then (``lose``)."""
        self._users: dict[int, _User] = {}

    def open(self, instance: Instance) -> None:
        """Admit an instance; EMFILE when its user has ``max_user_instances``."""
        user = self._users.setdefault(instance.uid, _User())
        if user.instances >= self.max_user_instances:
            raise OSError(errno.EMFILE, "max_user_instances reached")
        user.instances += 1
        self.instances.add(instance)

    def close(self, instance: Instance) -> None:
        """Free an instance and its watches."""
        if instance not in self.instances:
            return
        for watch in list(instance.watches.values()):
            self._end(watch)
        self.instances.remove(instance)
        self.draft(instance, -instance.drafted)
        user = self._users[instance.uid]
        user.instances -= 1
        if not user.instances:
            del self._users[instance.uid]

    @staticmethod
    def check(mask: int) -> None:
        """EINVAL for a mask that inotify_add_watch(2) would not take."""
        if not mask or mask & ~flags.WATCH_BITS or not ~mask & (flags.MASK_ADD | flags.MASK_CREATE):
            raise OSError(errno.EINVAL, "bad watch mask", hex(mask))

    def add(self, instance: Instance, inode: Inode, mask: int, chosen: Filter | None = None) -> int:
        """Watch *inode*, or change the watch on it, with *chosen* as its filter; return the watch descriptor.

        EEXIST: MASK_CREATE and it is watched; ENOSPC: the user has ``max_user_watches``, or filters
        that cost ``filters.MOST_OF_USER``; ENOTDIR: ONLYDIR or X_RECURSIVE on what is no directory.
        """
        self.check(mask)
        if mask & (flags.ONLYDIR | flags.X_RECURSIVE) and not inode.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        watch = inode.watches.get(instance) if inode.watches else None
        if watch is not None:
            if mask & flags.MASK_CREATE:
                raise OSError(errno.EEXIST, "already watched")
            added = mask & flags.MASK_ADD
            self._afford(instance, chosen, watch.filter)
            self._count(watch, -1)
            watch.mask = (watch.mask if added else 0) | mask & _KEPT
            if chosen is not None or not added:
                watch.filter = chosen
            self._count(watch, 1)
            self.listening(inode, watch.mask)
            return watch.wd
        instance.last_wd = _next_wd(instance)  # Linux uses the number up even where it then refuses (measured)
        if self._users[instance.uid].watches >= self.max_user_watches:
            raise OSError(errno.ENOSPC, "max_user_watches reached")
        self._afford(instance, chosen, None)
        watch = Watch(instance, inode, instance.last_wd, mask & _KEPT, chosen)
        instance.watches[watch.wd] = watch
        if inode.watches is None:
            inode.watches = {}
        inode.watches[instance] = watch
        self._count(watch, 1)
        self.listening(inode, watch.mask)
        return watch.wd

    def draft(self, instance: Instance, cost: int) -> None:
        """Count what a draft of a filter costs more than before, or less; ENOSPC when the user's are too many."""
        user = self._users[instance.uid]
        if cost > 0 and instance.uid not in self._trusted and user.drafts + cost > filters.MOST_OF_USER:
            raise OSError(errno.ENOSPC, "this user's drafts have too many rules")
        user.drafts += cost
        instance.drafted += cost

    def remove(self, instance: Instance, wd: int, actor: Actor) -> None:
        """End a watch, as inotify_rm_watch(2): IGNORED follows; EINVAL for an unknown *wd*."""
        watch = instance.watches.get(wd)
        if watch is None:
            raise OSError(errno.EINVAL, "no such watch descriptor", str(wd))
        self._ignore(watch, actor, self.sequence + 1)

    def cookie(self) -> int:
        """A new cookie for one rename: unique, not 0, as long as 32 bits last."""
        self._cookie = self._cookie % 0xFFFFFFFF + 1
        return self._cookie

    def wanted(self, inode: Inode, event: int) -> bool:
        """Whether any watch would hear *event* on this inode, or through its directories."""
        if not self.total:
            return False
        if inode.watches and any(watch.mask & event for watch in inode.watches.values()):
            return True
        entries = inode.names or [inode.entry]
        return any(
            watch.mask & event
            for entry in entries
            for depth, place in enumerate(self._ancestors(entry))
            for watch in (place.watches or {}).values()
            if depth == 0 or watch.mask & flags.X_RECURSIVE
        )

    def tell(  # noqa: PLR0913 - what an operation adds, and nothing of it twice
        self,
        operation: str,
        entry: Entry,
        actor: Actor,
        renamed: Renamed | None = None,
        *,
        dies: bool = False,
        others: Sequence[Entry] = (),
    ) -> None:
        """An operation was done to *entry*: queue its events. See ``rules.notices``.

        It was done, so a fault here is no error of its caller's: everybody hears that something is lost.
        """
        if not self.total:
            return
        try:
            if not (self._recursive or self._backlog or renamed or others) and not self._concerned(operation, entry):
                return
            for notice in notices(operation, entry, renamed, dies=dies, others=others):
                if notice.death and notice.inode is not None and self._may_be_held(notice.inode):
                    self._hold_back(notice, actor)
                    self.undecided.add(notice.inode)
                    self.doubted()
                elif self._backlog:
                    self._hold_back(notice, actor)
                else:
                    self._deliver(notice, actor)
        except Exception as error:  # noqa: BLE001 - handed to ``failed``
            victim = renamed.victim if renamed and renamed.victim_dies else None
            self.lose(f"telling {operation} of {entry!r}", error, entry.inode if dies else None, victim)

    def lose(self, what: str, error: Exception, *dead: Inode | None) -> None:
        """*what* failed with *error*: each instance with a watch is told of an overflow.

        So does Linux where it has no memory for an event (kernel: inotify_handle_inode_event). The
        *dead* lose their watches, unless their death waits for its turn or for a FORGET.
        """
        for instance in self.instances:
            if instance.watches:
                instance.overflow()
        waiting = {notice.inode for notice, _ in self._backlog if notice.death}
        for inode in dead:
            if inode is not None and inode not in waiting and not self._may_be_held(inode):
                for watch in list((inode.watches or {}).values()):
                    self._end(watch)
        self.failed(what, error)

    def forgotten(self, inode: Inode, actor: Actor) -> None:
        """The kernel has dropped *inode*: if its last name is gone, it is dead."""
        if inode in self.undecided:
            self.undecided.remove(inode)
            self._flush()
        elif inode.gone and inode.watches and not inode.in_use:
            self.tell("die", inode.entry, actor, dies=True)

    def give_up(self, doubted: AbstractSet[Inode]) -> None:
        """No FORGET came: those of *doubted* that are still undecided are held by something, and live on."""
        held = self.undecided & doubted
        if held:
            self.undecided -= held
            self._backlog = deque(
                (notice, actor) for notice, actor in self._backlog if not (notice.death and notice.inode in held)
            )
            self._flush()

    def unmount(self, actor: Actor) -> None:
        """Every watch hears UNMOUNT and ends; the newest inode first (measured: N9)."""
        for inode in self.inodes.newest_first():
            mask = flags.UNMOUNT | (flags.ISDIR if inode.is_dir else 0)
            for watch in list((inode.watches or {}).values()):
                number = self.sequence + 1
                try:
                    self._push(watch, Record(watch.wd, mask), actor, number)
                    self._ignore(watch, actor, number)
                except Exception as error:  # noqa: BLE001 - handed to ``failed``; the others hear it all the same
                    self.lose("telling the unmount", error)

    @staticmethod
    def _concerned(operation: str, entry: Entry) -> bool:
        """Whether any watch of the inode or its directory may hear of it, or ends with it."""
        told = TOLD[operation]
        for watches in (entry.parent.watches, entry.inode.watches):
            if watches:
                for watch in watches.values():
                    if watch.mask & told:
                        return True
        return bool(entry.inode.watches) and bool(told & flags.DELETE_SELF)

    @staticmethod
    def _may_be_held(inode: Inode) -> bool:
        return bool(inode.watches) and inode.lookups > 0 and not inode.in_use

    def _hold_back(self, notice: Notice, actor: Actor) -> None:
        if self.origins:
            actor.look()  # it may be gone when this is told
        self._backlog.append((notice, actor))

    def _flush(self) -> None:
        backlog = self._backlog
        while backlog and not (backlog[0][0].death and backlog[0][0].inode in self.undecided):
            notice, actor = backlog.popleft()
            try:
                self._deliver(notice, actor)
            except Exception as error:  # noqa: BLE001 - handed to ``failed``; what is behind must not wait for ever
                self.lose("telling what was held back", error, notice.inode if notice.death else None)

    def _deliver(self, notice: Notice, actor: Actor) -> None:
        inode, number = notice.inode, self.sequence + 1
        if notice.parent is not None:
            if notice.parent.watches:
                self._hear(notice.parent.watches, notice, notice.name, actor, number)
            if self._recursive:
                self._deliver_above(notice, actor, number)
        if inode is not None and inode.watches:
            self._hear(inode.watches, notice, b"", actor, number)
            if notice.death:
                for watch in list((inode.watches or {}).values()):
                    self._ignore(watch, actor, number)

    def _deliver_above(self, notice: Notice, actor: Actor, number: int) -> None:
        path, place = notice.name, notice.parent
        while place is not None and place.entry.name:
            path, place = place.entry.name + b"/" + path, place.entry.parent
            if place.watches:
                recursive = {i: w for i, w in place.watches.items() if w.mask & flags.X_RECURSIVE}
                self._hear(recursive, notice, path, actor, number)

    @staticmethod
    def _ancestors(entry: Entry) -> list[Inode]:
        places = [entry.parent]
        while places[-1].entry.name:
            places.append(places[-1].entry.parent)
        return places

    def _hear(self, watches: dict[Instance, Watch], notice: Notice, name: bytes, actor: Actor, number: int) -> None:
        for watch in list(watches.values()):
            wanted = watch.mask
            if not wanted & notice.mask & flags.ALL_EVENTS or (notice.unlinked and wanted & flags.EXCL_UNLINK):
                continue
            if watch.filter is not None and not watch.filter.passes(
                name, actor, is_dir=bool(notice.mask & flags.ISDIR)
            ):
                continue
            if len(name) > _LONGEST_NAME:
                # A path below a recursive watch that no record can carry: say that something is lost.
                watch.instance.overflow()
            else:
                self._push(watch, Record(watch.wd, notice.mask, notice.cookie, name), actor, number)
            if wanted & flags.ONESHOT:
                self._ignore(watch, actor, number)

    def _push(self, watch: Watch, record: Record, actor: Actor, number: int) -> None:
        self.sequence = max(self.sequence, number)
        origin = actor.origin(number) if watch.mask & flags.X_ORIGIN else None
        watch.instance.queue.append(record, origin)
        watch.instance.ring()

    def _ignore(self, watch: Watch, actor: Actor, number: int) -> None:
        try:  # with the number of the event that ended the watch, if it was one
            self._push(watch, Record(watch.wd, flags.IGNORED), actor, number)
        except Exception:
            watch.instance.overflow()  # it may have no other watch, and then ``lose`` passes it over
            raise
        finally:
            self._end(watch)

    def _end(self, watch: Watch) -> None:
        self._count(watch, -1)
        del watch.instance.watches[watch.wd]
        inode = watch.inode
        if inode.watches is not None:
            del inode.watches[watch.instance]
            if not inode.watches:
                inode.watches = None
                self.inodes.reap(inode)

    def _afford(self, instance: Instance, chosen: Filter | None, replaced: Filter | None) -> None:
        if chosen is None or instance.uid in self._trusted:
            return
        spent = self._users[instance.uid].filters - (replaced.cost if replaced else 0)
        if spent + chosen.cost > filters.MOST_OF_USER:
            raise OSError(errno.ENOSPC, "this user's filters have too many rules")

    def _count(self, watch: Watch, by: int) -> None:
        user = self._users[watch.instance.uid]
        self.total += by
        user.watches += by
        if watch.mask & flags.X_RECURSIVE:
            self._recursive += by
        if watch.filter is not None:
            user.filters += by * watch.filter.cost
        if watch.mask & flags.X_ORIGIN or (watch.filter is not None and watch.filter.asks_process):
            self.origins += by


def _reraise(_what: str, error: Exception) -> None:
    raise error


def _next_wd(instance: Instance) -> int:
    # As Linux: when the range is used up, the lowest free ones again (kernel: idr_alloc_cyclic).
    wd = instance.last_wd % _LAST_WD + 1
    while wd in instance.watches:
        wd = wd % _LAST_WD + 1
    return wd
