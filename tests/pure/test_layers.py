"""The arrows of docs/architecture.md: which room may import which, read from the source.

An import under ``if TYPE_CHECKING`` names a type and loads nothing: it may cross.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "src"
PACKAGE = "notifyfs"
CORE = f"{PACKAGE}.core"

IMPURE = {"asyncio", "logging", "os", "pyfuse3", "select", "socket", "subprocess", "threading", "time", "trio"}
"""What the law of the core forbids."""

MAY_IMPORT = {  # inside of the core: X may import these, besides itself
    "flags": set(),
    "wire": {"flags"},
    "queue": {"flags", "wire"},
    "inodes": set(),
    "rules": {"flags", "inodes"},
    "gitignore": set(),
    "filters": {"wire", "gitignore"},
    "instances": {"wire", "filters", "queue", "inodes"},
    "watches": {"flags", "wire", "filters", "queue", "inodes", "rules", "instances"},
}


def sources() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((SOURCES / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = sources()


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_by(tree: ast.AST) -> set[str]:
    """The dotted names that *tree* imports, in its functions as well."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where an arrow leads"
            module = node.module or ""
            whole = {f"{module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else module for name in whole}
        elif is_for_types_only(node):
            assert isinstance(node, ast.If)
            names |= imported_by(ast.Module(node.orelse, []))
        else:
            names |= imported_by(node)
    return names


def imports(module: str) -> set[str]:
    return imported_by(ast.parse(MODULES[module].read_text("utf-8")))


def reached_from(module: str) -> set[str]:
    """What *module* imports, and what that imports, and so on; a package with each of its modules."""
    reached: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        if name in MODULES:
            waiting |= {name.rpartition(".")[0] or name, *imports(name)} - reached
    return reached


def inside_core(names: set[str]) -> set[str]:
    return {name.removeprefix(f"{CORE}.") for name in names if name.startswith(f"{CORE}.")}


CORE_MODULES = [name for name in MODULES if name == CORE or name.startswith(f"{CORE}.")]


@pytest.mark.parametrize("module", CORE_MODULES)
def test_nothing_in_core_imports_what_could_perform_io(module: str) -> None:
    found = imports(module)
    assert not {name.partition(".")[0] for name in found} & IMPURE
    assert {name for name in found if name.startswith(PACKAGE)} <= set(CORE_MODULES)


@pytest.mark.parametrize("module", CORE_MODULES)
def test_nothing_in_core_opens_reads_or_prints(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "__import__", "exec", "eval"}


def test_nothing_in_core_can_wait() -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    for module in CORE_MODULES:
        assert not [n for n in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))) if isinstance(n, waits)]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_the_arrows_inside_core_hold(room: str) -> None:
    assert inside_core(imports(f"{CORE}.{room}")) <= MAY_IMPORT[room]


def test_every_room_of_core_has_its_arrows() -> None:
    assert inside_core(set(CORE_MODULES)) == set(MAY_IMPORT)


def test_the_kernel_side_and_the_subscriber_side_never_meet() -> None:
    assert f"{PACKAGE}.server" not in reached_from(f"{PACKAGE}.operations")
    assert f"{PACKAGE}.operations" not in reached_from(f"{PACKAGE}.server")


def test_the_subscriber_side_knows_nothing_of_fuse() -> None:
    assert "pyfuse3" not in reached_from(f"{PACKAGE}.server")


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(f"{PACKAGE}.client")])
def test_the_client_needs_neither_fuse_nor_trio_nor_the_daemon(module: str) -> None:
    found = reached_from(module)
    assert not {name.partition(".")[0] for name in found} & {"pyfuse3", "trio", "attrs"}
    ours = {name for name in found if name.startswith(PACKAGE) and not name.startswith(f"{PACKAGE}.client")}
    assert ours <= {PACKAGE, CORE, f"{CORE}.flags", f"{CORE}.wire"}


def test_only_the_daemon_joins_the_two_sides() -> None:
    """And only the command line joins the daemon."""
    for name in ("operations", "server"):
        users = {module for module in MODULES if f"{PACKAGE}.{name}" in imports(module)}
        assert users == {f"{PACKAGE}.daemon"}
    assert {module for module in MODULES if f"{PACKAGE}.daemon" in imports(module)} <= {f"{PACKAGE}.cli"}


@pytest.mark.parametrize("module", [PACKAGE, f"{PACKAGE}.client", f"{PACKAGE}.cli", CORE, f"{CORE}.watches"])
def test_what_people_import_and_start_loads_neither_fuse_nor_trio(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'pyfuse3', 'trio'}} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "\n", "")


# The reader of imports itself


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os.path", {"os.path"}),
        ("from notifyfs.core import flags, wire", {f"{CORE}.flags", f"{CORE}.wire"}),
        ("from notifyfs.protocol.records import Record", {f"{CORE}.wire"}),
        ("from socket import socket", {"socket"}),
        ("def f():\n    import trio", {"trio"}),
        ("class C:\n    try:\n        import trio\n    except ImportError:\n        pass", {"trio"}),
        ("if TYPE_CHECKING:\n    import trio\nelse:\n    import os", {"os"}),
    ],
)
def test_the_reader_of_imports_sees_them_wherever_they_stand(source: str, found: set[str]) -> None:
    assert imported_by(ast.parse(source)) == found
