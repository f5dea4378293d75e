"""Another shell on the session than the blocking one: asynchronous, in as many lines as it takes."""

from __future__ import annotations

import array
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import Record
from notifyfs.protocol.session import LONGEST_PACKET, Call, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Mount


class Shell:
    """A session on a trio socket: one task reads, and any may ask."""

    def __init__(self, stream: trio.socket.SocketType, *, event_fd: bool) -> None:
        self.session = Session(event_fd=event_fd)
        self._stream = stream
        self._sending = trio.Lock()
        self._news = trio.Event()

    async def read(self) -> None:
        """Take in what comes, until the end."""
        while not self.session.hung_up:
            data, ancillary, _, _ = await self._stream.recvmsg(1 << 16, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            self.session.receive(data, [fd for _, _, fds in ancillary for fd in array.array("i", fds)])
            self._news.set()
            self._news = trio.Event()

    async def over(self, call: Call) -> Record:
        """Send *call*, and wait for its reply."""
        try:
            async with self._sending:
                while (piece := self.session.to_send()) is not None:
                    count = 0
                    try:
                        count = await self._stream.sendmsg([piece.data], _rights(piece.descriptor))
                    finally:
                        self.session.sent(count)
            while not call.over:
                await self._news.wait()
        finally:
            self.session.give_up(call)
        assert call.errno == 0
        assert call.reply is not None
        return call.reply


def _rights(descriptor: int | None) -> list[tuple[int, int, array.array[int]]]:
    return [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]


@asynccontextmanager
async def connected(mount: Mount, *, event_fd: bool = False) -> AsyncIterator[Shell]:
    with trio.socket.socket(socket.AF_UNIX) as stream:
        await stream.connect(mount.socket)
        shell = Shell(stream, event_fd=event_fd)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.read)
            with trio.fail_after(20):
                await shell.over(shell.session.greeting)
                yield shell
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_it_asks_and_is_told(mount: Mount) -> None:
    async with connected(mount) as shell:
        session = shell.session
        assert session.hello["mountpoint"] == str(mount.root)
        place = os.open(mount.root, os.O_PATH)
        rules = [(requests.FILTER_EXCLUDE, b"*.o")]
        assert (await shell.over(session.add(flags.CREATE, descriptor=place, rules=rules))).wd == 1
        os.close(place)
        for name in ("a", "a.o", "b"):
            (mount.root / name).mkdir()
        await shell.over(session.pending())
        assert [event.name for event in session.take_events()] == [b"a", b"b"]


@pytest.mark.trio
async def test_tasks_ask_at_the_same_time(mount: Mount) -> None:
    async with connected(mount) as shell:
        wds: list[int] = []

        async def add(name: str) -> None:
            (mount.root / name).mkdir()
            wds.append((await shell.over(shell.session.add(flags.CREATE, name.encode()))).wd)
            with trio.move_on_after(0):
                await shell.over(shell.session.pending())  # given up on at once

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(add, str(number))
        assert sorted(wds) == list(range(1, 21))
        assert (await shell.over(shell.session.pending())).wd == 0


@pytest.mark.trio
async def test_events_may_have_a_descriptor_of_their_own(mount: Mount) -> None:
    async with connected(mount, event_fd=True) as shell:
        session = shell.session
        with trio.socket.fromfd(session.descriptors[0], socket.AF_UNIX, socket.SOCK_SEQPACKET) as packets:
            os.close(session.descriptors.pop())
            await shell.over(session.add(flags.CREATE))
            (mount.root / "a").mkdir()
            session.receive_packet(await packets.recv(LONGEST_PACKET))
            assert session.take_events() == [Record(1, flags.CREATE | flags.ISDIR, 0, b"a")]
