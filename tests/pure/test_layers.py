"""The arrows of docs/architecture.md: which room may import which, read from the source.

An import under ``if TYPE_CHECKING`` names a type and loads nothing. Of our own rooms that is an arrow of another kind;
of pyfuse3 and trio it is knowledge of them all the same.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.documents import rows, spans

SOURCES = Path(__file__).resolve().parents[2] / "src"
PACKAGE = "notifyfs"

NOTHING: frozenset[str] = frozenset()
ATTRS = frozenset({"attrs"})
LOOP = frozenset({"attrs", "trio"})
BINDING = frozenset({"attrs", "trio", "pyfuse3"})


class Arrows(NamedTuple):
    """What a room may import: of our own (a whole room, or one module of it), and of `BINDING`."""

    loads: frozenset[str] = NOTHING
    outside: frozenset[str] = NOTHING
    names: frozenset[str] = NOTHING
    """Besides, for types only."""


ROOMS = {
    "protocol": Arrows(),
    "core": Arrows(frozenset({"protocol"}), ATTRS),
    "system": Arrows(frozenset({"protocol"}), ATTRS),
    "passthrough": Arrows(frozenset({"core", "protocol", "system"}), ATTRS),
    "observe": Arrows(frozenset({"core", "protocol"}), ATTRS),
    "fuse": Arrows(frozenset({"core", "mounts", "observe.counters", "passthrough", "protocol", "system"}), BINDING),
    "subscribers": Arrows(
        frozenset({"core", "observe", "protocol", "system"}),
        LOOP,
        names=frozenset({"passthrough.pace", "passthrough.source"}),
    ),
    "mounts": Arrows(frozenset({"system"}), ATTRS),
    "daemon": Arrows(frozenset({"core", "fuse", "mounts", "observe", "passthrough", "subscribers", "system"}), LOOP),
    "client": Arrows(frozenset({"protocol"})),
    "commands": Arrows(
        frozenset({"client", "core.filters", "daemon.compose", "fuse.probe", "mounts", "protocol"}), ATTRS
    ),
}
"""Each folder of the package; its ``__init__`` states its law."""

DOORS = {
    f"{PACKAGE}.__main__": Arrows(frozenset({"commands"})),
    PACKAGE: Arrows(names=frozenset({"client", "protocol"})),  # it imports what is asked for, when it is
}

INSIDE_CORE: dict[str, set[str]] = {  # X may load these, besides itself
    "changes": set(),
    "queue": set(),
    "entries": set(),
    "inodes": {"entries"},
    "rules": set(),
    "gitignore": set(),
    "filters": {"gitignore"},
    "accounts": {"filters", "queue"},
    "instances": set(),
    "hearing": {"rules"},
    "doubts": set(),
    "watches": {"accounts", "doubts", "hearing", "instances", "rules"},
}

IMPURE = {
    *("asyncio", "fcntl", "io", "logging", "os", "pyfuse3", "select", "selectors", "signal", "socket", "ssl"),
    *("subprocess", "threading", "time", "trio"),
}
"""What the laws of `protocol` and `core` forbid: what could perform I/O, wait, log or read a clock."""


def sources() -> dict[str, Path]:
    """Every module of the package, by its dotted name."""
    found = {}
    for path in sorted((SOURCES / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = sources()


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text("utf-8"))


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_by(node: ast.AST, *, types: bool = False) -> set[str]:
    """The dotted names that *node* imports, in its functions as well; with *types*, those for types only too."""
    names: set[str] = set()
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.Import):
            names |= {alias.name for alias in inner.names}
        elif isinstance(inner, ast.ImportFrom):
            assert not inner.level, "relative imports hide where an arrow leads"
            module = inner.module or ""
            whole = {f"{module}.{alias.name}" for alias in inner.names}
            names |= {name if name in MODULES else module for name in whole}
        elif is_for_types_only(inner) and not types:
            assert isinstance(inner, ast.If)
            names |= imported_by(ast.Module(inner.orelse, []))
        else:
            names |= imported_by(inner, types=types)
    return names


def loaded_by(module: str) -> set[str]:
    return imported_by(tree(module))


def known_by(module: str) -> set[str]:
    return imported_by(tree(module), types=True)


def reached_from(*modules: str) -> set[str]:
    """What they load, and what that loads, and so on; a module with the packages that it is in."""
    reached: set[str] = set()
    waiting = set(modules)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        if name in MODULES:
            waiting |= {name.rpartition(".")[0] or name, *loaded_by(name)} - reached
    return reached


def ours(names: set[str]) -> set[str]:
    """Those of the package, without its own name."""
    return {name.removeprefix(f"{PACKAGE}.") for name in names if name == PACKAGE or name.startswith(f"{PACKAGE}.")}


def outsiders(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} & BINDING


def room(module: str) -> str:
    """The folder of a module, by its name with or without the package's; the module itself where it is in none."""
    first = module.removeprefix(f"{PACKAGE}.").partition(".")[0]
    return first if first in ROOMS else module


