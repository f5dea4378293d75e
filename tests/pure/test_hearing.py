"""Who hears of what happens below a recursive watch, where the watch's user is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from notifyfs.core.accounts import MOST_RECURSIVE
from notifyfs.core.filters import Draft
from notifyfs.core.instances import Instance, Reach
from notifyfs.core.queue import OVERFLOW, Queue
from notifyfs.protocol import flags
from notifyfs.protocol.records import MAX_LEN
from tests.support.tree import Tree, add, numbered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from notifyfs.core.entries import Inode

USER = 12345
TREE = flags.ALL_EVENTS | flags.X_RECURSIVE


class Stub:
    """A ``core.instances.Judge``: nobody hears of the directories in *closed*, nor of what is below them."""

    def __init__(self) -> None:
        self.closed: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.asked: list[list[bytes]] = []

    def reach(self, places: Sequence[Inode]) -> Reach:
        names = [place.entry.name for place in places]
        self.asked.append(names)
        for number, name in enumerate(names):
            if name in self.closed | self.unknown:
                return Reach(number - 1, sure=name in self.closed)
        return Reach(len(names) - 1)


@pytest.fixture
def judge() -> Stub:
    return Stub()


@pytest.fixture
def instance(tree: Tree, judge: Stub) -> Instance:
    """The user's."""
    instance = Instance(USER, Queue(100, lambda: 0), lambda: None, judge)
    tree.watches.open(instance)
    return instance


def heard(tree: Tree, instance: Instance) -> list[tuple[int, str]]:
    return [(record.mask & ~flags.ISDIR, record.name.decode()) for record in tree.records(instance)]


def test_what_a_directory_in_between_keeps_from_the_user_is_heard_from_below_it_only(
    tree: Tree, judge: Stub, instance: Instance
) -> None:
    tree.play("mkdir s/t, mkdir s/t/u")
    wds = [add(tree, path, flags.CREATE | flags.X_RECURSIVE, instance) for path in ("", "s", "s/t")]
    judge.closed = {b"s"}
    tree.play("make s/t/u/f, make s/f2, make f2")
    assert [(record.wd, record.name) for record in tree.records(instance)] == [(wds[2], b"u/f"), (wds[0], b"f2")]


def test_a_watch_that_was_set_by_a_path_is_judged_from_the_root(tree: Tree, judge: Stub, instance: Instance) -> None:
    tree.play("mkdir s/t")
    judge.closed = {b"s"}
    inode = tree.at("s/t").inode
    for number, by_path in enumerate((True, False, True)):
        assert tree.watches.add(instance, inode, flags.CREATE | flags.X_RECURSIVE, by_path=by_path) == 1
        tree.play(f"make s/t/f{number}")
    assert heard(tree, instance) == [(flags.CREATE, "f1")], "the way by which it was added last counts"


def test_a_watch_that_is_not_recursive_is_not_judged(tree: Tree, judge: Stub, instance: Instance) -> None:
    judge.closed = {b"s", b""}
    add(tree, "s", flags.CREATE, instance)
    tree.play("make s/g")
    assert heard(tree, instance) == [(flags.CREATE, "g")]
    assert judge.asked == []


def test_a_judge_is_asked_once_for_all_that_one_change_tells_of_a_directory(
    tree: Tree, judge: Stub, instance: Instance
) -> None:
    other = Instance(USER, Queue(100, lambda: 0), lambda: None, judge)
    tree.watches.open(other)
    for each in (instance, other):
        for path in ("", "s"):
            add(tree, path, TREE, each)
    tree.play("create s/new")
    assert judge.asked == [[b"s", b""]]
    assert len(heard(tree, instance)) == len(heard(tree, other)) == 4
    tree.play("write s/new")
    assert judge.asked == [[b"s", b""]] * 2, "the next change is another moment"


