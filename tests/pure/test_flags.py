"""The bits themselves: Linux's values, our extensions beside them, and how a mask is spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.protocol import flags

LINUX = {  # linux/inotify.h, as inotify(7) names them
    "ACCESS": 1 << 0,
    "MODIFY": 1 << 1,
    "ATTRIB": 1 << 2,
    "CLOSE_WRITE": 1 << 3,
    "CLOSE_NOWRITE": 1 << 4,
    "OPEN": 1 << 5,
    "MOVED_FROM": 1 << 6,
    "MOVED_TO": 1 << 7,
    "CREATE": 1 << 8,
    "DELETE": 1 << 9,
    "DELETE_SELF": 1 << 10,
    "MOVE_SELF": 1 << 11,
    "UNMOUNT": 1 << 13,
    "Q_OVERFLOW": 1 << 14,
    "IGNORED": 1 << 15,
    "ONLYDIR": 1 << 24,
    "DONT_FOLLOW": 1 << 25,
    "EXCL_UNLINK": 1 << 26,
    "MASK_CREATE": 1 << 28,
    "MASK_ADD": 1 << 29,
    "ISDIR": 1 << 30,
    "ONESHOT": 1 << 31,
}
OURS = {"X_RECURSIVE": 1 << 16, "X_ORIGIN": 1 << 17, "X_FILTER": 1 << 18, "X_REPLY": 1 << 23}  # docs/protocol.md

masks = st.integers(0, (1 << 32) - 1)


@pytest.mark.parametrize(("name", "value"), [*LINUX.items(), *OURS.items()])
def test_each_bit_has_the_value_that_travels(name: str, value: int) -> None:
    assert getattr(flags, name) == value
    assert flags.flags[name] == value


def test_there_are_no_other_flags() -> None:
    assert set(flags.flags.__members__) == {*LINUX, *OURS}


def test_our_bits_are_free_in_linux() -> None:
    assert sum(OURS.values()) & sum(LINUX.values()) == 0


def test_a_watch_may_ask_for_every_bit_but_a_replys() -> None:
    assert sum(LINUX.values()) + sum(OURS.values()) - flags.WATCH_BITS == OURS["X_REPLY"]
    assert OURS["X_RECURSIVE"] | OURS["X_ORIGIN"] | OURS["X_FILTER"] == flags.EXTENSIONS


def test_the_groups_are_those_of_inotify_simple() -> None:
    assert flags.masks.CLOSE == flags.CLOSE == LINUX["CLOSE_WRITE"] | LINUX["CLOSE_NOWRITE"]
    assert flags.masks.MOVE == flags.MOVE == LINUX["MOVED_FROM"] | LINUX["MOVED_TO"]
    assert flags.masks.ALL_EVENTS == flags.ALL_EVENTS == 0xFFF


def test_flags_and_plain_numbers_mix() -> None:
    assert flags.flags.CREATE | flags.flags.ISDIR == 0x40000100
    assert flags.flags.CREATE & 0x40000100


@pytest.mark.parametrize(
    ("mask", "spelled"),
    [
        (flags.CREATE | flags.ISDIR, "CREATE|ISDIR"),
        (flags.ISDIR | flags.CREATE, "CREATE|ISDIR"),
        (flags.ONESHOT, "ONESHOT"),
        (flags.MODIFY | 0x1000, "MODIFY|0x1000"),
        (0x1000, "0x1000"),
        (0, "0"),
    ],
)
def test_a_mask_is_spelled_by_its_bits_lowest_first(mask: int, spelled: str) -> None:
    assert flags.spell(mask) == spelled


@given(masks)
def test_from_mask_gives_single_bits_in_ascending_order(mask: int) -> None:
    found = flags.flags.from_mask(mask)
    assert found == sorted(bit for bit in flags.flags.__members__.values() if mask & bit)
    assert all(bit & (bit - 1) == 0 for bit in found)


@given(masks)
def test_no_bit_is_lost_in_spelling(mask: int) -> None:
    words = flags.spell(mask).split("|")
    assert mask == sum(flags.flags[word] if word in flags.flags.__members__ else int(word, 16) for word in words)
