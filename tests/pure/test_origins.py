"""Who did it, and the number of what was done."""

from __future__ import annotations

from notifyfs.protocol import flags
from tests.support.tree import Stamp, Tree, add


def test_only_a_watch_that_asks_has_origins(tree: Tree) -> None:
    add(tree, "", flags.OPEN | flags.X_ORIGIN)
    add(tree, "f", flags.OPEN)
    tree.tell("open", tree.at("f"), actor=Stamp(42))
    (parent, origin), (_, none) = tree.stamped()
    assert (parent, none) == ("wd1 OPEN f", None)
    assert origin is not None
    assert origin.pid == 42


def test_nobody_is_asked_who_did_it_where_nobody_wants_to_know(tree: Tree) -> None:
    tree.play("watch D /, watch F f, open f, close f, unlink f, unmount")  # Nobody refuses to answer
    assert tree.heard()[-1] == "D:IGNORED"


def test_all_who_hear_of_one_thing_get_one_number_and_the_next_thing_the_next(tree: Tree) -> None:
    for path in ("", "f"):
        add(tree, path, flags.OPEN | flags.ACCESS | flags.X_ORIGIN)
    tree.play("make unheard")
    assert tree.changes.last == 4, "of three changes before anybody listened, too"
    tree.tell("open", tree.at("f"), actor=Stamp(1))
    tree.tell("read", tree.at("f"), actor=Stamp(1))
    assert [origin.sequence for _, origin in tree.stamped() if origin] == [5, 5, 6, 6]


def test_the_end_of_a_watch_has_an_origin_as_well(tree: Tree) -> None:
    add(tree, "f", flags.OPEN | flags.X_ORIGIN)
    tree.watches.remove(tree.instance, 1, Stamp(42))
    ((record, origin),) = tree.stamped()
    assert record == "wd1 IGNORED"
    assert origin is not None
    assert origin.pid == 42


def test_numbers_never_go_back(tree: Tree) -> None:
    add(tree, "", flags.OPEN | flags.ONESHOT | flags.X_ORIGIN)
    add(tree, "f", flags.OPEN | flags.X_ORIGIN)
    tree.tell("open", tree.at("f"), actor=Stamp(1))
    numbers = [origin.sequence for _, origin in tree.stamped() if origin]
    assert len(numbers) == 3
    assert numbers == sorted(numbers)