def test_where_nobody_knows_yet_there_is_an_overflow_and_not_for_what_nobody_asked_for(
    tree: Tree, judge: Stub, instance: Instance
) -> None:
    judge.unknown = {b"s"}
    add(tree, "", flags.CREATE | flags.X_RECURSIVE, instance)
    tree.play("open s/f h, close h")
    assert tree.records(instance) == []
    tree.play("make s/g")
    assert tree.records(instance) == [OVERFLOW]
    judge.unknown, judge.closed = {b""}, {b"s"}
    tree.play("make s/h")
    assert tree.records(instance) == [], "it is known that it ends before that"


def test_what_is_so_far_below_that_no_record_can_carry_its_path_is_not_judged(
    tree: Tree, judge: Stub, instance: Instance
) -> None:
    judge.closed = {b"n"}
    add(tree, "", flags.ACCESS | flags.ATTRIB | flags.X_RECURSIVE, instance)
    place = tree.inodes.root
    for number in range(MAX_LEN // 2 + 1):
        place = tree.inodes.enter(place, b"n", 1, 10**6 + number, is_dir=True).inode
    file = tree.inodes.enter(place, b"f", 1, 10**7, is_dir=False)
    tree.tell("attributes", file)
    assert tree.records(instance) == [OVERFLOW]
    assert tree.watches.wanted(file.inode, flags.ACCESS)
    assert judge.asked == []
    tree.tell("attributes", tree.at("n/n"))
    assert tree.records(instance) == []


def test_a_filter_that_leaves_it_out_needs_no_judge(tree: Tree, judge: Stub, instance: Instance) -> None:
    draft = Draft(0, 0, 10, lambda _cost: None)
    draft.add(1, b"*.o")
    tree.watches.add(instance, tree.inodes.root, flags.CREATE | flags.X_RECURSIVE, draft.take())
    tree.play("make s/x.o")
    assert judge.asked == []
    assert heard(tree, instance) == []


@pytest.mark.parametrize("closed", ["then", "later"])
def test_of_a_death_in_doubt_hears_who_might_when_it_was_done(
    tree: Tree, judge: Stub, instance: Instance, closed: str
) -> None:
    tree.play("mkdir s/t, hold s/t")
    add(tree, "s/t", TREE, instance)
    judge.closed = {b"t"} if closed == "then" else set()
    tree.play("rmdir s/t")
    judge.closed = {b"t"} if closed == "later" else set()
    assert tree.undecided
    tree.play("release s/t")
    told = [(flags.DELETE_SELF, "")] if closed == "later" else []
    assert heard(tree, instance) == [*told, (flags.IGNORED, "")]


def test_what_the_user_may_not_hear_is_not_wanted(tree: Tree, judge: Stub, instance: Instance) -> None:
    add(tree, "", flags.ACCESS | flags.X_RECURSIVE, instance)
    file = tree.at("s/f").inode
    assert tree.watches.wanted(file, flags.ACCESS)
    judge.closed = {b"s"}
    assert not tree.watches.wanted(file, flags.ACCESS)
    judge.closed, judge.unknown = set(), {b"s"}
    assert tree.watches.wanted(file, flags.ACCESS), "it may be: then its reads have to be heard of"
    assert tree.records(instance) == []
    tree.watches.add(tree.instance, tree.inodes.root, flags.ACCESS | flags.X_RECURSIVE)
    judge.closed, judge.unknown = {b"s"}, set()
    assert tree.watches.wanted(file, flags.ACCESS), "root's watch"


def test_a_user_may_have_so_many_recursive_watches_and_root_any_number(tree: Tree, instance: Instance) -> None:
    for number in range(MOST_RECURSIVE + 1):
        tree.play(f"mkdir d{number}")
        add(tree, f"d{number}", TREE, tree.instance)
    for number in range(MOST_RECURSIVE):
        add(tree, f"d{number}", TREE, instance)
    last = f"d{MOST_RECURSIVE}"
    with numbered(28):
        add(tree, last, TREE, instance)
    add(tree, last, flags.CREATE, instance)
    with numbered(28):
        add(tree, last, TREE | flags.MASK_ADD, instance)
    add(tree, "d0", flags.CREATE, instance)
    add(tree, "d1", TREE | flags.MASK_ADD, instance)
    add(tree, last, TREE, instance)
