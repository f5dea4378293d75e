"""What a watch leaves out: by name, by process, by user.

Rules arrive one by one (``requests.FILTER``) and make up a draft; the next watch that asks for it
takes it.
"""

from __future__ import annotations

import errno
import itertools
import re
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.core.gitignore import Line, Lines, cost, parse
from notifyfs.protocol import requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.instances import Actor

MOST: Final = 65536
"""What the rules of one filter may cost: 1 each, a pattern what ``gitignore.cost`` says."""
MOST_OF_USER: Final = 4096
"""What all filters may cost of a user who is neither root nor the daemon's."""

Verdicts = dict[tuple[int, bytes, bool], bool]
"""Whether a name is wanted, by a matcher's number, the name, and whether it is a directory's."""
_MOST_VERDICTS: Final = 4096
_LONGEST: Final = 255  # bytes of a name of which a verdict is kept

_PATTERNS: Final = requests.FILTER_EXCLUDE | requests.FILTER_INCLUDE
_numbers: Final = itertools.count()
_KINDS: Final = frozenset(1 << bit for bit in range(6))


@attrs.define
class _Rules:
    patterns: dict[int, list[Line]] = attrs.Factory(dict)
    """Kind -> the lines that say something; none of them, where all are comments, still includes nothing."""
    numbers: dict[int, set[int]] = attrs.Factory(dict)
    cost: int = 0
    spoilt: bool = False


class Matcher:
    """The rules of one watch. *verdicts* may be those of several."""

    def __init__(self, rules: _Rules, verdicts: Verdicts) -> None:
        self._number = next(_numbers)
        self._verdicts = verdicts
        self.cost = rules.cost
        lines = {kind: Lines(lines) for kind, lines in rules.patterns.items()}
        self._exclude = lines.get(requests.FILTER_EXCLUDE)
        self._include = lines.get(requests.FILTER_INCLUDE)
        numbers = rules.numbers
        self._processes = numbers.get(requests.FILTER_PROCESS)
        self._not_processes = numbers.get(requests.FILTER_NOT_PROCESS)
        self._users = numbers.get(requests.FILTER_USER)
        self._not_users = numbers.get(requests.FILTER_NOT_USER)
        self.asks_process = bool(self._processes or self._not_processes)
        """Whether the process behind each event must be known."""

    def passes(self, name: bytes, actor: Actor, *, is_dir: bool) -> bool:
        """Whether an event under this name (b"": of the watched inode itself), by *actor*, is to be told."""
        if self._users and actor.uid not in self._users:
            return False
        if self._not_users and actor.uid in self._not_users:
            return False
        if self.asks_process:
            process = actor.process or -1  # 0: not visible, which is nobody; as is a subscriber's own 0
            if self._processes and process not in self._processes:
                return False
            if self._not_processes and process in self._not_processes:
                return False
        if not name:
            return True
        # One file is told of several times: created, opened, modified, closed.
        verdict = self._verdicts.get((self._number, name, is_dir))
        return self._find(name, is_dir=is_dir) if verdict is None else verdict

    def wants(self, name: bytes, *, is_dir: bool) -> bool:
        """Whether the patterns let this name through."""
        include, exclude = self._include, self._exclude
        if include is not None and not include.match(name, is_dir=is_dir):
            return False
        return exclude is None or not exclude.match(name, is_dir=is_dir)

    def _find(self, name: bytes, *, is_dir: bool) -> bool:
        verdict, verdicts = self.wants(name, is_dir=is_dir), self._verdicts
        if len(name) <= _LONGEST:
            if len(verdicts) >= _MOST_VERDICTS:
                verdicts.clear()
            verdicts[self._number, name, is_dir] = verdict
        return verdict


class Draft:
    """The rules that one subscriber has sent for its next watch. *process* and *user* are its own.

    *spend* is told what each rule costs before it is added, and may refuse; and, negative, what is given back.
    *verdicts* are kept by all its filters, and perhaps by others.
    """

    def __init__(
        self,
        process: int,
        user: int,
        most: int = MOST,
        spend: Callable[[int], None] = lambda _cost: None,
        verdicts: Verdicts | None = None,
    ) -> None:
        self._verdicts = {} if verdicts is None else verdicts
        self._most = most
        self._spend = spend
        self._own = {
            requests.FILTER_PROCESS: process,
            requests.FILTER_NOT_PROCESS: process,
            requests.FILTER_USER: user,
            requests.FILTER_NOT_USER: user,
        }
        self._rules = _Rules()

    def add(self, kind: int, value: bytes) -> None:
        """Add one rule; EINVAL and E2BIG spoil the draft, so that no watch starts with half a filter."""
        try:
            self._add(kind, value)
        except OSError:
            self._rules.spoilt = True
            raise

    def take(self) -> Matcher:
        """The filter that was drafted; the draft is empty again. EINVAL where a rule was refused, or none sent."""
        rules, self._rules = self._rules, _Rules()
        self._spend(-rules.cost)
        if rules.spoilt or not rules.cost:
            raise OSError(errno.EINVAL, "a rule of this filter was refused" if rules.spoilt else "no rule was sent")
        return Matcher(rules, self._verdicts)

    def _add(self, kind: int, value: bytes) -> None:
        rules = self._rules
        if kind not in _KINDS:
            raise OSError(errno.EINVAL, "no such kind of rule", hex(kind))
        price = cost(value) if kind & _PATTERNS else 1
        if rules.cost + price > self._most:
            raise OSError(errno.E2BIG, "too many rules")
        self._spend(price)
        rules.cost += price
        if kind & _PATTERNS:
            line = parse(value)
            rules.patterns.setdefault(kind, []).extend([line] if line else [])
        elif value and not re.fullmatch(rb"[0-9]{1,10}", value):
            raise OSError(errno.EINVAL, "not a number", value)
        else:
            rules.numbers.setdefault(kind, set()).add(int(value) if value else self._own[kind])
