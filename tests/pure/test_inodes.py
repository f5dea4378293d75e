"""The table of inodes: names, lookups, uses, and who dies when."""

from __future__ import annotations

import errno
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from notifyfs.core.inodes import ROOT, Inodes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.core.watches import Watches
from notifyfs.protocol import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.inodes import Entry, Inode
    from notifyfs.protocol.records import Origin

DEVICE, ROOT_INO = 7, 2


class Table(Inodes):
    """The table, called as the shells call it: every name that is seen is looked up by the kernel as well."""

    def __init__(self) -> None:
        self.left: list[Inode] = []
        super().__init__(DEVICE, ROOT_INO, self.left.append)

    def see(self, parent: Inode, name: bytes, ino: int, *, is_dir: bool = False, device: int = DEVICE) -> Entry:
        entry = self.enter(parent, name, device, ino, is_dir=is_dir)
        entry.inode.lookups += 1
        return entry

    def close(self, entry: Entry) -> list[Inode]:
        """The last close of a descriptor that came through *entry*."""
        died = self.drop(entry)
        self.reap(entry.inode)
        self.reap(entry.parent)
        return died

    def forget_all(self, *inodes: Inode) -> None:
        for inode in inodes:
            assert self.forget(inode, inode.lookups)


@pytest.fixture
def table() -> Table:
    return Table()


def above(inode: Inode) -> list[Inode]:
    """The directories above *inode*, up to the root; AssertionError where they lead round in a circle."""
    places: list[Inode] = []
    while inode.entry.name:
        inode = inode.entry.parent
        assert inode not in places, f"{inode} is above itself"
        places.append(inode)
    return places


# Numbers


def test_the_root_is_number_one(table: Table) -> None:
    assert table[ROOT] is table.root
    assert table.find(DEVICE, ROOT_INO) is table.root
    assert len(table) == 1


def test_an_inode_keeps_the_number_that_the_source_gave_it(table: Table) -> None:
    assert table.see(table.root, b"f", 10).inode.number == 10
    assert table[10] is table.find(DEVICE, 10)


@pytest.mark.parametrize(("device", "ino"), [(DEVICE, 1), (DEVICE + 1, 10), (DEVICE + 1, ROOT_INO)])
def test_a_number_that_is_taken_or_of_another_device_is_replaced(table: Table, device: int, ino: int) -> None:
    mine, other = table.see(table.root, b"f", 10).inode, table.see(table.root, b"o", ino, device=device).inode
    assert other.number >= 1 << 63
    assert table[other.number] is table.find(device, ino) is other
    assert table.find(DEVICE, 10) is mine


def test_a_file_that_took_the_number_of_a_removed_one_is_another_file(table: Table) -> None:
    old = table.see(table.root, b"f", 10)
    table.remove(old, 0)
    new = table.see(table.root, b"f", 10).inode
    assert new is not old.inode
    assert new.number != old.inode.number
    assert table.find(DEVICE, 10) is new
    table.forget_all(old.inode)
    assert table.find(DEVICE, 10) is new


def test_an_unknown_node_is_stale(table: Table) -> None:
    assert table.get(10) is None
    with pytest.raises(OSError, match="unknown node") as caught:
        table[10]
    assert caught.value.errno == errno.ESTALE


# Names


def test_a_name_seen_again_is_the_same_entry(table: Table) -> None:
    entry = table.enter(table.root, b"f", DEVICE, 10, is_dir=False)
    assert table.enter(table.root, b"f", DEVICE, 10, is_dir=False) is entry
    assert table.peek(table.root, b"f") is entry
    assert table.peek(table.root, b"g") is None


def test_hard_links_are_several_names_of_one_inode(table: Table) -> None:
    a, b = table.see(table.root, b"a", 10), table.see(table.root, b"b", 10)
    assert a.inode is b.inode
    assert a.inode.names == [a, b]
    assert table.remove(a, 1) is False
    assert a.inode.names is None
    assert a.inode.entry is b


def test_a_rename_moves_the_entry_itself(table: Table) -> None:
    directory = table.see(table.root, b"d", 20, is_dir=True).inode
    entry = table.see(table.root, b"a", 10)
    table.move(entry, directory, b"b")
    assert (entry.parent, entry.name, entry.live) == (directory, b"b", True)
    assert table.peek(table.root, b"a") is None
    assert table.peek(directory, b"b") is entry


