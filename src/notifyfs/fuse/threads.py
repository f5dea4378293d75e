"""Threads for calls that may take long: each user has so many, and the rest of that user's calls wait."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from notifyfs.passthrough.pace import Until

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.passthrough.pace import Apart, Steps

T = TypeVar("T")

OF_USER: Final = 64
"""Threads of one user at once."""


class Threads:
    """All users' threads. A call that is given up at the end of the mount is not waited for."""

    def __init__(self) -> None:
        self._limits: dict[int, trio.CapacityLimiter] = {}

    async def run(self, user: int, call: Callable[..., T], *args: object) -> T:
        """Return what *call* does, on behalf of *user*. EAGAIN where there can be no more threads."""
        limit = self._limits.get(user)
        if limit is None:
            limit = self._limits[user] = trio.CapacityLimiter(OF_USER)
        try:
            return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=limit)
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, str(error)) from error

    async def finish(self, steps: Steps[T], first: Apart | Until) -> T:
        """Return what *steps* do in the end; *first* is what they have yielded first."""
        step = first
        try:
            while True:
                try:
                    outcome = await (_come(step) if isinstance(step, Until) else self.run(*step))
                except Exception as error:  # noqa: BLE001 - it is theirs
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            steps.close()


async def _come(until: Until) -> None:
    come = trio.Event()
    until.then(come.set)
    await come.wait()
