"""Deaths that only FORGET decides: parity U1 or U4."""

from __future__ import annotations

import pytest

from notifyfs.core.changes import Change, Rename
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.protocol import flags
from notifyfs.protocol.records import Record
from tests.support.tree import Gate, Nobody, Stamp, Tree, add


def test_what_follows_an_undecided_death_waits_for_its_turn(tree: Tree) -> None:
    tree.play("watch D /, watch F f, hold f, unlink f, make g")
    assert tree.undecided
    assert tree.heard() == ["F:ATTRIB"]
    tree.play("release f")
    assert not tree.undecided
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED", "D:DELETE f", "D:CREATE g"]
    tree.play("make h")
    assert tree.heard() == ["D:CREATE h"]


@pytest.mark.parametrize("decided", ["release f, release g", "release g, release f"])
def test_deaths_are_told_in_the_order_of_the_operations(tree: Tree, decided: str) -> None:
    tree.play(f"make g, watch F f, watch G g, hold f, hold g, unlink f, unlink g, {decided}")
    assert tree.heard() == ["F:ATTRIB", "F:DELETE_SELF", "F:IGNORED", "G:ATTRIB", "G:DELETE_SELF", "G:IGNORED"]


def test_what_is_held_lives_on_when_the_others_have_gone(tree: Tree) -> None:
    tree.play("make g, watch D / DELETE, watch F f, watch G g, hold f, hold g, unlink f, unlink g, release g")
    assert tree.heard() == ["F:ATTRIB"]
    tree.play("give_up")
    assert tree.heard() == ["D:DELETE f", "G:ATTRIB", "G:DELETE_SELF", "G:IGNORED", "D:DELETE g"]
    tree.play("release f")
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED"]


@pytest.mark.parametrize(
    ("before", "doubts"),
    [("hold f", 0), ("watch F f, hold f", 1), ("watch F f, open f", 0), ("watch F f, link f g", 0), ("watch D /", 0)],
)
def test_only_the_death_of_what_is_watched_and_not_open_is_in_doubt(tree: Tree, before: str, doubts: int) -> None:
    tree.play(f"{before}, unlink f")
    assert len(tree.doubts) == doubts


def test_a_subscriber_that_goes_leaves_the_others_their_events(tree: Tree) -> None:
    second = tree.subscribe()
    add(tree, "f", flags.DELETE_SELF, second)
    tree.play("watch D / DELETE, hold f, unlink f")
    tree.watches.close(second)
    tree.play("release f")
    assert tree.heard() == ["D:DELETE f"]


def test_who_did_it_is_asked_while_he_is_there(tree: Tree) -> None:
    add(tree, "", flags.DELETE | flags.X_ORIGIN)
    tree.play("watch F f, hold f")
    caller = Stamp(42)
    tree.tell("unlink", tree.at("f"), actor=caller, dies=tree.gone(tree.at("f")))
    caller.pid = 0  # the operation is answered: rm has ended
    tree.play("release f")
    assert [origin.pid for _, origin in tree.stamped() if origin] == [42]


def test_who_does_not_watch_what_may_be_dead_does_not_wait(tree: Tree) -> None:
    second = tree.subscribe()
    add(tree, "", flags.CREATE | flags.DELETE, second)
    tree.play("watch D / DELETE, watch F f DELETE_SELF, hold f, unlink f, make g")
    assert tree.records(second) == [Record(1, flags.DELETE, 0, b"f"), Record(1, flags.CREATE, 0, b"g")]
    assert tree.heard() == []
    tree.play("release f")
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED", "D:DELETE f"]
    assert tree.records(second) == []


@pytest.mark.parametrize("mask", ["DELETE_SELF", "DELETE_SELF|OPEN"])
def test_what_is_used_has_not_died_whether_anybody_hears_of_the_use_or_not(tree: Tree, mask: str) -> None:
    tree.play(f"watch D / DELETE, watch F f {mask}, hold f, unlink f, reopen f h")
    assert not tree.undecided
    assert tree.heard() == ["D:DELETE f", *(["F:OPEN"] if "OPEN" in mask else [])]
    tree.play("close h")
    assert tree.undecided, "it may be held still"
    tree.play("release f")
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED"]


