"""Counting: how many, how long, of which kind. Nothing here reads a clock."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Self

import attrs

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from notifyfs.core.queue import Queue

_BUCKETS: Final = 64  # 2**63 ns are 292 years


class RequestCounter:
    """The requests for one operation.

    ``buckets[n]`` counts those that took less than 2**n nanoseconds, and not less than half of that:
    ``int.bit_length`` is the cheapest way to a histogram (a request pays 0.2 us for all of this).
    """

    __slots__ = ("buckets", "errors", "nanoseconds")

    def __init__(self) -> None:
        self.buckets = [0] * _BUCKETS
        self.nanoseconds = 0
        """How long all of them took."""
        self.errors = 0
        """How many of them were answered with an errno."""

    def add(self, nanoseconds: int) -> None:
        """Count one request, which took so long."""
        self.buckets[nanoseconds.bit_length()] += 1
        self.nanoseconds += nanoseconds


REQUESTS: Final[dict[str, RequestCounter]] = {}
"""Each operation's counter, from the time that its handler is defined: a process serves one mount."""


def of_operation(handler: str) -> RequestCounter:
    """The counter of the operation that the method *handler* (perhaps ``_handler``) answers."""
    return REQUESTS.setdefault(handler.lstrip("_"), RequestCounter())


@attrs.frozen
class Tally:
    """What has happened to the queues of one or several instances. Adding two gives that of both."""

    kinds: Counter[int] = attrs.field(factory=Counter)
    """Events queued, by their mask without ISDIR; overflow records, too."""
    dropped: int = 0
    coalesced: int = 0
    high_water: int = 0
    """The most events that any one of them held at once."""

    @classmethod
    def of(cls, queue: Queue) -> Self:
        """What *queue* has counted so far; from any thread."""
        kinds: Counter[int] = Counter()
        for mask, count in dict(queue.kinds).items():  # copying a dict is one step to other threads
            kinds[mask & ~flags.ISDIR] += count
        return cls(kinds, queue.dropped, queue.coalesced, queue.high_water)

    def __add__(self, other: Self) -> Self:
        """Both together."""
        return type(self)(
            self.kinds + other.kinds,
            self.dropped + other.dropped,
            self.coalesced + other.coalesced,
            max(self.high_water, other.high_water),
        )

    def named(self) -> dict[str, object]:
        """As people and programs read it: the kinds by name, none that has not occurred."""
        return {
            "events": self.kinds.total(),
            "dropped": self.dropped,
            "coalesced": self.coalesced,
            "high_water": self.high_water,
            "kinds": {flags.spell(mask): count for mask, count in sorted(self.kinds.items())},
        }
