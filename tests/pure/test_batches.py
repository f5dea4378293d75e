"""What a settled batch keeps of a stream of events: pure, without a mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.client.batches import Batch, Rename
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Record

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

Item = Record | Rename[Record]


def identity(record: Record) -> Hashable:
    return record.wd, record.mask, record.name


def settled(records: Iterable[Record]) -> list[Item]:
    batch: Batch[Record] = Batch(identity)
    for record in records:
        batch.add(record)
    return batch.take()


def event(word: str) -> Record:
    """``CREATE a``; ``MOVED_FROM a 7`` is a half of the rename 7; ``2:CREATE a`` comes of watch 2."""
    head, *rest = word.split(" ")
    wd, _, kind = head.rpartition(":")
    name, cookie = (*rest, *("", "0")[len(rest) :])
    return Record(int(wd or 1), getattr(flags, kind), int(cookie), name.encode())


def spelled(item: Item) -> str:
    if isinstance(item, Rename):
        sides = [f"{half.wd}:{half.name.decode()}" if half.wd != 1 else half.name.decode() for half in item]
        return " -> ".join(sides)
    return f"{f'{item.wd}:' if item.wd != 1 else ''}{flags.spell(item.mask)} {item.name.decode()}".rstrip()


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ([], []),
        (["CREATE a", "DELETE a", "CREATE a"], ["DELETE a", "CREATE a"]),
        (["MODIFY a", "MODIFY b", "MODIFY a"], ["MODIFY b", "MODIFY a"]),
        (["MODIFY a", "2:MODIFY a"], ["MODIFY a", "2:MODIFY a"]),
        (["MOVED_FROM a 7", "MOVED_TO b 7"], ["a -> b"]),
        (["MOVED_FROM a 7", "DELETE x", "MOVED_TO b 7"], ["DELETE x", "a -> b"]),
        (["MOVED_FROM a 7", "2:MOVED_TO b 7"], ["a -> 2:b"]),
        (["MOVED_FROM a 7"], ["MOVED_FROM a"]),
        (["MOVED_TO a 7"], ["MOVED_TO a"]),
        (["MOVED_FROM a 7", "MOVED_TO b 8"], ["MOVED_FROM a", "MOVED_TO b"]),
        (["MOVED_TO b 7", "MOVED_FROM a 7"], ["a -> b"]),
        # Saved twice through the same temporary name.
        (
            ["CREATE t", "MOVED_FROM t 7", "MOVED_TO f 7", "CREATE t", "MOVED_FROM t 8", "MOVED_TO f 8"],
            ["CREATE t", "t -> f"],
        ),
        (["MOVED_FROM a 7", "MOVED_TO b 7", "MOVED_FROM b 8", "MOVED_TO a 8"], ["a -> b", "b -> a"]),
        # Halves that never meet are equal events, cookies aside.
        (["MOVED_FROM a 7", "CREATE a", "MOVED_FROM a 8"], ["CREATE a", "MOVED_FROM a"]),
        # A directory with a watch of its own, in a tree with another.
        (
            ["2:MOVED_FROM a 7", "MOVED_FROM d/a 7", "2:MOVED_TO b 7", "MOVED_TO d/b 7"],
            ["2:a -> 2:b", "d/a -> d/b"],
        ),
        (["MOVED_FROM d/a 7", "2:MOVED_TO b 7", "MOVED_TO d/b 7"], ["2:MOVED_TO b", "d/a -> d/b"]),
        (["2:MOVED_FROM a 7", "MOVED_FROM d/a 7", "MOVED_TO e/a 7"], ["2:MOVED_FROM a", "d/a -> e/a"]),
        (["CREATE a", "-1:Q_OVERFLOW", "CREATE a"], ["-1:Q_OVERFLOW", "CREATE a"]),
        (["-1:Q_OVERFLOW", "CREATE a", "-1:Q_OVERFLOW"], ["CREATE a", "-1:Q_OVERFLOW"]),
        (["DELETE_SELF", "IGNORED"], ["DELETE_SELF", "IGNORED"]),
    ],
)
def test_what_is_kept(told: list[str], kept: list[str]) -> None:
    assert [spelled(item) for item in settled(map(event, told))] == kept


def test_a_rename_has_both_halves_as_they_came() -> None:
    old, new = event("MOVED_FROM a 7"), event("2:MOVED_TO b 7")
    (item,) = settled([old, new])
    assert isinstance(item, Rename)
    assert (item.old, item.new) == (old, new)


def by(pid: int, record: Record) -> list[Record]:
    return [Record(record.wd, flags.X_ORIGIN | record.mask, record.cookie, bytes(Origin(1, 2, pid, 0, 0))), record]


def test_who_did_it_stays_before_what_was_done() -> None:
    told = [
        *by(1, event("MODIFY a")),
        *by(2, event("CREATE b")),
        *by(3, event("MODIFY a")),
        *by(4, event("MOVED_FROM b 7")),
        *by(5, event("MOVED_TO c 7")),
        event("2:CREATE d"),
    ]
    assert settled(told) == [*told[2:6], told[8], Rename(told[7], told[9]), told[10]]


def test_who_did_it_may_be_known_of_one_half_only() -> None:
    told = [*by(4, event("MOVED_FROM b 7")), event("2:MOVED_TO c 7")]
    assert settled(told) == [told[0], Rename(told[1], told[2])]


def test_a_batch_that_was_taken_is_empty() -> None:
    batch: Batch[Record] = Batch(identity)
    assert not batch
    batch.add(event("CREATE a"))
    assert batch
    assert batch.take() == [event("CREATE a")]
    assert not batch
    assert batch.take() == []


def test_a_file_that_is_written_for_ever_costs_nothing() -> None:
    batch: Batch[Record] = Batch(identity)
    for _ in range(1000):
        batch.add(event("MODIFY a"))
        batch.add(event("CLOSE_WRITE a"))
    assert len(batch._events) == 2  # noqa: SLF001 - what it holds is the claim


# Any stream

KINDS = (flags.CREATE, flags.MODIFY, flags.DELETE, flags.MOVED_FROM, flags.MOVED_TO)
streams = st.lists(
    st.builds(
        lambda wd, mask, cookie, name: Record(wd, mask, cookie if mask & flags.MOVE else 0, name),
        st.integers(1, 2),
        st.sampled_from(KINDS),
        st.integers(1, 3),
        st.sampled_from([b"a", b"b", b"c"]),
    ),
    max_size=20,
)


def halves(items: Iterable[Item]) -> list[Record]:
    return [half for item in items for half in (item if isinstance(item, Rename) else (item,))]


@given(streams)
def test_nothing_is_invented_and_nothing_disappears(stream: list[Record]) -> None:
    told = halves(settled(stream))
    assert set(told) <= set(stream)
    assert {identity(record) for record in told} == {identity(record) for record in stream}


@given(streams)
def test_no_item_comes_twice(stream: list[Record]) -> None:
    keys = [tuple(map(identity, halves([item]))) for item in settled(stream)]
    assert len(keys) == len(set(keys))


@given(streams)
def test_items_stand_where_they_were_told_last(stream: list[Record]) -> None:
    last = {record: place for place, record in enumerate(stream)}
    places = [last[item.new if isinstance(item, Rename) else item] for item in settled(stream)]
    assert places == sorted(places)


@given(streams)
def test_no_two_halves_are_left_that_belong_together(stream: list[Record]) -> None:
    alone = [item for item in settled(stream) if isinstance(item, Record)]
    left = {record.cookie for record in alone if record.mask & flags.MOVED_FROM}
    assert not left & {record.cookie for record in alone if record.mask & flags.MOVED_TO}
