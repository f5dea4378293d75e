"""The gate of a death in doubt: whoever waits sees to its end, and nothing runs while nobody does."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import trio

from notifyfs.fuse.deaths import InDoubt

if TYPE_CHECKING:
    from trio.testing import MockClock


class Death:
    """A death in doubt, as the core has it: giving it up opens the gate."""

    def __init__(self) -> None:
        self.given_up = 0
        self.gate = InDoubt(self._give_up)

    def _give_up(self) -> None:
        self.given_up += 1
        self.gate.open()


async def test_who_waits_goes_on_when_it_is_decided(autojump_clock: MockClock) -> None:
    death = Death()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(death.gate.opened)
        nursery.start_soon(death.gate.opened)
        await trio.sleep(0.05)
        death.gate.open()
    assert trio.current_time() - began == 0.05
    assert death.given_up == 0


async def test_without_a_forget_it_is_given_up_in_a_fifth_of_a_second(autojump_clock: MockClock) -> None:
    death = Death()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(death.gate.opened)
    assert trio.current_time() - began == 0.2
    assert death.given_up == 1
    assert not death.gate.shut


async def test_the_time_runs_from_the_removal_not_from_who_waits(autojump_clock: MockClock) -> None:
    death = Death()
    await trio.sleep(0.15)
    began = trio.current_time()
    await death.gate.opened()
    assert trio.current_time() - began < 0.06
    assert death.given_up == 1

    late = Death()
    await trio.sleep(5)
    assert late.gate.shut, "nobody waited, so nothing happened"
    began = trio.current_time()
    await late.gate.opened()
    assert (trio.current_time() - began, late.given_up) == (0, 1)


async def test_nobody_waits_at_a_gate_that_is_open(autojump_clock: MockClock) -> None:
    death = Death()
    death.gate.open()
    began = trio.current_time()
    await death.gate.opened()
    assert (trio.current_time() - began, death.given_up) == (0, 0)


async def test_one_who_stops_waiting_decides_nothing(autojump_clock: MockClock) -> None:
    death = Death()
    with trio.move_on_after(0.1) as patience:
        await death.gate.opened()
    assert patience.cancelled_caught
    assert death.gate.shut
    await trio.sleep(1)
    assert death.given_up == 0


async def test_no_death_waits_for_another(autojump_clock: MockClock) -> None:
    first, second = Death(), Death()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.gate.opened)
        began = trio.current_time()
        second.gate.open()
        await second.gate.opened()
        assert trio.current_time() == began
        assert first.gate.shut


def test_made_where_the_core_makes_it() -> None:
    """``Watches(doubt=InDoubt)``: no more than the loop is needed."""
    called: list[str] = []

    async def main() -> None:
        gate = InDoubt(functools.partial(called.append, "given up"))
        gate.open()
        await gate.opened()

    trio.run(main)
    assert called == []