def test_an_exchange_swaps_both_places(table: Table) -> None:
    directory = table.see(table.root, b"d", 20, is_dir=True).inode
    a, b = table.see(table.root, b"a", 10), table.see(directory, b"b", 11)
    table.exchange(a, b)
    assert table.peek(table.root, b"a") is b
    assert table.peek(directory, b"b") is a
    assert (a.parent, a.name, b.parent, b.name) == (directory, b"b", table.root, b"a")


def test_the_youngest_comes_first(table: Table) -> None:
    made = [table.see(table.root, b"%d" % ino, ino).inode for ino in (30, 10, 20)]
    assert table.newest_first() == [*reversed(made), table.root]


# Deaths: parity U1 to U9


def test_a_file_dies_with_its_last_name(table: Table) -> None:
    assert table.remove(table.see(table.root, b"f", 10), 0) is True


def test_a_file_with_a_link_left_lives(table: Table) -> None:
    assert table.remove(table.see(table.root, b"f", 10), 1) is False


def test_an_open_file_dies_when_it_is_closed(table: Table) -> None:
    entry = table.see(table.root, b"f", 10)
    entry.uses += 1
    assert table.remove(entry, 0) is False
    assert table.close(entry) == [entry.inode]


def test_a_file_open_through_a_name_removed_earlier_dies_with_its_last_name(table: Table) -> None:
    a, b = table.see(table.root, b"a", 10), table.see(table.root, b"b", 10)
    a.uses += 1
    assert table.remove(a, 1) is False
    assert table.remove(b, 0) is True


def test_a_removed_directory_lives_while_a_removed_file_of_it_is_open(table: Table) -> None:
    outer = table.see(table.root, b"s", 20, is_dir=True)
    inner = table.see(outer.inode, b"t", 21, is_dir=True)
    file = table.see(inner.inode, b"f", 10)
    file.uses += 1
    assert [table.remove(entry, 0) for entry in (file, inner, outer)] == [False] * 3
    assert table.close(file) == [file.inode, inner.inode, outer.inode]


def test_closing_one_of_two_descriptors_ends_nothing(table: Table) -> None:
    entry = table.see(table.root, b"f", 10)
    entry.uses += 2
    table.remove(entry, 0)
    assert table.close(entry) == []
    assert table.close(entry) == [entry.inode]


# Memory


def test_an_inode_is_dropped_with_its_last_lookup_and_its_directories_with_it(table: Table) -> None:
    directory = table.see(table.root, b"d", 20, is_dir=True).inode
    file = table.see(directory, b"f", 10).inode
    table.forget_all(directory)
    assert len(table) == 3
    table.forget_all(file)
    assert table.left == [file, directory]
    assert len(table) == 1


def test_a_file_with_names_in_two_directories_takes_both_along(table: Table) -> None:
    one, two = (table.see(table.root, name, ino, is_dir=True).inode for name, ino in ((b"1", 20), (b"2", 21)))
    file = table.see(one, b"a", 10).inode
    table.see(two, b"b", 10)
    table.forget_all(one, two, file)
    assert len(table) == 1


def test_an_open_file_is_kept_although_its_forget_came_before_its_release(table: Table) -> None:
    """FORGET has a queue of its own (measured), and the name that a file was opened by need not be its only one."""
    table.see(table.root, b"a", 10)
    entry = table.see(table.root, b"b", 10)
    entry.uses += 1
    table.forget_all(entry.inode)
    assert table.get(10) is entry.inode
    table.close(entry)
    assert table.get(10) is None


def test_what_is_looked_up_twice_is_forgotten_twice(table: Table) -> None:
    table.see(table.root, b"f", 10)
    inode = table.see(table.root, b"f", 10).inode
    assert table.forget(inode, 1) is False
    assert table.get(10) is inode
    assert table.forget(inode, 1) is True
    assert table.get(10) is None


def as_operations_closes(table: Table, entry: Entry) -> None:
    """``Operations._close``, without the telling."""
    table.drop(entry)
    table.reap(entry.inode)
    table.reap(entry.parent)


def test_a_directory_goes_when_the_last_file_opened_in_it_is_closed(table: Table) -> None:
    """d/a and b are one file; d/a is open and removed; d's FORGET overtakes the RELEASE, as measured."""
    directory = table.see(table.root, b"d", 20, is_dir=True)
    a = table.see(directory.inode, b"a", 10)
    b = table.see(table.root, b"b", 10)
    a.uses += 1
    table.remove(a, 1)
    table.remove(directory, 0)
    table.forget_all(directory.inode)
    as_operations_closes(table, a)
    table.forget_all(b.inode)
    assert len(table) == 1


