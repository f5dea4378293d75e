"""Watch sets: inode -> watches; a change -> events in queues."""

from __future__ import annotations

import errno
import sys
from functools import partial
from typing import TYPE_CHECKING, Final

from notifyfs.core.accounts import Accounts, Limits
from notifyfs.core.doubts import Doubt, may_be_held, release
from notifyfs.core.hearing import TOO_LONG, Hearing, concerned, covered, listens, path, wanted
from notifyfs.core.instances import Watch
from notifyfs.core.rules import notices
from notifyfs.protocol import flags
from notifyfs.protocol.flags import EVENTS, X_RECURSIVE
from notifyfs.protocol.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.changes import Change, Changes
    from notifyfs.core.entries import Inode
    from notifyfs.core.filters import Matcher
    from notifyfs.core.hearing import Covering
    from notifyfs.core.inodes import Inodes
    from notifyfs.core.instances import Actor, Instance
    from notifyfs.core.queue import Gate, Question
    from notifyfs.core.rules import Notice

_KEPT: Final = EVENTS | flags.ONESHOT | flags.EXCL_UNLINK | X_RECURSIVE | flags.X_ORIGIN
_LINUX: Final = Limits()


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
        self._ending: set[Instance] = set()  # that are not told anything, and have watches yet
        self.heard = 0
        """How many events, each to one instance, were told."""
        self._changes = changes
        self._hide = hide
        self._doubt = doubt
        self._failed = failed
        self._gates: tuple[int, tuple[Gate, ...]] = (-1, ())  # of the change with this number
        self._hearing: tuple[int, Hearing] = (-1, Hearing(inodes.root))  # the same
        self._covering: tuple[tuple[Inode, int, int], list[Covering]] = ((inodes.root, -1, -1), [])
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

    def close(self, instance: Instance, most: int = sys.maxsize) -> bool:
        """End *instance*: at once, and *most* of its watches; whether there are more: then this is to be called again.

        It is told nothing any more; its user has room for another when the last watch has ended.
        """
        if instance in self.instances:
            self.instances.remove(instance)
            instance.queue.close()
            self._ending.add(instance)
        if instance not in self._ending:
            return False
        watches = instance.watches
        for _ in range(min(most, len(watches))):
            self._end(watches.popitem()[1])  # whatever else finds the next one is linear in those that are gone
        if watches:
            return True
        self._ending.remove(instance)
        self.accounts.close(instance)
        return False

    @staticmethod
    def check(mask: int) -> None:
        """EINVAL for a mask that inotify_add_watch(2) would not take."""
        if not mask or mask & ~flags.WATCH_BITS or not ~mask & (flags.MASK_ADD | flags.MASK_CREATE):
            raise OSError(errno.EINVAL, "bad watch mask", hex(mask))

    def add(
        self, instance: Instance, inode: Inode, mask: int, chosen: Matcher | None = None, *, by_path: bool = False
    ) -> int:
        """Watch *inode*, or change the watch on it, with *chosen* as its filter; return the watch descriptor.

        *by_path*: see ``Watch.by_path``. EEXIST: MASK_CREATE and it is watched; ENOSPC: the user has
        ``max_user_watches``, ``accounts.MOST_RECURSIVE``, or filters that cost ``filters.MOST_OF_USER``;
        ENOTDIR: ONLYDIR or X_RECURSIVE on what is no directory.
        """
        self.check(mask)
        if mask & (flags.ONLYDIR | X_RECURSIVE) and not inode.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        self.give_up(inode)  # what is found has not died
        watch = inode.watches.get(instance) if inode.watches else None
        if watch is not None:
            if mask & flags.MASK_CREATE:
                raise OSError(errno.EEXIST, "already watched")
            self._modify(watch, mask, chosen, by_path=by_path)
            return watch.wd
        instance.last_wd = instance.next_wd()  # Linux uses the number up even where it refuses (Linux 6.18, L2)
        self.accounts.afford_watch(instance, mask)
        self.accounts.afford(instance, chosen, None)
        watch = Watch(instance, inode, instance.last_wd, mask & _KEPT, chosen)
        watch.by_path = by_path
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
        """Whether any watch would hear *event* of this file, or through the directories of its names in use."""
        if inode.watches and any(watch.mask & event for watch in inode.watches.values()):
            return True
        places = [entry.parent for entry in inode.used or (inode.entry,)]
        return any(wanted(place, event, self._above(place)) for place in places)

    # What was done

    def tell(self, change: Change) -> None:
        """Queue the events of *change*. See ``rules.notices``."""
        if self._doubts:  # what is used has not died
            self.give_up(change.entry.inode)
        if not (self.accounts.recursive or change.rename or change.others or concerned(change)):
            return
        for notice in notices(change):
            if notice.death and may_be_held(notice.inode):
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
            if inode not in self._doubts and not may_be_held(inode):
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
            release(doubt)
        return False

    def give_up(self, inode: Inode) -> None:
        """No FORGET came: if the death of *inode* is in doubt, something holds it, and it lives on."""
        doubt = self._doubts.pop(inode, None)
        if doubt is not None:
            release(doubt)

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
        asked = [watch for watch in inode.watches.values() if listens(watch, notice.mask, 0)]
        deaf = [watch for watch in asked if not self._admits(watch, change, inode, 0)]
        doubt = self._doubts[inode] = Doubt(change, notice, gate, hidden, list(inode.watches), deaf)
        for instance in doubt.instances:
            instance.queue.hold(gate)
            instance.ring()

    def _decide(self, doubt: Doubt) -> None:
        inode, change = doubt.notice.inode, doubt.change
        if inode is not None and inode.watches:
            self._hear(change, doubt.notice, inode, b"", doubt=doubt)
            for watch in list((inode.watches or {}).values()):
                self._ignore(watch, change.actor, change.number, doubt)

    # From a notice to records

    def _deliver(self, change: Change, notice: Notice) -> None:
        inode, parent = notice.inode, notice.parent
        if parent is not None:
            if parent.watches:
                self._hear(change, notice, parent, notice.name)
            for place, above, below in self._above(parent):
                self._hear(change, notice, place, path(below, notice.name), parent, above)
        if inode is not None and inode.watches:
            self._hear(change, notice, inode, b"")
            if notice.death:
                for watch in list((inode.watches or {}).values()):
                    self._ignore(watch, change.actor, change.number)

    def _above(self, place: Inode) -> list[Covering]:
        """The recursive watches above *place*; remembered, for the next event is mostly of the same directory."""
        if not self.accounts.recursive:
            return []
        state = place, self.inodes.moves, self.accounts.turns
        known, covering = self._covering
        if known != state:
            covering = covered(place)
            self._covering = state, covering
        return covering

    def _hear(  # noqa: PLR0913, PLR0917 - what happened where, and who is asked
        self,
        change: Change,
        notice: Notice,
        place: Inode,
        name: bytes,
        parent: Inode | None = None,
        above: int = 0,
        doubt: Doubt | None = None,
    ) -> None:
        """The watches of *place*, so far *above* *parent* where it was, hear of it by this *name*, or ``TOO_LONG``."""
        mask = notice.mask
        for watch in list(place.watches.values()) if place.watches else ():
            wanted, recursive = watch.mask, watch.mask & X_RECURSIVE
            if not wanted & mask & EVENTS or (above and not recursive):
                continue
            if notice.unlinked and wanted & flags.EXCL_UNLINK:
                continue
            if watch.filter is not None and not watch.filter.passes(
                b"" if name is TOO_LONG else name, change.actor, is_dir=bool(mask & flags.ISDIR)
            ):
                continue
            judged = recursive and watch.instance.judge is not None and name is not TOO_LONG
            if judged and (watch in doubt.deaf if doubt else not self._admits(watch, change, parent or place, above)):
                continue
            if name is TOO_LONG:
                watch.instance.overflow()
            else:
                record = Record(watch.wd, mask, notice.cookie, name)
                gates = doubt.hidden if doubt else self._hidden(change) if change.locked else ()
                self._push(watch, record, change.actor, change.number, doubt=doubt, gates=gates)
            if wanted & flags.ONESHOT:
                self._ignore(watch, change.actor, change.number, doubt)

    def _admits(self, watch: Watch, change: Change, place: Inode, above: int) -> bool:
        """Whether *watch*, so far above *place*, may hear of what happened there; an overflow where nobody knows."""
        number, hearing = self._hearing
        if number != change.number or hearing.place is not place:
            _, hearing = self._hearing = change.number, Hearing(place)
        heard = hearing.admits(watch, above)
        if heard is None:
            watch.instance.overflow()
        return bool(heard)

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

    def _modify(self, watch: Watch, mask: int, chosen: Matcher | None, *, by_path: bool) -> None:
        added = mask & flags.MASK_ADD
        if not watch.mask & X_RECURSIVE:
            self.accounts.afford_recursive(watch.instance, mask)
        self.accounts.afford(watch.instance, chosen, watch.filter)
        self.accounts.count(watch, -1)
        watch.mask = (watch.mask if added else 0) | mask & _KEPT
        watch.by_path = by_path
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
        watch.instance.watches.pop(watch.wd, None)
        inode = watch.inode
        if inode.watches is not None:
            del inode.watches[watch.instance]
            if not inode.watches:
                inode.watches = None
                self.inodes.reap(inode)
