"""Threads for calls that may take long: each user has so many, and the rest of that user's calls wait."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.passthrough.pace import Apart, Steps, Until

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

    async def finish(self, steps: Steps[T], apart: Apart) -> T:
        """Return what *steps* do in the end; *apart* is what they have yielded first."""
        try:
            while True:
                try:
                    outcome = await self.run(*apart)
                except Exception as error:  # noqa: BLE001 - it is theirs
                    apart = steps.throw(error)
                else:
                    apart = steps.send(outcome)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        finally:
            steps.close()


async def come_about(until: Until) -> None:
    """Return when it has."""
    come = trio.Event()
    until.then(come.set)
    await come.wait()
