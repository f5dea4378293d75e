"""What keeps the house small: files of 400 lines, functions of 40, and no part bound to another after it was made."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT = Path(__file__).resolve().parents[2]
LINES = 400
"""Of a file."""

LONGEST = 40
"""Lines of a function, from its ``def`` to its end."""

FILES = [
    str(path.relative_to(ROOT)) for top in ("src", "scripts", "tests") for path in sorted((ROOT / top).rglob("*.py"))
]
SOURCES = [file for file in FILES if file.startswith("src/")]

LONG: dict[str, str] = {}
"""``file: function`` (no function: the file itself) that may be longer, and why."""

BOUND_LATE: dict[str, str] = {
    "src/notifyfs/fuse/binding.py: trio": "the only place that pyfuse3 has for who reads its requests",
    "src/notifyfs/core/inodes.py: parent": "where a name is: a rename changes it, and nobody else",
    "src/notifyfs/core/watches.py: filter": "a value: a client that adds its watch again may choose another",
}
"""``file: attribute`` of an object made elsewhere that may be assigned what acts, and why it is no hook."""

VALUES = {"NamedTuple", "Enum", "IntEnum", "IntFlag", "Flag", "Exception", "OSError", "ValueError", "Protocol"}
"""A class with one of these bases has no behaviour of its own that could be bound."""


def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text("utf-8"))


# Sizes


def too_long(text: str) -> dict[str, int]:
    """The functions of a file that are longer than `LONGEST`, and their lines; the whole is ``""``."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    found = {name: lines for name, lines in lengths if lines > LONGEST}
    whole = len(text.splitlines())
    return found | ({"": whole} if whole > LINES else {})


@pytest.mark.parametrize("file", FILES)
def test_no_file_and_no_function_is_too_long(file: str) -> None:
    found = too_long((ROOT / file).read_text("utf-8"))
    assert {name: lines for name, lines in found.items() if f"{file}: {name}" not in LONG} == {}


# Hooks


class House(NamedTuple):
    """What the whole package says of its names, and what decides whether an assignment binds one part to another."""

    methods: frozenset[str]
    called: frozenset[str]
    """Attributes that are called or awaited as they stand."""
    actors: frozenset[str]
    """Classes with behaviour: they have a public method, and are no values."""
    declared: dict[str, list[set[str]]]
    """An attribute's name, and the types of each declaration of it."""


def words(node: ast.AST | None) -> set[str]:
    """The names in an expression."""
    inside = list(ast.walk(node)) if node is not None else []
    named = {inner.id for inner in inside if isinstance(inner, ast.Name)}
    return named | {inner.attr for inner in inside if isinstance(inner, ast.Attribute)}