def test_what_somebody_finds_to_watch_has_not_died(tree: Tree) -> None:
    """A request may have found it while it had a name, and watch it only now."""
    inode, second = tree.at("f").inode, tree.subscribe()
    tree.play("watch D / DELETE, watch F f DELETE_SELF, hold f, unlink f")
    tree.watches.add(second, inode, flags.DELETE_SELF)
    assert tree.heard() == ["D:DELETE f"]
    tree.play("release f")
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED"]
    assert tree.records(second) == [Record(1, flags.DELETE_SELF), Record(1, flags.IGNORED)]


def test_what_dies_again_while_its_death_is_in_doubt_holds_nothing_back_for_ever(tree: Tree) -> None:
    """A name that the table has and the source has not any more may lead there once more."""
    inode = tree.at("f").inode
    tree.play("make g, watch D / DELETE, watch F f DELETE_SELF, hold f, unlink f")
    tree.tell("rename", tree.at("g"), Rename(tree.inodes.root, b"g", inode, victim_dies=True))
    tree.play("release f")
    assert not tree.undecided
    assert tree.heard() == ["D:DELETE f", "F:DELETE_SELF", "F:IGNORED"]


def test_a_watch_that_is_removed_meanwhile_ends_after_what_came_before(tree: Tree) -> None:
    tree.play("watch D / DELETE, watch F f DELETE_SELF, hold f, unlink f, unwatch F")
    assert tree.heard() == []
    tree.play("release f")
    assert tree.heard() == ["D:DELETE f", "F:IGNORED"]
    assert tree.inodes.newest_first() == [tree.at("s/f").inode, tree.at("s").inode, tree.inodes.root]


def test_an_instance_that_closes_meanwhile_is_told_nothing_more(tree: Tree) -> None:
    second = tree.subscribe()
    add(tree, "f", flags.ALL_EVENTS, second)
    tree.play("watch F f DELETE_SELF, hold f, unlink f")
    assert tree.records(second) == [Record(1, flags.ATTRIB)]
    tree.watches.close(second)
    tree.play("release f")
    assert tree.records(second) == []
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED"]


def test_the_unmount_ends_every_doubt(tree: Tree) -> None:
    tree.play("watch D / DELETE, watch F f DELETE_SELF, hold f, unlink f, unmount")
    assert not tree.undecided
    assert tree.heard() == ["D:DELETE f", "F:UNMOUNT", "F:IGNORED", "D:UNMOUNT|ISDIR", "D:IGNORED"]


def test_a_death_that_is_decided_has_the_number_of_the_change_that_it_came_of(tree: Tree) -> None:
    add(tree, "", flags.DELETE | flags.X_ORIGIN)
    add(tree, "f", flags.DELETE_SELF | flags.X_ORIGIN)
    tree.play("hold f")
    tree.tell("unlink", tree.at("f"), actor=Stamp(1), dies=tree.gone(tree.at("f")))
    tree.play("make g, release f")
    numbers = {record: origin.sequence for record, origin in tree.stamped() if origin}
    assert numbers == dict.fromkeys(["wd2 DELETE_SELF", "wd2 IGNORED", "wd1 DELETE f"], 4)


def test_a_death_is_told_only_when_its_change_can_be_seen() -> None:
    hidden = Gate()
    tree = Tree(hide=lambda _nodes: (hidden,))
    tree.play("make f, watch F f DELETE_SELF, hold f")
    entry = tree.at("f")
    tree.changes.tell(Change("unlink", entry, Nobody(), dies=tree.gone(entry), locked=((1, b"f"),)))
    tree.play("release f")
    assert tree.heard() == []
    hidden.open()
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED"]


def test_who_watches_it_is_woken_when_its_death_comes_into_doubt_and_when_it_is_decided(tree: Tree) -> None:
    rung: list[int] = []
    instance = Instance(0, Queue(10, lambda: 0), lambda: rung.append(len(tree.undecided)))
    tree.watches.open(instance)
    add(tree, "f", flags.DELETE_SELF, instance)
    tree.play("hold f, unlink f")
    assert rung == [1]
    tree.play("release f")
    assert rung[-1] == 0


def test_what_is_forgotten_long_after_was_held_though_nobody_has_waited_for_that(tree: Tree) -> None:
    """A client that does not read waits at no gate."""
    tree.play("watch D / DELETE, watch F f DELETE_SELF, hold f, unlink f")
    tree.undecided[0].late = True
    tree.play("release f")
    assert tree.heard() == ["D:DELETE f", "F:DELETE_SELF", "F:IGNORED"]