def test_a_removed_file_that_is_opened_again_leaves_its_directory_counted_right(table: Table) -> None:
    """A removed working directory is listed, or an O_PATH descriptor is opened through /proc/self/fd: then closed."""
    directory = table.see(table.root, b"d", 20, is_dir=True)
    file = table.see(directory.inode, b"f", 10)
    table.remove(file, 0)
    table.use(file)
    table.close(file)
    assert directory.uses == 0
    assert table.remove(directory, 0) is True


# Behind the mount's back


def test_a_name_that_leads_to_another_file_now_is_another_entry(table: Table) -> None:
    old = table.see(table.root, b"f", 10)
    new = table.see(table.root, b"f", 11)
    assert not old.live
    assert table.peek(table.root, b"f") is new


def test_a_name_that_is_gone_is_forgotten(table: Table) -> None:
    old = table.see(table.root, b"f", 10)
    table.vanish(table.root, b"f")
    table.vanish(table.root, b"never seen")
    assert not old.live
    assert table.peek(table.root, b"f") is None


def test_a_number_of_another_kind_is_another_inode(table: Table) -> None:
    file = table.see(table.root, b"f", 10).inode
    directory = table.see(table.root, b"d", 10, is_dir=True).inode
    assert directory is not file
    assert table.find(DEVICE, 10) is directory


def test_a_moved_directory_keeps_its_inode_and_what_is_below_it(table: Table) -> None:
    directory = table.see(table.root, b"d", 20, is_dir=True)
    child = table.see(directory.inode, b"f", 10)
    assert table.see(table.root, b"e", 20, is_dir=True) is directory
    assert table.peek(table.root, b"d") is None
    assert above(child.inode) == [directory.inode, table.root]


def test_a_directory_moved_into_its_own_child_is_not_above_itself(table: Table) -> None:
    """a/b became b/a, and the kernel still walks a/b/a."""
    a = table.see(table.root, b"a", 20, is_dir=True)
    b = table.see(a.inode, b"b", 21, is_dir=True)
    again = table.see(b.inode, b"a", 20, is_dir=True)
    assert table.root in above(again.inode)


def test_a_bind_mount_of_the_source_in_itself_is_not_above_itself(table: Table) -> None:
    """The same device and inode number, below itself: what a chroot with a bind mount looks like."""
    directory = table.see(table.root, b"chroot", 20, is_dir=True).inode
    table.see(directory, b"mnt", ROOT_INO, is_dir=True)
    assert table.root in above(directory)
    assert table.root.entry.name == b""


def test_a_directory_that_another_was_moved_out_of_does_not_stay_for_that(table: Table) -> None:
    old, new = (table.see(table.root, name, ino, is_dir=True).inode for name, ino in ((b"old", 20), (b"new", 21)))
    moved = table.see(old, b"s", 22, is_dir=True).inode
    table.forget_all(old)
    table.see(new, b"s", 22, is_dir=True)
    table.forget_all(moved, new)
    assert len(table) == 1


def test_an_open_directory_that_vanished_and_is_found_again_does_not_hold_its_old_place(table: Table) -> None:
    old, new = (table.see(table.root, name, ino, is_dir=True) for name, ino in ((b"old", 20), (b"new", 21)))
    moved = table.see(old.inode, b"s", 22, is_dir=True)
    moved.uses += 1
    table.vanish(old.inode, b"s")
    table.see(new.inode, b"s", 22, is_dir=True)
    table.close(moved)
    assert old.uses == 0
    assert table.remove(old, 0) is True


def test_a_tree_removed_behind_an_open_file_leaves_the_directory_above_counted_right(table: Table) -> None:
    above_it = table.see(table.root, b"d", 20, is_dir=True)
    directory = table.see(above_it.inode, b"s", 21, is_dir=True)
    file = table.see(directory.inode, b"f", 10)
    file.uses += 1
    table.vanish(above_it.inode, b"s")
    table.vanish(directory.inode, b"f")
    table.close(file)
    assert above_it.uses == 0


# Against a naive model


class Nobody:
    """Who did it; no watch here asks."""

    def origin(self, sequence: int) -> Origin:
        raise NotImplementedError(sequence)


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
        self.watches = Watches(self.table)
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
