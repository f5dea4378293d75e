"""Who hears what: watch descriptors, masks, limits, delivery."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.core.accounts import Limits
from notifyfs.core.instances import Instance
from notifyfs.core.queue import OVERFLOW, Queue
from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from tests.support.tree import Nobody, Stamp, Tree, add, counted, numbered, planted, recount

if TYPE_CHECKING:
    from pathlib import Path

    from notifyfs.core.entries import Inode


# Watch descriptors: parity P5 to P10


def test_watch_descriptors_count_from_one_and_are_not_reused(tree: Tree) -> None:
    assert [add(tree, "f", flags.OPEN), add(tree, "s", flags.OPEN)] == [1, 2]
    tree.watches.remove(tree.instance, 1, Nobody())
    assert add(tree, "f", flags.OPEN) == 3
    assert add(tree, "f", flags.OPEN, tree.subscribe()) == 1


def test_one_inode_has_one_watch_by_whatever_name(tree: Tree) -> None:
    tree.play("link f g")
    assert add(tree, "f", flags.OPEN) == add(tree, "g", flags.MODIFY) == 1


@pytest.mark.parametrize("flag", [flags.ONESHOT, flags.EXCL_UNLINK, flags.X_RECURSIVE, flags.X_ORIGIN, flags.OPEN])
def test_watching_again_replaces_the_mask_and_mask_add_adds_to_it(tree: Tree, flag: int) -> None:
    add(tree, "s", flags.MODIFY | flag)
    add(tree, "s", flags.MODIFY)
    (watch,) = tree.instance.watches.values()
    assert watch.mask == flags.MODIFY
    add(tree, "s", flag | flags.MASK_ADD)
    assert watch.mask == flags.MODIFY | flag


def test_mask_create_refuses_what_is_watched_and_leaves_it_as_it_is(tree: Tree) -> None:
    assert add(tree, "f", flags.OPEN | flags.MASK_CREATE) == 1
    with numbered(errno.EEXIST):
        add(tree, "f", flags.MODIFY | flags.MASK_CREATE)
    tree.play("open f, setattr f mtime")
    assert tree.records() == [Record(1, flags.OPEN)]


@pytest.mark.parametrize("mask", [0, flags.X_REPLY, flags.MASK_ADD | flags.MASK_CREATE | flags.OPEN])
def test_a_mask_that_means_nothing_is_refused(tree: Tree, mask: int) -> None:
    with numbered(errno.EINVAL):
        add(tree, "f", mask)


@pytest.mark.parametrize("bit", range(32))
def test_any_single_known_bit_is_a_mask_and_any_unknown_one_spoils_it(tree: Tree, bit: int) -> None:
    if 1 << bit & flags.WATCH_BITS:
        assert add(tree, "s", 1 << bit) == 1
    else:
        with numbered(errno.EINVAL):
            add(tree, "s", 1 << bit | flags.OPEN)


@pytest.mark.parametrize("mask", [flags.ONLYDIR | flags.OPEN, flags.X_RECURSIVE | flags.OPEN])
def test_what_is_for_directories_is_refused_to_a_file(tree: Tree, mask: int) -> None:
    assert add(tree, "s", mask) == 1
    with numbered(errno.ENOTDIR):
        add(tree, "f", mask)


@pytest.mark.parametrize("wd", [0, -1, 2])
def test_an_unknown_watch_descriptor_is_refused(tree: Tree, wd: int) -> None:
    add(tree, "f", flags.OPEN)
    with numbered(errno.EINVAL):
        tree.watches.remove(tree.instance, wd, Nobody())


@pytest.mark.parametrize("ending", ["open f", "unlink f", "unwatch F", "unmount"])
def test_a_watch_that_ended_is_unknown_and_silent(tree: Tree, ending: str) -> None:
    tree.play(f"watch F f OPEN|ONESHOT, {ending}")
    assert tree.heard()[-1] == "F:IGNORED"
    assert recount(tree) == (0, 0, 0)
    with numbered(errno.EINVAL):
        tree.watches.remove(tree.instance, 1, Nobody())


# Limits: parity P11


def test_a_user_has_so_many_instances() -> None:
    tree = Tree(limits=Limits(max_user_instances=2))
    second = tree.subscribe()
    with numbered(errno.EMFILE):
        tree.subscribe()
    tree.subscribe(uid=1000)
    tree.watches.close(second)
    tree.subscribe()


def test_a_user_has_so_many_watches_in_all_instances() -> None:
    tree = planted(max_user_watches=2)
    second = tree.subscribe()
    add(tree, "s", flags.OPEN)
    add(tree, "s", flags.OPEN, second)
    with numbered(errno.ENOSPC):
        add(tree, "f", flags.OPEN)
    assert add(tree, "s", flags.MODIFY) == 1, "changing a watch takes none"
    assert add(tree, "f", flags.OPEN, tree.subscribe(uid=1000)) == 1


@pytest.mark.parametrize("ending", ["unwatch F", "open f", "unlink f"])
def test_a_watch_that_ended_makes_room(ending: str) -> None:
    tree = planted(max_user_watches=1)
    tree.play(f"watch F f OPEN|ONESHOT, {ending}, watch S s")


def test_an_instance_that_closes_makes_room_and_hears_no_more() -> None:
    tree = planted(max_user_watches=1)
    second = tree.subscribe()
    add(tree, "f", flags.OPEN, second)
    tree.watches.close(second)
    tree.watches.close(second)
    tree.play("open f")
    assert tree.records(second) == []
    assert add(tree, "f", flags.OPEN) == 1


def test_a_watch_that_was_refused_for_the_limit_has_used_up_its_number() -> None:
    """Measured (a user namespace, user.max_inotify_watches=2): 1, 2, ENOSPC, ENOSPC; 1 was removed; then came 5."""
    tree = planted(max_user_watches=2)
    tree.play("make g, make h")
    assert [add(tree, path, flags.MODIFY) for path in ("f", "g")] == [1, 2]
    for _ in range(2):
        with numbered(errno.ENOSPC):
            add(tree, "h", flags.MODIFY)
    tree.watches.remove(tree.instance, 1, Nobody())
    assert add(tree, "h", flags.MODIFY) == 5


def test_after_the_last_watch_descriptor_the_lowest_free_ones_come_again(tree: Tree) -> None:
    """As idr_alloc_cyclic(start 1, end 0) gives them; inotify(7), BUGS: the kernel cycles through the range."""
    tree.play("make a, make b, make c, make d")
    assert [add(tree, path, flags.MODIFY) for path in "ab"] == [1, 2]
    tree.watches.remove(tree.instance, 1, Nobody())
    tree.instance.last_wd = 2**31 - 2  # else two thousand million watches
    assert [add(tree, path, flags.MODIFY) for path in "acd"] == [2**31 - 1, 1, 3]
    assert [record.wd for record in tree.records()] == [1], "IGNORED"
    for path in "bacd":
        tree.play(f"edit {path} H, write H, close H")
    assert [record.wd for record in tree.records()] == [2, 2**31 - 1, 1, 3]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["add", "again", "remove", "close"]), st.integers(0, 7))))
def test_the_counts_are_right_whatever_is_added_and_ended(steps: list[tuple[int, str, int]]) -> None:
    tree = Tree()
    for number in range(8):
        tree.mkdir(f"{number}")
    instances = [tree.subscribe(uid) for uid in (0, 0, 1000)]
    extras = [flags.X_RECURSIVE, flags.X_ORIGIN, flags.X_RECURSIVE | flags.X_ORIGIN, 0]
    for which, step, number in steps:
        instance = instances[which]
        if step == "close":
            tree.watches.close(instance)
            instances[which] = tree.subscribe(instance.uid)
        elif step == "remove" and instance.watches:
            tree.watches.remove(instance, list(instance.watches)[number % len(instance.watches)], Stamp(number))
        else:
            mask = flags.OPEN | extras[number % 4] | (flags.MASK_ADD if step == "again" else 0)
            add(tree, f"{number % 5}", mask, instance)
        assert counted(tree) == recount(tree)
    for instance in instances:
        tree.watches.close(instance)
    assert counted(tree) == (0, 0, 0)
    assert not tree.watches.listening


# Delivery


def test_instances_hear_independently(tree: Tree) -> None:
    second = tree.subscribe()
    add(tree, "f", flags.OPEN)
    add(tree, "", flags.OPEN | flags.ACCESS, second)
    tree.play("open f h, read h")
    assert tree.records() == [Record(1, flags.OPEN)]
    assert tree.records(second) == [Record(1, flags.OPEN, 0, b"f"), Record(1, flags.ACCESS, 0, b"f")]


def test_the_bell_rings_for_him_who_hears(tree: Tree) -> None:
    rung: list[str] = []
    for name, path in (("one", "f"), ("other", "s")):
        instance = Instance(0, Queue(10, lambda: 0), lambda name=name: rung.append(name))  # type: ignore[misc]
        tree.watches.open(instance)
        add(tree, path, flags.OPEN, instance)
    tree.play("open f")
    assert rung == ["one"]


def test_a_watch_keeps_its_inode_when_the_kernel_has_forgotten_it(tree: Tree) -> None:
    inode = tree.at("s/f").inode
    wd = add(tree, "s/f", flags.OPEN)
    for known in (inode, inode.entry.parent):
        tree.inodes.forget(known, known.lookups)
    assert tree.at("s/f").inode is inode
    tree.watches.remove(tree.instance, wd, Nobody())
    assert tree.inodes.get(inode.number) is None
    assert tree.inodes.peek(tree.inodes.root, b"s") is None


def test_a_full_queue_does_not_keep_a_oneshot_watch() -> None:
    tree = planted(limit=1)
    tree.play("watch D /, watch F f OPEN|ONESHOT, open f")
    assert tree.records() == [Record(1, flags.OPEN, 0, b"f"), OVERFLOW]
    assert list(tree.instance.watches) == [1]


def test_cookies_are_unique_and_never_zero() -> None:
    tree = planted(start=0xFFFFFFFF - 3)  # three changes plant it
    tree.play("watch D / MOVED_FROM, rename f g, rename g f, rename f g")
    assert [record.cookie for record in tree.records()] == [0xFFFFFFFF, 1, 2]


def test_both_halves_of_a_rename_have_one_cookie_and_the_next_rename_another(tree: Tree) -> None:
    tree.play("watch D / MOVE, rename f g, rename g f")
    first, second, third, fourth = (record.cookie for record in tree.records())
    assert (first, third) == (second, fourth)
    assert first != third


# wanted: whether reads must be told exactly


@pytest.mark.parametrize(
    ("watched", "mask", "wanted"),
    [
        ("s/f", flags.ACCESS, True),
        ("s/f", flags.OPEN, False),
        ("s", flags.ACCESS, True),
        ("", flags.ACCESS, False),
        ("", flags.ACCESS | flags.X_RECURSIVE, True),
        ("", flags.OPEN | flags.X_RECURSIVE, False),
        ("f", flags.ACCESS, False),
    ],
)
def test_an_event_is_wanted_if_a_watch_on_the_way_would_hear_it(
    tree: Tree, watched: str, mask: int, *, wanted: bool
) -> None:
    inode = tree.at("s/f").inode
    assert not tree.watches.wanted(inode, flags.ACCESS)
    add(tree, watched, mask)
    assert tree.watches.wanted(inode, flags.ACCESS) is wanted


def test_an_event_is_wanted_through_any_name_in_use(tree: Tree) -> None:
    tree.play("mkdir t, link s/f t/g, open s/f")
    add(tree, "t", flags.ACCESS)
    assert not tree.watches.wanted(tree.at("s/f").inode, flags.ACCESS)
    tree.play("open t/g")
    assert tree.watches.wanted(tree.at("s/f").inode, flags.ACCESS)


def test_whatever_is_wanted_of_the_root_ends_at_the_root(tree: Tree) -> None:
    add(tree, "s", flags.ACCESS)
    assert not tree.watches.wanted(tree.inodes.root, flags.ACCESS)


# The end of an instance, bit by bit


def test_an_instance_that_ends_bit_by_bit_hears_nothing_and_frees_what_it_has() -> None:
    tree = planted(max_user_watches=4)
    second = Instance(0, Queue(10, lambda: 0), lambda: None)
    tree.watches.open(second)
    for path, mask in (("s", flags.CREATE), ("s/f", flags.MODIFY), ("f", flags.MODIFY), ("", flags.X_RECURSIVE)):
        add(tree, path, mask | flags.CREATE, second)
    tree.play("make s/h")
    assert len(second.queue) > 0
    assert tree.watches.close(second, 1)
    tree.play("make s/i")
    assert (len(second.queue), second.queue.bytes, second.queue.take(100)) == (0, 0, [])
    assert second not in tree.watches.instances
    assert tree.watches.accounts.watches == 3
    assert tree.watches.close(second, 2)
    assert not tree.watches.close(second, 2)
    assert not tree.watches.close(second, 2), "it has ended"
    assert (tree.watches.accounts.watches, tree.watches.accounts.recursive) == (0, 0)


# With the shell that finds what is to be watched


def test_a_file_that_the_kernel_does_not_know_can_be_watched(tmp_path: Path) -> None:
    from notifyfs.passthrough.source import Source  # noqa: PLC0415 - the pure tests above load no shell
    from notifyfs.subscribers.resolve import Peer, Resolver  # noqa: PLC0415 - the same

    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    (tmp_path / "d/link").symlink_to("f")
    source = Source(os.open(tmp_path, os.O_PATH), limit=10)
    try:
        resolver = Resolver(source, b"/mountpoint", (0, 0))
        for path in (b"d/f", b"d/link"):
            peer = Peer(pid=os.getpid(), uid=os.geteuid(), gid=os.getegid())

            def known(inode: Inode) -> bool:
                parent = inode.entry.parent
                return source.inodes.get(inode.number) is inode and source.inodes.get(parent.number) is parent

            assert trio.run(resolver.path, path, flags.OPEN, peer, known)
    finally:
        source.close()
