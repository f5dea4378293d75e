"""Who hears what: limits, watch descriptors, masks, subtrees, origins, the unmount.

``Tree`` is also what ``test_rules`` plays the rows of parity.md on.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.core.inodes import Inodes
from notifyfs.core.instances import Instance
from notifyfs.core.queue import OVERFLOW, Queue
from notifyfs.core.rules import Renamed, setattr_operation
from notifyfs.core.watches import Watches
from notifyfs.protocol import flags
from notifyfs.protocol.records import MAX_LEN, Origin, Record

if TYPE_CHECKING:
    from pathlib import Path

    from notifyfs.core.inodes import Entry, Inode


class Nobody:
    """Who did it; no watch here asks for more."""

    uid = 0

    @property
    def process(self) -> int:
        raise NotImplementedError

    def origin(self, sequence: int) -> Origin:
        raise NotImplementedError(sequence)


class Tree:
    """A source tree that is nowhere: does to the table what ``operations`` does when the system call has succeeded.

    Arguments are words of a script: a path (``s/f``), or a *handle*, which is named when it is opened.
    """

    def __init__(self, limit: int = 16384, **limits: int) -> None:
        self.inodes = Inodes(1, 2, lambda _inode: None)
        self.watches = Watches(self.inodes, **limits)
        self.limit = limit
        self.instance = self.subscribe()
        self.labels: dict[int, str] = {}
        self.handles: dict[str, tuple[Entry, bool]] = {}
        self.held: dict[str, Inode] = {}
        self._numbers = itertools.count(100)
        self._links: Counter[Inode] = Counter()

    def play(self, script: str) -> None:
        """Do what *script* says: verbs and their words, separated by commas."""
        for step in filter(None, map(str.strip, script.split(","))):
            verb, *words = step.split()
            getattr(self, verb)(*words)

    # The source

    def at(self, path: str) -> Entry:
        entry = self.inodes.root.entry
        for name in filter(None, path.split("/")):
            below = self.inodes.peek(entry.inode, name.encode())
            assert below is not None, f"there is no {path}"
            entry = below
        return entry

    def of(self, word: str) -> Entry:
        """The entry of a handle, or else of a path."""
        return self.handles[word][0] if word in self.handles else self.at(word)

    def _place(self, path: str) -> tuple[Inode, bytes]:
        directory, _, name = path.rpartition("/")
        return self.at(directory).inode, name.encode()

    def _enter(self, path: str, ino: int, *, is_dir: bool = False) -> Entry:
        entry = self.inodes.enter(*self._place(path), 1, ino, is_dir=is_dir)
        entry.inode.lookups += 1
        self._links[entry.inode] += 1
        return entry

    def tell(self, operation: str, entry: Entry, renamed: Renamed | None = None, *, dies: bool = False) -> None:
        self.watches.tell(operation, entry, Nobody(), renamed, dies=dies)

    def make(self, path: str) -> None:
        self.tell("make", self._enter(path, next(self._numbers)))

    def mkdir(self, path: str) -> None:
        self.tell("make", self._enter(path, next(self._numbers), is_dir=True))

    def create(self, path: str, handle: str = "") -> None:
        entry = self._enter(path, next(self._numbers))
        self._use(entry, handle or path, writable=True)
        self.tell("create", entry)

    def link(self, old: str, new: str) -> None:
        self.tell("link", self._enter(new, self.at(old).inode.ino))

    def unlink(self, path: str) -> None:
        entry = self.at(path)
        self.tell("unlink", entry, dies=self._gone(entry))
        self._forgotten(entry.inode)

    def rmdir(self, path: str) -> None:
        entry = self.at(path)
        self.tell("rmdir", entry, dies=self._gone(entry))
        self._forgotten(entry.inode)

    def _gone(self, entry: Entry) -> bool:
        self._links[entry.inode] -= 1
        return self.inodes.remove(entry, self._links[entry.inode])

    def _forgotten(self, *inodes: Inode) -> None:
        """The kernel says FORGET of what has neither a name nor a use any more."""
        for inode in inodes:
            used = any(entry.uses for entry in inode.names or (inode.entry,))
            if inode.gone and not used and inode not in self.held.values() and self.inodes.forget(inode, inode.lookups):
                self.watches.forgotten(inode, Nobody())

    def rename(self, old: str, new: str) -> None:
        entry, (source, was), (target, name) = self.at(old), self._place(old), self._place(new)
        victim = self.inodes.peek(target, name)
        dies = victim is not None and self._gone(victim)
        self.inodes.move(entry, target, name)
        cookie, replaced = self.watches.cookie(), victim.inode if victim else None
        self.tell("rename", entry, Renamed(source, was, cookie, replaced, victim_dies=dies))
        if replaced is not None:
            self._forgotten(replaced)

    def exchange(self, one: str, two: str) -> None:
        entries, places = (self.at(one), self.at(two)), (self._place(one), self._place(two))
        self.inodes.exchange(*entries)
        for entry, place in zip(entries, places, strict=True):
            self.tell("rename", entry, Renamed(*place, self.watches.cookie()))

    # Open files

    def _use(self, entry: Entry, handle: str, *, writable: bool) -> None:
        entry.uses += 1
        self.handles[handle] = (entry, writable)

    def open(self, path: str, handle: str = "", operation: str = "open") -> None:
        self._use(self.at(path), handle or path, writable=False)
        self.tell(operation, self.at(path))

    def edit(self, path: str, handle: str = "") -> None:
        self._use(self.at(path), handle or path, writable=True)
        self.tell("open", self.at(path))

    def empty(self, path: str) -> None:
        self.open(path, operation="open and truncate")

    def read(self, handle: str) -> None:
        self.tell("read", self.handles[handle][0])

    def write(self, handle: str) -> None:
        self.tell("write", self.handles[handle][0])

    def close(self, handle: str) -> None:
        entry, writable = self.handles.pop(handle)
        self.tell("close after writing" if writable else "close", entry)
        died = self.inodes.drop(entry)
        for inode in died:
            self.tell("die", inode.entry, dies=True)
        self._forgotten(*died)

    def hold(self, path: str) -> None:
        """Open with O_PATH, or make it the working directory: FUSE is not told."""
        self.held[path] = self.at(path).inode

    def release(self, path: str) -> None:
        self._forgotten(self.held.pop(path))

    def give_up(self) -> None:
        self.watches.give_up(self.watches.undecided)

    def setattr(self, word: str, *fields: str) -> None:
        told = {name: name in fields for name in ("size", "atime", "mtime")}
        operation = setattr_operation(**told, mode_or_owner="mode" in fields or "owner" in fields)
        if operation is not None:
            self.tell(operation, self.of(word))

    # Subscribers

    def subscribe(self, uid: int = 0) -> Instance:
        instance = Instance(uid, Queue(self.limit, lambda: 0), lambda: None)
        self.watches.open(instance)
        return instance

    def watch(self, label: str, path: str, mask: str = "ALL_EVENTS") -> None:
        bits = 0
        for word in mask.split("|"):
            bits |= getattr(flags, word)
        self.labels[self.watches.add(self.instance, self.of(path).inode, bits)] = label

    def unwatch(self, label: str) -> None:
        wd = max(wd for wd, known in self.labels.items() if known == label)
        self.watches.remove(self.instance, wd, Nobody())

    def unmount(self) -> None:
        self.watches.unmount(Nobody())

    def records(self, instance: Instance | None = None) -> list[Record]:
        return [record for record, _ in (instance or self.instance).queue.take(1 << 62)]

    def heard(self) -> list[str]:
        """What was queued, written as parity.md writes it: ``D:MOVED_TO b c1``, cookies by their order."""
        lines, cookies = [], {0: ""}
        for wd, mask, cookie, name in self.records():
            seen = cookies.setdefault(cookie, f"c{len(cookies)}")
            words = (f"{self.labels.get(wd, wd)}:{flags.spell(mask)}", name.decode(), seen)
            lines.append(" ".join(filter(None, words)))
        return lines


def numbered(error: int) -> pytest.RaisesExc[OSError]:
    """OSError with this errno is expected."""
    return pytest.RaisesExc(OSError, check=lambda caught: caught.errno == error)


@pytest.fixture
def tree() -> Tree:
    """A root, a directory s with a file f in it, and a file f: unwatched."""
    tree = Tree()
    tree.play("mkdir s, make s/f, make f")
    return tree


def add(tree: Tree, path: str, mask: int, instance: Instance | None = None) -> int:
    return tree.watches.add(instance or tree.instance, tree.at(path).inode, mask)


def recount(tree: Tree) -> tuple[int, int, int]:
    """The watches, those of subtrees and those with origins, counted one by one."""
    masks = [watch.mask for instance in tree.watches.instances for watch in instance.watches.values()]
    return len(masks), sum(bool(m & flags.X_RECURSIVE) for m in masks), sum(bool(m & flags.X_ORIGIN) for m in masks)


# Watch descriptors: parity P5 to P10


def test_watch_descriptors_count_from_one_and_are_not_reused(tree: Tree) -> None:
    assert [add(tree, "f", flags.OPEN), add(tree, "s", flags.OPEN)] == [1, 2]
    tree.watches.remove(tree.instance, 1, Nobody())
    assert add(tree, "f", flags.OPEN) == 3
    assert add(tree, "f", flags.OPEN, tree.subscribe()) == 1


def test_one_inode_has_one_watch_by_whatever_name(tree: Tree) -> None:
    tree.play("link f g")
    assert add(tree, "f", flags.OPEN) == add(tree, "g", flags.MODIFY) == 1


@pytest.mark.parametrize("flag", [flags.ONESHOT, flags.EXCL_UNLINK, flags.X_RECURSIVE, flags.X_ORIGIN, flags.OPEN])
def test_watching_again_replaces_the_mask_and_mask_add_adds_to_it(tree: Tree, flag: int) -> None:
    add(tree, "s", flags.MODIFY | flag)
    add(tree, "s", flags.MODIFY)
    (watch,) = tree.instance.watches.values()
    assert watch.mask == flags.MODIFY
    add(tree, "s", flag | flags.MASK_ADD)
    assert watch.mask == flags.MODIFY | flag


def test_mask_create_refuses_what_is_watched_and_leaves_it_as_it_is(tree: Tree) -> None:
    assert add(tree, "f", flags.OPEN | flags.MASK_CREATE) == 1
    with numbered(errno.EEXIST):
        add(tree, "f", flags.MODIFY | flags.MASK_CREATE)
    tree.play("open f, setattr f mtime")
    assert tree.records() == [Record(1, flags.OPEN)]


@pytest.mark.parametrize("mask", [0, flags.X_REPLY, flags.MASK_ADD | flags.MASK_CREATE | flags.OPEN])
def test_a_mask_that_means_nothing_is_refused(tree: Tree, mask: int) -> None:
    with numbered(errno.EINVAL):
        add(tree, "f", mask)


@pytest.mark.parametrize("bit", range(32))
def test_any_single_known_bit_is_a_mask_and_any_unknown_one_spoils_it(tree: Tree, bit: int) -> None:
    if 1 << bit & flags.WATCH_BITS:
        assert add(tree, "s", 1 << bit) == 1
    else:
        with numbered(errno.EINVAL):
            add(tree, "s", 1 << bit | flags.OPEN)


@pytest.mark.parametrize("mask", [flags.ONLYDIR | flags.OPEN, flags.X_RECURSIVE | flags.OPEN])
def test_what_is_for_directories_is_refused_to_a_file(tree: Tree, mask: int) -> None:
    assert add(tree, "s", mask) == 1
    with numbered(errno.ENOTDIR):
        add(tree, "f", mask)


@pytest.mark.parametrize("wd", [0, -1, 2])
def test_an_unknown_watch_descriptor_is_refused(tree: Tree, wd: int) -> None:
    add(tree, "f", flags.OPEN)
    with numbered(errno.EINVAL):
        tree.watches.remove(tree.instance, wd, Nobody())


@pytest.mark.parametrize("ending", ["open f", "unlink f", "unwatch F", "unmount"])
def test_a_watch_that_ended_is_unknown_and_silent(tree: Tree, ending: str) -> None:
    tree.play(f"watch F f OPEN|ONESHOT, {ending}")
    assert tree.heard()[-1] == "F:IGNORED"
    assert recount(tree) == (0, 0, 0)
    with numbered(errno.EINVAL):
        tree.watches.remove(tree.instance, 1, Nobody())


# Limits: parity P11


def test_a_user_has_so_many_instances() -> None:
    tree = Tree(max_user_instances=2)
    second = tree.subscribe()
    with numbered(errno.EMFILE):
        tree.subscribe()
    tree.subscribe(uid=1000)
    tree.watches.close(second)
    tree.subscribe()


def test_a_user_has_so_many_watches_in_all_instances(tree: Tree) -> None:
    tree.watches.max_user_watches = 2
    second = tree.subscribe()
    add(tree, "s", flags.OPEN)
    add(tree, "s", flags.OPEN, second)
    with numbered(errno.ENOSPC):
        add(tree, "f", flags.OPEN)
    assert add(tree, "s", flags.MODIFY) == 1, "changing a watch takes none"
    assert add(tree, "f", flags.OPEN, tree.subscribe(uid=1000)) == 1


@pytest.mark.parametrize("ending", ["unwatch F", "open f", "unlink f"])
def test_a_watch_that_ended_makes_room(tree: Tree, ending: str) -> None:
    tree.watches.max_user_watches = 1
    tree.play(f"watch F f OPEN|ONESHOT, {ending}, watch S s")


def test_an_instance_that_closes_makes_room_and_hears_no_more(tree: Tree) -> None:
    tree.watches.max_user_watches = 1
    second = tree.subscribe()
    add(tree, "f", flags.OPEN, second)
    tree.watches.close(second)
    tree.watches.close(second)
    tree.play("open f")
    assert tree.records(second) == []
    assert add(tree, "f", flags.OPEN) == 1


def test_a_watch_that_was_refused_for_the_limit_has_used_up_its_number(tree: Tree) -> None:
    """Measured (a user namespace, user.max_inotify_watches=2): 1, 2, ENOSPC, ENOSPC; 1 was removed; then came 5."""
    tree.watches.max_user_watches = 2
    tree.play("make g, make h")
    assert [add(tree, path, flags.MODIFY) for path in ("f", "g")] == [1, 2]
    for _ in range(2):
        with numbered(errno.ENOSPC):
            add(tree, "h", flags.MODIFY)
    tree.watches.remove(tree.instance, 1, Nobody())
    assert add(tree, "h", flags.MODIFY) == 5


def test_after_the_last_watch_descriptor_the_lowest_free_ones_come_again(tree: Tree) -> None:
    """As idr_alloc_cyclic(start 1, end 0) gives them; inotify(7), BUGS: the kernel cycles through the range."""
    tree.play("make a, make b, make c, make d")
    assert [add(tree, path, flags.MODIFY) for path in "ab"] == [1, 2]
    tree.watches.remove(tree.instance, 1, Nobody())
    tree.instance.last_wd = 2**31 - 2  # else two thousand million watches
    assert [add(tree, path, flags.MODIFY) for path in "acd"] == [2**31 - 1, 1, 3]
    assert [record.wd for record in tree.records()] == [1], "IGNORED"
    for path in "bacd":
        tree.play(f"edit {path} H, write H, close H")
    assert [record.wd for record in tree.records()] == [2, 2**31 - 1, 1, 3]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["add", "again", "remove", "close"]), st.integers(0, 7))))
def test_the_counts_are_right_whatever_is_added_and_ended(steps: list[tuple[int, str, int]]) -> None:
    tree = Tree()
    for number in range(8):
        tree.mkdir(f"{number}")
    instances = [tree.subscribe(uid) for uid in (0, 0, 1000)]
    extras = [flags.X_RECURSIVE, flags.X_ORIGIN, flags.X_RECURSIVE | flags.X_ORIGIN, 0]
    for which, step, number in steps:
        instance = instances[which]
        if step == "close":
            tree.watches.close(instance)
            instances[which] = tree.subscribe(instance.uid)
        elif step == "remove" and instance.watches:
            tree.watches.remove(instance, list(instance.watches)[number % len(instance.watches)], Stamp(number))
        else:
            mask = flags.OPEN | extras[number % 4] | (flags.MASK_ADD if step == "again" else 0)
            add(tree, f"{number % 5}", mask, instance)
        counted = tree.watches.total, tree.watches._recursive, tree.watches.origins  # noqa: SLF001 - no event shows it
        assert counted == recount(tree)
    for instance in instances:
        tree.watches.close(instance)
    assert tree.watches.total == 0


# Delivery


def test_instances_hear_independently(tree: Tree) -> None:
    second = tree.subscribe()
    add(tree, "f", flags.OPEN)
    add(tree, "", flags.OPEN | flags.ACCESS, second)
    tree.play("open f h, read h")
    assert tree.records() == [Record(1, flags.OPEN)]
    assert tree.records(second) == [Record(1, flags.OPEN, 0, b"f"), Record(1, flags.ACCESS, 0, b"f")]


def test_the_bell_rings_for_him_who_hears(tree: Tree) -> None:
    rung: list[str] = []
    for name, path in (("one", "f"), ("other", "s")):
        instance = Instance(0, Queue(10, lambda: 0), lambda name=name: rung.append(name))  # type: ignore[misc]
        tree.watches.open(instance)
        add(tree, path, flags.OPEN, instance)
    tree.play("open f")
    assert rung == ["one"]


def test_a_watch_keeps_its_inode_when_the_kernel_has_forgotten_it(tree: Tree) -> None:
    inode = tree.at("s/f").inode
    wd = add(tree, "s/f", flags.OPEN)
    for known in (inode, inode.entry.parent):
        tree.inodes.forget(known, known.lookups)
    assert tree.at("s/f").inode is inode
    tree.watches.remove(tree.instance, wd, Nobody())
    assert tree.inodes.get(inode.number) is None
    assert tree.inodes.peek(tree.inodes.root, b"s") is None


def test_a_full_queue_does_not_keep_a_oneshot_watch(tree: Tree) -> None:
    tree.instance.queue.limit = 1
    tree.play("watch D /, watch F f OPEN|ONESHOT, open f")
    assert tree.records() == [Record(1, flags.OPEN, 0, b"f"), OVERFLOW]
    assert list(tree.instance.watches) == [1]


def test_cookies_are_unique_and_never_zero(tree: Tree) -> None:
    tree.watches._cookie = 0xFFFFFFFE  # noqa: SLF001 - else four thousand million renames
    assert [tree.watches.cookie() for _ in range(3)] == [0xFFFFFFFF, 1, 2]


# Subtrees


def test_a_subtree_is_watched_by_paths_from_its_top(tree: Tree) -> None:
    tree.play("mkdir s/t, watch R / CREATE|OPEN|X_RECURSIVE")
    tree.play("create f2, make s/g, mkdir s/t/u, make s/t/u/v, open s/t")
    assert tree.heard() == [
        "R:CREATE f2",
        "R:OPEN f2",
        "R:CREATE s/g",
        "R:CREATE|ISDIR s/t/u",
        "R:CREATE s/t/u/v",
        "R:OPEN|ISDIR s/t",
    ]


def test_events_of_the_top_itself_have_no_name_and_those_of_inodes_below_do_not_come(tree: Tree) -> None:
    tree.play("watch S s ALL_EVENTS|X_RECURSIVE, setattr s mode, unlink s/f, rmdir s")
    assert tree.heard() == ["S:ATTRIB|ISDIR", "S:DELETE f", "S:DELETE_SELF", "S:IGNORED"]


def test_a_rename_changes_the_names_that_come_after_it(tree: Tree) -> None:
    tree.play("mkdir s/t, make s/t/f, edit s/t/f h, mkdir other, watch R / MOVE|MODIFY|X_RECURSIVE")
    tree.play("rename s/t other/u, write h, rename other o, write h, rename o/u/f g, write h")
    assert tree.heard() == [
        "R:MOVED_FROM|ISDIR s/t c1",
        "R:MOVED_TO|ISDIR other/u c1",
        "R:MODIFY other/u/f",
        "R:MOVED_FROM|ISDIR other c2",
        "R:MOVED_TO|ISDIR o c2",
        "R:MODIFY o/u/f",
        "R:MOVED_FROM o/u/f c3",
        "R:MOVED_TO g c3",
        "R:MODIFY g",
    ]


def test_a_subtree_is_what_is_below_now(tree: Tree) -> None:
    tree.play("mkdir s/t, mkdir in, mkdir in/u, watch S s CREATE|MOVE|X_RECURSIVE")
    tree.play("rename s/t out, make out/f, rename in/u s/u, make s/u/f")
    assert tree.heard() == ["S:MOVED_FROM|ISDIR t c1", "S:MOVED_TO|ISDIR u c2", "S:CREATE u/f"]


def test_each_of_several_tops_names_it_its_own_way(tree: Tree) -> None:
    tree.play("mkdir s/t, watch R / CREATE|X_RECURSIVE, watch S s CREATE|X_RECURSIVE, watch D / CREATE|MASK_ADD")
    tree.play("watch T s/t CREATE, make s/t/f")
    assert tree.heard() == ["T:CREATE f", "S:CREATE t/f", "D:CREATE s/t/f"]


def test_a_removed_file_keeps_its_path(tree: Tree) -> None:
    tree.play("edit s/f h, watch R / ALL_EVENTS|X_RECURSIVE, unlink s/f, rmdir s, write h, close h")
    assert tree.heard() == ["R:DELETE s/f", "R:DELETE|ISDIR s", "R:MODIFY s/f", "R:CLOSE_WRITE s/f"]


def test_excl_unlink_holds_in_a_subtree_too(tree: Tree) -> None:
    tree.play("edit s/f h, watch R / MODIFY|EXCL_UNLINK|X_RECURSIVE, write h, unlink s/f, write h")
    assert tree.heard() == ["R:MODIFY s/f"]


def test_oneshot_ends_a_subtrees_watch_as_well(tree: Tree) -> None:
    tree.play("make s/a, watch R / MOVE|ONESHOT|X_RECURSIVE, rename s/a s/b, rename s/b s/c")
    assert tree.heard() == ["R:MOVED_FROM s/a c1", "R:IGNORED"]


def deep(length: int) -> tuple[Tree, bytes]:
    """A tree with a directory whose path is so long, and that path."""
    tree = Tree()
    path = "/".join(["d" * 100] * (length // 101))
    for depth in range(1, path.count("/") + 2):
        tree.mkdir("/".join(path.split("/")[:depth]))
    last = "x" * (length - len(path) - 1)
    tree.mkdir(f"{path}/{last}")
    return tree, f"{path}/{last}".encode()


def test_a_path_as_long_as_a_record_can_carry_is_told() -> None:
    tree, path = deep(MAX_LEN - 1)
    tree.play(f"watch R / ATTRIB|X_RECURSIVE, setattr {path.decode()} mode")
    (record,) = tree.records()
    assert record == Record(1, flags.ATTRIB | flags.ISDIR, 0, path)
    assert len(bytes(record)) == 16 + MAX_LEN


def test_a_longer_path_overflows_for_him_alone_who_would_hear_it() -> None:
    tree, path = deep(MAX_LEN)
    second, (top, _, rest) = tree.subscribe(), path.decode().partition("/")
    add(tree, top, flags.ATTRIB | flags.X_RECURSIVE, second)
    tree.play(f"watch R / ATTRIB|X_RECURSIVE, setattr {path.decode()} mode, setattr {top} mode")
    assert tree.records() == [OVERFLOW, Record(1, flags.ATTRIB | flags.ISDIR, 0, top.encode())]
    assert [record.name for record in tree.records(second)] == [rest.encode(), b""]


places = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "b/b", "a/a/a", "b/b/b"])


@given(st.lists(st.tuples(places, places), max_size=12))
def test_whatever_is_renamed_an_event_names_the_path_as_it_is_now(moves: list[tuple[str, str]]) -> None:
    tree, names = Tree(), {"a", "b", "a/a", "b/b", "a/a/a"}
    for name in sorted(names):
        tree.mkdir(name)
    tree.watches.add(tree.instance, tree.inodes.root, flags.ATTRIB | flags.X_RECURSIVE)
    for old, new in moves:
        parent = new.rpartition("/")[0]
        if (
            old in names
            and new not in names
            and (not parent or parent in names)
            and not f"{new}/".startswith(f"{old}/")
        ):
            tree.rename(old, new)
            names = {new + name[len(old) :] if f"{name}/".startswith(f"{old}/") else name for name in names}
    for name in sorted(names):
        tree.setattr(name, "mode")
    assert [record.name.decode() for record in tree.records()] == sorted(names)


# wanted: whether reads must be told exactly


@pytest.mark.parametrize(
    ("watched", "mask", "wanted"),
    [
        ("s/f", flags.ACCESS, True),
        ("s/f", flags.OPEN, False),
        ("s", flags.ACCESS, True),
        ("", flags.ACCESS, False),
        ("", flags.ACCESS | flags.X_RECURSIVE, True),
        ("", flags.OPEN | flags.X_RECURSIVE, False),
        ("f", flags.ACCESS, False),
    ],
)
def test_an_event_is_wanted_if_a_watch_on_the_way_would_hear_it(
    tree: Tree, watched: str, mask: int, *, wanted: bool
) -> None:
    inode = tree.at("s/f").inode
    assert not tree.watches.wanted(inode, flags.ACCESS)
    add(tree, watched, mask)
    assert tree.watches.wanted(inode, flags.ACCESS) is wanted


def test_an_event_is_wanted_through_any_name(tree: Tree) -> None:
    tree.play("mkdir t, link s/f t/g")
    add(tree, "t", flags.ACCESS)
    assert tree.watches.wanted(tree.at("s/f").inode, flags.ACCESS)


def test_whatever_is_wanted_of_the_root_ends_at_the_root(tree: Tree) -> None:
    add(tree, "s", flags.ACCESS)
    assert not tree.watches.wanted(tree.inodes.root, flags.ACCESS)


# Origins


class Stamp:
    """A process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._seen = -1

    def look(self) -> None:
        if self._seen < 0:
            self._seen = self.pid

    def origin(self, sequence: int) -> Origin:
        self.look()
        return Origin(sequence, 0, self._seen, 0, 0)


