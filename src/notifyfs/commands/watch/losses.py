"""What is said of events that were lost: something at once, and never a flood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from notifyfs.client.waiting import deadline_in

if TYPE_CHECKING:
    from collections.abc import Callable

_LOST: Final = (
    "notifyfs watch: events were lost because they came faster than they were read; "
    "the mount's option max_queued_events says how many may wait"
)
_QUIET: Final = 10.0
"""Seconds between two lines about losses."""


class Losses:
    """Overflows: a line for the first, later ones counted, a line in *quiet* seconds at most, and one at the end.

    Args:
        complain: takes a line.
        quiet: as above.

    """

    def __init__(self, complain: Callable[[str], None], quiet: float = _QUIET) -> None:
        self._complain = complain
        self._quiet = quiet
        self._count = 0
        self._said = 0
        self._silent_until: float | None = None

    def add(self) -> None:
        """One more."""
        self._count += 1
        if self._count == 1:
            self._said = 1  # as below
            self._complain(_LOST)
            self._silent_until = deadline_in(self._quiet)

    @property
    def until(self) -> float | None:
        """When ``say`` is due; None: all is said."""
        return None if self._said == self._count else self._silent_until

    def say(self) -> None:
        """Say how many were not said yet, if any."""
        # The account is closed before the line: a signal that comes in the midst of one must not begin another.
        more, self._said = self._count - self._said, self._count
        if more:
            self._complain(f"notifyfs watch: events were lost again: {more} more times, {self._count} in all")
            self._silent_until = deadline_in(self._quiet)
