"""Lines of gitignore(5), and what they match.

pathspec translates a line into a regular expression. Its own matching is not used: it lets a file
come back that lies in an excluded directory (``.*``, ``!bar`` and ``.h/bar``), and git does not.
Where the translation differs from git's, that is mended here; ``tests/pure/test_gitignore.py`` asks git.
"""

from __future__ import annotations

import errno
import re
import warnings
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

COSTLY: Final = 256
FOUND: Final = 16
LONG: Final = 64

_STARS_IN_COMPONENT: Final = 2
_STARS: Final = 4
_STAND_IN: Final = "\u0100"
"""A character that no byte is."""
_WORD: Final = rb"[-A-Za-z0-9_.,+@%=~]+"
_PLAIN: Final = re.compile(
    rb"(?P<turned>!?)(?:(?P<star>\*)(?=[^/]+/?\Z)|(?P<anchor>/?))(?P<text>"
    + _WORD
    + rb"(?:/"
    + _WORD
    + rb")*)(?P<slash>/?)"
)
_NEVER: Final = (-1, -1)
Kind = Literal["", "name", "path", "end"]
"""Of a plain line: a name in any directory, a path, or how a name ends."""


class Line(NamedTuple):
    """A line that says something: of which names, and whether they match or (after ``!``) do not."""

    matches: bool
    search: Callable[[str], re.Match[str] | None] | None
    """Finds the names; None for a plain line, which most are."""
    kind: Kind = ""
    text: str = ""
    only_directories: bool = False


class Lines:
    """The last line that says something of a name decides, and a directory decides for what is in it.

    Of plain lines any number take as long as one.
    """

    def __init__(self, lines: Iterable[Line]) -> None:
        self._matches: list[bool] = []  # of each line
        self._searches: list[tuple[int, Callable[[str], re.Match[str] | None]]] = []
        # By kind and text: the last line of any file, and that of directories.
        self._plain: dict[tuple[Kind, str], tuple[int, int]] = {}
        for number, line in enumerate(lines):
            self._matches.append(line.matches)
            if line.search is not None:
                self._searches.insert(0, (number, line.search))
                continue
            any_file, _ = self._plain.get((line.kind, line.text), (-1, -1))
            self._plain[line.kind, line.text] = (any_file, number) if line.only_directories else (number, number)
        self._ends = sorted({len(text) for kind, text in self._plain if kind == "end"})
        self._last = "", False  # the directory that was asked for last, and whether it matches

    def match(self, name: bytes, *, is_dir: bool) -> bool:
        """Whether *name* (a path without leading slash), or a directory on the way, matches."""
        path = _characters(name)
        return self._below(path[: path.rfind("/") + 1]) or self.decides(path + "/" * is_dir)

    def decides(self, path: str) -> bool:
        """Whether *path* itself (a directory if it ends in a slash) matches."""
        last = self._last_plain(path) if self._plain else -1
        for number, search in self._searches:
            if number < last:
                break
            if search(path):
                last = number
                break
        return last >= 0 and self._matches[last]

    def _below(self, directory: str) -> bool:
        """Whether *directory*, with its slash, or one above it matches; none does if it is empty."""
        last, matches = self._last
        if directory != last:
            above = (found.end() for found in re.finditer("/", directory))
            matches = any(self.decides(directory[:end]) for end in above)
            self._last = directory, matches
        return matches

    def _last_plain(self, path: str) -> int:
        is_dir = path.endswith("/")
        whole = path[:-1] if is_dir else path
        name, find = whole[whole.rfind("/") + 1 :], self._plain.get
        found = [find(("name", name), _NEVER)[is_dir], find(("path", whole), _NEVER)[is_dir]]
        found += [find(("end", name[-length:]), _NEVER)[is_dir] for length in self._ends if length <= len(name)]
        return max(found)


def cost(line: bytes) -> int:
    """What *line* costs: 1 for each ``LONG`` bytes; ``FOUND`` at least where it takes an expression; EINVAL for more.

    ``COSTLY`` with two ``*`` in one component: regular expressions try every way to spread a name over the stars. Each
    event is matched while its caller waits, so nobody may ask for a match that takes longer than some 0.1 ms (measured
    on Linux 6.18: two stars, a name of 255 bytes). What they are translated to takes twelve times their length in
    memory (Linux 6.18).
    """
    length = -(-len(line) // LONG)
    if not line.strip() or line.startswith(b"#") or _plain(line) is not None:
        return max(1, length)
    parts = [len(re.findall(rb"\*+", part)) for part in re.sub(rb"\\.", b"", _fewer(line)).split(b"/")]
    if max(parts) > _STARS_IN_COMPONENT or sum(parts) > _STARS:
        raise OSError(errno.EINVAL, "too many wildcards", line)
    return max(COSTLY if max(parts) == _STARS_IN_COMPONENT else FOUND, length)


def parse(line: bytes) -> Line | None:
    """What *line* says; None for a comment, or nothing.

    EINVAL: git or pathspec does not know it; they differ in what is rare in brackets.
    """
    plain = _plain(line)
    if plain is not None:
        return plain
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
            return Line(bool(matches), re.compile(rf"(?:{expression})\Z", re.DOTALL).search)
    except (ValueError, re.error) as error:
        raise OSError(errno.EINVAL, str(error)) from None


def _plain(line: bytes) -> Line | None:
    """What *line* says if no expression is needed for that: a name, a path, or how a name ends."""
    found = _PLAIN.fullmatch(line)
    if found is None:
        return None
    text = _characters(found["text"])
    kind: Kind = "end" if found["star"] else "path" if found["anchor"] or "/" in text else "name"
    return Line(not found["turned"], None, kind, text, bool(found["slash"]))


def _fewer(line: bytes) -> bytes:
    """*line* with one star for several, but for a component ``**``: they mean the same, and each is tried by itself."""
    turned, line = (line[:1], line[1:]) if line.startswith(b"!") else (b"", line)
    return turned + re.sub(rb"(\\.|(?<![^/])\*\*(?![^/]))|\*+", lambda found: found[1] or b"*", line, flags=re.DOTALL)


def _characters(name: bytes) -> str:
    return name.decode("latin-1")  # a wildcard stands for a byte, as in git


def _no_slash(found: re.Match[str]) -> str:
    return f"(?!/){found[0]}" if found[1] else found[0]  # as in git, brackets match none