def stamped(tree: Tree) -> list[tuple[str, Origin | None]]:
    return [(str(record), origin) for record, origin in tree.instance.queue.take(1 << 62)]


def test_only_a_watch_that_asks_has_origins(tree: Tree) -> None:
    add(tree, "", flags.OPEN | flags.X_ORIGIN)
    add(tree, "f", flags.OPEN)
    tree.watches.tell("open", tree.at("f"), Stamp(42))
    (parent, origin), (_, none) = stamped(tree)
    assert (parent, none) == ("wd1 OPEN f", None)
    assert origin is not None
    assert origin.pid == 42


def test_nobody_is_asked_who_did_it_where_nobody_wants_to_know(tree: Tree) -> None:
    tree.play("watch D /, watch F f, open f, close f, unlink f, unmount")  # Nobody refuses to answer
    assert tree.heard()[-1] == "D:IGNORED"


def test_all_who_hear_of_one_thing_get_one_number_and_the_next_thing_the_next(tree: Tree) -> None:
    for path in ("", "f"):
        add(tree, path, flags.OPEN | flags.ACCESS | flags.X_ORIGIN)
    tree.play("make unheard")
    for operation in ("open", "read"):
        tree.watches.tell(operation, tree.at("f"), Stamp(1))
    assert [origin.sequence for _, origin in stamped(tree) if origin] == [1, 1, 2, 2]


