"""Plain lines of gitignore(5), which need no expression: they say what their expressions would, and cost nothing."""

from __future__ import annotations

import random
import re

import pytest

from notifyfs.core import gitignore
from notifyfs.core.gitignore import FOUND, Line, Lines, cost, parse

NAMES = ["a", "b", "a.o", "b.o", "o", "ab", ".h", "x.a.o"]
ENDS = ["*.o", "*o", "*a.o", "*.a.o"]
OTHERS = ["a*", "*", "a?", "[ab]", "**/a", "a/**", "*/b", "a/*/b"]


def lines_of(chance: random.Random) -> list[bytes]:
    """Some lines, most of them plain."""
    made = []
    for _ in range(chance.randint(1, 5)):
        path = "/".join(chance.choices(NAMES, k=chance.choice([1, 1, 1, 2, 3])))
        rooted = chance.choice(["", "", "", "/"]) + path
        text = chance.choice([rooted, rooted, rooted, chance.choice(ENDS), chance.choice(OTHERS)])
        made.append((chance.choice(["", "", "!"]) + text + chance.choice(["", "", "/"])).encode())
    return made


def parsed(lines: list[bytes]) -> list[Line]:
    return [line for line in map(parse, lines) if line is not None]


@pytest.mark.parametrize("seed", range(4))
def test_they_say_what_their_expressions_would(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    cases = [lines_of(chance) for _ in range(300)]
    plain = [parsed(lines) for lines in cases]
    assert sum(line.search is None for lines in plain for line in lines) > 500
    monkeypatch.setattr(gitignore, "_PLAIN", re.compile(b"(?!)"))
    for lines, one in zip(cases, plain, strict=True):
        other = parsed(lines)
        assert all(line.search for line in other)
        quick, slow = Lines(one), Lines(other)
        for _ in range(20):
            path = "/".join(chance.choices(NAMES, k=chance.randint(1, 4))).encode()
            is_dir = chance.random() < 0.5
            assert quick.match(path, is_dir=is_dir) == slow.match(path, is_dir=is_dir), (lines, path)


@pytest.mark.parametrize(
    ("line", "price"),
    [
        (b"name", 1),
        (b"/a/b/", 1),
        (b"!*.o", 1),
        (b"# *a*", 1),
        (b"", 1),
        (b"x" * 4000, 63),
        (b"a*", FOUND),
        (b"[ab]", FOUND),
        (b"*a*", gitignore.COSTLY),
    ],
)
def test_what_needs_an_expression_costs_more(line: bytes, price: int) -> None:
    assert cost(line) == price
