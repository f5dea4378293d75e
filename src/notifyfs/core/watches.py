"""Watch sets: inode -> watches; a change -> events in queues."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.core.accounts import Accounts, Limits
from notifyfs.core.instances import Watch
from notifyfs.core.rules import TOLD, notices
from notifyfs.protocol import flags
from notifyfs.protocol.records import MAX_LEN, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.changes import Change, Changes
    from notifyfs.core.filters import Matcher
    from notifyfs.core.inodes import Entry, Inode, Inodes
    from notifyfs.core.instances import Actor, Instance
    from notifyfs.core.queue import Gate, Question
    from notifyfs.core.rules import Notice

_KEPT: Final = flags.EVENTS | flags.ONESHOT | flags.EXCL_UNLINK | flags.X_RECURSIVE | flags.X_ORIGIN
_LONGEST_NAME: Final = MAX_LEN - 1
_LAST_WD: Final = 2**31 - 1  # INT_MAX
_LINUX: Final = Limits()


class Doubt(NamedTuple):
    """A death of which the kernel has not said whether it came about."""

    change: Change
    notice: Notice
    gate: Question
    hidden: tuple[Gate, ...]
    """Those of ``change``."""
    instances: list[Instance]
    """Who watched the inode then: whoever does when it is decided is among them."""


def _reraise(_what: str, error: Exception) -> None:
    raise error


class Watches:
    """Every watch set; a sink of *changes*. *owner*: the daemon's user.

    Never awaits, so each call is atomic between trio tasks: an ``await`` added here needs a lock
    and a new argument for event order.

    *hide* gives the gates of a change: shut until it can be seen at the nodes with these numbers.
    *doubt* gives a gate that is shut until it is decided whether an inode died; it calls what it is
    given when nothing decides that in time. *failed* hears what failed and why; everybody has
    been told by then (``lose``).
    """

    def __init__(  # noqa: PLR0913 - each is a capability, or a limit, of its own
        self,
        inodes: Inodes,
        changes: Changes,
        *,
        doubt: Callable[[Callable[[], None]], Question],
        hide: Callable[[tuple[tuple[int, bytes], ...]], tuple[Gate, ...]] = lambda _locked: (),
        failed: Callable[[str, Exception], None] = _reraise,
        owner: int = 0,
        limits: Limits = _LINUX,
    ) -> None:
        self.inodes = inodes
        self.accounts = Accounts(owner, limits)
        self.instances: set[Instance] = set()
        self.heard = 0
        """How many events, each to one instance, were told."""
        self._changes = changes
        self._hide = hide
        self._doubt = doubt
        self._failed = failed
        self._gates: tuple[int, tuple[Gate, ...]] = (-1, ())  # of the change with this number
        self._doubts: dict[Inode, Doubt] = {}
        """Inodes of which the kernel has not said whether they died; who watches them waits for that.

        Where the last name goes and nothing has the file open, Linux tells DELETE_SELF *before* the
        parent's DELETE; unless something else holds it (an O_PATH descriptor, a working directory),
        and then only once that ends. FUSE's FORGET tells which, a moment after the operation.
        """

    # Who listens

    @property
    def listening(self) -> bool:
        """Whether there is any watch."""
        return self.accounts.watches > 0

    def open(self, instance: Instance) -> None:
        """Admit an instance; EMFILE when its user has ``max_user_instances``."""
        self.accounts.open(instance)
        self.instances.add(instance)

    def close(self, instance: Instance) -> None:
        """Free an instance and its watches."""
        if instance in self.instances:
            for watch in list(instance.watches.values()):
                self._end(watch)
            self.instances.remove(instance)
            self.accounts.close(instance)

    @staticmethod
    def check(mask: int) -> None:
        """EINVAL for a mask that inotify_add_watch(2) would not take."""
        if not mask or mask & ~flags.WATCH_BITS or not ~mask & (flags.MASK_ADD | flags.MASK_CREATE):
            raise OSError(errno.EINVAL, "bad watch mask", hex(mask))

    def add(self, instance: Instance, inode: Inode, mask: int, chosen: Matcher | None = None) -> int:
        """Watch *inode*, or change the watch on it, with *chosen* as its filter; return the watch descriptor.

        EEXIST: MASK_CREATE and it is watched; ENOSPC: the user has ``max_user_watches``, or filters
        that cost ``filters.MOST_OF_USER``; ENOTDIR: ONLYDIR or X_RECURSIVE on what is no directory.
        """
        self.check(mask)
        if mask & (flags.ONLYDIR | flags.X_RECURSIVE) and not inode.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        self.give_up(inode)  # what is found has not died
        watch = inode.watches.get(instance) if inode.watches else None
        if watch is not None:
            if mask & flags.MASK_CREATE:
                raise OSError(errno.EEXIST, "already watched")
            self._modify(watch, mask, chosen)
            return watch.wd
        instance.last_wd = _next_wd(instance)  # Linux uses the number up even where it refuses (Linux 6.18, L2)
        self.accounts.afford_watch(instance)
        self.accounts.afford(instance, chosen, None)
        watch = Watch(instance, inode, instance.last_wd, mask & _KEPT, chosen)
        instance.watches[watch.wd] = watch
        if inode.watches is None:
            inode.watches = {}
        inode.watches[instance] = watch
        self.accounts.count(watch, 1)
        return watch.wd

    def remove(self, instance: Instance, wd: int, actor: Actor) -> None:
        """End a watch, as inotify_rm_watch(2): IGNORED follows; EINVAL for an unknown *wd*."""
        watch = instance.watches.get(wd)
        if watch is None:
            raise OSError(errno.EINVAL, "no such watch descriptor", str(wd))
        self._ignore(watch, actor, self._changes.last)  # nothing was done: it has the number of what was done last

    def wanted(self, inode: Inode, event: int) -> bool:
        """Whether any watch would hear *event* on this inode, or through the directories of the names in use."""
        if not self.listening:
            return False
        if inode.watches and any(watch.mask & event for watch in inode.watches.values()):
            return True
        entries = (inode.entry,) if inode.used is None else inode.used
        return any(
            watch.mask & event
            for entry in entries
            for depth, place in enumerate(_ancestors(entry))
            for watch in (place.watches or {}).values()
            if depth == 0 or watch.mask & flags.X_RECURSIVE
        )

    # What was done

    def tell(self, change: Change) -> None:
        """Queue the events of *change*. See ``rules.notices``."""
        if self._doubts:  # what is used has not died
            self.give_up(change.entry.inode)
        if not (self.accounts.recursive or change.rename or change.others or _concerned(change)):
            return
        for notice in notices(change):
            if notice.death and _may_be_held(notice.inode):
                self._begin_doubt(change, notice)
            else:
                self._deliver(change, notice)

    def lose(self, change: Change, error: Exception) -> None:
        """Telling *change* failed with *error*: everybody hears of an overflow, and who died loses its watches."""
        victim = change.rename.victim if change.rename and change.rename.victim_dies else None
        dead = [inode for inode in (change.entry.inode if change.dies else None, victim) if inode is not None]
        self.fail(f"telling {change.operation} of {change.entry!r}", error, *dead)

    def fail(self, what: str, error: Exception, *dead: Inode) -> None:
        """*what* failed with *error*: each instance with a watch is told of an overflow.

        So does Linux where it has no memory for an event (kernel: inotify_handle_inode_event). The
        *dead* lose their watches, unless their death is in doubt.
        """
        for instance in self.instances:
            if instance.watches:
                instance.overflow()
        for inode in dead:
            if inode not in self._doubts and not _may_be_held(inode):
                for watch in list((inode.watches or {}).values()):
                    self._end(watch)
        self._failed(what, error)

    def forgotten(self, inode: Inode) -> bool:
        """The kernel has dropped *inode*: if its last name is gone, it is dead. Whether somebody has yet to hear of it.

        Then a "die" is to be told; of a death in doubt it is told here.
        """
        doubt = self._doubts.get(inode)
        if doubt is None or doubt.gate.late:
            self.give_up(inode)  # it was held till now, and nobody has waited so long at its gate
            return inode.gone and bool(inode.watches) and not inode.in_use
        del self._doubts[inode]
        try:
            self._decide(doubt)
        except Exception as error:  # noqa: BLE001 - handed on; what was held back goes on all the same
            self.fail("telling a death that was in doubt", error, inode)
        finally:
            self._release(doubt)
        return False

    def give_up(self, inode: Inode) -> None:
        """No FORGET came: if the death of *inode* is in doubt, something holds it, and it lives on."""
        doubt = self._doubts.pop(inode, None)
        if doubt is not None:
            self._release(doubt)

    def unmount(self, actor: Actor) -> None:
        """Every watch hears UNMOUNT and ends; the newest inode first (docs/parity.md, N9). Whoever may live, does."""
        for inode in list(self._doubts):
            self.give_up(inode)
        for inode in self.inodes.newest_first():
            mask = flags.UNMOUNT | (flags.ISDIR if inode.is_dir else 0)
            for watch in list((inode.watches or {}).values()):
                try:
                    self._push(watch, Record(watch.wd, mask), actor, self._changes.last)
                    self._ignore(watch, actor, self._changes.last)
                except Exception as error:  # noqa: BLE001 - handed on; the others hear it all the same
                    self.fail("telling the unmount", error)

    # Deaths in doubt

    def _begin_doubt(self, change: Change, notice: Notice) -> None:
        inode = notice.inode
        if inode is None or not inode.watches:
            return
        self.give_up(inode)  # it dies once more: by an entry that the source has not any more
        if self.accounts.origins:
            change.actor.look()  # it may be gone when this is told
        hidden = self._hidden(change)
        gate = self._doubt(partial(self.give_up, inode))
        doubt = self._doubts[inode] = Doubt(change, notice, gate, hidden, list(inode.watches))
        for instance in doubt.instances:
            instance.queue.hold(gate)
            instance.ring()

    def _decide(self, doubt: Doubt) -> None:
        inode, change = doubt.notice.inode, doubt.change
        if inode is not None and inode.watches:
            self._hear(change, doubt.notice, inode.watches, b"", doubt)
            for watch in list((inode.watches or {}).values()):
                self._ignore(watch, change.actor, change.number, doubt)

    @staticmethod
    def _release(doubt: Doubt) -> None:
        doubt.gate.open()
        for instance in doubt.instances:
            instance.queue.release(doubt.gate)
            instance.ring()

    # From a notice to records

    def _deliver(self, change: Change, notice: Notice) -> None:
        inode, parent = notice.inode, notice.parent
        if parent is not None:
            if parent.watches:
                self._hear(change, notice, parent.watches, notice.name)
            if self.accounts.recursive:
                self._deliver_above(change, notice)
        if inode is not None and inode.watches:
            self._hear(change, notice, inode.watches, b"")
            if notice.death:
                for watch in list((inode.watches or {}).values()):
                    self._ignore(watch, change.actor, change.number)

    def _deliver_above(self, change: Change, notice: Notice) -> None:
        path, place = notice.name, notice.parent
        while place is not None and place.entry.name:
            path, place = place.entry.name + b"/" + path, place.entry.parent
            if place.watches:
                recursive = {i: w for i, w in place.watches.items() if w.mask & flags.X_RECURSIVE}
                self._hear(change, notice, recursive, path)

    def _hear(
        self, change: Change, notice: Notice, watches: dict[Instance, Watch], name: bytes, doubt: Doubt | None = None
    ) -> None:
        for watch in list(watches.values()):
            wanted = watch.mask
            if not wanted & notice.mask & flags.EVENTS or (notice.unlinked and wanted & flags.EXCL_UNLINK):
                continue
            if watch.filter is not None and not watch.filter.passes(
                name, change.actor, is_dir=bool(notice.mask & flags.ISDIR)
            ):
                continue
            if len(name) > _LONGEST_NAME:
                # A path below a recursive watch that no record can carry: say that something is lost.
                watch.instance.overflow()
            else:
                record = Record(watch.wd, notice.mask, notice.cookie, name)
                gates = doubt.hidden if doubt else self._hidden(change)
                self._push(watch, record, change.actor, change.number, doubt=doubt, gates=gates)
            if wanted & flags.ONESHOT:
                self._ignore(watch, change.actor, change.number, doubt)

    def _hidden(self, change: Change) -> tuple[Gate, ...]:
        if not change.locked:
            return ()
        number, gates = self._gates
        if number != change.number:
            gates = self._hide(change.locked)
            self._gates = change.number, gates
        return gates

    def _push(  # noqa: PLR0913 - what makes a record, and where it goes
        self,
        watch: Watch,
        record: Record,
        actor: Actor,
        number: int,
        *,
        doubt: Doubt | None = None,
        gates: tuple[Gate, ...] = (),
    ) -> None:
        self.heard += 1
        origin = actor.origin(number) if watch.mask & flags.X_ORIGIN else None
        if doubt is None:
            watch.instance.queue.append(record, origin, gates)
        else:
            watch.instance.queue.insert(doubt.gate, record, origin, gates)
        watch.instance.ring()

    # One watch

    def _modify(self, watch: Watch, mask: int, chosen: Matcher | None) -> None:
        added = mask & flags.MASK_ADD
        self.accounts.afford(watch.instance, chosen, watch.filter)
        self.accounts.count(watch, -1)
        watch.mask = (watch.mask if added else 0) | mask & _KEPT
        if chosen is not None or not added:
            watch.filter = chosen
        self.accounts.count(watch, 1)

    def _ignore(self, watch: Watch, actor: Actor, number: int, doubt: Doubt | None = None) -> None:
        try:
            self._push(watch, Record(watch.wd, flags.IGNORED), actor, number, doubt=doubt)
        except Exception:
            watch.instance.overflow()  # it may have no other watch, and then ``fail`` passes it over
            raise
        finally:
            self._end(watch)

    def _end(self, watch: Watch) -> None:
        self.accounts.count(watch, -1)
        del watch.instance.watches[watch.wd]
        inode = watch.inode
        if inode.watches is not None:
            del inode.watches[watch.instance]
            if not inode.watches:
                inode.watches = None
                self.inodes.reap(inode)


def _concerned(change: Change) -> bool:
    """Whether any watch of the inode or its directory may hear of it, or ends with it."""
    told, entry = TOLD[change.operation], change.entry
    for watches in (entry.parent.watches, entry.inode.watches):
        if watches:
            for watch in watches.values():
                if watch.mask & told:
                    return True
    return bool(entry.inode.watches) and bool(told & flags.DELETE_SELF)


def _may_be_held(inode: Inode | None) -> bool:
    return inode is not None and bool(inode.watches) and inode.lookups > 0 and not inode.in_use


def _ancestors(entry: Entry) -> list[Inode]:
    places = [entry.parent]
    while places[-1].entry.name:
        places.append(places[-1].entry.parent)
    return places


def _next_wd(instance: Instance) -> int:
    # As Linux: when the range is used up, the lowest free ones again (kernel: idr_alloc_cyclic).
    wd = instance.last_wd % _LAST_WD + 1
    while wd in instance.watches:
        wd = wd % _LAST_WD + 1
    return wd
