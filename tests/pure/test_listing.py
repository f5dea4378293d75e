"""Listings: the source's names, order and positions, whatever happens to the directory; never more than a buffer."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs.passthrough.listing import BUFFER, MOST_LEFT
from tests.support import kernel
from tests.support.directory import Directory, brief, directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.handles import Handle

MANY = 3 * BUFFER // 2 // 24  # more than one buffer holds, whatever their names


@pytest.fixture(params=["disk", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Directory]:
    with contextlib.ExitStack() as stack:
        memory = request.param == "tmpfs"
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))) if memory else tmp_path
        yield stack.enter_context(directory(base / "source"))


def fill(place: Directory, count: int) -> set[bytes]:
    names = {b"f%d" % number for number in range(count)}
    for name in names:
        os.mknod(os.fsencode(place.root) + b"/" + name)
    return names


def opened(place: Directory) -> Handle:
    handle, change = place.files.open_directory(place.top, place.caller)
    assert brief(change)[0] == "open"
    return handle


def listed(place: Directory, handle: Handle, start: int = 0, count: int | None = None) -> list[tuple[bytes, int]]:
    """Names and positions of one listing, of *count* names at most, as the kernel takes them."""
    taken = itertools.count(1)
    enough = (lambda: next(taken) >= count) if count else (lambda: False)
    return [(name, position) for name, _, _, position in place.listings.names(handle, start, enough)]


def inodes(place: Directory, handle: Handle) -> dict[bytes, Inode]:
    return {name: inode for name, inode, _, _ in place.listings.names(handle, 0)}


def in_source(place: Directory, start: int = 0) -> list[tuple[bytes, int]]:
    fd = os.open(place.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.lseek(fd, start, os.SEEK_SET)
        return [(each.name, each.following) for each in kernel.all_entries(fd)]
    finally:
        os.close(fd)


@pytest.mark.parametrize("count", [0, 3, MANY])
def test_order_and_positions_are_the_source_s(place: Directory, count: int) -> None:
    names = fill(place, count)
    found = listed(place, opened(place))
    assert found == in_source(place)
    assert {name for name, _ in found} == names | {b".", b".."}


def test_the_mount_s_root_is_its_own_parent(place: Directory) -> None:
    (place.root / "d").mkdir()
    own = inodes(place, opened(place))
    assert own[b"."] is own[b".."] is place.top
    handle, _ = place.files.open_directory(own[b"d"], place.caller)
    assert inodes(place, handle) == {b".": own[b"d"], b"..": place.top}


def test_a_listing_reads_a_buffer_and_goes_on_where_it_was_left(place: Directory) -> None:
    fill(place, MANY)
    handle, expected = opened(place), in_source(place)
    first = listed(place, handle, 0, 5)
    stands = os.lseek(handle.fd, 0, os.SEEK_CUR)
    assert 5 < [position for _, position in expected].index(stands) < BUFFER // 24
    assert first + listed(place, handle, first[-1][1], 5) == expected[:10]
    assert os.lseek(handle.fd, 0, os.SEEK_CUR) == stands, "it was read again"
    assert listed(place, handle, expected[9][1]) == expected[10:]


def test_nothing_is_kept_of_a_listing_that_has_ended_or_is_closed(place: Directory) -> None:
    fill(place, MANY)
    handle = opened(place)
    listed(place, handle)
    assert not len(place.listings)
    listed(place, handle, 0, 1)
    assert len(place.listings) == 1
    place.listings.end(handle)
    assert not len(place.listings)


def test_what_did_not_fit_is_told_next_time(place: Directory) -> None:
    fill(place, 5)
    handle, expected = opened(place), in_source(place)
    for index, (name, _) in enumerate(expected):
        start = expected[index - 1][1] if index else 0
        for _ in range(2):
            for found, *_ in place.listings.names(handle, start):
                assert found == name
                break  # the answer is full
        assert listed(place, handle, start, 1) == [expected[index]]
    assert listed(place, handle, expected[-1][1]) == []


def test_what_vanishes_during_a_listing_is_left_out(place: Directory) -> None:
    fill(place, 2)
    handle = opened(place)
    left = [name for name, _ in in_source(place)]
    (_, position), *_ = listed(place, handle, 0, 1)
    for name in left[1:]:
        if name not in {b".", b".."}:
            os.unlink(os.fsencode(place.root) + b"/" + name)
    assert [name for name, _ in listed(place, handle, position)] == [name for name in left[1:] if name in {b".", b".."}]


@pytest.mark.parametrize("seed", range(6))
def test_what_is_there_all_the_time_is_told_once_while_the_directory_changes(place: Directory, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not for a secret
    stays = fill(place, chance.choice([20, 20, 20, MANY]))
    other, made = (itertools.count(), set[bytes]())
    for handle in (opened(place), opened(place)):
        position, found = 0, list[bytes]()
        while more := listed(place, handle, position, chance.choice([1, 7, 400])):
            found += [name for name, _ in more]
            position = more[-1][1]
            for _ in range(chance.randrange(20)):
                made.add(name := b"new-%d" % next(other))
                os.mknod(os.fsencode(place.root) + b"/" + name)
                gone = chance.choice(sorted(made))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.fsencode(place.root) + b"/" + gone)
        assert len(found) == len(set(found))
        assert stays | {b".", b".."} <= set(found) <= stays | {b".", b".."} | made


def test_an_older_position_is_looked_for_in_the_source(place: Directory) -> None:
    names = sorted(fill(place, MANY))
    handle, before = opened(place), in_source(place)
    for index in (MANY - 5, 1500, 3, 1000):
        position = before[index][1]
        listed(place, handle, 0, 50)
        for name in names[index % 7 :: 50]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.fsencode(place.root) + b"/" + name)
        os.mknod(place.root / f"new-{index}")
        assert listed(place, handle, position) == in_source(place, position)
    assert listed(place, handle) == in_source(place)


def test_more_listings_than_something_is_kept_of(place: Directory) -> None:
    fill(place, 40)
    expected = in_source(place)
    handles = [opened(place) for _ in range(MOST_LEFT + 44)]
    found: list[list[tuple[bytes, int]]] = [[] for _ in handles]
    for _ in range(6):
        for handle, names in zip(handles, found, strict=True):
            names.extend(listed(place, handle, names[-1][1] if names else 0, 7))
        assert len(place.listings) <= MOST_LEFT
    assert all(names == expected for names in found)


def test_a_directory_that_was_removed_lists_nothing(place: Directory) -> None:
    (place.root / "d").mkdir()
    for number in range(3):
        (place.root / "d" / f"{number}").touch()
    handle, _ = place.files.open_directory(place.look(b"d"), place.caller)
    first = listed(place, handle, 0, 3)
    for path in (place.root / "d").iterdir():
        path.unlink()
    (place.root / "d").rmdir()
    with contextlib.suppress(FileNotFoundError):  # that had been read before
        assert {name for name, _ in listed(place, handle, first[-1][1])} <= {b".", b".."}
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            listed(place, handle)


@pytest.mark.parametrize("place", ["tmpfs"], indirect=True)  # where . and .. come first
def test_what_comes_before_an_error_is_whole_and_the_error_is_told_next(place: Directory) -> None:
    """The parent was moved behind the mount, so nothing can be said of ``..``."""
    (place.root / "a" / "b").mkdir(parents=True)
    above = place.look(b"a")
    handle, _ = place.files.open_directory(place.look(b"b", above), place.caller)
    order = [*inodes(place, handle)]
    assert order == [b".", b".."]
    (place.root / "a").rename(place.root / "elsewhere")
    for index in range(place.source.limit + 1):  # as many as push out the descriptor that leads there
        (place.root / f"d{index}").mkdir()
        place.source.fd(place.look(b"d%d" % index))
    before = listed(place, handle)
    assert [name for name, _ in before] == [b"."]
    for _ in range(2):
        with pytest.raises(OSError, match="no name leads") as raised:
            listed(place, handle, before[-1][1])
        assert raised.value.errno == errno.ESTALE
    (place.root / "elsewhere").rename(place.root / "a")
    place.look(b"a")
    assert [name for name, _ in before + listed(place, handle, before[-1][1])] == order


def test_names_that_are_not_utf_8(place: Directory) -> None:
    names = {b"\xff\xfe", b"\xc3", "ü".encode(), b"\n", b"x" * 255}
    for name in names:
        os.mknod(os.fsencode(place.root) + b"/" + name)
    assert {name for name, _ in listed(place, opened(place))} == names | {b".", b".."}
