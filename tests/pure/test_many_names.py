"""A file with many names, open many times: what one operation costs does not depend on how many there are."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest

from notifyfs.passthrough.attributes import Wanted
from notifyfs.protocol.flags import ACCESS
from tests.support.directory import Directory, directory, done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from notifyfs.core.entries import Entry, Inode

MANY = 300
FEW = 4


class Counted(OrderedDict[Any, None]):
    """What has to be gone through to find something; how much of it was, is counted."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for name in super().__iter__():
            self.seen += 1
            yield name


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Directory]:
    with directory(tmp_path / "source") as place:
        (place.root / "elsewhere").mkdir()
        (place.root / "name-0").touch()
        for number in range(1, MANY):
            os.link(place.root / "name-0", place.root / f"name-{number}")
        yield place


@pytest.fixture
def inode(place: Directory) -> Inode:
    """The file, of which all names are known, and a watch on it: somebody listens."""
    found = [place.look(b"name-%d" % number) for number in range(MANY)]
    place.watch(found[0], ACCESS)
    assert found[0].names is not None
    assert [entry.name for entry in found[0].names] == [b"name-%d" % number for number in range(MANY)]
    found[0].names = Counted(found[0].names)
    return found[0]


def seen(inode: Inode) -> int:
    assert isinstance(inode.names, Counted)
    return inode.names.seen


def test_no_operation_goes_through_all_names(place: Directory, inode: Inode) -> None:
    for number in range(0, MANY - 10, 10):
        before = seen(inode)
        place.look(b"name-%d" % (number + 1))
        handle = done(place.files.open(inode, os.O_RDWR, place.caller)).handle
        assert handle.entry.name == b"name-%d" % (number + 1)
        place.files.wrote(handle, 0, place.files.write(handle, b"x", 0).length)
        place.look(b"name-%d" % (number + 2))
        done(place.attributes.set(inode, Wanted(mode=0o600 + number % 8), None, place.caller))
        done(place.names.link(inode, place.top, b"new", place.caller))
        done(place.names.rename(place.top, b"new", place.top, b"newer", 0, place.caller))
        done(place.names.remove("unlink", place.top, b"newer", place.caller))
        for name in (number, number + 1):  # its first, and one in use
            done(place.names.remove("unlink", place.top, b"name-%d" % name, place.caller))
        place.files.close(handle)
        os.close(handle.fd)
        assert not inode.in_use
        assert seen(inode) - before <= FEW


def test_reads_are_wanted_where_a_name_in_use_is_watched(place: Directory) -> None:
    os.rename(place.root / "name-2", place.root / "elsewhere/name")
    inode, there = place.look(b"name-1"), place.look(b"elsewhere")
    place.watch(there, ACCESS)
    place.look(b"name", there)
    place.look(b"name-1")
    here = done(place.files.open(inode, os.O_RDONLY, place.caller))
    again = done(place.files.open(inode, os.O_RDONLY, place.caller))
    assert (here.handle.entry.name, again.keep) == (b"name-1", True)
    place.look(b"name", there)
    watched = done(place.files.open(inode, os.O_RDONLY, place.caller))
    assert (watched.handle.entry.name, watched.keep) == (b"name", False)
    place.look(b"name-1")
    assert not done(place.files.open(inode, os.O_RDONLY, place.caller)).keep, "the other reads, too"


def test_only_names_that_somebody_can_hear_of_are_told(place: Directory, inode: Inode) -> None:
    os.link(place.root / "name-0", place.root / "elsewhere/name")
    there = place.look(b"elsewhere")
    place.watch(there, ACCESS)
    place.look(b"name", there)
    place.attribution.moved_on(place.caller.thread)
    change, _ = done(place.attributes.set(inode, Wanted(mode=0o600), None, place.caller))
    assert change is not None
    told: list[Entry] = [change.entry, *change.others]
    assert (len(told), told[-1].name) == (2, b"name")


def test_the_last_of_many_descriptors_leads_to_the_file(place: Directory, inode: Inode) -> None:
    handles = [done(place.files.open(inode, os.O_RDWR, place.caller)).handle for _ in range(MANY)]
    assert [*place.source.lent(inode)] == [handle.fd for handle in handles]
    for handle in handles[::2]:
        place.files.close(handle)
        os.close(handle.fd)
    assert [*place.source.lent(inode)] == [handle.fd for handle in handles[1::2]]
