"""Through which name something was done, where FUSE says only to which inode."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.passthrough.attribution import Attribution
from notifyfs.protocol import flags
from notifyfs.system.callers import Caller
from tests.conftest import wait_until
from tests.support.directory import Directory, directory, done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.core.entries import Entry, Inode

THREAD, OTHER = 4_000_000_000, 4_000_000_001  # nobody's: /proc says nothing of them
CALLER = Caller(THREAD, 0, 0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Directory]:
    """Both ``a`` and ``d/b`` are names of one file."""
    with directory(tmp_path / "source") as place:
        (place.root / "d").mkdir()
        (place.root / "a").touch()
        os.link(place.root / "a", place.root / "d/b")
        yield place


def looked_up(place: Directory, name: bytes, parent: Inode | None = None, thread: int = THREAD) -> Entry:
    entry, _ = place.names.look_up(parent or place.top, name, Caller(thread, 0, 0))
    entry.inode.lookups += 1
    return entry


def both(place: Directory) -> tuple[Entry, Entry]:
    first = looked_up(place, b"a", thread=OTHER)
    return first, looked_up(place, b"b", place.look(b"d"), OTHER)


def test_a_file_with_one_name_was_reached_through_that(place: Directory) -> None:
    (place.root / "one").touch()
    entry = looked_up(place, b"one")
    assert place.attribution.opened(entry.inode, CALLER) is entry
    assert place.attribution.reached(entry.inode, CALLER) == [entry]


def test_who_has_looked_a_name_up_uses_that_one(place: Directory) -> None:
    first, second = both(place)
    assert first.inode is second.inode
    for name, parent, entry in ((b"b", second.parent, second), (b"a", first.parent, first)):
        looked_up(place, name, parent)
        assert place.attribution.opened(first.inode, CALLER) is entry


def test_a_lookup_is_for_one_request_and_one_thread(place: Directory) -> None:
    first, second = both(place)
    looked_up(place, b"b", second.parent)
    assert place.attribution.reached(first.inode, Caller(5, 0, 0)) == [first, second], "another thread's"
    assert place.attribution.reached(first.inode, CALLER) == [second]
    assert place.attribution.reached(first.inode, CALLER) == [first, second], "the lookup was for the one before"


def test_a_lookup_for_a_change_of_names_says_nothing_of_the_next_request(place: Directory) -> None:
    first, second = both(place)
    looked_up(place, b"b", second.parent)
    place.attribution.moved_on(THREAD)
    assert place.attribution.reached(first.inode, CALLER) == [first, second]


def test_a_name_that_goes_after_it_was_looked_up_is_the_one_that_is_changed(place: Directory) -> None:
    """Another unlinks it meanwhile: Linux tells ATTRIB of it even after its DELETE (6.18), and of no other name."""
    first, second = both(place)
    handles = []
    for entry in (first, second):
        looked_up(place, entry.name, entry.parent, OTHER)
        handles.append(done(place.files.open(entry.inode, os.O_RDONLY, Caller(OTHER, 0, 0))).handle)
    assert [handle.entry for handle in handles] == [first, second]
    looked_up(place, b"b", second.parent)
    done(place.names.remove("unlink", second.parent, b"b", Caller(OTHER, 0, 0)))
    assert place.attribution.reached(first.inode, CALLER) == [second]
    for handle in handles:
        place.files.close(handle)
        os.close(handle.fd)


def test_a_name_that_is_gone_is_not_opened(place: Directory) -> None:
    first, second = both(place)
    looked_up(place, b"b", second.parent)
    done(place.names.remove("unlink", second.parent, b"b", Caller(OTHER, 0, 0)))
    assert place.attribution.opened(first.inode, CALLER) is first


def test_the_first_name_may_be_used_without_a_lookup_until_its_time_is_over(place: Directory) -> None:
    (place.root / "one").touch()
    inode = place.look(b"one")
    change, _ = done(place.names.link(inode, place.top, b"two", CALLER))
    first, second = inode.names or []
    assert change.entry is second
    handle = done(place.files.open(inode, os.O_RDONLY, CALLER)).handle
    assert handle.entry is first, "nobody has looked the second up"
    place.now += 0.9
    assert place.attribution.reached(inode, CALLER) == [first]
    place.files.close(handle)
    os.close(handle.fd)
    place.now += 0.2
    assert place.attribution.reached(inode, CALLER) == [first, second]


def test_a_name_that_moves_while_its_first_may_be_cached_is_to_be_asked_for(place: Directory) -> None:
    (place.root / "one").touch()
    inode = place.look(b"one")
    done(place.names.link(inode, place.top, b"two", CALLER))
    done(place.names.rename(place.top, b"one", place.top, b"new", 0, CALLER))
    assert place.expired == [(place.top.number, b"one"), (place.top.number, b"new")]


def test_a_change_by_a_descriptor_was_made_through_the_name_that_it_was_opened_by(place: Directory) -> None:
    """FUSE does not name it; /proc shows what the thread has passed to its system call."""
    os.mkfifo(place.root / "d/fifo")
    os.link(place.root / "d/fifo", place.root / "other")
    directory, started = place.look(b"d"), threading.Event()
    place.look(b"other")
    entry = looked_up(place, b"fifo", directory)
    place.source.inodes.use(entry)
    fd, thread = os.open(place.root / "d/fifo", os.O_RDWR), 0

    def read() -> None:
        nonlocal thread
        thread = threading.get_native_id()
        started.set()
        os.read(fd, 1)

    reader = threading.Thread(target=read)
    reader.start()
    started.wait(10)
    syscall = Path(f"/proc/{thread}/syscall")
    wait_until(lambda: syscall.read_text("ascii").split()[:2] == ["0", hex(fd)] or os.uname().machine != "x86_64")
    reached = place.attribution.reached(entry.inode, Caller(thread, 0, 0))
    os.write(fd, b"x")
    reader.join()
    os.close(fd)
    place.source.inodes.drop(entry)
    assert reached == [entry]


def test_who_is_not_listened_to_is_not_looked_at(place: Directory) -> None:
    """/proc is read for each change of a file with several names: only when somebody hears of it."""
    first, second = both(place)
    change = place.attribution.changed("attributes", first.inode, CALLER)
    assert change is not None
    assert (change.entry, change.others) == (first, ())
    instance = Instance(0, Queue(10, lambda: 0), lambda: None)
    place.watches.open(instance)
    place.watches.add(instance, place.top, flags.ATTRIB)
    change = place.attribution.changed("attributes", first.inode, CALLER)
    assert change is not None
    assert (change.entry, change.others) == (first, ()), "nobody hears of the second"
    place.watches.add(instance, second.parent, flags.ATTRIB)
    change = place.attribution.changed("attributes", first.inode, CALLER)
    assert change is not None
    assert (change.entry, change.others) == (first, (second,))
    assert change.locked == ((first.inode.number, b""),)


def test_without_a_cache_who_looked_it_up_before_it_had_another_name_uses_the_first(place: Directory) -> None:
    """Found by scripts/overlap: with cache=never a truncation was told by both names."""
    (place.root / "one").touch()
    attribution = Attribution(place.watches, lambda _parent, _name: None, 0.0, lambda: place.now)
    inode = looked_up(place, b"one").inode
    first = inode.entry
    attribution.linked(inode)
    done(place.names.link(inode, place.top, b"two", CALLER))
    assert attribution.reached(inode, CALLER) == [first]
    place.now += 0.2
    assert len(attribution.reached(inode, CALLER)) == 2
