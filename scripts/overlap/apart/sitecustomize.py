"""For a daemon that is to do in threads, slowly, whatever it may: with this folder in PYTHONPATH it does."""

# ruff: noqa: INP001, S311 - a folder for PYTHONPATH is no package; chance is what is wanted

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from notifyfs.passthrough.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.passthrough.pace import Steps

SECONDS = 0.004
"""That a call waits before it is made, and after that, at most."""
OFTEN = 0.6


def _slowly(call: Callable[..., Any], *args: object) -> Any:
    time.sleep(random.uniform(0, SECONDS))
    try:
        return call(*args)
    finally:
        time.sleep(random.uniform(0, SECONDS))


def _do(self: Pace, user: int, call: Callable[..., Any], *fds: int) -> Steps[Any]:
    if random.random() > OFTEN:
        return call(*fds)
    return (yield from self.apart(user, lambda *own: self._alone(lambda *same: _slowly(call, *same), *own), *fds))


Pace.slow = property(lambda _: random.random() < OFTEN)  # type: ignore[assignment, method-assign]
Pace.do = _do  # type: ignore[method-assign]
Pace.timed = lambda _, call, *args: _slowly(call, *args)  # type: ignore[method-assign]
