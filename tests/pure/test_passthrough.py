"""Each operation on a plain directory: it is done there, and the ``Change`` says what was."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.changes import Rename
from notifyfs.passthrough.attributes import Wanted
from notifyfs.system import syscalls
from tests.support.directory import Directory, brief, directory, done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Directory]:
    with directory(tmp_path / "source") as place:
        yield place


def made(place: Directory, name: bytes, flags: int = os.O_RDWR) -> int:
    """Create a file and leave it open; its descriptor."""
    opened = done(place.files.create(place.top, name, 0o644, flags, place.caller, 0o022))
    opened.handle.entry.inode.lookups += 1
    return opened.handle.fd


def test_making_says_what_was_made(place: Directory) -> None:
    change, found = done(place.names.make_directory(place.top, b"d", 0o777, place.caller, 0o022))
    assert brief(change) == ("make", b"d", False)
    assert stat.S_ISDIR(found.st_mode)
    assert stat.S_IMODE((place.root / "d").stat().st_mode) == 0o755
    change, found = done(place.names.make_symlink(place.top, b"l", b"d", place.caller, 0))
    assert (brief(change), os.readlink(place.root / "l")) == (("make", b"l", False), "d")
    change, found = done(place.names.make_node(place.top, b"p", stat.S_IFIFO | 0o600, 0, place.caller, 0))
    assert stat.S_ISFIFO(found.st_mode)
    assert change.entry.inode.ino == found.st_ino


def test_making_what_exists_is_the_source_s_errno_and_no_change(place: Directory) -> None:
    (place.root / "d").mkdir()
    with pytest.raises(FileExistsError):
        done(place.names.make_directory(place.top, b"d", 0o777, place.caller, 0))


def test_the_last_name_s_removal_says_that_the_file_dies(place: Directory) -> None:
    (place.root / "f").touch()
    os.link(place.root / "f", place.root / "g")
    for name in (b"f", b"g"):
        place.look(name)
    first = done(place.names.remove("unlink", place.top, b"f", place.caller))
    second = done(place.names.remove("unlink", place.top, b"g", place.caller))
    assert [brief(first), brief(second)] == [("unlink", b"f", False), ("unlink", b"g", True)]
    assert first.locked == ((place.top.number, b"f"),)
    assert not list(place.root.iterdir())


def test_a_file_that_is_open_dies_at_its_last_close(place: Directory) -> None:
    fd = made(place, b"f")
    assert brief(done(place.names.remove("unlink", place.top, b"f", place.caller))) == ("unlink", b"f", False)
    assert list(map(brief, place.files.close(place.files.handles[fd]))) == [
        ("close after writing", b"f", False),
        ("die", b"f", True),
    ]
    os.close(fd)


def test_a_rename_says_from_where_and_over_what(place: Directory) -> None:
    (place.root / "d").mkdir()
    for name in ("f", "d/g"):
        (place.root / name).touch()
    directory, victim = place.look(b"d"), None
    victim = place.look(b"g", directory)
    place.look(b"f")
    (change,) = done(place.names.rename(place.top, b"f", directory, b"g", 0, place.caller))
    assert brief(change) == ("rename", b"g", False)
    assert change.rename == Rename(place.top, b"f", victim, victim_dies=True)
    assert change.locked == ((place.top.number, b"f"), (directory.number, b"g"))
    assert [entry.name for entry in (place.root / "d").iterdir()] == ["g"]


def test_an_exchange_is_two_changes(place: Directory) -> None:
    for name in ("f", "g"):
        (place.root / name).write_text(name)
        place.look(name.encode())
    both = done(place.names.rename(place.top, b"f", place.top, b"g", syscalls.RENAME_EXCHANGE, place.caller))
    assert [(change.entry.name, change.rename and change.rename.name) for change in both] == [
        (b"g", b"f"),
        (b"f", b"g"),
    ]
    assert both[0].locked == ((place.top.number, b"f"), (place.top.number, b"g"))
    assert (place.root / "f").read_text() == "g"


def test_a_rename_that_fails_changes_nothing(place: Directory) -> None:
    (place.root / "d").mkdir()
    (place.root / "d/g").touch()
    (place.root / "e").mkdir()
    kept = [place.look(name) for name in (b"d", b"e")]
    with pytest.raises(OSError, match="not empty") as refusal:
        done(place.names.rename(place.top, b"e", place.top, b"d", 0, place.caller))
    assert refusal.value.errno == errno.ENOTEMPTY
    assert [place.look(name) for name in (b"d", b"e")] == kept


def test_a_file_replaced_behind_the_mount_is_looked_at_again(place: Directory) -> None:
    (place.root / "f").touch()
    known = place.look(b"f")
    (place.root / "new").touch()
    (place.root / "new").replace(place.root / "f")
    with pytest.raises(OSError, match="replaced behind the mount") as refusal:
        done(place.names.remove("unlink", place.top, b"f", place.caller))
    assert refusal.value.errno == errno.ESTALE
    assert (place.root / "f").exists()
    assert place.look(b"f") is not known


def test_the_kernel_is_to_ask_for_the_first_name_of_a_file_that_gets_a_second(place: Directory) -> None:
    (place.root / "f").touch()
    change, _ = done(place.names.link(place.look(b"f"), place.top, b"g", place.caller))
    assert (brief(change), place.expired) == (("link", b"g", False), [(place.top.number, b"f")])


def test_writing_says_so_once_for_each_call_and_reading_gives_it_back(place: Directory) -> None:
    fd = made(place, b"f")
    handle = place.files.handles[fd]
    written = place.files.write(handle, b"hello", 2)
    assert list(map(brief, place.files.wrote(handle, 2, written.length))) == [("write", b"f", False)]
    assert place.files.answer(handle, 2, written) == 5
    data = place.files.read_cached(handle, 4096, 0)
    assert data is None or bytes(data) == b"\0\0hello"
    assert (place.root / "f").read_bytes() == b"\0\0hello"
    assert not place.files.wrote(handle, 7, 0)


def test_what_a_full_disk_took_is_a_short_count_unless_it_may_be_a_map_s_page(place: Directory) -> None:
    written = place.files.write(place.files.handles[made(place, b"f")], b"x", 0)._replace(
        length=1, error=OSError(errno.ENOSPC, "full")
    )
    whole_page = place.files.handles[made(place, b"g")]
    assert place.files.answer(whole_page, 1, written) == 1
    with pytest.raises(OSError, match="full"):
        place.files.answer(whole_page, 0, written)


def test_opening_to_truncate_says_whether_setuid_went(place: Directory) -> None:
    (place.root / "f").write_text("x")
    (place.root / "f").chmod(0o4755)
    inode = place.look(b"f")
    opened = done(place.files.open(inode, os.O_WRONLY | os.O_TRUNC, place.caller))
    assert (place.root / "f").read_bytes() == b""
    kept = stat.S_IMODE((place.root / "f").stat().st_mode) == 0o4755  # root's own truncation keeps it
    assert brief(opened.change)[0] == ("open and truncate" if kept else "open, truncate and strip")
    assert inode.number in place.forgotten or kept


@pytest.mark.parametrize(
    ("wanted", "operation"),
    [
        (Wanted(mode=0o600), "attributes"),
        (Wanted(size=1), "size or modification time"),
        (Wanted(mtime=1), "size or modification time"),
        (Wanted(atime=1), "access time"),
        (Wanted(atime=1, mtime=1), "attributes"),
    ],
    ids=lambda word: str(word)[:30],
)
def test_attributes_are_set_and_named_as_linux_names_them(place: Directory, wanted: Wanted, operation: str) -> None:
    (place.root / "f").write_text("xyz")
    change, found = done(place.attributes.set(place.look(b"f"), wanted, None, place.caller))
    assert brief(change) == (operation, b"f", False)
    assert change is not None
    assert change.locked == ((change.entry.inode.number, b""),)
    if wanted.size is not None:
        assert found.st_size == wanted.size
    if wanted.mtime is not None:
        assert found.st_mtime_ns == wanted.mtime


def test_nothing_is_told_where_linux_is_silent(place: Directory) -> None:
    (place.root / "f").touch()
    assert done(place.attributes.set(place.look(b"f"), Wanted(), None, place.caller))[0] is None


def test_extended_attributes(place: Directory) -> None:
    (place.root / "f").touch()
    inode = place.look(b"f")
    assert brief(done(place.attributes.set_extended(inode, b"user.x", b"1", place.caller))) == (
        "attributes",
        b"f",
        False,
    )
    assert place.attributes.get_extended(inode, b"user.x", place.caller) == b"1"
    assert b"user.x" in place.attributes.list_extended(inode, place.caller)
    done(place.attributes.remove_extended(inode, b"user.x", place.caller))
    with pytest.raises(OSError, match="No data"):
        place.attributes.get_extended(inode, b"user.x", place.caller)


def test_a_list_of_many_extended_attributes(place: Directory) -> None:
    (place.root / "f").touch()
    inode = place.look(b"f")
    assert place.attributes.list_extended(inode, place.caller) == []
    names = {b"user.%d" % number for number in range(60)} | {b"user.\xff\xfe", "user.ü".encode(), b"user.trusted.x"}
    for name in names:
        os.setxattr(place.root / "f", name, b"")
    listed = place.attributes.list_extended(inode, place.caller)
    assert (len(listed), set(listed)) == (len(names), names)
