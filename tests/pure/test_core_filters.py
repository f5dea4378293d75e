"""What a filter lets through, and what no filter may cost."""

from __future__ import annotations

import errno
import time
from typing import NamedTuple

import pytest

from notifyfs.core.filters import MOST, MOST_OF_USER, Draft, Matcher
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import Origin
from tests.support.tree import Tree


class Person(NamedTuple):
    process: int = 1
    uid: int = 0

    def look(self) -> None:
        """Nothing to find out."""

    def origin(self, number: int) -> Origin:
        return Origin(number, 0, self.process, self.uid, 0)


def drafted(*rules: tuple[int, bytes], process: int = 7, user: int = 1000) -> Matcher:
    draft = Draft(process, user)
    for kind, value in rules:
        draft.add(kind, value)
    return draft.take()


def excluding(*lines: bytes) -> Matcher:
    return drafted(*((requests.FILTER_EXCLUDE, line) for line in lines))


@pytest.mark.parametrize(
    ("lines", "name", "is_dir", "passes"),
    [
        ([b"*.o"], b"a.o", False, False),
        ([b"*.o"], b"d/e/a.o", False, False),
        ([b"*.o"], b"a.oo", False, True),
        ([b"/a"], b"d/a", False, True),
        ([b"build/"], b"build", True, False),
        ([b"build/"], b"build", False, True),  # a file of that name
        ([b"build/"], b"d/build/x/y", False, False),  # what is in an excluded directory is excluded
        ([b"*.o", b"!keep.o"], b"keep.o", False, True),
        ([b"!keep.o", b"*.o"], b"keep.o", False, False),  # the last that matches decides
        ([b"a/**/z"], b"a/b/c/z", False, False),
        ([b"# *.o", b""], b"x.o", False, True),
        ([b"x?y"], b"x\ny", False, False),
        ([b"*.o"], b"a\nb.o", False, False),
        ([b"*.o"], b"a.o\n", False, True),
        ([b"d/*.o"], b"d/\n/a.o", False, True),
        ([b"\xff*"], b"\xffa", False, False),  # not UTF-8
        ([b"*.o"], b"", False, True),  # the watched directory itself
    ],
)
def test_excluding_is_what_gitignore_says(lines: list[bytes], name: bytes, is_dir: bool, passes: bool) -> None:  # noqa: FBT001 - a table
    assert excluding(*lines).passes(name, Person(), is_dir=is_dir) is passes


def test_including_and_excluding_both_decide() -> None:
    chosen = drafted((requests.FILTER_INCLUDE, b"*.py"), (requests.FILTER_EXCLUDE, b"test_*"))
    told = [name for name in (b"a.py", b"test_a.py", b"a.c") if chosen.passes(name, Person(), is_dir=False)]
    assert told == [b"a.py"]


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (requests.FILTER_PROCESS, b"1", [1]),
        (requests.FILTER_PROCESS, b"", [7]),
        (requests.FILTER_NOT_PROCESS, b"", [0, 1]),
        (requests.FILTER_NOT_PROCESS, b"1", [0, 7]),
    ],
)
def test_processes(kind: int, value: bytes, told: list[int]) -> None:
    chosen = drafted((kind, value))
    assert [process for process in (0, 1, 7) if chosen.passes(b"a", Person(process), is_dir=False)] == told
    assert chosen.asks_process


@pytest.mark.parametrize(("kind", "told"), [(requests.FILTER_PROCESS, False), (requests.FILTER_NOT_PROCESS, True)])
def test_a_process_that_is_not_seen_is_nobody(kind: int, told: bool) -> None:  # noqa: FBT001 - a table
    """Also for a subscriber in another process namespace, whose own number is 0."""
    assert drafted((kind, b""), process=0).passes(b"a", Person(0), is_dir=False) is told


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (requests.FILTER_USER, b"0", [0]),
        (requests.FILTER_USER, b"", [1000]),
        (requests.FILTER_NOT_USER, b"", [0, 33]),
    ],
)
def test_users(kind: int, value: bytes, told: list[int]) -> None:
    chosen = drafted((kind, value))
    assert [uid for uid in (0, 33, 1000) if chosen.passes(b"", Person(uid=uid), is_dir=False)] == told
    assert not chosen.asks_process


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (0, b"a"),
        (64, b"a"),
        (requests.FILTER_EXCLUDE | requests.FILTER_INCLUDE, b"a"),
        (requests.FILTER_PROCESS, b"x"),
        (requests.FILTER_USER, b"-1"),
        (requests.FILTER_USER, "\u0661".encode()),  # a digit, but not ours
        (requests.FILTER_EXCLUDE, b"*a*b*"),
        (requests.FILTER_EXCLUDE, b"!**a*b*/**"),
        (requests.FILTER_EXCLUDE, b"a*/b*/c*/d*/e*"),
        (requests.FILTER_EXCLUDE, b"!"),
    ],
)
def test_a_rule_that_is_refused_spoils_the_filter(kind: int, value: bytes) -> None:
    draft = Draft(1, 1)
    with pytest.raises(OSError, match=rf"Errno {errno.EINVAL}"):
        draft.add(kind, value)
    draft.add(requests.FILTER_EXCLUDE, b"good")
    with pytest.raises(OSError, match="refused"):
        draft.take()
    with pytest.raises(OSError, match="no rule"):
        draft.take()  # it is empty again