def types(node: ast.AST | None) -> set[str]:
    """What an annotation says that there is, be it quoted or not: ``X | None`` is an X, ``list[X]`` a list."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return types(ast.parse(node.value, mode="eval").body)
    if isinstance(node, ast.BinOp):
        return types(node.left) | types(node.right)
    if isinstance(node, ast.Subscript):
        return types(node.slice) if words(node.value) <= {"Final", "Optional", "ClassVar"} else types(node.value)
    return {node.attr} if isinstance(node, ast.Attribute) else {node.id} if isinstance(node, ast.Name) else set()


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def decorators(node: ast.AST) -> set[str]:
    return {word for decorator in getattr(node, "decorator_list", ()) for word in words(decorator)}


def acts(node: ast.ClassDef) -> bool:
    """Whether somebody who holds one can have something done by it."""
    if "frozen" in decorators(node) or {word for base in node.bases for word in words(base)} & VALUES:
        return False
    public = [inner for inner in node.body if is_function(inner) and not getattr(inner, "name").startswith("_")]  # noqa: B009
    return any("property" not in decorators(inner) for inner in public)


def declarations(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Each attribute that *tree* declares, and its types: ``x: T`` in a class, ``self.x: T``, or a parameter's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            plain = [inner for inner in node.body if isinstance(inner, ast.AnnAssign)]
            yield from (
                (inner.target.id, types(inner.annotation)) for inner in plain if isinstance(inner.target, ast.Name)
            )
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute):
            yield node.target.attr, types(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = {one.arg: types(one.annotation) for one in (*node.args.args, *node.args.kwonlyargs)}
            for target, value in assignments(node):
                if isinstance(value, ast.Name) and value.id in given and owner(target) == "self":
                    yield target.attr, given[value.id]


def house(trees: Iterable[ast.Module]) -> House:
    nodes = [node for tree in trees for node in ast.walk(tree)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    methods = [inner for node in classes for inner in node.body if is_function(inner)]
    declared: dict[str, list[set[str]]] = {}
    for name, said in (found for tree in trees for found in declarations(tree)):
        declared.setdefault(name, []).append(said)
    return House(
        frozenset(getattr(inner, "name", "") for inner in methods if "property" not in decorators(inner)),
        frozenset(
            node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ),
        frozenset(node.name for node in classes if acts(node)),
        declared,
    )


def assignments(tree: ast.AST) -> Iterator[tuple[ast.Attribute, ast.expr]]:
    """Each attribute that is assigned in *tree*, also in a chain or a tuple, and the value."""
    for node in ast.walk(tree):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        if value is None:
            continue
        for target in targets:
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple):
                values = value.elts if isinstance(value, ast.Tuple) else [value] * len(target.elts)
                pairs = list(zip(target.elts, values, strict=False))
            yield from ((one, given) for one, given in pairs if isinstance(one, ast.Attribute))


def owner(target: ast.Attribute) -> str:
    return ast.unparse(target.value)


def binds_late(tree: ast.Module, known: House) -> set[str]:
    """Each ``object.attribute`` that *tree* assigns to what is not ``self``, and that is no plain data.

    It is not plain if the value is a function, or made by a class that acts; if the attribute is called somewhere, or
    declared as what acts, and no class declares another of this name as plain; or if the object is a module. A
    constant is plain everywhere.
    """
    here = {getattr(node, "name", "") for node in ast.walk(tree) if is_function(node)}
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }

    def is_behaviour(value: ast.expr) -> bool:
        if isinstance(value, ast.Call):
            made = words(value.func)
            return bool(made & known.actors) or "partial" in made
        if isinstance(value, ast.Attribute):
            return value.attr in known.methods
        return isinstance(value, ast.Lambda) or (isinstance(value, ast.Name) and value.id in here)

    def is_hook(target: ast.Attribute, value: ast.expr) -> bool:
        if isinstance(value, ast.Constant):
            return False
        declared = [
            bool(said & {"Callable", "Awaitable", *known.actors}) for said in known.declared.get(target.attr, ())
        ]
        may_act = all(declared) and (bool(declared) or target.attr in known.called)
        return is_behaviour(value) or may_act or owner(target) in imported

    return {
        f"{owner(target)}.{target.attr}"
        for target, value in assignments(tree)
        if owner(target) not in {"self", "cls"} and is_hook(target, value)
    }


@pytest.fixture(scope="module")
def known() -> House:
    return house([parsed(file) for file in SOURCES])


@pytest.mark.parametrize("file", SOURCES)
def test_nothing_is_bound_to_an_object_that_somebody_else_made(file: str, known: House) -> None:
    found = binds_late(parsed(file), known)
    assert {name for name in found if f"{file}: {name.rpartition('.')[2]}" not in BOUND_LATE} == set()


def test_every_exception_is_needed(known: House) -> None:
    for where in LONG:
        file, _, name = where.partition(": ")
        assert name in too_long((ROOT / file).read_text("utf-8"))
    for where in BOUND_LATE:
        file, _, name = where.partition(": ")
        assert name in {found.rpartition(".")[2] for found in binds_late(parsed(file), known)}


# The reader of sources itself


def test_a_function_is_measured_from_its_def_to_its_end() -> None:
    body = "    pass\n" * (LONGEST - 1)
    assert too_long(f"@decorated\n@twice\ndef fits():\n{body}") == {}
    assert too_long(f"class C:\n  async def f(self):\n{body}    pass\nclass D:\n  def f(self): ...") == {
        "f": LONGEST + 1
    }


def test_a_file_is_measured_with_all_its_lines() -> None:
    assert too_long("#\n" * LINES) == {}
    assert too_long("#\n" * LINES + "\n") == {"": LINES + 1}


PART = """
class Part:
    def __init__(self, filter: Matcher) -> None:
        self.filter = filter
        self.guard: "Guard | None" = None
        self.done: Callable[[], None] = nothing
        self.size: int = 0
        self.parts: dict[str, Part] = {}
        self.place: Place | None = None
    def ring(self): self.handler()
    @property
    def bell(self): ...
class Guard:
    def look(self): ...
class Matcher(NamedTuple):
    def spares(self): ...
class Place:
    @property
    def path(self): ...
class Refused(OSError):
    def remedy(self): ...
"""


@pytest.mark.parametrize(
    "source",
    [
        "part.x = lambda: None",
        "part.x = functools.partial(print, 1)",
        "part.x = other.ring",
        "part.x = self.other.ring",
        "part.x = self.part.y = Guard(1)",
        "def f(): ...\npart.x = f",
        "def f():\n    def g(): ...\n    part.x = g",
        "part.handler = something",
        "part.done = something",
        "part.guard = something",
        "part.guard: Guard = something",
        "part.size, part.guard = 1, guard",
        "import pyfuse3\npyfuse3.x = something",
        "import a.b as c\nc.x = something",
    ],
)
def test_what_binds_late_is_found(source: str) -> None:
    known = house([ast.parse(PART)])
    assert binds_late(ast.parse(source), known)


@pytest.mark.parametrize(
    "source",
    [
        "part.handler = None",
        "part.parts = parts",
        "self.handler = something",
        "part.handler()",
        "part.size = 3",
        "part.size += 3",
        "part.size = other.size",
        "part.size = len(other)",
        "part.filter = chosen",
        "part.filter = Matcher()",
        "part.place = place",
        "part.x = other.bell",
        "part.x = Refused()",
        "part.x, part.y = 1, 2",
        "_library.mount.argtypes = (c_int,)",
        "import logging\nlogging.raiseExceptions = False",
    ],
)
def test_plain_data_may_be_assigned(source: str) -> None:
    known = house([ast.parse(PART)])
    assert binds_late(ast.parse(source), known) == set()


def test_what_acts_is_told_from_what_is_a_value() -> None:
    assert house([ast.parse(PART)]).actors == {"Part", "Guard"}
