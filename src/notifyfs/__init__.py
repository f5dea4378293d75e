"""A passthrough filesystem that generates inotify events itself and serves them over a socket.

``notifyfs.INotify`` replaces ``inotify_simple.INotify`` for files on a notifyfs mount. Names are
imported when they are first used: ``import notifyfs`` loads neither sockets nor pyfuse3 nor trio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from notifyfs.client import Connection, Event, Filter, INotify, Rename, parse_events
    from notifyfs.protocol.flags import flags, masks

__all__ = ["Connection", "Event", "Filter", "INotify", "Rename", "flags", "masks", "parse_events"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name)
    return getattr(importlib.import_module("notifyfs.client"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