def test_the_end_of_a_watch_has_an_origin_as_well(tree: Tree) -> None:
    add(tree, "f", flags.OPEN | flags.X_ORIGIN)
    tree.watches.remove(tree.instance, 1, Stamp(42))
    ((record, origin),) = stamped(tree)
    assert record == "wd1 IGNORED"
    assert origin is not None
    assert origin.pid == 42


def test_numbers_never_go_back(tree: Tree) -> None:
    add(tree, "", flags.OPEN | flags.ONESHOT | flags.X_ORIGIN)
    add(tree, "f", flags.OPEN | flags.X_ORIGIN)
    tree.watches.tell("open", tree.at("f"), Stamp(1))
    numbers = [origin.sequence for _, origin in stamped(tree) if origin]
    assert len(numbers) == 3
    assert numbers == sorted(numbers)


# Deaths that only FORGET decides: parity U1 or U4


def test_what_follows_an_undecided_death_waits_for_its_turn(tree: Tree) -> None:
    tree.play("watch D /, watch F f, hold f, unlink f, make g")
    assert tree.watches.undecided
    assert tree.heard() == ["F:ATTRIB"]
    tree.play("release f")
    assert not tree.watches.undecided
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED", "D:DELETE f", "D:CREATE g"]
    tree.play("make h")
    assert tree.heard() == ["D:CREATE h"]