def arrows(module: str) -> Arrows:
    return DOORS[module] if module in DOORS else ROOMS[room(module)]


def in_room(*rooms: str) -> list[str]:
    return [module for module in MODULES if room(module) in rooms]


def crossing(module: str, names: set[str], allowed: frozenset[str]) -> set[str]:
    """Which of *names* lie outside of the module's room and of *allowed*."""
    abroad = {name for name in ours(names) if room(name) != room(module)}
    return {name for name in abroad if name not in allowed and room(name) not in allowed}


# The rooms


def test_every_folder_has_its_arrows() -> None:
    folders = {path.name for path in (SOURCES / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)
    assert set(MODULES) == {*in_room(*ROOMS), *DOORS}


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_states_its_law(name: str) -> None:
    assert "Law:" in (ast.get_docstring(tree(f"{PACKAGE}.{name}")) or "")


def test_the_document_has_the_same_arrows() -> None:
    told = {row[0].strip("`/"): set(spans(row[2])) for row in rows("architecture.md", "Laws")}
    assert told == {name: set(law.loads | law.names) for name, law in ROOMS.items()}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_loads_what_its_room_may(module: str) -> None:
    assert crossing(module, loaded_by(module), arrows(module).loads) == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_names_the_types_that_its_room_may(module: str) -> None:
    law = arrows(module)
    assert crossing(module, known_by(module), law.loads | law.names) == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_knows_of_fuse_trio_and_attrs_what_its_room_may(module: str) -> None:
    assert outsiders(known_by(module)) <= arrows(module).outside


@pytest.mark.parametrize("name", ROOMS)
def test_every_arrow_is_used(name: str) -> None:
    """No arrow is allowed that nothing needs: the table would tell a newcomer of a way that is not there."""
    modules = in_room(name)
    known = {found for module in modules for found in ours(known_by(module)) if room(found) != name}
    used = known | {room(found) for found in known}
    idle = (ROOMS[name].loads | ROOMS[name].names) - used
    assert idle == set()


# The core and the protocol


@pytest.mark.parametrize("module", in_room("protocol", "core"))
def test_nothing_pure_imports_what_could_perform_io(module: str) -> None:
    assert not {name.partition(".")[0] for name in known_by(module)} & IMPURE


@pytest.mark.parametrize("module", in_room("protocol", "core"))
def test_nothing_pure_opens_reads_or_prints(module: str) -> None:
    calls = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert not called & {"open", "print", "input", "__import__", "exec", "eval"}


@pytest.mark.parametrize("module", in_room("protocol", "core", "system", "passthrough", "client", "mounts", "commands"))
def test_what_has_no_loop_has_nothing_to_await(module: str) -> None:
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [node for node in ast.walk(tree(module)) if isinstance(node, waits)]


def inside_core(names: set[str]) -> set[str]:
    return {name.removeprefix("core.") for name in ours(names) if name.startswith("core.")}


@pytest.mark.parametrize("name", INSIDE_CORE)
def test_the_arrows_inside_core_hold(name: str) -> None:
    assert inside_core(loaded_by(f"{PACKAGE}.core.{name}")) <= INSIDE_CORE[name]


def test_every_module_of_core_has_its_arrows() -> None:
    assert inside_core(set(in_room("core"))) == set(INSIDE_CORE)


# What is never loaded


def test_the_kernel_side_and_the_subscriber_side_never_meet() -> None:
    """Not by way of another room either; the daemon alone joins them, and the command line alone the daemon."""
    assert not set(in_room("subscribers")) & reached_from(*in_room("fuse"))
    assert not set(in_room("fuse")) & reached_from(*in_room("subscribers"))


def test_the_subscriber_side_the_core_and_the_source_know_nothing_of_fuse() -> None:
    assert "pyfuse3" not in reached_from(*in_room("subscribers", "core", "passthrough", "observe"))


def test_the_client_needs_neither_fuse_nor_trio_nor_attrs_nor_the_daemon() -> None:
    found = reached_from(*in_room("client"))
    assert not outsiders(found)
    assert {room(name) for name in ours(found)} <= {PACKAGE, "client", "protocol"}


@pytest.mark.parametrize("module", [PACKAGE, *(f"{PACKAGE}.{name}" for name in ("client", "commands.main", "core"))])
def test_what_people_import_and_start_loads_neither_fuse_nor_trio(module: str) -> None:
    assert python(f"import sys, {module}; print(*sorted({{'pyfuse3', 'trio'}} & set(sys.modules)))") == "\n"


def test_help_loads_neither_fuse_nor_trio() -> None:
    said = python(
        "import sys\nfrom notifyfs.commands.main import main\n"
        "try: main(['--help'])\n"
        "finally: print(*sorted({'pyfuse3', 'trio'} & set(sys.modules)), sep='')"
    )
    assert said.startswith("Usage: ")
    assert said.endswith("\n\n")


def python(code: str) -> str:
    """What *code* prints in a fresh interpreter, which must be content."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


# The reader of imports itself


@pytest.mark.parametrize(
    ("source", "loaded", "known"),
    [
        ("import os.path", {"os.path"}, {"os.path"}),
        ("from notifyfs.protocol import flags, X", {"notifyfs.protocol.flags", "notifyfs.protocol"}, None),
        ("from notifyfs.protocol.records import Record", {"notifyfs.protocol.records"}, None),
        ("from socket import socket", {"socket"}, None),
        ("def f():\n    import trio", {"trio"}, None),
        ("class C:\n    try:\n        import trio\n    except ImportError:\n        pass", {"trio"}, None),
        ("if TYPE_CHECKING:\n    import trio\nelse:\n    import os", {"os"}, {"os", "trio"}),
    ],
)
def test_the_reader_of_imports_sees_them_wherever_they_stand(
    source: str, loaded: set[str], known: set[str] | None
) -> None:
    assert imported_by(ast.parse(source)) == loaded
    assert imported_by(ast.parse(source), types=True) == (known or loaded)


@pytest.mark.parametrize(
    ("module", "names", "allowed", "found"),
    [
        ("notifyfs.core.queue", {"notifyfs.core.rules", "sys"}, {"protocol"}, set()),
        ("notifyfs.core.queue", {"notifyfs.protocol.flags"}, {"protocol"}, set()),
        ("notifyfs.core.queue", {"notifyfs.observe.counters"}, {"protocol"}, {"observe.counters"}),
        ("notifyfs.fuse.answers", {"notifyfs.observe.counters"}, {"observe.counters"}, set()),
        ("notifyfs.fuse.answers", {"notifyfs.observe.prometheus"}, {"observe.counters"}, {"observe.prometheus"}),
    ],
)
def test_an_arrow_is_to_a_room_or_to_one_module(
    module: str, names: set[str], allowed: set[str], found: set[str]
) -> None:
    assert crossing(module, names, frozenset(allowed)) == found
