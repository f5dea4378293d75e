"""The bell: who rings it never waits, and who waits for it is woken once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.subscribers.delivery import Bell

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_bell_that_was_rung_before_is_heard_once(autojump_clock: MockClock) -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait_rung()
    with trio.move_on_after(1) as silence:
        await bell.wait_rung()
    assert silence.cancelled_caught


async def test_a_bell_wakes_who_waits() -> None:
    bell = Bell()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait_rung)
        await wait_all_tasks_blocked()
        bell.ring()