@pytest.mark.parametrize("decided", ["release f, release g", "release g, release f"])
def test_deaths_are_told_in_the_order_of_the_operations(tree: Tree, decided: str) -> None:
    tree.play(f"make g, watch F f, watch G g, hold f, hold g, unlink f, unlink g, {decided}")
    assert tree.heard() == ["F:ATTRIB", "F:DELETE_SELF", "F:IGNORED", "G:ATTRIB", "G:DELETE_SELF", "G:IGNORED"]


def test_what_is_held_lives_on_when_the_others_have_gone(tree: Tree) -> None:
    tree.play("make g, watch D / DELETE, watch F f, watch G g, hold f, hold g, unlink f, unlink g, release g")
    assert tree.heard() == ["F:ATTRIB"]
    tree.play("give_up")
    assert tree.heard() == ["D:DELETE f", "G:ATTRIB", "G:DELETE_SELF", "G:IGNORED", "D:DELETE g"]
    tree.play("release f")
    assert tree.heard() == ["F:DELETE_SELF", "F:IGNORED"]


@pytest.mark.parametrize(
    ("before", "doubts"),
    [("hold f", 0), ("watch F f, hold f", 1), ("watch F f, open f", 0), ("watch F f, link f g", 0), ("watch D /", 0)],
)
def test_only_the_death_of_what_is_watched_and_not_open_is_in_doubt(tree: Tree, before: str, doubts: int) -> None:
    doubted: list[str] = []
    tree.watches.doubted = lambda: doubted.append("once")
    tree.play(f"{before}, unlink f")
    assert len(doubted) == doubts