def test_a_filter_has_at_most_so_many_rules() -> None:
    draft = Draft(1, 1)
    for number in range(MOST):
        draft.add(requests.FILTER_USER, b"%d" % number)
    with pytest.raises(OSError, match=rf"Errno {errno.E2BIG}"):
        draft.add(requests.FILTER_USER, b"1")


@pytest.mark.parametrize("pattern", [b"*a*b", b"**********a****b", b"**/**a**b/**"])
def test_no_pattern_takes_long(pattern: bytes) -> None:
    """The worst that is allowed, against the worst of names: cubic, without a limit on stars (19 ms measured)."""
    chosen = excluding(pattern)
    name = b"a" * 255
    began = time.process_time()
    for _ in range(20):
        chosen.wants(name, is_dir=False)
    assert time.process_time() - began < 0.2


def spent(uid: int) -> tuple[Tree, Instance]:
    tree = Tree()
    instance = Instance(uid, Queue(10, lambda: 0), lambda: None)
    tree.watches.open(instance)
    return tree, instance


def test_the_filters_of_a_user_have_at_most_so_many_rules_together() -> None:
    tree, instance = spent(1000)
    half = drafted(*[(requests.FILTER_USER, b"1")] * (MOST_OF_USER // 2))
    tree.play("mkdir a, mkdir b, mkdir c")
    tree.watches.add(instance, tree.of("a").inode, flags.CREATE, half)
    wd = tree.watches.add(instance, tree.of("b").inode, flags.CREATE, half)
    tree.watches.add(instance, tree.of("b").inode, flags.DELETE, half)  # in place of the first
    with pytest.raises(OSError, match=rf"Errno {errno.ENOSPC}"):
        tree.watches.add(instance, tree.of("c").inode, flags.CREATE, half)
    tree.watches.remove(instance, wd, Person())
    tree.watches.add(instance, tree.of("c").inode, flags.CREATE, half)


def test_root_may_have_more() -> None:
    tree, instance = spent(0)
    tree.play("mkdir a")
    rules = [(requests.FILTER_USER, b"1")] * (MOST_OF_USER + 1)
    assert tree.watches.add(instance, tree.of("a").inode, flags.CREATE, drafted(*rules)) == 1


@pytest.mark.parametrize(
    ("mask", "told"),
    [(flags.CREATE, ["x.o"]), (flags.CREATE | flags.MASK_ADD, [])],
)
def test_adding_again_without_a_filter(mask: int, told: list[str]) -> None:
    tree, instance = spent(0)
    tree.play("mkdir d")
    inode = tree.of("d").inode
    tree.watches.add(instance, inode, flags.CREATE, excluding(b"*.o"))
    tree.watches.add(instance, inode, mask)
    assert heard_of(tree, instance, "d/x.o") == told


def heard_of(tree: Tree, instance: Instance, path: str) -> list[str]:
    tree.play(f"mkdir {path}")
    return [record.name.decode() for record in tree.records(instance)]


def test_what_is_left_out_does_not_use_up_a_oneshot_watch() -> None:
    tree, instance = spent(0)
    tree.play("mkdir d")
    tree.watches.add(instance, tree.of("d").inode, flags.CREATE | flags.ONESHOT, excluding(b"*.o"))
    assert heard_of(tree, instance, "d/x.o") == []
    assert heard_of(tree, instance, "d/x.c") == ["x.c", ""]  # and IGNORED


def test_the_name_is_the_path_below_the_recursive_watch() -> None:
    tree, instance = spent(0)
    tree.play("mkdir d, mkdir d/e")
    tree.watches.add(instance, tree.of("d").inode, flags.CREATE | flags.X_RECURSIVE, excluding(b"/e/x"))
    assert heard_of(tree, instance, "d/e/x") == []
    assert heard_of(tree, instance, "d/x") == ["x"]
