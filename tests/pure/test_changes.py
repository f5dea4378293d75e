"""The door: every change gets its number, and every sink hears of it."""

from __future__ import annotations

from typing import NoReturn

import pytest

from notifyfs.core import changes
from notifyfs.core.changes import Change, Changes
from notifyfs.protocol import flags
from tests.support.tree import Gate, Nobody, Stamp, Tree, add


class Journal:
    """A sink that writes down what it is told."""

    def __init__(self, *, listening: bool = True, ill: bool = False) -> None:
        self.listening = listening
        self.ill = ill
        self.changes: list[Change] = []
        self.lost: list[tuple[int, str]] = []

    def tell(self, change: Change) -> None:
        if self.ill:
            raise RuntimeError("no room left")
        self.changes.append(change)

    @property
    def told(self) -> list[int]:
        return [change.number for change in self.changes]

    def lose(self, change: Change, error: Exception) -> None:
        self.lost.append((change.number, str(error)))


def opened(tree: Tree) -> Change:
    return Change("open", tree.at("f"), Nobody())


@pytest.mark.parametrize("start", [1, 0, 5, 1 << 40])
def test_changes_are_numbered_from_the_start_without_gaps(tree: Tree, start: int) -> None:
    door, journal = Changes(start), Journal()
    assert door.last == start - 1
    door.attach(journal)
    for _ in range(3):
        door.tell(opened(tree))
    assert journal.told == [start, start + 1, start + 2]
    assert door.last == start + 2


def test_the_first_is_number_one(tree: Tree) -> None:
    door = Changes()
    door.tell(opened(tree))
    assert door.last == 1


def test_a_change_is_counted_whether_anybody_listens_or_not(tree: Tree) -> None:
    door, journal = Changes(), Journal(listening=False)
    door.tell(opened(tree))  # no sink at all
    door.attach(journal)
    door.tell(opened(tree))
    journal.listening = True
    door.tell(opened(tree))
    journal.listening = False
    door.tell(opened(tree))
    journal.listening = True
    door.tell(opened(tree))
    assert journal.told == [3, 5]


def test_a_change_has_no_number_before_it_came_through_the_door_and_stays_as_it_was(tree: Tree) -> None:
    door, journal, entry = Changes(7), Journal(), tree.at("f")
    change = Change("unlink", entry, Nobody(), dies=True, others=(tree.at("s/f"),), locked=(1, 2))
    door.attach(journal)
    door.tell(change)
    assert change.number == 0
    assert journal.changes == [change._replace(number=7)]


def test_nothing_is_made_for_who_does_not_listen(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a change was made")

    door, deaf, change = Changes(), Journal(listening=False), opened(tree)
    door.attach(deaf)
    monkeypatch.setattr(changes, "Change", refuse)
    door.tell(change)
    assert (deaf.told, deaf.lost, door.last) == ([], [], 1)


def test_every_sink_hears_of_every_change_in_the_order_in_which_they_came(tree: Tree) -> None:
    door = Changes()
    heard: list[tuple[str, int]] = []

    class Named(Journal):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def tell(self, change: Change) -> None:
            heard.append((self.name, change.number))

    door.attach(Named("one"))
    door.tell(opened(tree))
    door.attach(Named("other"))
    door.tell(opened(tree))
    assert heard == [("one", 1), ("one", 2), ("other", 2)]


def test_a_sink_that_fails_is_told_what_it_lost_and_the_others_hear_it_all_the_same(tree: Tree) -> None:
    door, before, ill, behind = Changes(), Journal(), Journal(ill=True), Journal()
    for sink in (before, ill, behind):
        door.attach(sink)
    door.tell(opened(tree))
    ill.ill = False
    door.tell(opened(tree))
    assert (before.told, behind.told) == ([1, 2], [1, 2])
    assert (ill.told, ill.lost) == ([2], [(1, "no room left")])
    assert not before.lost
    assert not behind.lost


def test_a_sink_that_is_no_instance_hears_of_what_nobody_watches() -> None:
    tree, journal = Tree(), Journal()
    tree.changes.attach(journal)
    tree.play("make f, rename f g, watch G g, setattr g mode, unlink g")
    assert journal.told == [1, 2, 3, 4]
    assert tree.heard() == ["G:ATTRIB", "G:DELETE_SELF", "G:IGNORED"]


def test_all_records_of_one_change_have_its_number(tree: Tree) -> None:
    tree.play("make g")
    for path in ("", "f", "g"):
        add(tree, path, flags.ALL_EVENTS | flags.X_ORIGIN)
    entry, root = tree.at("f"), tree.inodes.root
    victim = tree.at("g")
    dies = tree.gone(victim)
    victim.inode.lookups = 0  # its FORGET came first: no death is in doubt
    tree.inodes.move(entry, root, b"g")
    tree.tell("rename", entry, changes.Rename(root, b"f", victim.inode, victim_dies=dies), actor=Stamp(1))
    told = tree.stamped()
    assert [" ".join(record.split()[:2]) for record, _ in told] == [
        "wd1 MOVED_FROM",
        "wd1 MOVED_TO",
        "wd3 ATTRIB",
        "wd2 MOVE_SELF",
        "wd3 DELETE_SELF",
        "wd3 IGNORED",
    ]
    assert {origin.sequence for _, origin in told if origin} == {5}
    assert tree.changes.last == 5


# Changes that the kernel does not show yet


def hiding() -> tuple[Tree, list[tuple[int, ...]], list[Gate]]:
    """A tree, what it was asked to hide, and the gate of each answer."""
    asked: list[tuple[int, ...]] = []
    gates: list[Gate] = []

    def hide(nodes: tuple[int, ...]) -> tuple[Gate, ...]:
        asked.append(nodes)
        gates.append(Gate())
        return (gates[-1],)

    return Tree(hide=hide), asked, gates


def test_all_records_of_one_change_wait_for_the_same_gates() -> None:
    tree, asked, gates = hiding()
    tree.play("make f, watch D / ATTRIB, watch F f ATTRIB")
    for _ in range(2):
        tree.changes.tell(Change("attributes", tree.at("f"), Nobody(), locked=(7,)))
    assert asked == [(7,), (7,)]
    gates[0].open()
    assert tree.heard() == ["D:ATTRIB f", "F:ATTRIB"]
    gates[1].open()
    assert tree.heard() == ["D:ATTRIB f", "F:ATTRIB"]


def test_nobody_is_asked_to_hide_what_nobody_hears_or_what_holds_no_lock() -> None:
    tree, asked, _ = hiding()
    tree.play("make f, watch F f OPEN, open f h")
    tree.changes.tell(Change("attributes", tree.at("f"), Nobody(), locked=(7,)))
    assert tree.heard() == ["F:OPEN"]
    assert asked == []