def test_a_subscriber_that_goes_leaves_the_others_their_events(tree: Tree) -> None:
    second = tree.subscribe()
    add(tree, "f", flags.DELETE_SELF, second)
    tree.play("watch D / DELETE, hold f, unlink f")
    tree.watches.close(second)
    tree.play("release f")
    assert tree.heard() == ["D:DELETE f"]


def test_who_did_it_is_asked_while_he_is_there(tree: Tree) -> None:
    add(tree, "", flags.DELETE | flags.X_ORIGIN)
    tree.play("watch F f, hold f")
    caller = Stamp(42)
    tree.watches.tell("unlink", tree.at("f"), caller, dies=tree.inodes.remove(tree.at("f"), 0))
    caller.pid = 0  # the operation is answered: rm has ended
    tree.play("release f")
    assert [origin.pid for _, origin in stamped(tree) if origin] == [42]


# With the shell that finds what is to be watched


def test_a_file_that_the_kernel_does_not_know_can_be_watched(tmp_path: Path) -> None:
    from notifyfs.passthrough.source import Backing  # noqa: PLC0415 - the pure tests above load no shell
    from notifyfs.subscribers.resolve import Peer, Resolver  # noqa: PLC0415 - the same

    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").touch()
    (tmp_path / "d/link").symlink_to("f")
    backing = Backing(os.open(tmp_path, os.O_PATH), limit=10)
    try:
        resolver = Resolver(backing, b"/mountpoint", (0, 0))
        for path in (b"d/f", b"d/link"):
            inode = resolver.path(path, flags.OPEN, Peer(pid=os.getpid(), uid=os.geteuid(), gid=os.getegid()))
            assert backing.inodes.get(inode.number) is inode
            assert backing.inodes.get(inode.entry.parent.number) is inode.entry.parent
    finally:
        backing.close()
