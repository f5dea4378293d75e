"""Connections that come, and go, in numbers."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import resource
import socket
from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.core.accounts import Limits
from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest
    from trio.testing import MockClock

    from tests.support.served import Client, Served


async def number_of(client: Client) -> int:
    """The number of the last connection that became an instance."""
    await client.send(requests.STATISTICS, requests.STATISTICS_INSTANCES)
    rows = json.loads((await client.reply())[1].name)["rows"]
    return int(rows[-1]["number"])


async def test_who_has_hung_up_already_is_not_served(served: Served, tmp_path: Path, autojump_clock: MockClock) -> None:
    await wait_all_tasks_blocked()
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "socket"))
    assert await number_of(await served.connect()) == 1


async def test_who_has_asked_before_it_hung_up_is_answered(
    served: Served, tmp_path: Path, autojump_clock: MockClock
) -> None:
    await wait_all_tasks_blocked()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "socket"))
        connection.sendall(bytes(Record(requests.PENDING, 0, 7)))
        connection.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert connection.recv(100, socket.MSG_DONTWAIT) == bytes(Record(0, flags.X_REPLY, 7))


async def test_connections_over_the_limit_do_not_count_once_they_have_gone(
    serving: Callable[..., Served], autojump_clock: MockClock
) -> None:
    served = serving(Limits(max_user_instances=2))
    first, second = await served.connect(), await served.connect()
    for client in (first, second):
        await client.ask(requests.PENDING)
    for _ in range(200):
        stranger = await served.connect()
        assert await stranger.ask(requests.PENDING) == -errno.EMFILE
        stranger.connection.close()
    second.connection.close()
    await wait_all_tasks_blocked()
    assert await (await served.connect()).ask(requests.PENDING) == 0


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open none."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_without_room_for_a_descriptor_connections_wait_and_nothing_spins(
    served: Served, client: Client, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    await client.ask(requests.PENDING)
    waiting = await served.connect()
    with no_more_descriptors():
        await waiting.send(requests.PENDING)
        began = trio.current_time()
        await trio.sleep(1.05)
        assert trio.current_time() - began < 1.1
        assert await client.ask(requests.PENDING) == 0, "those who are there are served"
    assert caplog.text.count("no connection can be accepted") <= 12
    assert (await waiting.reply())[1].wd == 0


async def test_one_who_ends_with_many_watches_lets_others_go_on(
    served: Served, client: Client, autojump_clock: MockClock
) -> None:
    accounts = served.tree.watches.accounts
    other = await served.connect()
    await other.ask(requests.PENDING)
    for number in range(1000):
        served.make(f"{number}")
        await client.add(flags.MODIFY, b"%d" % number)
    seen: list[int] = []
    client.connection.close()
    while accounts.watches:
        if accounts.watches not in seen:
            seen.append(accounts.watches)
        await trio.lowlevel.checkpoint()
    assert max(before - after for before, after in itertools.pairwise([*seen, 0])) <= 400, "twice while this waits"
    assert await other.ask(requests.PENDING) == 0
