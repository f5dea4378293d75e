"""Lines of gitignore(5), and what they match.

pathspec translates a line into a regular expression. Its own matching is not used: it lets a file
come back that lies in an excluded directory (``.*``, ``!bar`` and ``.h/bar``), and git does not.
Where the translation differs from git's, that is mended here; ``tests/pure/test_gitignore.py`` asks git.
"""

from __future__ import annotations

import errno
import re
import warnings
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COSTLY: Final = 64
LONG: Final = 64

_STARS_IN_COMPONENT: Final = 2
_STARS: Final = 4
_STAND_IN: Final = "\u0100"
"""A character that no byte is."""


class Line(NamedTuple):
    """A line that says something: of which names, and whether they match or (after ``!``) do not."""

    search: Callable[[str], re.Match[str] | None]
    matches: bool


class Lines:
    """The last line that says something of a name decides, and a directory decides for what is in it."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = [*lines][::-1]
        self._last = "", False  # the directory that was asked for last, and whether it decides

    def match(self, name: bytes, *, is_dir: bool) -> bool:
        """Whether *name* (a path without leading slash), or a directory on the way, matches."""
        path = _characters(name)
        return self._below(path[: path.rfind("/") + 1]) or self.decides(path + "/" * is_dir)

    def _below(self, directory: str) -> bool:
        """Whether *directory*, with its slash, or one above it matches; b"": there is none."""
        last, matches = self._last
        if directory != last:
            above = (found.end() for found in re.finditer("/", directory))
            matches = any(self.decides(directory[:end]) for end in above)
            self._last = directory, matches
        return matches

    def decides(self, path: str) -> bool:
        """Whether *path* itself (a directory if it ends in a slash) matches."""
        return _decides(self._lines, path)


def _decides(lines: list[Line], path: str) -> bool:
    return next((matches for search, matches in lines if search(path)), False)


def cost(line: bytes) -> int:
    """What *line* costs: 1 for each ``LONG`` bytes, but ``COSTLY`` with two ``*`` in one component; EINVAL for more.

    Regular expressions try every way to spread a name over the stars. Each event is matched while
    its caller waits, so nobody may ask for a match that takes longer than some 0.1 ms (measured on Linux 6.18:
    two stars, a name of 255 bytes). What they are translated to takes twelve times their length in
    memory (Linux 6.18).
    """
    parts = [len(re.findall(rb"\*+", part)) for part in re.sub(rb"\\.", b"", _fewer(line)).split(b"/")]
    if max(parts) > _STARS_IN_COMPONENT or sum(parts) > _STARS:
        raise OSError(errno.EINVAL, "too many wildcards", line)
    return max(COSTLY if max(parts) == _STARS_IN_COMPONENT else 1, -(-len(line) // LONG))


def parse(line: bytes) -> Line | None:
    """What *line* says; None for a comment, or nothing.

    EINVAL: git or pathspec does not know it; they differ in what is rare in brackets.
    """
    # Late: clients that never filter need not wait for it.
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern  # noqa: PLC0415

    text = _characters(_fewer(line))
    for bracket in re.findall(r"\\.|(\[[!^]?\]?[^]]*\])", text, re.DOTALL):
        if any(special in bracket[1:] for special in ("\\", "/", "[:", "[.", "[=")):
            raise OSError(errno.EINVAL, "no such brackets", line)
    while text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1]
    last = text[-1:]
    if last.isspace() and last != " ":
        text = text[:-1] + _STAND_IN  # pathspec drops every kind of space at the end, git the blank
    if text == "!/":
        return None  # as "/": nothing
    text = re.sub(r"/(?:\*\*/)*\*\*(/?)$", r"/**/*\1", text)  # what is in a directory, and not that itself
    try:
        expression, matches = GitIgnoreSpecPattern.pattern_to_regex(text)
        if expression is None:
            return None
        expression = expression.replace(_STAND_IN, re.escape(last))
        expression = expression.replace("(?P<ps_d>/)", "/")  # a directory decides for what is in it: see Lines
        expression = re.sub(r"\\.|\[\^/\]|(\[\^?\]?[^]]*\])", _no_slash, expression, flags=re.DOTALL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # "[[a]" means what it always meant
            return Line(re.compile(rf"(?:{expression})\Z", re.DOTALL).search, bool(matches))
    except (ValueError, re.error) as error:
        raise OSError(errno.EINVAL, str(error)) from None


def _fewer(line: bytes) -> bytes:
    """*line* with one star for several, but for a component ``**``: they mean the same, and each is tried by itself."""
    turned, line = (line[:1], line[1:]) if line.startswith(b"!") else (b"", line)
    return turned + re.sub(rb"(\\.|(?<![^/])\*\*(?![^/]))|\*+", lambda found: found[1] or b"*", line, flags=re.DOTALL)


def _characters(name: bytes) -> str:
    return name.decode("latin-1")  # a wildcard stands for a byte, as in git


def _no_slash(found: re.Match[str]) -> str:
    return f"(?!/){found[0]}" if found[1] else found[0]  # as in git, brackets match none
