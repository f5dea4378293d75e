"""A source tree that is nowhere, and who watches it: the core without a mount."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.accounts import Limits
from notifyfs.core.changes import Change, Changes, Rename
from notifyfs.core.inodes import Inodes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.core.rules import setattr_operation
from notifyfs.core.watches import Watches
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.changes import Operation
    from notifyfs.core.entries import Entry, Inode
    from notifyfs.core.instances import Actor
    from notifyfs.core.queue import Gate as AnyGate


class Gate:
    """A ``core.queue.Question`` that a test opens. *undecided* is what it calls when nothing decided in time."""

    def __init__(self, undecided: Callable[[], None] = lambda: None) -> None:
        self.shut = True
        self.late = False
        self.expire = undecided

    def open(self) -> None:
        self.shut = False

    async def opened(self) -> None:
        raise NotImplementedError  # nobody waits in the core


class Nobody:
    """Who did it; no watch here asks for more."""

    uid = 0

    @property
    def process(self) -> int:
        raise NotImplementedError

    def look(self) -> None:
        raise NotImplementedError

    def origin(self, number: int) -> Origin:
        raise NotImplementedError(number)


class Stamp:
    """A process."""

    uid = 0

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._seen = -1

    @property
    def process(self) -> int:
        self.look()
        return self._seen

    def look(self) -> None:
        if self._seen < 0:
            self._seen = self.pid

    def origin(self, number: int) -> Origin:
        return Origin(number, 0, self.process, 0, 0)


def _reraise(_what: str, error: Exception) -> None:
    raise error


def _seen_at_once(_locked: tuple[tuple[int, bytes], ...]) -> tuple[Gate, ...]:
    return ()


class Tree:
    """Does to the table what a handler does when the system call has succeeded, and tells the change.

    Arguments are words of a script: a path (``s/f``), or a *handle*, which is named when it is opened.
    """

    def __init__(  # noqa: PLR0913 - what a test may set
        self,
        limit: int = 16384,
        *,
        start: int = 1,
        failed: Callable[[str, Exception], None] = _reraise,
        hide: Callable[[tuple[tuple[int, bytes], ...]], tuple[AnyGate, ...]] = _seen_at_once,
        doubt: Callable[[Callable[[], None]], AnyGate] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.inodes = Inodes(1, 2, lambda _inode: None)
        self.changes = Changes(start)
        self.watches = Watches(
            self.inodes, self.changes, doubt=doubt or self._doubt, failed=failed, hide=hide, limits=limits or Limits()
        )
        self.changes.attach(self.watches)
        self.limit = limit
        self.instance = self.subscribe()
        self.doubts: list[Gate] = []
        """Of all deaths that were ever in doubt."""
        self.labels: dict[int, str] = {}
        self.handles: dict[str, tuple[Entry, bool]] = {}
        self.held: dict[str, Inode] = {}
        self._numbers = itertools.count(100)
        self._links: Counter[Inode] = Counter()

    def play(self, script: str) -> None:
        """Do what *script* says: verbs and their words, separated by commas."""
        for step in filter(None, map(str.strip, script.split(","))):
            verb, *words = step.split()
            getattr(self, verb)(*words)

    # The source

    def at(self, path: str) -> Entry:
        entry = self.inodes.root.entry
        for name in filter(None, path.split("/")):
            below = self.inodes.peek(entry.inode, name.encode())
            assert below is not None, f"there is no {path}"
            entry = below
        return entry

    def of(self, word: str) -> Entry:
        """The entry of a handle, or else of a path."""
        return self.handles[word][0] if word in self.handles else self.at(word)

    def _place(self, path: str) -> tuple[Inode, bytes]:
        directory, _, name = path.rpartition("/")
        return self.at(directory).inode, name.encode()

    def _enter(self, path: str, ino: int, *, is_dir: bool = False) -> Entry:
        entry = self.inodes.enter(*self._place(path), 1, ino, is_dir=is_dir)
        entry.inode.lookups += 1
        self._links[entry.inode] += 1
        return entry

    def tell(
        self,
        operation: Operation,
        entry: Entry,
        rename: Rename | None = None,
        *,
        actor: Actor | None = None,
        dies: bool = False,
    ) -> None:
        self.changes.tell(Change(operation, entry, actor or Nobody(), rename, dies=dies))

    def make(self, path: str) -> None:
        self.tell("make", self._enter(path, next(self._numbers)))

    def mkdir(self, path: str) -> None:
        self.tell("make", self._enter(path, next(self._numbers), is_dir=True))

    def create(self, path: str, handle: str = "") -> None:
        entry = self._enter(path, next(self._numbers))
        self._use(entry, handle or path, writable=True)
        self.tell("create", entry)

    def link(self, old: str, new: str) -> None:
        self.tell("link", self._enter(new, self.at(old).inode.ino))

    def unlink(self, path: str) -> None:
        entry = self.at(path)
        self.tell("unlink", entry, dies=self.gone(entry))
        self._forgotten(entry.inode)

    def rmdir(self, path: str) -> None:
        entry = self.at(path)
        self.tell("rmdir", entry, dies=self.gone(entry))
        self._forgotten(entry.inode)

    def gone(self, entry: Entry) -> bool:
        """Take *entry* away; whether its inode dies of it."""
        self._links[entry.inode] -= 1
        return self.inodes.remove(entry, self._links[entry.inode])

    def _forgotten(self, *inodes: Inode) -> None:
        """The kernel says FORGET of what has neither a name nor a use any more."""
        for inode in inodes:
            used = any(entry.uses for entry in inode.names or (inode.entry,))
            if (
                inode.gone
                and not used
                and inode not in self.held.values()
                and self.inodes.forget(inode, inode.lookups)
                and self.watches.forgotten(inode)
            ):
                self.tell("die", inode.entry, dies=True)

    def rename(self, old: str, new: str) -> None:
        entry, (source, was), (target, name) = self.at(old), self._place(old), self._place(new)
        victim = self.inodes.peek(target, name)
        dies = victim is not None and self.gone(victim)
        self.inodes.move(entry, target, name)
        replaced = victim.inode if victim else None
        self.tell("rename", entry, Rename(source, was, replaced, victim_dies=dies))
        if replaced is not None:
            self._forgotten(replaced)

    def exchange(self, one: str, two: str) -> None:
        entries, places = (self.at(one), self.at(two)), (self._place(one), self._place(two))
        self.inodes.exchange(*entries)
        for entry, place in zip(entries, places, strict=True):
            self.tell("rename", entry, Rename(*place))

    # Open files

    def _use(self, entry: Entry, handle: str, *, writable: bool) -> None:
        self.inodes.use(entry)
        self.handles[handle] = (entry, writable)

    def open(self, path: str, handle: str = "", operation: Operation = "open") -> None:
        self._use(self.at(path), handle or path, writable=False)
        self.tell(operation, self.at(path))

    def edit(self, path: str, handle: str = "") -> None:
        self._use(self.at(path), handle or path, writable=True)
        self.tell("open", self.at(path))

    def empty(self, path: str) -> None:
        self.open(path, operation="open and truncate")

    def read(self, handle: str) -> None:
        self.tell("read", self.handles[handle][0])

    def write(self, handle: str) -> None:
        self.tell("write", self.handles[handle][0])

    def close(self, handle: str) -> None:
        entry, writable = self.handles.pop(handle)
        self.tell("close after writing" if writable else "close", entry)
        died = self.inodes.drop(entry)
        for inode in died:
            self.tell("die", inode.entry, dies=True)
        self._forgotten(*died)

    def hold(self, path: str) -> None:
        """Open with O_PATH, or make it the working directory: FUSE is not told."""
        self.held[path] = self.at(path).inode

    def reopen(self, path: str, handle: str) -> None:
        """Open through /proc/self/fd what is held."""
        entry = self.held[path].entry
        self._use(entry, handle, writable=False)
        self.tell("open", entry)

    def release(self, path: str) -> None:
        self._forgotten(self.held.pop(path))

    def setattr(self, word: str, *fields: str) -> None:
        told = {name: name in fields for name in ("size", "atime", "mtime")}
        operation = setattr_operation(**told, mode_or_owner="mode" in fields or "owner" in fields)
        if operation is not None:
            self.tell(operation, self.of(word))

    # Deaths in doubt

    def _doubt(self, undecided: Callable[[], None]) -> Gate:
        self.doubts.append(Gate(undecided))
        return self.doubts[-1]

    @property
    def undecided(self) -> list[Gate]:
        """The gates of the deaths that are in doubt."""
        return [gate for gate in self.doubts if gate.shut]

    def give_up(self) -> None:
        """Nothing has decided in time."""
        for gate in self.undecided:
            gate.expire()

    # Subscribers

    def subscribe(self, uid: int = 0) -> Instance:
        instance = Instance(uid, Queue(self.limit, lambda: 0), lambda: None)
        self.watches.open(instance)
        return instance

    def watch(self, label: str, path: str, mask: str = "ALL_EVENTS") -> None:
        bits = 0
        for word in mask.split("|"):
            bits |= getattr(flags, word)
        self.labels[self.watches.add(self.instance, self.of(path).inode, bits)] = label

    def unwatch(self, label: str) -> None:
        wd = max(wd for wd, known in self.labels.items() if known == label)
        self.watches.remove(self.instance, wd, Nobody())

    def unmount(self) -> None:
        self.watches.unmount(Nobody())

    def records(self, instance: Instance | None = None) -> list[Record]:
        return [item.record for item in (instance or self.instance).queue.take(1 << 62)]

    def heard(self) -> list[str]:
        """What may be read, written as parity.md writes it: ``D:MOVED_TO b c1``, cookies by their order."""
        lines, cookies = [], {0: ""}
        for wd, mask, cookie, name in self.records():
            seen = cookies.setdefault(cookie, f"c{len(cookies)}")
            words = (f"{self.labels.get(wd, wd)}:{flags.spell(mask)}", name.decode(), seen)
            lines.append(" ".join(filter(None, words)))
        return lines

    def stamped(self) -> list[tuple[str, Origin | None]]:
        return [(str(item.record), item.origin) for item in self.instance.queue.take(1 << 62)]


def planted(limit: int = 16384, *, start: int = 1, max_user_watches: int = 1048576) -> Tree:
    """A root, a directory s with a file f in it, and a file f: unwatched."""
    tree = Tree(limit, start=start, limits=Limits(max_user_watches=max_user_watches))
    tree.play("mkdir s, make s/f, make f")
    return tree


def numbered(error: int) -> pytest.RaisesExc[OSError]:
    """OSError with this errno is expected."""
    return pytest.RaisesExc(OSError, check=lambda caught: caught.errno == error)


def add(tree: Tree, path: str, mask: int, instance: Instance | None = None) -> int:
    return tree.watches.add(instance or tree.instance, tree.at(path).inode, mask)


def recount(tree: Tree) -> tuple[int, int, int]:
    """The watches, those of subtrees and those with origins, counted one by one."""
    masks = [watch.mask for instance in tree.watches.instances for watch in instance.watches.values()]
    return len(masks), sum(bool(m & flags.X_RECURSIVE) for m in masks), sum(bool(m & flags.X_ORIGIN) for m in masks)


def counted(tree: Tree) -> tuple[int, int, int]:
    """The same, as the accounts have them."""
    accounts = tree.watches.accounts
    return accounts.watches, accounts.recursive, accounts.origins
