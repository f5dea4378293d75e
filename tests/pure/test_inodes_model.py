"""The table of inodes against a naive model of names."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from notifyfs.core.changes import Changes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.core.watches import Watches
from notifyfs.protocol import flags
from tests.support.table import DEVICE, ROOT_INO, Table, above
from tests.support.tree import Gate, Nobody

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.entries import Entry, Inode


@attrs.define(eq=False)
class File:
    """A file of the source, as the model knows it."""

    ino: int
    is_dir: bool
    inode: Inode
    lookups: int = 0
    wd: int = 0
    gone: bool = False
    lost: bool = False  # a name of it was removed behind the mount: nobody can tell whether it is the last


@attrs.define(eq=False)
class Name:
    """A dentry."""

    parent: File | None
    name: bytes
    file: File
    entry: Entry
    live: bool = True
    handles: int = 0


class AgainstNames(RuleBasedStateMachine):
    """Everything that the mount and the source can do, in any order; who holds whom is found anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.watches = Watches(self.table, Changes(), doubt=Gate)
        self.instance = Instance(0, Queue(1, lambda: 0), lambda: None)
        self.watches.open(self.instance)
        self.inos = itertools.count(10)
        self.free: list[int] = []
        self.root = File(ROOT_INO, is_dir=True, inode=self.table.root)
        self.files = {self.root}
        self.names = [Name(None, b"", self.root, self.table.root.entry)]
        self.source: dict[tuple[File, bytes], File] = {}

    # The model: everything is counted anew each time.

    def held(self, name: Name) -> bool:
        return name.handles > 0 or any(
            not other.live and other.parent is name.file and self.held(other) for other in self.names
        )

    def remembered(self) -> set[File]:
        found = {self.root, *(file for file in self.files if file.lookups or file.wd)}
        found |= {name.file for name in self.names if self.held(name)}
        while more := {n.parent for n in self.names if n.live and n.parent and n.file in found} - found:
            found |= more
        return found

    def prune(self) -> None:
        """What nothing remembers loses its names, and a dead name that nothing holds is no more."""
        self.files = self.remembered()
        self.names = [
            name
            for name in self.names
            if name.file in self.files and (name.live or self.held(name) or name.entry is name.file.inode.entry)
        ]

    def known(self, parent: File, name: bytes) -> Name | None:
        return next((n for n in self.names if n.live and n.parent is parent and n.name == name), None)

    def links(self, file: File) -> int:
        return list(self.source.values()).count(file)

    def look(self, parent: File, name: bytes) -> Name:
        """The kernel has (parent, name) looked up, which is in the source."""
        file = self.source[parent, name]
        entry = self.table.see(parent.inode, name, file.ino, is_dir=file.is_dir)
        known = self.known(parent, name)
        if known is not None and known.file is not file:
            known.live = False
            known.file.lost = True
            known = None
        if known is None:
            known = Name(parent, name, file, entry)
            self.names.append(known)
        file.inode = entry.inode
        file.lookups += 1
        self.files.add(file)
        assert entry.inode.lookups == file.lookups, f"{entry} is not the file that was known before"
        known.entry = entry
        return known

    def bury(self, name: Name) -> bool:
        """A name was removed through the mount: whether its file dies now."""
        del self.source[name.parent, name.name]  # type: ignore[arg-type] - only the root has no parent
        name.live = False
        links = self.links(name.file)
        name.file.gone = name.file.is_dir or links == 0
        dies = self.table.remove(name.entry, links)
        assert dies == (name.file.gone and not self.held(name))
        if name.file.gone and not name.file.lost:
            self.free.append(name.file.ino)
        return dies

    # What to do it to

    def directories(self) -> list[File]:
        """Those that a process can name: the kernel knows them and they are not removed."""
        return [f for f in self.remembered() if f.is_dir and not f.gone and (f is self.root or f.lookups)]

    def a_directory(self, data: st.DataObject) -> File:
        return data.draw(st.sampled_from(sorted(self.directories(), key=lambda file: file.ino)))

    def a_free_name(self, data: st.DataObject) -> tuple[File, bytes] | None:
        parent, name = self.a_directory(data), data.draw(st.sampled_from([b"a", b"b", b"c"]))
        return None if (parent, name) in self.source else (parent, name)

    def a_name(self, data: st.DataObject, suits: Callable[[File], bool] = lambda _: True) -> Name | None:
        """A name of the source, freshly looked up."""
        directories = self.directories()
        found = [place for place, file in self.source.items() if place[0] in directories and suits(file)]
        if not found:
            return None
        return self.look(*data.draw(st.sampled_from(found)))

    def is_empty(self, file: File) -> bool:
        return not any(parent is file for parent, _ in self.source)

    def is_above(self, file: File, place: File) -> bool:
        while place is not file and place is not self.root:
            place = next(parent for (parent, _), found in self.source.items() if found is place)
        return place is file

    # The rules

    @rule(data=st.data(), is_dir=st.booleans(), reuse=st.booleans())
    def make(self, data: st.DataObject, *, is_dir: bool, reuse: bool) -> None:
        if place := self.a_free_name(data):
            ino = self.free.pop() if reuse and self.free else next(self.inos)
            self.source[place] = File(ino, is_dir, self.table.root)
            self.look(*place)

    @rule(data=st.data())
    def link(self, data: st.DataObject) -> None:
        name, place = self.a_name(data, lambda file: not file.is_dir), self.a_free_name(data)
        if name and place:
            self.source[place] = name.file
            self.look(*place)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if name := self.a_name(data, self.is_empty):
            self.bury(name)
            self.table.reap(name.entry.inode)

    @rule(data=st.data(), victim=st.booleans())
    def rename(self, data: st.DataObject, *, victim: bool) -> None:
        name = self.a_name(data)
        parent, new = self.a_directory(data), data.draw(st.sampled_from([b"a", b"b", b"c"]))
        if name is None or (name.file.is_dir and self.is_above(name.file, parent)):
            return
        replaced = self.source.get((parent, new))
        if replaced is not None:
            suits = replaced is not name.file and replaced.is_dir == name.file.is_dir and self.is_empty(replaced)
            if not (victim and suits):
                return
            over = self.look(parent, new)
            self.bury(over)
        elif self.known(parent, new):
            self.missing(parent, new)
        assert name.parent is not None
        self.source[parent, new] = self.source.pop((name.parent, name.name))
        self.table.move(name.entry, parent.inode, new)
        name.parent, name.name = parent, new
        if replaced is not None:
            self.table.reap(over.entry.inode)

    @rule(data=st.data())
    def exchange(self, data: st.DataObject) -> None:
        one, two = self.a_name(data), self.a_name(data)
        if one is None or two is None or one is two or one.parent is None or two.parent is None:
            return
        if self.is_above(one.file, two.parent) or self.is_above(two.file, one.parent):
            return
        places = (one.parent, one.name), (two.parent, two.name)
        self.source[places[0]], self.source[places[1]] = two.file, one.file
        self.table.exchange(one.entry, two.entry)
        (one.parent, one.name), (two.parent, two.name) = reversed(places)

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        if name := self.a_name(data):
            name.handles += 1
            self.table.use(name.entry)

    @rule(data=st.data())
    def open_again(self, data: st.DataObject) -> None:
        """What was removed can be reached by an O_PATH descriptor or as the working directory."""
        dead = [
            name for name in self.names if name.file.gone and name.file.lookups and name.entry is name.file.inode.entry
        ]
        if dead:
            name = data.draw(st.sampled_from(dead))
            name.handles += 1
            self.table.use(name.entry)

    @precondition(lambda self: any(name.handles for name in self.names))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        self._close(data.draw(st.sampled_from([name for name in self.names if name.handles])))

    def _close(self, name: Name) -> None:
        name.handles -= 1
        expected: list[File] = []
        ended: Name | None = name
        while ended is not None and not ended.live and not self.held(ended):
            if ended.file.gone:
                expected.append(ended.file)
            ended = next(n for n in self.names if n.file is ended.parent)  # a directory has one name
        assert self.table.close(name.entry) == [file.inode for file in expected]

    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        if name := self.a_name(data):
            name.file.wd = self.watches.add(self.instance, name.file.inode, flags.MODIFY)

    @rule(data=st.data())
    def unwatch(self, data: st.DataObject) -> None:
        watched = [file for file in self.remembered() if file.wd]
        if watched:
            self._unwatch(data.draw(st.sampled_from(sorted(watched, key=lambda file: file.wd))))

    def _unwatch(self, file: File) -> None:
        self.watches.remove(self.instance, file.wd, Nobody())
        file.wd = 0

    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """At any time: FORGET has a queue of its own and overtakes RELEASE."""
        known = [file for file in self.remembered() if file.lookups]
        if known:
            file = data.draw(st.sampled_from(sorted(known, key=lambda file: file.inode.number)))
            self._forget(file, data.draw(st.integers(1, file.lookups)))

    def _forget(self, file: File, count: int) -> None:
        file.lookups -= count
        assert self.table.forget(file.inode, count) == (file.lookups == 0)

    # Behind the mount: files only

    @rule(data=st.data())
    def remove_behind(self, data: st.DataObject) -> None:
        files = [place for place, file in self.source.items() if not file.is_dir]
        if files:
            self.source.pop(data.draw(st.sampled_from(files))).lost = True

    @rule(data=st.data())
    def look_in_vain(self, data: st.DataObject) -> None:
        if place := self.a_free_name(data):
            self.missing(*place)

    def missing(self, parent: File, name: bytes) -> None:
        if known := self.known(parent, name):
            known.live = False
        self.table.vanish(parent.inode, name)

    # What must hold

    @invariant()
    def the_table_is_what_the_model_remembers(self) -> None:
        self.prune()
        remembered = self.remembered()
        for file in remembered:
            assert self.table.get(file.inode.number) is file.inode, f"{file.inode} was dropped"
            assert file.inode.lookups == file.lookups
            if not file.gone:
                assert self.table.find(DEVICE, file.ino) is file.inode
        assert len(self.table) == len(remembered), f"{self.table.newest_first()} are kept for nothing"
        assert len({file.inode.number for file in remembered}) == len(remembered)

    @invariant()
    def every_name_is_where_it_should_be(self) -> None:
        self.prune()
        live: Counter[File | None] = Counter()
        for name in self.names:
            assert name.entry.live == name.live
            assert name.entry.name == name.name
            assert name.entry.inode is name.file.inode
            if name.parent and name.live:
                assert self.table.peek(name.parent.inode, name.name) is name.entry
                assert name.file.inode.entry.live, f"{name.file.inode} has a live name and goes by a dead one"
                live[name.parent] += 1
        for file in self.remembered():
            assert len(file.inode.children or {}) == live[file]
            names = file.inode.names
            assert file.inode.used == (None if names is None else {name: None for name in names if name.uses})
            assert file.inode.in_use == any(name.uses for name in names or (file.inode.entry,))
            above(file.inode)

    @invariant()
    def what_left_the_table_left_it_once(self) -> None:
        assert len(set(self.table.left)) == len(self.table.left)
        assert not set(self.table.left) & set(self.table.newest_first())

    def teardown(self) -> None:
        """When everything is closed, unwatched and forgotten, only the root is left."""
        if not hasattr(self, "table"):
            return
        for name in list(self.names):
            for _ in range(name.handles):
                self._close(name)
        for file in self.files:
            if file.wd:
                self._unwatch(file)
        for file in self.files:
            if file.lookups:
                self._forget(file, file.lookups)
        assert self.table.newest_first() == [self.table.root]
        assert self.table.root.entry.uses == 0
        assert not self.table.root.children


TestAgainstNames: Any = AgainstNames.TestCase
TestAgainstNames.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
