"""Which calls are left to a thread: by what they would free, and while the source is slow."""

from __future__ import annotations

import errno
import os
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest

from notifyfs.passthrough.attributes import Wanted
from notifyfs.passthrough.pace import FEW_BLOCKS, Apart, Pace, Until, frees_much
from notifyfs.protocol.flags import ATTRIB
from notifyfs.system import syscalls
from notifyfs.system.callers import Caller
from tests.support.directory import Directory, directory, done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.pace import Steps

T = TypeVar("T")

USER = 12345


class Clock:
    """Seconds, as they are told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def blocked(self, seconds: float) -> None:
        """Wait for something, as a call waits for a disk: not quite so long, but the processor is given up."""
        self.now += seconds
        wait_for_somebody()

    def preempted(self, seconds: float) -> None:
        """Others have the processor for so long."""
        self.now += seconds


def wait_for_somebody() -> None:
    """Sleep until a child has ended."""
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


def yielded(steps: Steps[object]) -> Apart | None:
    """What *steps* want a thread for, if they do."""
    return next(steps, None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Directory]:
    with directory(tmp_path / "place") as made:
        yield made


def test_after_two_calls_that_took_long_others_go_to_threads_for_twenty_times_as_long() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(2):
        assert yielded(pace.do(USER, lambda: clock.blocked(0.010))) is None
    clock.now += 0.199
    apart = yielded(pace.do(USER, os.getpid))
    assert apart is not None
    assert (apart.user, apart.call()) == (USER, os.getpid())
    clock.now += 0.002
    assert yielded(pace.do(USER, os.getpid)) is None


def test_who_only_lost_the_processor_was_not_slow() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(20):
        pace.timed(clock.preempted, 0.010)
    assert not pace.slow


def test_it_is_not_slow_for_longer_than_two_seconds_after_one_call() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(2):
        pace.timed(clock.blocked, 45)
    clock.now += 1.9
    assert pace.slow
    clock.now += 0.2
    assert not pace.slow


def test_a_call_in_a_thread_has_descriptors_of_its_own_and_a_umask(tmp_path: Path) -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(2):
        pace.timed(clock.blocked, 1)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    def make(parent: int) -> int:
        before = os.umask(0o077)
        os.mkdir("made", 0o777, dir_fd=parent)
        os.umask(before)
        return parent

    apart = yielded(pace.do(USER, make, fd))
    assert apart is not None
    os.close(fd)
    ours = os.umask(0o022)
    used: list[int] = []
    thread = threading.Thread(target=lambda: used.append(apart.call()))
    thread.start()
    thread.join()
    assert os.umask(ours) == 0o022
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(used[0])


def test_what_blocks_a_size_frees(tmp_path: Path) -> None:
    def found(size: int, blocks: int) -> os.stat_result:
        return os.stat_result((stat.S_IFREG, 1, 1, 1, 0, 0, size, 0, 0, 0, 0.0, 0.0, 0.0, 0, 0, 0, 4096, blocks, 0))

    (tmp_path / "f").write_bytes(bytes(5000))
    real = (tmp_path / "f").stat()
    assert found(real.st_size, real.st_blocks).st_blocks == real.st_blocks
    assert not frees_much(found(1 << 30, FEW_BLOCKS))
    assert frees_much(found(1 << 30, FEW_BLOCKS + 1))
    assert not frees_much(found(1 << 30, 1 << 21), 1 << 30)
    assert not frees_much(found(1 << 30, 1 << 21), 1 << 40)
    assert frees_much(found(1 << 20, 1 << 21), 1 << 20)  # fallocate(2) has allocated beyond its end


@pytest.mark.parametrize("size", [0, 10, 4 << 20])
def test_a_file_of_many_blocks_is_truncated_in_a_thread(place: Directory, size: int) -> None:
    (place.root / "f").write_bytes(bytes(1 << 20))
    inode = place.look(b"f")
    steps = place.attributes.set(inode, Wanted(size=size), None, place.caller)
    if size > 1 << 20:
        assert yielded(steps) is None
    else:
        assert next(steps).user == place.caller.uid
    again = done(place.attributes.set(inode, Wanted(size=size), None, place.caller))
    assert again[1].st_size == (place.root / "f").stat().st_size == size


def test_opening_to_truncate_a_file_of_many_blocks_does_that_in_a_thread(place: Directory) -> None:
    (place.root / "few").write_bytes(bytes(4096))
    (place.root / "many").write_bytes(bytes(1 << 20))
    few = place.files.open(place.look(b"few"), os.O_WRONLY | os.O_TRUNC, place.caller)
    assert yielded(few) is None
    many = place.files.open(place.look(b"many"), os.O_WRONLY | os.O_TRUNC, place.caller)
    assert yielded(many) is not None
    assert done(place.files.open(place.look(b"many"), os.O_WRONLY | os.O_TRUNC, place.caller)).found.st_size == 0


def test_a_mode_that_another_changes_while_a_file_is_truncated_is_not_the_opens(place: Directory) -> None:
    """FUSE holds no lock for O_TRUNC. Found by scripts/overlap: the open told ATTRIB, too."""
    (place.root / "many").write_bytes(bytes(1 << 20))
    steps = place.files.open(place.look(b"many"), os.O_WRONLY | os.O_TRUNC, place.caller)
    apart = next(steps)
    (place.root / "many").chmod(0o600)
    assert finished(steps, apart.call()).change.operation == "open and truncate"


def finished(steps: Steps[T], outcome: object) -> T:
    """What *steps* do in the end, which *outcome* leads to."""
    with pytest.raises(StopIteration) as end:
        steps.send(outcome)
    return end.value.value  # type: ignore[no-any-return]


def slow(place: Directory) -> None:
    """Make the source seem slow."""
    for _ in range(2):
        place.pace.timed(lambda: setattr(place, "clock", place.clock + 1) or wait_for_somebody())


def test_while_the_source_is_slow_whatever_changes_it_is_done_in_threads(place: Directory) -> None:
    (place.root / "f").touch()
    (place.root / "e").mkdir()
    (place.root / "x").touch()
    inode = place.look(b"f")
    for name in (b"e", b"x"):
        place.look(name)
    slow(place)
    names, top, caller = place.names, place.top, place.caller
    all_of_them: list[Steps[object]] = [
        names.make_directory(top, b"d", 0o755, caller, 0),
        names.make_node(top, b"p", stat.S_IFIFO | 0o600, 0, caller, 0),
        names.make_symlink(top, b"l", b"t", caller, 0),
        names.link(inode, top, b"g", caller),
        names.remove("unlink", top, b"x", caller),
        names.remove("rmdir", top, b"e", caller),
        names.rename(top, b"f", top, b"h", 0, caller),
        place.files.create(top, b"c", 0o644, os.O_WRONLY, caller, 0),
        place.attributes.set(inode, Wanted(mode=0o600), None, caller),
        place.attributes.set_extended(inode, b"user.x", b"1", caller),
        place.attributes.remove_extended(inode, b"user.x", caller),
    ]
    for steps in all_of_them:
        apart = next(steps)
        with pytest.raises(StopIteration):
            steps.send(apart.call())
    assert sorted(os.listdir(place.root)) == ["c", "d", "g", "h", "l", "p"]


def test_what_is_moved_or_removed_in_a_thread_can_be_asked_for_meanwhile(place: Directory) -> None:
    (place.root / "d").mkdir()
    (place.root / "d" / "f").write_bytes(b"12345")
    (place.root / "x").touch()
    directory_, removed = place.look(b"d"), place.look(b"x")
    file = place.look(b"f", directory_)
    slow(place)
    moving = place.names.rename(place.top, b"d", place.top, b"e", 0, place.caller)
    removing = place.names.remove("unlink", place.top, b"x", place.caller)
    outcomes = [(steps, next(steps).call()) for steps in (moving, removing)]
    # Done in the source, and nobody has said so yet.
    assert place.source.stat(file).st_size == 5
    assert place.source.stat(removed).st_nlink == 0
    for steps, outcome in outcomes:
        with pytest.raises(StopIteration):
            steps.send(outcome)
    assert place.source.stat(file).st_size == 5
    assert directory_.entry.name == b"e"
    assert not removed.entry.live


def test_a_name_that_is_looked_up_while_it_is_exchanged_in_a_thread_is_told_as_exchanged(place: Directory) -> None:
    """Found by scripts/overlap: for a name that it knows the kernel asks without the directory's lock."""
    for name in ("a", "b"):
        (place.root / name).touch()
        place.look(name.encode())
    slow(place)
    steps = place.names.rename(place.top, b"a", place.top, b"b", syscalls.RENAME_EXCHANGE, place.caller)
    outcome = called(next(steps))
    waits(place, b"b")
    changes = finished(steps, outcome)
    assert [(change.rename and change.rename.name, change.entry.name) for change in changes] == [
        (b"a", b"b"),
        (b"b", b"a"),
    ]
    assert place.came == [b"b"]
    assert place.look(b"b") is changes[0].entry.inode


