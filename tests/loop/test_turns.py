"""Turns on the control socket: a flood delays others by some steps, and nobody waits who has the loop for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from notifyfs.subscribers.turns import AHEAD, SHARE, Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

COST = 0.0003
FLOODING, OTHER = 1, 2


class Loop:
    """Users whose steps cost ``COST`` each, on trio's clock; and whether the kernel asks for something."""

    def __init__(self, clock: MockClock, nursery: trio.Nursery) -> None:
        self.pressed = False
        self.steps: dict[int, int] = {}
        self.turns = Turns(lambda: self.pressed)
        self._clock = clock
        self._nursery = nursery
        nursery.start_soon(self.turns.keep)

    def flood(self, user: int, connections: int) -> None:
        """Ask for one thing after the other on so many connections."""
        for _ in range(connections):
            self._nursery.start_soon(self.run, user, self.work(user))

    async def run(self, user: int, work: Coroutine[Any, Any, None]) -> None:
        """Have it done in turns of *user*."""
        await self.turns.run(user, work)

    async def work(self, user: int, steps: float = float("inf")) -> None:
        """Take so many steps."""
        self.steps.setdefault(user, 0)
        while True:
            self._clock.jump(COST)
            self.steps[user] += 1
            if self.steps[user] >= steps:
                return
            await trio.lowlevel.checkpoint()

    async def go_round(self, times: int) -> None:
        """Let all others run."""
        for _ in range(times):
            await trio.lowlevel.checkpoint()


@pytest.fixture
async def loop(autojump_clock: MockClock) -> AsyncIterator[Loop]:
    async with trio.open_nursery() as nursery:
        yield Loop(autojump_clock, nursery)
        nursery.cancel_scope.cancel()


class Seen(NamedTuple):
    """What the others did, and how long it took, while one waited."""

    steps: int
    seconds: float


async def ask(loop: Loop, user: int = OTHER) -> Seen:
    """Take one step as *user*."""
    before, began = loop.steps.get(FLOODING, 0), trio.current_time()
    await loop.turns.run(user, loop.work(user, loop.steps.get(user, 0) + 1))
    return Seen(loop.steps.get(FLOODING, 0) - before, trio.current_time() - began)


@pytest.mark.parametrize("pressed", [False, True])
async def test_a_flood_delays_who_asks_now_and_then_by_some_steps(
    loop: Loop,
    autojump_clock: MockClock,
    pressed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    loop.pressed = pressed
    loop.flood(FLOODING, 100)
    await loop.go_round(50)
    for _ in range(10):
        assert (await ask(loop)).steps <= 8
        await loop.go_round(20)


async def test_one_user_s_connections_have_their_turns_in_the_order_in_which_they_ask(
    loop: Loop, autojump_clock: MockClock
) -> None:
    order: list[int] = []

    async def once(number: int) -> None:
        order.append(number)

    loop.pressed = True
    loop.flood(FLOODING, 1)  # so that the user has used up its share
    await loop.go_round(50)
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(loop.run, FLOODING, once(number))
            await loop.go_round(1)
    assert sorted(order) == list(range(40))
    assert max(abs(place - number) for place, number in enumerate(order)) <= 2, "trio shuffles those of one round"


async def test_who_has_the_loop_for_itself_never_pauses(loop: Loop, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    await loop.turns.run(OTHER, loop.work(OTHER, 1000))
    assert trio.current_time() - began == pytest.approx(1000 * COST)


async def test_two_who_flood_an_idle_mount_share_it_without_a_pause(loop: Loop, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    loop.flood(FLOODING, 90)
    loop.flood(OTHER, 10)
    await loop.go_round(1000)
    one, other = loop.steps[FLOODING], loop.steps[OTHER]
    assert trio.current_time() - began == pytest.approx((one + other) * COST)
    assert 0.8 < one / other < 1.25


@pytest.mark.parametrize("users", [1, 3])
async def test_all_who_flood_together_have_their_share_while_the_kernel_asks(
    loop: Loop, autojump_clock: MockClock, users: int
) -> None:
    loop.pressed = True
    began = trio.current_time()
    for user in range(users):
        loop.flood(user, 30)
    await trio.sleep(2)
    elapsed = trio.current_time() - began
    used = sum(loop.steps.values()) * COST
    assert used / elapsed < 1.2 / SHARE
    assert used / elapsed > 0.4 / SHARE, "and what is nobody else's"
    assert min(loop.steps.values()) > max(loop.steps.values()) / 1.5


async def test_a_user_within_its_share_is_not_paused_though_the_kernel_asks(
    loop: Loop, autojump_clock: MockClock
) -> None:
    loop.pressed = True
    for _ in range(50):
        assert (await ask(loop)).seconds == pytest.approx(COST)
        await trio.sleep(COST * SHARE)


async def test_what_was_used_while_nobody_minded_is_soon_forgotten(loop: Loop, autojump_clock: MockClock) -> None:
    await loop.turns.run(FLOODING, loop.work(FLOODING, 10_000))
    loop.pressed = True
    assert (await ask(loop, FLOODING)).seconds <= AHEAD + (SHARE + 1) * COST


async def test_who_is_cancelled_while_it_waits_for_its_turn_hears_of_it_where_it_waits_next(
    loop: Loop, autojump_clock: MockClock
) -> None:
    """A nursery may not be told of a cancellation when its tasks have ended: trio's own state would break."""
    ended = False

    async def work() -> None:
        nonlocal ended
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.cancel_scope.cancel()
        ended = True
        await trio.sleep_forever()

    loop.pressed = True
    loop.flood(FLOODING, 10)
    await loop.go_round(50)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop.run, FLOODING, work())
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert ended


async def test_an_error_and_a_result_are_the_work_s(loop: Loop, autojump_clock: MockClock) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError

    async def return_one() -> int:
        await trio.sleep(1)
        return 1

    with pytest.raises(KeyError):
        await loop.turns.run(OTHER, fail())
    assert await loop.turns.run(OTHER, return_one()) == 1


async def test_users_who_are_gone_are_forgotten(loop: Loop, autojump_clock: MockClock) -> None:
    for user in range(1000):
        await loop.turns.run(user, loop.work(user, 1))
        await trio.sleep(1)
    await wait_all_tasks_blocked()
    assert len(loop.turns._users) <= 65  # noqa: SLF001 - there is nothing else to see
