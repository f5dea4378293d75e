"""Deaths that only FORGET decides: parity U1 or U4."""

from __future__ import annotations

import pytest

from notifyfs.protocol import flags
from tests.support.tree import Stamp, Tree, add


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
