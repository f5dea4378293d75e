"""What each operation tells, to whom, in which order: the table, read and not played."""

from __future__ import annotations

import ast
import importlib.util
import itertools
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.core.changes import Change, Operation, Rename
from notifyfs.core.rules import RULES, SILENT, To, notices, setattr_operation
from notifyfs.protocol import flags
from tests.support.tree import Nobody, Tree

PACKAGE = Path(__file__).resolve().parents[2] / "src/notifyfs"
HANDLERS = PACKAGE / "fuse/handlers.py"


# The table itself


@pytest.mark.parametrize("flag", flags.flags.from_mask(flags.EVENTS), ids=lambda flag: flag.name)
def test_every_event_flag_is_told_by_some_rule(flag: int) -> None:
    assert [operation for operation, row in RULES.items() if any(mask & flag for _, mask in row)]


def test_the_operations_are_those_that_mypy_knows() -> None:
    assert list(RULES) == list(get_args(Operation))


def test_every_word_of_the_vocabulary_is_used() -> None:
    assert {to for row in RULES.values() for to, _ in row} == set(To)


def test_rules_tell_nothing_but_events() -> None:
    assert all(mask and not mask & ~flags.EVENTS for row in RULES.values() for _, mask in row)


def linux_setattr(*, size: bool, atime: bool, mtime: bool, mode_or_owner: bool) -> int:
    """fsnotify_change of include/linux/fsnotify.h, bit by bit."""
    mask = flags.MODIFY if size else 0
    if atime and mtime:
        mask |= flags.ATTRIB
    elif atime:
        mask |= flags.ACCESS
    elif mtime:
        mask |= flags.MODIFY
    return mask | (flags.ATTRIB if mode_or_owner else 0)


SETATTRS = [
    {"size": size, "atime": atime, "mtime": mtime, "mode_or_owner": mode}
    for size, atime, mtime, mode in itertools.product([False, True], repeat=4)
    if not (size and atime and not mtime)  # no system call sets the size and, of the times, only that of access
]


@pytest.mark.parametrize(
    "changed", SETATTRS, ids=lambda changed: "+".join(k for k, v in changed.items() if v) or "nothing"
)
def test_a_setattr_is_one_event_with_linuxs_bits(changed: dict[str, bool]) -> None:
    operation = setattr_operation(**changed)
    told = RULES[operation] if operation else ()
    assert [mask for _, mask in told] == list(filter(None, [linux_setattr(**changed)]))
    assert all(to is To.DENTRY for to, _ in told)


def test_a_change_through_one_of_several_names_is_told_to_each_directory_and_once_to_the_file() -> None:
    """Which name it was FUSE does not say."""
    tree = Tree()
    tree.play("mkdir s, make a, link a s/b, watch D /, watch S s, watch F a")
    tree.changes.tell(Change("attributes", tree.at("a"), Nobody(), others=(tree.at("s/b"),)))
    assert tree.heard() == ["D:ATTRIB a", "S:ATTRIB b", "F:ATTRIB"]


def test_a_rename_without_a_rename_is_a_mistake() -> None:
    tree = Tree()
    tree.play("make a")
    with pytest.raises(TypeError, match="rename"):
        list(notices(Change("rename", tree.at("a"), Nobody())))


@given(st.sampled_from(sorted(RULES)), st.booleans(), st.booleans())
def test_isdir_is_on_every_event_of_a_directory_but_its_own_death_and_move(
    operation: Operation,
    is_dir: bool,  # noqa: FBT001 - given, not called
    dies: bool,  # noqa: FBT001 - the same
) -> None:
    tree = Tree()
    tree.play("mkdir x" if is_dir else "make x")
    rename = Rename(tree.inodes.root, b"w") if operation == "rename" else None
    for notice in notices(Change(operation, tree.at("x"), Nobody(), rename, dies=dies)):
        exempt = notice.mask & (flags.DELETE_SELF | flags.MOVE_SELF)
        assert bool(notice.mask & flags.ISDIR) == (is_dir and not exempt)


# handlers.py, read and not run: it needs libfuse

NEITHER = {
    "init": "the mount begins",
    "poll": "not implemented, and then the kernel takes a file to be ready: as it is on a disk",
    "stacktrace": "a debugging aid of pyfuse3, not an operation",
}


def methods(path: Path, name: str) -> dict[str, ast.AsyncFunctionDef | ast.FunctionDef]:
    """The methods of the class *name* in the file at *path*."""
    (found,) = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ClassDef) and n.name == name)
    return {n.name: n for n in found.body if isinstance(n, ast.AsyncFunctionDef | ast.FunctionDef)}


def tells(method: str, ours: dict[str, ast.AsyncFunctionDef | ast.FunctionDef], seen: set[str]) -> bool:
    """Whether *method* lets a change through the door, itself or in the methods of ours that it calls."""
    seen.add(method)
    used = {
        node.attr
        for node in ast.walk(ours[method])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    return "_tell" in used or any(tells(other, ours, seen) for other in sorted(used & set(ours) - seen))


def rows_named() -> set[str]:
    """The rows that the source side and its adapter name."""
    files = [*(PACKAGE / "passthrough").glob("*.py"), HANDLERS]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and node.value in RULES}


def fuse_operations() -> list[str]:
    """The methods of pyfuse3.Operations."""
    spec = importlib.util.find_spec("pyfuse3")
    if spec is None or spec.origin is None:
        pytest.skip("pyfuse3 is not installed: its operations are not known")
    return [name for name in methods(Path(spec.origin).with_name("_pyfuse3.py"), "Operations") if name[0] != "_"]


def test_every_operation_is_told_or_silent() -> None:
    ours = methods(HANDLERS, "Handlers")
    operations = fuse_operations()
    assert len(operations) > 25
    for operation in operations:
        reasons = [operation in ours and tells(operation, ours, set()), operation in SILENT, operation in NEITHER]
        assert sum(reasons) == 1, f"{operation} must tell its change, or be in SILENT or NEITHER"
        assert operation in ours or operation in NEITHER, f"{operation} is missing in handlers.py"


def test_silent_names_no_operation_that_is_not_there() -> None:
    assert set(fuse_operations()) >= SILENT


def test_every_rule_is_told_by_some_operation() -> None:
    by_setattr = {setattr_operation(**changed) for changed in SETATTRS}
    assert set(RULES) == rows_named() | by_setattr - {None}
