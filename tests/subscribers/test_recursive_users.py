"""A recursive watch of an ordinary user: what a watch on each directory below could have told, and no more.

``scripts/recursive`` compares that with the kernel's own watches in random trees; here is each rule by itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.accounts import MOST_RECURSIVE
from tests.subscribers.test_permissions import GROUP, REFUSED, USER, made, mount, root_only, tree
from tests.support import wireclient as w
from tests.support.posix import GROUP_OBJ, MASK, NOBODY, OTHERS, USER_OBJ, USER_TAG, acl
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["mount", "root_only", "tree"]

ACCESS_LIST = "system.posix_acl_access"
TREE = w.ALL_EVENTS & ~w.ACCESS | w.RECURSIVE


@contextlib.contextmanager
def as_them(uid: int = USER, groups: Iterable[int] = ()) -> Iterator[None]:
    """What the kernel says of this process to whom it connects to: this user. There must be no other thread."""
    before = os.getgroups()
    os.setgroups(list(groups))
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


@contextlib.contextmanager
def watching(mount: Mount, top: Path, mask: int = TREE, groups: Iterable[int] = (), **how: bool) -> Iterator[Wire]:
    """A connection of the user's with a watch on *top*; with ``by_descriptor=True`` set by one of root's."""
    with as_them(groups=groups):
        wire = Wire(mount)
    with wire:
        if how:
            descriptor = os.open(top, os.O_PATH)
            assert wire.add_descriptor(mask, descriptor) == 1
            os.close(descriptor)
        else:
            wire.add(mask, top)
        yield wire


def heard(wire: Wire) -> list[tuple[int, bytes]]:
    return [(mask, name) for _, mask, name in wire.told()]


def names(wire: Wire) -> list[bytes]:
    """What has been created by now."""
    return [name for mask, name in heard(wire) if mask & w.CREATE]


def directory(path: Path, mode: int, uid: int = 0, gid: int = 0) -> Path:
    path.mkdir()
    os.chown(path, uid, gid)
    path.chmod(mode)
    return path


@pytest.fixture
def top(tree: Path) -> Path:
    """A directory that everybody may read, in one that everybody may search."""
    tree.chmod(0o711)
    return directory(tree / "top", 0o755)


# Which directories


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "told"),
    [
        (0o755, 0, 0, True),
        (0o744, 0, 0, True),
        (0o711, 0, 0, False),
        (0o700, 0, 0, False),
        (0o400, USER, 0, True),
        (0o077, USER, 0, False),
        (0o740, 0, USER, True),
        (0o740, 0, GROUP, True),
        (0o704, 0, GROUP, False),
    ],
)
def test_a_directory_is_heard_by_who_may_read_it(  # noqa: PLR0913 - a table
    mount: Mount, top: Path, mode: int, uid: int, gid: int, *, told: bool
) -> None:
    below = directory(top / "d", mode, uid, gid)
    with watching(mount, top, groups=(GROUP,)) as wire:
        w.touch(below / "f")
        assert names(wire) == [b"d/f"] * told
        with as_them(groups=(GROUP,)):
            alone = Wire(mount)
        with alone:
            assert (alone.watch(w.CREATE, below) == 1) is told, "as a watch on it"


def test_what_is_below_a_directory_that_may_not_be_searched_is_not_heard(mount: Mount, top: Path) -> None:
    for name, mode in (("read", 0o744), ("search", 0o711), ("neither", 0o700), ("both", 0o755)):
        directory(directory(top / name, mode) / "below", 0o755)
    with watching(mount, top) as wire:
        for name in ("read", "search", "neither", "both"):
            w.touch(top / name / "f")
            w.touch(top / name / "below" / "f")
        assert names(wire) == [b"read/f", b"search/below/f", b"both/f", b"both/below/f"]


def test_a_directory_that_is_closed_is_seen_from_its_own_directory_only(mount: Mount, top: Path) -> None:
    closed = directory(top / "closed", 0o700)
    with watching(mount, top) as wire:
        (closed / "in").mkdir()
        closed.chmod(0o710)
        (closed / "in").rmdir()
        (closed / "f").write_bytes(b"x")
        (closed / "f").unlink()
        closed.rmdir()
        assert heard(wire) == [(w.ATTRIB | w.ISDIR, b"closed"), (w.DELETE | w.ISDIR, b"closed")]


def test_the_halves_of_a_rename_are_judged_each_by_its_directory(mount: Mount, top: Path) -> None:
    for name, mode in (("open", 0o755), ("closed", 0o700)):
        directory(top / name, mode)
    w.touch(top / "open/f")
    with watching(mount, top, w.MOVED_FROM | w.MOVED_TO | w.RECURSIVE) as wire:
        (top / "open/f").rename(top / "closed/f")
        (top / "closed/f").rename(top / "open/g")
        (top / "open/g").rename(top / "open/h")
        assert heard(wire) == [
            (w.MOVED_FROM, b"open/f"),
            (w.MOVED_TO, b"open/g"),
            (w.MOVED_FROM, b"open/g"),
            (w.MOVED_TO, b"open/h"),
        ]


def test_root_hears_everything(mount: Mount, top: Path) -> None:
    closed = directory(top / "closed", 0)
    with Wire(mount) as wire:
        wire.add(w.CREATE | w.RECURSIVE, top)
        w.touch(closed / "f")
        assert names(wire) == [b"closed/f"]


def test_what_is_not_told_uses_no_oneshot_and_merges_nothing(mount: Mount, top: Path) -> None:
    closed = directory(top / "closed", 0o700)
    with watching(mount, top, w.CREATE | w.RECURSIVE | w.ONESHOT) as wire:
        w.touch(closed / "f")
        w.touch(top / "g")
        assert heard(wire) == [(w.CREATE, b"g"), (w.IGNORED, b"")]


# When it changes


def test_a_change_of_permissions_through_the_mount_counts_at_once(mount: Mount, top: Path) -> None:
    below = directory(directory(top / "d", 0o755) / "e", 0o755)
    entries = acl(
        (USER_OBJ, 7, NOBODY), (USER_TAG, 0, USER), (GROUP_OBJ, 5, NOBODY), (MASK, 5, NOBODY), (OTHERS, 5, NOBODY)
    )
    changes: list[tuple[bool, Callable[[], None]]] = [
        (True, lambda: None),
        (False, lambda: below.chmod(0o711)),
        (True, lambda: below.chmod(0o755)),
        (False, lambda: (top / "d").chmod(0o744)),
        (True, lambda: (top / "d").chmod(0o755)),
        (True, lambda: os.chown(below, USER, USER)),
        (False, lambda: below.chmod(0o077)),
        (True, lambda: os.chown(below, 0, 0)),
        (True, lambda: below.chmod(0o755)),
        (False, lambda: os.setxattr(below, ACCESS_LIST, entries)),
        (True, lambda: os.removexattr(below, ACCESS_LIST)),
        (False, lambda: os.setxattr(top / "d", ACCESS_LIST, entries)),
        (True, lambda: os.removexattr(top / "d", ACCESS_LIST)),
    ]
    with watching(mount, top, w.CREATE | w.RECURSIVE) as wire:
        for number, (told, change) in enumerate(changes):
            change()
            w.touch(below / f"f{number}")
            assert names(wire) == [b"d/e/f%d" % number] * told, number


def test_a_move_through_the_mount_counts_at_once(mount: Mount, top: Path) -> None:
    directory(top / "closed", 0o700)
    below = directory(directory(top / "d", 0o755) / "e", 0o755)
    with watching(mount, top, w.CREATE | w.RECURSIVE) as wire:
        w.touch(below / "f")
        (top / "d").rename(top / "closed/d")
        w.touch(top / "closed/d/e/g")
        (top / "closed/d").rename(top / "again")
        w.touch(top / "again/e/h")
        assert names(wire) == [b"d/e/f", b"again/e/h"]


def test_a_change_behind_the_mount_counts_when_the_kernel_has_asked_and_after_a_second_in_any_case(
    mount: Mount, top: Path
) -> None:
    below = directory(top / "d", 0o755)
    hidden = mount.source / top.relative_to(mount.root) / "d"
    with watching(mount, top, w.CREATE | w.RECURSIVE) as wire:
        w.touch(below / "f")
        hidden.chmod(0o700)
        numbers = iter(range(10**6))

        def told() -> bool:
            w.touch(below / str(next(numbers)))
            return bool(names(wire))

        w.wait_until(lambda: not told(), "silence")
        hidden.chmod(0o755)
        w.wait_until(told, "it is told again")


# The watched directory, and those above it


def test_the_watched_directory_is_judged_as_well(mount: Mount, top: Path) -> None:
    below = directory(top / "d", 0o755)
    for by_descriptor in ({}, {"by_descriptor": True}):
        with watching(mount, top, **by_descriptor) as wire:
            top.chmod(0o711)
            os.utime(top)
            os.mkdir(top / "x")
            os.utime(below)
            os.mkdir(below / "y")
            top.chmod(0o744)
            os.rmdir(below / "y")
            os.rmdir(top / "x")
            top.chmod(0o755)
            assert heard(wire) == [
                (w.CREATE | w.ISDIR, b"d/y"),
                (w.ATTRIB | w.ISDIR, b""),
                (w.DELETE | w.ISDIR, b"x"),
                (w.ATTRIB | w.ISDIR, b""),
            ]


def test_who_may_not_walk_there_any_more_hears_nothing_unless_a_descriptor_was_the_way(
    mount: Mount, tree: Path, top: Path
) -> None:
    with watching(mount, top) as by_path, watching(mount, top, by_descriptor=True) as by_descriptor:
        tree.chmod(0o700)
        os.mkdir(top / "d")
        os.utime(top)
        assert heard(by_path) == []
        assert heard(by_descriptor) == [(w.CREATE | w.ISDIR, b"d"), (w.ATTRIB | w.ISDIR, b"")]
        tree.chmod(0o711)
        os.rmdir(top / "d")
        assert heard(by_path) == heard(by_descriptor) == [(w.DELETE | w.ISDIR, b"d")]


def test_the_end_of_a_watch_is_told_to_everybody(mount: Mount, tree: Path, top: Path) -> None:
    with watching(mount, top) as seeing, watching(mount, top) as blind:
        top.chmod(0o700)
        heard(seeing)
        top.rmdir()
        assert heard(blind) == [(w.IGNORED, b"")], "whether it died is in doubt for a moment; may they hear, is not"
    top = directory(tree / "another", 0o755)
    with watching(mount, top) as seeing:
        top.rmdir()
        assert heard(seeing) == [(w.DELETE_SELF, b""), (w.IGNORED, b"")]


# What it costs


@pytest.mark.parametrize(("mode", "told"), [(0o755, True), (0o711, False)])
def test_reads_that_the_user_may_not_hear_of_stay_in_the_page_cache(
    mount: Mount, top: Path, mode: int, *, told: bool
) -> None:
    """A watch for reads has the pages of open files dropped: not of those that it is not told of."""
    file = directory(top / "d", mode) / "f"
    file.write_bytes(b"x" * 4096)

    def reads() -> int:
        with Wire(mount) as asking:
            rows = json.loads(asking.until_reply(asking.send(w.STATISTICS, 1))[1].name)["rows"]
        return sum(row["count"] for row in rows if row["operation"] == "read")

    with file.open("rb", buffering=0) as held:
        held.read()
        before = reads()
        with watching(mount, top, w.ACCESS | w.RECURSIVE) as wire:
            os.pread(held.fileno(), 4096, 0)
            file.read_bytes()
            assert (reads() > before) is told
            assert bool(heard(wire)) is told


def test_what_was_never_judged_is_judged_in_pieces_and_an_overflow_is_told_meanwhile(mount: Mount, top: Path) -> None:
    place = os.open(top, os.O_PATH)
    for _ in range(200):
        os.mkdir("d", 0o755, dir_fd=place)
        below = os.open("d", os.O_PATH, dir_fd=place)
        os.close(place)
        place = below
    told: list[list[tuple[int, int, bytes]]] = []
    with watching(mount, top, w.CREATE | w.RECURSIVE) as wire:
        for number in range(6):
            os.mkdir(str(number), dir_fd=place)
            told.append(wire.told())
    os.close(place)
    lost = [(-1, w.Q_OVERFLOW, b"")]
    assert told[0] == lost
    assert told[-1] == [(1, w.CREATE | w.ISDIR, b"d/" * 200 + b"5")]
    assert all(events in (lost, []) or events[0][1] & w.CREATE for events in told)


def test_a_user_has_a_limited_number_of_recursive_watches(mount: Mount, top: Path) -> None:
    for number in range(MOST_RECURSIVE + 1):
        directory(top / str(number), 0o755)
    with watching(mount, top / "0") as wire:
        for number in range(1, MOST_RECURSIVE):
            wire.add(TREE, top / str(number))
        last = top / str(MOST_RECURSIVE)
        assert wire.watch(TREE, last) == -errno.ENOSPC
        assert wire.watch(w.CREATE, last) > 0
        assert wire.watch(TREE, last) == -errno.ENOSPC, "nor by changing one"
        assert wire.ask(1) == 0
        assert wire.watch(TREE, last) > 0


def test_a_recursive_watch_takes_what_any_takes(mount: Mount, top: Path) -> None:
    file, closed = made(top / "f", 0o644), directory(top / "closed", 0o711)
    with as_them():
        wire = Wire(mount)
    with wire:
        assert wire.watch(TREE, file) == -errno.ENOTDIR
        assert wire.watch(TREE, closed) == REFUSED
        assert wire.watch(TREE, closed / "absent") == -errno.ENOENT


def test_on_a_source_that_may_hang_nobody_is_judged_and_only_root_may_watch_a_tree(
    open_mount: Mount, mounted: Callable[..., Mount]
) -> None:
    upper = mounted("allow_other", "reach=socket", source=open_mount.root)
    with as_them():
        wire = Wire(upper)
    with wire:
        assert wire.watch(TREE) == -errno.EPERM
        assert wire.watch(w.CREATE) == 1
    with Wire(upper) as wire:
        wire.add(TREE)
    upper.finish()
