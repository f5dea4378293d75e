"""What ends is freed at once: no search for garbage is needed, for the daemon does not look at what is old."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest
from trio.testing import wait_all_tasks_blocked

from notifyfs.core.entries import Entry, Inode
from notifyfs.core.instances import Instance
from notifyfs.core.queue import Queue
from notifyfs.protocol import flags
from notifyfs.subscribers.connection import Subscriber
from notifyfs.subscribers.requests import Requests
from tests.support.tree import planted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.served import Served

MANY = 2000


@pytest.fixture
def unsearched() -> Iterator[None]:
    """Python does not look for garbage."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def living(*kinds: type) -> int:
    """How many objects of these kinds there are."""
    return sum(isinstance(each, kinds) for each in gc.get_objects())


@pytest.mark.usefixtures("unsearched")
def test_an_inode_that_leaves_the_table_is_freed() -> None:
    table = planted().inodes
    before = living(Inode, Entry)
    for number in range(MANY):
        entry = table.enter(table.root, b"%d" % number, 1, 1000 + number, is_dir=False, links=2)
        table.enter(table.root, b"%d again" % number, 1, 1000 + number, is_dir=False, links=2)
        entry.inode.lookups += 1
        table.forget(entry.inode, 1)
    assert living(Inode, Entry) - before < MANY / 2


@pytest.mark.usefixtures("unsearched")
async def test_a_connection_that_closes_is_freed(served: Served) -> None:
    kinds = (Subscriber, Instance, Queue, Requests)
    before = living(*kinds)
    client = await served.connect()
    await client.add(flags.CREATE)
    assert living(*kinds) == before + len(kinds)
    client.connection.close()
    await wait_all_tasks_blocked()
    assert living(*kinds) == before