def test_a_name_that_is_looked_up_while_it_is_moved_in_a_thread_is_no_other_file(place: Directory) -> None:
    """Found by scripts/overlap: with another generation the kernel made the inode bad, and open(2) was EIO."""
    for name in ("a", "b"):
        (place.root / name).touch()
    moved, replaced = place.look(b"a"), place.look(b"b")
    slow(place)
    steps = place.names.rename(place.top, b"a", place.top, b"b", 0, place.caller)
    outcome = called(next(steps))
    waits(place, b"a")
    waits(place, b"b")
    (change,) = finished(steps, outcome)
    assert change.rename is not None
    assert change.rename.victim is replaced
    assert place.look(b"b") is moved
    assert moved.generation == 0


@pytest.mark.parametrize("operation", ["make", "create", "link", "unlink"])
def test_a_name_that_is_made_or_removed_in_a_thread_is_found_when_that_was_told(
    place: Directory, operation: str
) -> None:
    (place.root / "old").touch()
    old, names, caller = place.look(b"old"), place.names, place.caller
    slow(place)
    steps: Steps[object] = {
        "make": lambda: names.make_directory(place.top, b"new", 0o755, caller, 0),
        "create": lambda: place.files.create(place.top, b"new", 0o644, os.O_WRONLY, caller, 0),
        "link": lambda: names.link(old, place.top, b"new", caller),
        "unlink": lambda: names.remove("unlink", place.top, b"old", caller),
    }[operation]()
    outcome = called(next(steps))
    name = b"old" if operation == "unlink" else b"new"
    waits(place, name)
    finished(steps, outcome)
    assert place.came == [name]
    if operation == "unlink":
        with pytest.raises(FileNotFoundError):
            place.look(name)
    else:
        assert place.look(name).generation == 0


