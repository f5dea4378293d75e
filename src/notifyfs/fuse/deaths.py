"""Waiting for the kernel to say whether an inode died."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_HELD: Final = 0.2
"""Seconds without a FORGET after which a removed inode counts as held by something."""


class InDoubt:
    """The gate of a death in doubt: shut until FORGET has come, or had time to.

    Nothing runs while nobody waits. Who waits when the time is over calls *give_up*, whereupon the
    core opens it.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.shut = True
        self._give_up = give_up
        self._until = trio.current_time() + _HELD
        self._decided = trio.Event()

    def open(self) -> None:
        """It is decided."""
        self.shut = False
        self._decided.set()

    async def opened(self) -> None:
        """Return when it is decided; it is after ``_HELD``."""
        with trio.move_on_at(self._until):
            await self._decided.wait()
        if self.shut:
            self._give_up()
