"""A server without a mount, and its first client; an event descriptor with little room."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from notifyfs.subscribers import delivery
from tests.support.served import Client, Served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import trio

    from notifyfs.core.accounts import Limits


@pytest.fixture
async def serving(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Callable[..., Served]]:
    """Give a function that serves until the test ends; once."""
    made: list[Served] = []

    def serve(limits: Limits | None = None, **given: Any) -> Served:
        made.append(Served(tmp_path / "socket", limits, **given))
        nursery.start_soon(made[-1].serve)
        return made[-1]

    yield serve
    for served in made:
        served.close()


@pytest.fixture
def served(serving: Callable[..., Served]) -> Served:
    return serving()


@pytest.fixture
async def client(served: Served) -> Client:
    return await served.connect()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an event descriptor have little room."""
    monkeypatch.setattr(delivery, "_PACKET_BUFFER", 1)
    monkeypatch.setattr(delivery, "_SO_SNDBUFFORCE", socket.SO_SNDBUF)
