"""For a daemon that is to do in threads, slowly, whatever it may: with this folder in PYTHONPATH it does."""

# ruff: noqa: INP001, S311 - a folder for PYTHONPATH is no package; chance is what is wanted

from __future__ import annotations

import random
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from notifyfs.passthrough.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.passthrough.pace import During, Steps

SECONDS = 0.004
"""That a call waits before it is made, and after that, at most."""
OFTEN = 0.6


def _slowly(call: Callable[..., Any], *args: object) -> Any:
    time.sleep(random.uniform(0, SECONDS))
    try:
        return call(*args)
    finally:
        time.sleep(random.uniform(0, SECONDS))


def _do(self: Pace, user: int, call: Callable[..., Any], *fds: int, during: During = nullcontext) -> Steps[Any]:
    if random.random() > OFTEN:
        return call(*fds)
    with during():
        return (yield from self.apart(user, lambda *own: self._alone(lambda *same: _slowly(call, *same), *own), *fds))


def _timed(_: Pace, call: Callable[..., Any], *args: object) -> Any:
    """The loop itself makes no pause."""
    return call(*args) if threading.current_thread() is threading.main_thread() else _slowly(call, *args)


Pace.slow = property(lambda _: random.random() < OFTEN)  # type: ignore[assignment, method-assign]
Pace.do = _do  # type: ignore[method-assign]
Pace.timed = _timed  # type: ignore[method-assign]
