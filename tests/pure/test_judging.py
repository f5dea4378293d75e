"""Verdicts on a plain directory: what is remembered, for how long, and how many are asked for at once."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from notifyfs.core.instances import Reach
from notifyfs.passthrough.attributes import Wanted
from notifyfs.protocol import flags
from notifyfs.subscribers import judging
from notifyfs.subscribers.judging import Judges, Verdicts
from notifyfs.subscribers.resolve import Peer, Resolver
from notifyfs.system import identity, syscalls
from tests.support.directory import Directory, directory, done
from tests.support.tree import numbered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from notifyfs.core.entries import Inode

USER, OTHER, GROUP = 12345, 12346, 5555


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Counting(Verdicts):
    """Says which places were judged."""

    def __init__(self, source: object, peer: Peer, number: int, clock: Clock) -> None:
        super().__init__(source, peer, number, clock)  # type: ignore[arg-type]
        self.judged: list[str] = []

    def _judge(self, places: list[Inode], now: float) -> None:
        self.judged += [place.entry.name.decode() for place in places]
        super()._judge(places, now)

    def news(self) -> list[str]:
        judged, self.judged = self.judged, []
        return judged


@pytest.fixture(autouse=True)
def root_only() -> None:
    """Judging others takes root."""
    if os.getuid():
        pytest.skip("only root can judge for others")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Directory]:
    with directory(tmp_path / "d") as place:
        place.root.chmod(0o755)
        yield place


def chain(place: Directory, length: int) -> list[Inode]:
    """The deepest of so many directories, then those above it."""
    found, path = [place.top], place.root
    for number in range(length):
        path /= f"d{number}"
        path.mkdir()
        path.chmod(0o755)
        found.append(place.look(path.name.encode(), found[-1]))
    return found[::-1]


def judge_of(place: Directory, clock: Clock, uid: int = USER, number: int = 0) -> Counting:
    return Counting(place.source, Peer(0, uid, uid), number, clock)


def test_a_verdict_is_good_for_a_second_and_for_one_user(place: Directory) -> None:
    clock = Clock()
    first, second = judge_of(place, clock), judge_of(place, clock, OTHER, 1)
    places = chain(place, 2)
    os.chown(place.root / "d0/d1", OTHER, OTHER)
    (place.root / "d0/d1").chmod(0o700)
    for _ in range(2):
        assert first.reach(places) == Reach(-1)
        assert second.reach(places) == Reach(2)
    assert first.news() == second.news() == ["d1", "d0", ""]
    (place.root / "d0/d1").chmod(0o755)
    clock.now += 0.9
    assert first.reach(places) == Reach(-1)
    clock.now += 0.2
    assert first.reach(places) == Reach(2)
    (place.root / "d0").chmod(0o700)
    clock.now += 1.1
    assert first.reach(places) == Reach(0)
    assert first.reach(places[1:]) == Reach(-1)


def test_a_change_through_the_mount_removes_the_verdicts_on_that_directory_alone(place: Directory) -> None:
    judge = judge_of(place, Clock())
    places = chain(place, 3)
    judge.reach(places)
    judge.news()
    done(place.attributes.set(places[1], Wanted(mode=0o700), None, place.caller))
    assert judge.reach(places) == Reach(0)
    assert judge.news() == ["d1"]
    done(place.attributes.set(places[1], Wanted(uid=USER), None, place.caller))
    assert judge.reach(places) == Reach(3)
    assert judge.news() == ["d1"]
    done(place.attributes.set_extended(places[0], b"security.x", b"1", place.caller))
    done(place.attributes.set_extended(places[2], b"user.x", b"1", place.caller))
    assert judge.reach(places) == Reach(3)
    assert judge.news() == ["d2"]


def test_of_a_long_way_so_much_is_judged_for_one_event_those_longest_ago_first(
    place: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_AT_ONCE", 4)
    clock = Clock()
    judge = judge_of(place, clock)
    places = chain(place, 9)
    assert judge.reach(places) == Reach(3, sure=False)
    assert judge.news() == ["d8", "d7", "d6", "d5"]
    assert judge.reach(places) == Reach(7, sure=False)
    assert judge.reach(places) == Reach(9)
    judge.news()
    (place.root / "d0").chmod(0o700)
    for seconds, judged, reach in ((1.1, "8765", 9), (0.0, "4321", 9), (0.0, "0", 7)):
        clock.now += seconds
        assert judge.reach(places) == Reach(reach), "as it was, until it is judged again"
        assert [name[1:] for name in judge.news() if name] == list(judged)
    assert judge.reach(places) == Reach(7)
    assert judge.news() == []


def test_what_is_closed_spares_the_rest_of_the_way(place: Directory) -> None:
    clock = Clock()
    judge = judge_of(place, clock)
    places = chain(place, 3)
    (place.root / "d0/d1").chmod(0o700)
    judge.reach(places)
    judge.news()
    for inode in places[2:]:
        inode.verdicts = None
    assert judge.reach(places) == Reach(0)
    assert judge.news() == []


def test_what_is_not_there_any_more_is_not_heard(place: Directory) -> None:
    judge = judge_of(place, Clock())
    places = chain(place, 2)
    (place.root / "d0/d1").rmdir()
    assert judge.reach(places) == Reach(-1)
    assert judge.reach(places[1:]) == Reach(1)


def test_a_daemon_that_may_not_be_the_user_lets_nobody_hear(place: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refused(_uid: int, _gid: int, _groups: Sequence[int]) -> Iterator[None]:
        raise PermissionError
        yield

    monkeypatch.setattr(identity, "acting_as", refused)
    assert judge_of(place, Clock()).reach([place.top]) == Reach(-1)


def test_a_kernel_without_faccessat2_judges_the_same(place: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_FACCESSAT2", 1 << 20)
    places = chain(place, 3)
    (place.root / "d0").chmod(0o744)
    assert judge_of(place, Clock()).reach(places) == Reach(1)
    assert judge_of(place, Clock(), 0, 1).reach(places) == Reach(3)
    (place.root / "d0/d1").chmod(0o711)
    assert judge_of(place, Clock(), USER, 2).reach(places[1:]) == Reach(-1)


def test_where_nobody_can_be_judged_only_root_may_watch_a_tree(place: Directory) -> None:
    resolver = Resolver(place.source, b"/mount", (0, 0), judges=False)
    mask = flags.CREATE | flags.X_RECURSIVE

    def found(mask: int, uid: int) -> Inode:
        return trio.run(resolver.path, b"", mask, Peer(0, uid, USER), lambda inode: inode)

    with numbered(errno.EPERM):
        found(mask, USER)
    assert found(mask, 0) is place.top
    assert found(flags.CREATE, USER) is place.top


def test_verdicts_of_many_users_do_not_pile_up(place: Directory) -> None:
    clock = Clock()
    for number in range(100):
        clock.now += 0.3
        assert judge_of(place, clock, USER + number, number).reach([place.top]) == Reach(0)
    assert place.top.verdicts is not None
    assert len(place.top.verdicts) <= 2 * judging._MANY  # noqa: SLF001 - what is bounded by it


def test_those_with_the_same_credentials_have_one_judge_and_root_has_none(place: Directory) -> None:
    judges = Judges(place.source)
    one = judges.of(Peer(1, USER, GROUP, (1, 2)))
    assert one is not None
    assert one is judges.of(Peer(2, USER, GROUP, (1, 2)))
    others = [Peer(1, USER, GROUP, (1,)), Peer(1, USER, USER, (1, 2)), Peer(1, OTHER, GROUP, (1, 2))]
    assert len({one, *map(judges.of, others)}) == 4
    assert judges.of(Peer(1, 0, USER)) is None
