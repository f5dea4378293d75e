"""The table of inodes: names, lookups, uses, and who dies when."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.inodes import ROOT
from tests.support.table import DEVICE, ROOT_INO, Table, above

if TYPE_CHECKING:
    from notifyfs.core.entries import Entry


@pytest.fixture
def table() -> Table:
    return Table()


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
    assert [*(a.inode.names or ())] == [a, b]
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
    table.use(entry)
    assert table.remove(entry, 0) is False
    assert table.close(entry) == [entry.inode]


def test_a_file_open_through_a_name_removed_earlier_dies_with_its_last_name(table: Table) -> None:
    a, b = table.see(table.root, b"a", 10), table.see(table.root, b"b", 10)
    table.use(a)
    assert table.remove(a, 1) is False
    assert table.remove(b, 0) is True


def test_a_removed_directory_lives_while_a_removed_file_of_it_is_open(table: Table) -> None:
    outer = table.see(table.root, b"s", 20, is_dir=True)
    inner = table.see(outer.inode, b"t", 21, is_dir=True)
    file = table.see(inner.inode, b"f", 10)
    table.use(file)
    assert [table.remove(entry, 0) for entry in (file, inner, outer)] == [False] * 3
    assert table.close(file) == [file.inode, inner.inode, outer.inode]


def test_closing_one_of_two_descriptors_ends_nothing(table: Table) -> None:
    entry = table.see(table.root, b"f", 10)
    table.use(entry)
    table.use(entry)
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
    table.use(entry)
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
    table.use(a)
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
    table.use(moved)
    table.vanish(old.inode, b"s")
    table.see(new.inode, b"s", 22, is_dir=True)
    table.close(moved)
    assert old.uses == 0
    assert table.remove(old, 0) is True


def test_a_tree_removed_behind_an_open_file_leaves_the_directory_above_counted_right(table: Table) -> None:
    above_it = table.see(table.root, b"d", 20, is_dir=True)
    directory = table.see(above_it.inode, b"s", 21, is_dir=True)
    file = table.see(directory.inode, b"f", 10)
    table.use(file)
    table.vanish(above_it.inode, b"s")
    table.vanish(directory.inode, b"f")
    table.close(file)
    assert above_it.uses == 0
