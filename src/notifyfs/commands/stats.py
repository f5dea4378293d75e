"""What ``notifyfs stats`` prints: all statistics of a mount, for programs and for people."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from notifyfs.protocol import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.client import Connection

_UNITS: Final = (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1))


def fetch(connection: Connection) -> dict[str, Any]:
    """Every counter of the mount; ``subscribers`` is None where only root may see them. OSError as ``statistics``."""
    counters: dict[str, Any] = connection.statistics()["mount"]
    counters["operations"] = [
        row | durations(row["buckets"], row["nanoseconds"]) for row in _rows(connection, requests.STATISTICS_OPERATIONS)
    ]
    try:
        counters["subscribers"] = list(_rows(connection, requests.STATISTICS_INSTANCES))
    except PermissionError:
        counters["subscribers"] = None
    return counters


def lines(counters: dict[str, Any]) -> Iterator[str]:
    """What ``fetch`` gave, as tables; of events and operations only those that have occurred."""
    for name, value in counters.items():
        if isinstance(value, int):
            yield f"{name}: {value}"
    if counters["kinds"]:
        yield from _table(["EVENT", "QUEUED"], [[name, str(count)] for name, count in counters["kinds"].items()])
    used = [row for row in counters["operations"] if row["count"]]
    if used:
        yield from _table(
            ["OPERATION", "COUNT", "ERRORS", "MEAN", "P50", "P99"],
            [
                [
                    row["operation"],
                    *(str(row[name]) for name in ("count", "errors")),
                    _spell(row["mean_ns"]),
                    *("<" + _spell(row[name]) for name in ("p50_ns", "p99_ns")),
                ]
                for row in used
            ],
        )
    if counters["subscribers"] is None:
        yield ""
        yield "subscribers: only root and the daemon's own user may see them"
    else:
        columns = ["number", "pid", "uid", "watches", "events", "dropped", "coalesced", "queued_events", "high_water"]
        yield from _table(
            ["SUBSCRIBER", *(name.upper() for name in columns[1:])],
            [[str(row[name]) for name in columns] for row in counters["subscribers"]],
        )


def durations(buckets: dict[str, int], total: int) -> dict[str, int | None]:
    """Mean, and what half and 99 of 100 took less than, in nanoseconds; None where there was no request."""
    count = sum(buckets.values())
    if not count:
        return {"mean_ns": None, "p50_ns": None, "p99_ns": None}
    return {"mean_ns": total // count, "p50_ns": _bound(buckets, 50), "p99_ns": _bound(buckets, 99)}


def _rows(connection: Connection, part: int) -> Iterator[dict[str, Any]]:
    following = 0
    while following is not None:
        page = connection.statistics(part, following)
        yield from page["rows"]
        following = page["next"]


def _bound(buckets: dict[str, int], percent: int) -> int:
    """The least power of two that *percent* of the requests took less than."""
    exponents = sorted(map(int, buckets))
    upto = itertools.accumulate(buckets[str(exponent)] for exponent in exponents)
    wanted = sum(buckets.values()) * percent
    return next(1 << exponent for exponent, count in zip(exponents, upto, strict=True) if 100 * count >= wanted)


def _spell(nanoseconds: int) -> str:
    unit, size = next(((unit, size) for unit, size in _UNITS if nanoseconds >= size), _UNITS[-1])
    return f"{nanoseconds / size:.3g} {unit}"


def _table(titles: list[str], rows: list[list[str]]) -> Iterator[str]:
    """An empty line, and *rows* under their *titles*: the first column begins, the others end, at the same place."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    yield ""
    for first, *others in [titles, *rows]:
        yield "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])])
