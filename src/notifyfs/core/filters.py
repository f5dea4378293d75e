"""What a watch leaves out: by name, by process, by user.

Rules arrive one by one (``wire.FILTER``) and make up a draft; the next watch that asks for it
takes it. Patterns are lines of gitignore(5), read by the library pathspec.
"""

from __future__ import annotations

import errno
import functools
import re
from typing import TYPE_CHECKING, Final, Protocol

from notifyfs.core import wire

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

MOST: Final = 65536
"""The cost of one filter: see ``cost``."""
MOST_OF_USER: Final = 4096
"""The cost of all filters of a user who is neither root nor the daemon's."""

_COSTLY: Final = 64
_STARS_IN_COMPONENT: Final = 2
_STARS: Final = 4
_PATTERNS: Final = wire.FILTER_EXCLUDE | wire.FILTER_INCLUDE
_KINDS: Final = frozenset(1 << bit for bit in range(6))


class Doer(Protocol):
    """Who did an operation."""

    uid: int

    @property
    def process(self) -> int:
        """Process (thread group) id; 0 when it is not known."""
        ...


def cost(pattern: bytes) -> int:
    """What matching *pattern* may cost: 1, or 64 with two ``*`` in one component; EINVAL for more.

    Regular expressions try every way to spread a name over the stars. Each event is matched while
    its caller waits, so nobody may ask for a match that takes longer than some 0.1 ms (measured:
    two stars, a name of 255 bytes).
    """
    parts = [len(re.findall(rb"\*+", part)) for part in re.sub(rb"\\.", b"", pattern).split(b"/")]
    if max(parts) > _STARS_IN_COMPONENT or sum(parts) > _STARS:
        raise OSError(errno.EINVAL, "too many wildcards", pattern)
    return _COSTLY if max(parts) == _STARS_IN_COMPONENT else 1


class Filter:
    """The rules of one watch."""

    def __init__(self, rules: dict[int, list[bytes]], cost: int) -> None:
        self.cost = cost
        self._exclude = _spec(rules.get(wire.FILTER_EXCLUDE))
        self._include = _spec(rules.get(wire.FILTER_INCLUDE))
        self._processes = _numbers(rules.get(wire.FILTER_PROCESS))
        self._not_processes = _numbers(rules.get(wire.FILTER_NOT_PROCESS))
        self._users = _numbers(rules.get(wire.FILTER_USER))
        self._not_users = _numbers(rules.get(wire.FILTER_NOT_USER))
        self.asks_process = bool(self._processes or self._not_processes)
        """Whether the process behind each event must be known."""

    def passes(self, name: bytes, doer: Doer, *, is_dir: bool) -> bool:
        """Whether an event under this name (b"": of the watched inode itself), by *doer*, is to be told."""
        if self._users and doer.uid not in self._users:
            return False
        if doer.uid in self._not_users:
            return False
        if self.asks_process:
            process = doer.process
            if (self._processes and process not in self._processes) or process in self._not_processes:
                return False
        return not name or _wanted(self, name, is_dir)

    def wants(self, name: bytes, *, is_dir: bool) -> bool:
        """Whether the patterns let this name through."""
        # No pattern can name a newline, and to a regular expression it is the end of the text.
        path = name.decode("utf-8", "surrogateescape").replace("\n", "\ufffe") + ("/" if is_dir else "")
        if self._include is not None and not self._include.match_file(path):
            return False
        return self._exclude is None or not self._exclude.match_file(path)


@functools.lru_cache(maxsize=16384)
def _wanted(rules: Filter, name: bytes, is_dir: bool) -> bool:  # noqa: FBT001 - lru_cache is faster without keywords
    # One file is told of several times: created, opened, modified, closed.
    return rules.wants(name, is_dir=is_dir)


class Draft:
    """The rules that one subscriber has sent for its next watch. *process* and *user* are its own."""

    def __init__(self, process: int, user: int) -> None:
        self._own = {
            wire.FILTER_PROCESS: process,
            wire.FILTER_NOT_PROCESS: process,
            wire.FILTER_USER: user,
            wire.FILTER_NOT_USER: user,
        }
        self._rules: dict[int, list[bytes]] = {}
        self._cost = 0
        self._spoilt = False

    def add(self, kind: int, value: bytes) -> None:
        """Add one rule; EINVAL and E2BIG spoil the draft, so that no watch starts with half a filter."""
        try:
            self._add(kind, value)
        except OSError:
            self._spoilt = True
            raise

    def take(self) -> Filter:
        """The filter that was drafted; the draft is empty again. EINVAL where a rule was refused, or none sent."""
        rules, total, spoilt = self._rules, self._cost, self._spoilt
        self._rules, self._cost, self._spoilt = {}, 0, False
        if spoilt or not rules:
            raise OSError(errno.EINVAL, "a rule of this filter was refused" if spoilt else "no rule was sent")
        return Filter(rules, total)

    def _add(self, kind: int, value: bytes) -> None:
        if kind not in _KINDS:
            raise OSError(errno.EINVAL, "no such kind of rule", hex(kind))
        price = 1
        if kind & _PATTERNS:
            price = cost(value)
            _spec([value])
        elif not value:
            value = b"%d" % self._own[kind]
        elif not re.fullmatch(rb"[0-9]{1,10}", value):
            raise OSError(errno.EINVAL, "not a number", value)
        if self._cost + price > MOST:
            raise OSError(errno.E2BIG, "too many rules")
        self._cost += price
        self._rules.setdefault(kind, []).append(value)


def _spec(lines: list[bytes] | None) -> GitIgnoreSpec | None:
    if not lines:
        return None
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - clients that never filter need not wait for it

    try:
        return GitIgnoreSpec.from_lines(line.decode("utf-8", "surrogateescape") for line in lines)
    except ValueError as error:
        raise OSError(errno.EINVAL, str(error)) from None


def _numbers(values: list[bytes] | None) -> frozenset[int]:
    return frozenset(int(value) for value in values or ())
