"""A fault of the daemon's own while it tells what was done: nobody is left with a silent gap.

The fault is put into a real daemon, and into the watch sets alone where it is about their state.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.queue import OVERFLOW
from notifyfs.protocol import flags
from tests.support import wireclient as w
from tests.support.tree import Nobody, Tree, add, counted, recount
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

CURSE = """
import re
from notifyfs.core import watches

told = watches.notices

def notices(change):
    cursed = re.fullmatch(rb"cursed(\\d)", change.entry.name)
    for number, notice in enumerate(told(change)):
        if cursed and number == int(cursed[1]):
            raise RuntimeError("a fault while telling")
        yield notice

watches.notices = notices
"""
"""Of what is done to a file named cursed2, two steps are told, and the third fails."""

LOST = (-1, w.Q_OVERFLOW, b"")


@pytest.fixture
def cursed(mounted: Callable[..., Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mount:
    """A mount whose daemon fails to tell of some names; Python runs what it finds as sitecustomize."""
    (tmp_path / "sitecustomize.py").write_text(CURSE, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mount = mounted()
    for name in ("here", "there"):
        (mount.source / name).mkdir()
    return mount


def test_everybody_who_watches_is_told_that_something_is_lost(cursed: Mount) -> None:
    with (
        Wire(cursed) as concerned,
        Wire(cursed, event_fd=True) as above,
        Wire(cursed) as elsewhere,
        Wire(cursed) as idle,
    ):
        wd = concerned.add(w.CREATE, cursed.root / "here")
        above.add(w.CREATE | w.RECURSIVE)
        elsewhere.add(w.CREATE, cursed.root / "there")
        os.mkdir(cursed.root / "here" / "cursed0")
        cursed.complains("a fault while telling")
        assert (cursed.source / "here" / "cursed0").is_dir(), "it was done"
        assert [wire.told() for wire in (concerned, above, elsewhere)] == [[LOST]] * 3
        assert idle.told() == []
        os.mkdir(cursed.root / "here" / "next")
        assert concerned.told() == [(wd, w.CREATE | w.ISDIR, b"next")]
        assert above.told() == [(1, w.CREATE | w.ISDIR, b"here/next")]
        assert elsewhere.told() == []


def test_half_a_rename_is_followed_by_an_overflow(cursed: Mount) -> None:
    (cursed.source / "here" / "file").touch()
    with Wire(cursed) as wire:
        wd = wire.add(w.MOVED_FROM | w.MOVED_TO, cursed.root / "here")
        os.rename(cursed.root / "here" / "file", cursed.root / "here" / "cursed1")
        cursed.complains("a fault while telling")
        assert wire.told() == [(wd, w.MOVED_FROM, b"file"), LOST]
        os.rename(cursed.root / "here" / "cursed1", cursed.root / "here" / "file")
        assert wire.told() == [(wd, w.MOVED_FROM, b"cursed1"), (wd, w.MOVED_TO, b"file")]


def test_the_watch_of_a_file_whose_death_could_not_be_told_ends_all_the_same(cursed: Mount) -> None:
    (cursed.source / "here" / "cursed1").touch()
    with Wire(cursed) as wire:
        wire.add(w.ALL_EVENTS, cursed.root / "here" / "cursed1")
        os.unlink(cursed.root / "here" / "cursed1")
        cursed.complains("a fault while telling")
        heard = wire.told()
        assert heard[:2] == [(1, w.ATTRIB, b""), LOST]
        w.wait_until(lambda: wire.statistics()["instance"]["watches"] == 0, "the kernel forgets the file")
        assert wire.ask(1) == -22, "no such watch"


def test_an_attribute_changed_by_a_name_that_cannot_be_found_is_an_overflow(
    mounted: Callable[..., Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon asks /proc through which of its names a file was changed; here that fails in a way nobody foresaw."""
    (tmp_path / "sitecustomize.py").write_text(
        "from notifyfs.passthrough import attribution\ndef descriptor_path(thread): raise RuntimeError('a fault')\n"
        "attribution.descriptor_path = descriptor_path\n",
        "utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mount = mounted()
    (mount.source / "one").touch()
    os.link(mount.source / "one", mount.source / "two")
    with Wire(mount) as wire:
        wire.add(w.ATTRIB)
        for name in ("one", "two"):
            os.stat(mount.root / name)
        with (mount.root / "two").open("rb"):
            os.chmod(mount.root / "one", 0o600)
        assert wire.told() == [LOST]
        mount.complains("a fault")
        assert (mount.source / "two").stat().st_mode & 0o777 == 0o600


# The state of the watch sets afterwards


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def tree(failures: list[str]) -> Tree:
    """The root with f, whose first watch asks who did it: nobody here can answer that, and it is an error."""
    tree = Tree(failed=lambda what, _error: failures.append(what))
    tree.play("make f")
    return tree


def sound(tree: Tree) -> bool:
    """Whether nothing waits, and what is counted is there."""
    waiting = [gate for instance in tree.watches.instances for gate in instance.queue.doubts]
    return counted(tree) == recount(tree) and not tree.undecided and not waiting


def test_a_watch_ends_though_its_last_word_cannot_be_told(tree: Tree, failures: list[str]) -> None:
    wd = add(tree, "f", flags.OPEN | flags.X_ORIGIN)
    with pytest.raises(NotImplementedError):
        tree.watches.remove(tree.instance, wd, Nobody())
    assert tree.heard() == ["-1:Q_OVERFLOW"]
    assert not tree.instance.watches
    assert tree.at("f").inode.watches is None
    assert sound(tree)
    assert not failures, "its caller hears of it"


def test_a_dead_file_has_no_watch_though_its_death_cannot_be_told(tree: Tree, failures: list[str]) -> None:
    second = tree.subscribe()
    add(tree, "f", flags.DELETE_SELF | flags.X_ORIGIN)
    add(tree, "f", flags.DELETE_SELF, second)
    entry = tree.at("f")
    tree.inodes.forget(entry.inode, entry.inode.lookups)  # the kernel will say no more of it
    tree.tell("unlink", entry, dies=tree.gone(entry))
    assert tree.heard() == ["-1:Q_OVERFLOW"]
    assert tree.records(second) == [OVERFLOW]
    assert len(failures) == 1
    assert sound(tree)
    assert (counted(tree), tree.inodes.get(entry.inode.number)) == ((0, 0, 0), None)


def test_what_is_behind_an_event_that_cannot_be_told_is_told(tree: Tree, failures: list[str]) -> None:
    second = tree.subscribe()
    tree.play("make g, watch G g, hold g")
    add(tree, "g", flags.DELETE_SELF, second)
    add(tree, "", flags.CREATE | flags.DELETE, second)
    tree.play("unlink g")  # its death is in doubt, and what follows waits, for both
    tree.play("make h, mkdir s")
    assert tree.records(second) == []
    tree.instance.queue.insert = lambda *_: 1 // 0  # type: ignore[method-assign, assignment]
    tree.play("release g")
    names = [(record.mask & ~flags.ISDIR, record.name) for record in tree.records(second)]
    assert names == [
        (flags.DELETE, b"g"),
        (flags.CREATE, b"h"),
        (flags.CREATE, b"s"),
        (flags.Q_OVERFLOW, b""),
    ]
    assert tree.heard() == ["G:ATTRIB", "-1:Q_OVERFLOW"]
    assert len(failures) == 1
    assert sound(tree)
    assert counted(tree) == (1, 0, 0)


def test_a_death_that_could_not_be_put_off_is_told_by_the_forget(tree: Tree, failures: list[str]) -> None:
    add(tree, "f", flags.DELETE_SELF)
    add(tree, "", flags.OPEN | flags.X_ORIGIN)  # so who it was is to be kept for later, and nobody knows that
    tree.play("hold f, unlink f")
    assert failures
    assert tree.heard() == ["-1:Q_OVERFLOW"]
    tree.play("release f")
    assert tree.heard() == ["1:DELETE_SELF", "1:IGNORED"]
    assert sound(tree)


def test_an_unmount_that_one_cannot_be_told_of_reaches_the_others(tree: Tree, failures: list[str]) -> None:
    second = tree.subscribe()
    add(tree, "", flags.OPEN, second)
    add(tree, "f", flags.OPEN | flags.X_ORIGIN)  # the newest is told first
    tree.watches.unmount(Nobody())
    assert [record.mask for record in tree.records(second)] == [
        flags.Q_OVERFLOW,
        flags.UNMOUNT | flags.ISDIR,
        flags.IGNORED,
    ]
    assert tree.heard() == ["-1:Q_OVERFLOW"]
    assert len(failures) == 1