def called(step: Apart) -> object:
    """What the call does that is to be made in a thread."""
    return step.call()


def waits(place: Directory, name: bytes) -> None:
    """A lookup of *name* has to wait; it is noted when what it waits for has come."""
    with pytest.raises(Until) as until:
        place.names.look_up(place.top, name, place.caller)
    until.value.then(partial(place.came.append, name))


def opened(place: Directory, inode: Inode, user: Caller) -> int | None:
    """The descriptor of a file that *user* opened; None where that user has too many."""
    try:
        return done(place.files.open(inode, os.O_RDONLY, user)).handle.fd
    except OSError as error:
        if error.errno != errno.ENFILE:
            raise
        return None


def test_a_user_has_no_more_files_open_than_are_left_for_others(tmp_path: Path) -> None:
    with directory(tmp_path / "place", most=9) as place:
        (place.root / "f").touch()
        inode = place.look(b"f")
        users = [Caller(1, uid, uid) for uid in (1, 2, 0)]
        held: list[list[int]] = []
        for user in users[:2]:
            held.append([])
            while (fd := opened(place, inode, user)) is not None:
                held[-1].append(fd)
        assert [len(fds) for fds in held] == [5, 2]
        done(place.files.open(inode, os.O_RDONLY, users[2]))  # root
        handle = place.files.handles[held[0].pop()]
        place.files.close(handle)
        os.close(handle.fd)
        handle, _ = place.files.open_directory(place.top, Caller(1, 3, 3))
        assert len(place.files.handles) == 8


def test_who_changes_a_file_of_one_name_has_reached_it_through_that(place: Directory) -> None:
    """Found by scripts/overlap: told for the other name, too, that it got while it was changed in a thread."""
    (place.root / "one").touch()
    inode = place.look(b"one")
    entry = inode.entry
    place.watch(place.top, ATTRIB)
    slow(place)
    steps = place.attributes.set(inode, Wanted(mode=0o600), None, place.caller)
    outcome = called(next(steps))
    link = place.names.link(inode, place.top, b"two", place.caller)
    finished(link, called(next(link)))
    place.now += 2  # the first name is no longer the only one that the kernel may use unasked
    change, _ = finished(steps, outcome)
    assert change is not None
    assert (change.entry, change.others) == (entry, ())


def test_a_second_name_that_is_looked_up_while_the_first_is_removed_in_a_thread_is_a_second_name(
    place: Directory,
) -> None:
    """Found by scripts/overlap: the file was taken for moved behind the mount, and the removal told of its new name."""
    (place.root / "one").touch()
    inode = place.look(b"one")
    os.link(place.root / "one", place.root / "two")
    one = inode.entry
    slow(place)
    steps = place.names.remove("unlink", place.top, b"one", place.caller)
    outcome = called(next(steps))
    assert place.look(b"two") is inode
    change = finished(steps, outcome)
    assert (change.entry, one.name, change.dies) == (one, b"one", False)
    assert (inode.entry.name, inode.gone) == (b"two", False)
