"""A subscriber's side of the daemon in this process, on a real directory and a real socket, but without a mount."""

# ruff: noqa: S101 - it asserts

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from typing import TYPE_CHECKING

import trio
from tests.support import wireclient as w

from notifyfs.core.changes import Changes
from notifyfs.core.watches import Watches
from notifyfs.fuse.deaths import InDoubt
from notifyfs.observe.statistics import Statistics
from notifyfs.passthrough.source import O_PATH, Source
from notifyfs.subscribers.capabilities import Capabilities
from notifyfs.subscribers.resolve import Resolver
from notifyfs.subscribers.server import Server

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE = 10.0
"""Seconds that the answer to anything may take."""


class Served:
    """A ``Server`` that runs in a thread, and its socket; its files are in the empty *directory*."""

    def __init__(self, directory: Path) -> None:
        source = directory / "source"
        (source / "d/e").mkdir(parents=True)
        for name in ("f", "d/f"):
            w.touch(source / name)
        for name, target in (("loop", "loop"), ("in", "/mount/d"), ("out", "/etc"), ("up", "..")):
            (source / name).symlink_to(target)
        self._source = Source(os.open(source, O_PATH), 64)
        inodes = self._source.inodes
        changes = Changes()
        self._watches = Watches(inodes, changes, doubt=InDoubt)
        changes.attach(self._watches)
        self._server = Server(
            Capabilities(
                watches=self._watches,
                resolver=Resolver(self._source, b"/mount", (0, 0)),
                statistics=Statistics(self._watches, changes, lambda: {"inodes": len(inodes)}),
                about={"version": 1},
            )
        )
        self._path = str(directory / "socket")
        self._faults: list[str] = []
        logging.getLogger("notifyfs").addHandler(_Noting(self._faults))
        ready = threading.Event()
        threading.Thread(target=trio.run, args=[self._serve, ready], daemon=True).start()
        ready.wait(DEADLINE)
        self._descriptors = self._held()

    async def _serve(self, ready: threading.Event) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen(128)
        listener.setblocking(False)  # noqa: FBT003 - socket's own signature
        ready.set()
        await self._server.accept(listener)

    def cookies(self, data: bytes) -> list[int]:
        """Send *data* and then nothing more: the numbers of the requests that are answered."""
        received = b""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self._path)
            client.settimeout(DEADLINE)
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while more := client.recv(1 << 16):
                    received += more
        records, rest = w.split(received)
        assert not rest, "the stream ends within a record"
        return [record.cookie for record in records if record.mask & w.REPLY]

    def check(self) -> None:
        """AssertionError if the last connection has left something."""
        assert not self._faults, self._faults[0]
        w.wait_until(self._idle, "nothing is left of the connection")

    def _idle(self) -> bool:
        watches = self._watches
        accounts = watches.accounts
        held = len(watches.instances), accounts.watches, accounts.origins, len(self._source.inodes)
        return held == (0, 0, 0, 1) and self._held() == self._descriptors

    def _held(self) -> int:
        return len(os.listdir("/proc/self/fd")) - self._source.descriptors


class _Noting(logging.Handler):
    """What the server logs as its own fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        self._faults.append(logging.Formatter().format(record))
