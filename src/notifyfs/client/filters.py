"""What a watch is to leave out: the rules of ``docs/protocol.md``, "Filters"."""

from __future__ import annotations

import errno
import operator
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from notifyfs.protocol import records, requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LONGEST: Final = records.MAX_LEN - 1
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_REFUSED: Final = {
    errno.EINVAL: "not a pattern of gitignore(5), or with more wildcards than a filter may have",
    errno.E2BIG: "too many rules in one filter",
}


class Rule(NamedTuple):
    """One rule, as it is sent."""

    kind: int
    """``requests.FILTER_EXCLUDE`` and its like."""
    value: bytes
    place: str = ""
    """Where it was written, for people."""

    def __str__(self) -> str:
        """The rule as a complaint names it."""
        return f"{os.fsdecode(self.value)!r}" + (f" ({self.place})" if self.place else "")

    def refused(self, number: int) -> OSError:
        """Make the error for a daemon's refusal of this rule with that errno."""
        return OSError(number, f"{self}: {_REFUSED.get(number) or os.strerror(number)}")


class Filter:
    """What a watch is told of; without rules everything. The daemon applies it, so the rest costs no transfer.

    A pattern is a line of gitignore(5), str or bytes, relative to the watched directory; the last that
    matches a path decides, ``!`` negates, and what is in a matching directory matches. Events of the watched
    file or directory itself pass all patterns. Filters can be added: ``Filter.from_file(".gitignore") + Filter(...)``.

    Args:
        include: tell only of what these patterns match.
        exclude: tell nothing of what these patterns match, whatever *include* says.
        pids: tell only what these processes did.
        not_pids: tell nothing that these processes did.
        uids: tell only what these users (numbers) did.
        not_uids: tell nothing that these users did.
        ignore_self: tell nothing that the process did that made the connection.

    ValueError: a pattern that is no line, or is too long; a negative number.

    """

    def __init__(  # noqa: PLR0913 - a keyword each
        self,
        *,
        include: Iterable[str | bytes] = (),
        exclude: Iterable[str | bytes] = (),
        pids: Iterable[int] = (),
        not_pids: Iterable[int] = (),
        uids: Iterable[int] = (),
        not_uids: Iterable[int] = (),
        ignore_self: bool = False,
    ) -> None:
        self.rules: list[Rule] = [
            *_patterns(requests.FILTER_INCLUDE, include),
            *_patterns(requests.FILTER_EXCLUDE, exclude),
            *_numbers(requests.FILTER_PROCESS, pids),
            *_numbers(requests.FILTER_NOT_PROCESS, not_pids),
            *_numbers(requests.FILTER_USER, uids),
            *_numbers(requests.FILTER_NOT_USER, not_uids),
        ]
        """In the order in which they count."""
        if ignore_self:
            self.rules.append(Rule(requests.FILTER_NOT_PROCESS, b""))

    @classmethod
    def from_file(cls, path: str | bytes | os.PathLike[str], *, beneath: bytes = b"") -> Self:
        """Exclude what a gitignore file says.

        Args:
            path: the file.
            beneath: the directory that its patterns are meant for, relative to the watched one (b"": that itself).

        OSError as open(2); ValueError as for the class, with file and line.

        """
        with open(path, "rb") as file:
            return cls.from_lines(file.read(), os.fsdecode(path), beneath=beneath)

    @classmethod
    def from_lines(cls, text: bytes, name: str, *, beneath: bytes = b"") -> Self:
        """Exclude what *text*, read from the gitignore file *name*, says: see ``from_file``."""
        made = cls()
        lines = text.removeprefix(_BYTE_ORDER_MARK).split(b"\n")  # both as git reads it
        for number, line in enumerate(lines, 1):
            pattern = line.removesuffix(b"\r")
            if pattern.strip() and not pattern.startswith(b"#"):
                pattern = _moved(pattern, beneath) if beneath else pattern
                made.rules.append(_rule(requests.FILTER_EXCLUDE, pattern, f"{name}, line {number}"))
        return made

    def to_send(self) -> list[Rule]:
        """Return the rules that make up the filter on the wire, at least one."""
        return self.rules or [Rule(requests.FILTER_EXCLUDE, b"")]  # a blank line matches nothing

    def __add__(self, other: Filter) -> Filter:
        """Both filters' rules, this one's first."""
        added = Filter()
        added.rules = self.rules + other.rules
        return added


def _patterns(kind: int, patterns: Iterable[str | bytes]) -> Iterator[Rule]:
    for pattern in [patterns] if isinstance(patterns, str | bytes) else patterns:
        yield _rule(kind, os.fsencode(pattern))


def _rule(kind: int, pattern: bytes, place: str = "") -> Rule:
    rule = Rule(kind, pattern, place)
    if len(pattern) > _LONGEST:
        raise ValueError(f"{place or str(rule)[:40]}: a pattern has at most {_LONGEST} bytes")
    if re.search(rb"[\0\n]", pattern):
        raise ValueError(f"{rule}: a pattern is one line, without NUL")
    return rule


def _numbers(kind: int, numbers: Iterable[int]) -> Iterator[Rule]:
    for number in map(operator.index, numbers):
        if not 0 <= number < 1 << 32:
            raise ValueError(f"{number}: not the number of a process or user")
        yield Rule(kind, b"%d" % number)


def _moved(pattern: bytes, directory: bytes) -> bytes:
    """Write *pattern* of a gitignore file in *directory* so that it says the same in the file above."""
    negation = b"!" if pattern.startswith(b"!") else b""
    rest = pattern.removeprefix(negation)
    if not rest.strip(b"/ "):
        return pattern  # matches nothing; not everything in this directory
    # gitignore(5): a slash at the beginning or in the middle ties it to its directory.
    tied = b"/" in rest.rstrip(b" ").removesuffix(b"/")
    place = re.sub(rb"([\\*?\[])", rb"\\\1", directory.strip(b"/")).replace(b"\n", b"?")
    return negation + b"/" + place + (b"/" if tied else b"/**/") + rest.removeprefix(b"/")
