"""What a recursive watch hears, and by which path."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from notifyfs.core.queue import OVERFLOW
from notifyfs.protocol import flags
from notifyfs.protocol.records import MAX_LEN, Record
from tests.support.tree import Tree, add


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


def test_far_below_a_recursive_watch_no_path_is_made_that_no_record_can_carry(tree: Tree) -> None:
    """It took half a second and a mebibyte, for each event: the path grew by one name after the other."""
    place = tree.inodes.root
    for number in range(4000):
        place = tree.inodes.enter(place, b"n" * 255, 1, 10**6 + number, is_dir=True).inode
    file = tree.inodes.enter(place, b"f", 1, 10**7, is_dir=False)
    tree.watches.add(tree.instance, tree.inodes.root, flags.ATTRIB | flags.X_RECURSIVE)
    tracemalloc.start()
    try:
        tree.tell("attributes", file)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 17
    assert tree.records() == [OVERFLOW]


def test_many_watches_one_below_the_other_name_it_each_its_own_way(tree: Tree) -> None:
    tree.play("mkdir s/t, mkdir s/t/u, mkdir s/t/u/v")
    paths = ["", "s", "s/t", "s/t/u", "s/t/u/v"]
    wds = {add(tree, path, flags.CREATE | flags.X_RECURSIVE): path for path in paths}
    tree.play("make s/t/u/v/f")
    told = [(wds[record.wd], record.name.decode()) for record in tree.records()]
    assert [f"{path}/{name}".lstrip("/") for path, name in told] == ["s/t/u/v/f"] * 5
    assert [path for path, _ in told] == paths[::-1]


def test_a_path_that_no_record_can_carry_is_lost_to_all_watches_further_up_and_to_no_other(tree: Tree) -> None:
    tree.play("mkdir a")
    add(tree, "a", flags.ATTRIB | flags.X_RECURSIVE)
    tree.watches.add(tree.instance, tree.inodes.root, flags.ATTRIB | flags.X_RECURSIVE)
    place = tree.at("a")
    names = [b"n" * 255] * 16
    for number, name in enumerate(names):
        place = tree.inodes.enter(place.inode, name, 1, 10**6 + number, is_dir=True)
        if number == 1:
            near = tree.watches.add(tree.instance, place.inode, flags.ATTRIB | flags.X_RECURSIVE)
    last = tree.inodes.enter(place.inode, b"x" * (MAX_LEN - 1 - 16 * 256), 1, 10**7, is_dir=False)
    tree.tell("attributes", last)
    records = tree.records()
    path = b"/".join([*names, last.name])
    assert len(path) == MAX_LEN - 1
    assert records == [
        Record(near, flags.ATTRIB, 0, b"/".join([*names[2:], last.name])),
        Record(1, flags.ATTRIB, 0, path),
        OVERFLOW,
    ]


def test_what_is_above_is_found_anew_when_it_has_become_another(tree: Tree) -> None:
    """It is remembered for the directory of the last event."""
    tree.play("mkdir s/t, mkdir o, mkdir o/u, watch R / CREATE|X_RECURSIVE")
    tree.play("make s/t/a, rename s r, make r/t/b, exchange r/t o/u, make o/u/c, rename o/u v, make v/d")
    tree.play("watch V v CREATE, make v/e, watch V v CREATE|X_RECURSIVE, mkdir v/w, make v/w/f, unwatch V, make v/w/g")
    assert tree.heard() == [
        "R:CREATE s/t/a",
        "R:CREATE r/t/b",
        "R:CREATE o/u/c",
        "R:CREATE v/d",
        *("V:CREATE e", "R:CREATE v/e", "V:CREATE|ISDIR w", "R:CREATE|ISDIR v/w"),
        *("V:CREATE w/f", "R:CREATE v/w/f", "V:IGNORED", "R:CREATE v/w/g"),
    ]
