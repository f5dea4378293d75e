"""Gates of changes that the kernel has not finished: by node, shared, stuck, and opened from other threads."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from notifyfs.fuse import visibility
from notifyfs.fuse.visibility import Visibility

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock


class Kernel:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._questions: defaultdict[int, list[Callable[[], None]]] = defaultdict(list)
        self.relieved: list[float] = []
        self.looks = 0
        self.at_look: Callable[[], None] = lambda: None
        self.requests = False
        self.visibility = Visibility(self._ask, lambda: self.relieved.append(trio.current_time()), self._busy)

    def _ask(self, number: int, _names: Sequence[bytes], done: Callable[[], None]) -> None:
        self.asked.append(number)
        self._questions[number].append(done)

    def _busy(self) -> bool:
        self.looks += 1
        self.at_look()
        return self.requests

    def answer(self, number: int) -> None:
        """Answer the oldest question about the node."""
        self._questions[number].pop(0)()

    def answer_from_a_thread(self, number: int) -> None:
        thread = threading.Thread(target=self.answer, args=(number,))
        thread.start()
        thread.join()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


async def test_changes_before_the_question_share_its_gate(kernel: Kernel) -> None:
    first, other = kernel.visibility.hide(((5, b""), (6, b"")))
    assert kernel.visibility.hide(((5, b""),)) == (first,)
    assert kernel.visibility.hide(((6, b""), (5, b""))) == (other, first)
    kernel.visibility.begin()
    assert kernel.asked == [5, 6]
    kernel.answer(5)
    assert (first.shut, other.shut) == (False, True)


async def test_each_node_is_asked_about_once_until_it_is_changed_again(kernel: Kernel) -> None:
    kernel.visibility.begin()
    assert kernel.asked == []
    kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    kernel.visibility.begin()
    assert kernel.asked == [5]
    kernel.answer(5)
    kernel.visibility.begin()
    assert kernel.asked == [5]
    kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    assert kernel.asked == [5, 5]


async def test_who_waits_asks(kernel: Kernel, autojump_clock: MockClock) -> None:
    (gate,) = kernel.visibility.hide(((5, b""),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.opened)
        await wait_all_tasks_blocked()
        assert kernel.asked == [5]
        kernel.answer(5)
    assert not gate.shut


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that says for how many seconds the loop may stand still."""

    def moment(seconds: float) -> None:
        monkeypatch.setattr(visibility, "_MOMENT", seconds)
        monkeypatch.setattr(visibility, "several_processors", lambda: True)

    return moment


@pytest.fixture
def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an answer that was lost waits for ever."""
    monkeypatch.setattr(visibility, "_PATIENCE", 1e9)


async def test_an_answer_in_a_moment_is_waited_for_without_sleeping(
    kernel: Kernel, moment: Callable[[float], None]
) -> None:
    moment(1e9)
    (gate,) = kernel.visibility.hide(((5, b""),))
    kernel.at_look = lambda: kernel.answer(5) if kernel.looks == 2 else None
    ran = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        trio.lowlevel.current_trio_token().run_sync_soon(ran.append, "somebody else")
        await gate.opened()
        assert (gate.shut, ran) == (False, []), "the loop stood still"


async def test_while_requests_are_there_they_are_answered_meanwhile(
    kernel: Kernel, moment: Callable[[float], None]
) -> None:
    """One of them may hold the lock that the kernel waits for."""
    moment(1e9)
    kernel.requests = True
    (gate,) = kernel.visibility.hide(((5, b""),))

    async def request() -> None:
        kernel.answer(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        await gate.opened()
    assert not gate.shut


async def test_the_loop_stands_still_once_for_each_gate(
    kernel: Kernel, moment: Callable[[float], None], autojump_clock: MockClock
) -> None:
    moment(0.05)
    (gate,) = kernel.visibility.hide(((5, b""),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.opened)
        await wait_all_tasks_blocked()
        looks = kernel.looks
        assert looks
        nursery.start_soon(gate.opened)
        await wait_all_tasks_blocked()
        assert kernel.looks == looks
        kernel.answer(5)


async def test_an_answer_from_another_thread_wakes_all_who_wait(kernel: Kernel, no_end: None) -> None:
    (gate,) = kernel.visibility.hide(((5, b""),))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(gate.opened)
            await wait_all_tasks_blocked()
            await trio.to_thread.run_sync(kernel.answer_from_a_thread, 5)


async def test_other_gates_open_while_one_node_is_stuck(kernel: Kernel, autojump_clock: MockClock) -> None:
    stuck, other = kernel.visibility.hide(((5, b""), (6, b"")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stuck.opened)
        await wait_all_tasks_blocked()
        kernel.answer(6)
        await other.opened()
        (again,) = kernel.visibility.hide(((6, b""),))
        kernel.visibility.begin()
        assert kernel.asked == [5, 6, 6]
        kernel.answer(6)
        await again.opened()
        assert stuck.shut
        kernel.answer(5)


async def test_a_change_of_a_node_that_is_stuck_is_asked_about_after_it(kernel: Kernel) -> None:
    (stuck,) = kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    (later,) = kernel.visibility.hide(((5, b""),))
    assert later is not stuck
    assert kernel.visibility.hide(((5, b""),)) == (later,)
    kernel.visibility.begin()
    assert kernel.asked == [5]
    kernel.answer_from_a_thread(5)
    assert (stuck.shut, later.shut) == (False, True)
    await wait_all_tasks_blocked()
    assert kernel.asked == [5, 5], "without anybody's call"
    kernel.answer(5)
    assert not later.shut


async def test_who_waits_behind_a_stuck_question_is_woken_by_the_answer_to_its_own(
    kernel: Kernel, autojump_clock: MockClock
) -> None:
    kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    (later,) = kernel.visibility.hide(((5, b""),))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.opened)
        await trio.sleep(0.3)
        kernel.answer(5)
        await trio.sleep(0.1)
        assert later.shut
        kernel.answer(5)
    assert trio.current_time() - began == pytest.approx(0.4)


async def test_a_gate_opens_a_second_after_it_was_made(kernel: Kernel, autojump_clock: MockClock) -> None:
    (gate,) = kernel.visibility.hide(((5, b""),))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.opened)
        nursery.start_soon(gate.opened)
        await trio.sleep(0.5)
        (later,) = kernel.visibility.hide(((5, b""),))
        nursery.start_soon(later.opened)
        await trio.sleep(0.51)
        assert (gate.shut, later.shut) == (False, True)
    assert trio.current_time() - began == pytest.approx(1.5)
    assert kernel.asked == [5], "the first question is still open"
    (fresh,) = kernel.visibility.hide(((5, b""),))
    assert fresh.shut, "the next change waits anew"
    kernel.answer(5)
    kernel.visibility.begin()
    assert kernel.asked == [5, 5]


async def test_a_gate_that_was_not_waited_for_in_time_delays_nobody(kernel: Kernel, autojump_clock: MockClock) -> None:
    (gate,) = kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    await trio.sleep(3)
    began = trio.current_time()
    await gate.opened()
    assert trio.current_time() == began


async def test_writers_are_relieved_while_somebody_waits(kernel: Kernel, autojump_clock: MockClock) -> None:
    (gate,) = kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    began = trio.current_time()
    await trio.sleep(0.1)
    assert kernel.relieved == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.opened)
        await trio.sleep(0.1)
        kernel.answer(5)
    assert 0.1 < kernel.relieved[0] - began < 0.12
    assert len(kernel.relieved) > 2, "another may be stuck as well"


async def test_the_kernel_is_expected_to_answer_for_some_milliseconds(
    kernel: Kernel, autojump_clock: MockClock
) -> None:
    assert not kernel.visibility.waiting
    kernel.visibility.hide(((5, b""),))
    assert not kernel.visibility.waiting, "it was not asked"
    kernel.visibility.begin()
    assert kernel.visibility.waiting
    kernel.answer(5)
    assert not kernel.visibility.waiting

    kernel.visibility.hide(((5, b""),))
    kernel.visibility.begin()
    await trio.sleep(0.1)
    assert not kernel.visibility.waiting, "it is stuck"
    kernel.visibility.hide(((6, b""),))
    kernel.visibility.begin()
    assert kernel.visibility.waiting, "for the other"


async def test_one_who_stops_waiting_leaves_the_gate_shut(kernel: Kernel, autojump_clock: MockClock) -> None:
    (gate,) = kernel.visibility.hide(((5, b""),))
    with trio.move_on_after(0.1) as patience:
        await gate.opened()
    assert patience.cancelled_caught
    assert gate.shut


def test_an_answer_after_the_loop_has_ended_harms_nobody(kernel: Kernel) -> None:
    async def main() -> None:
        (gate,) = kernel.visibility.hide(((5, b""),))
        with trio.move_on_after(0.05):
            await gate.opened()
        kernel.visibility.hide(((5, b""),))

    trio.run(main)
    kernel.answer(5)


async def test_no_answer_of_racing_threads_is_lost(no_end: None) -> None:
    """Threads answer as fast as they can, while the loop changes the same few nodes and waits."""
    threads: list[threading.Thread] = []

    def ask(_number: int, _names: Sequence[bytes], done: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=done))
        threads[-1].start()

    racing = Visibility(ask, lambda: None, lambda: False)
    waited = 0

    async def client(nodes: tuple[int, ...]) -> None:
        nonlocal waited
        for _ in range(300):
            for gate in racing.hide(tuple((node, b"") for node in nodes)):
                await gate.opened()
                assert not gate.shut
                waited += 1
            await trio.lowlevel.checkpoint()

    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            for nodes in ((1,), (1, 2), (2, 3), (3, 1)):
                nursery.start_soon(client, nodes)
    for thread in threads:
        thread.join()
    assert waited == 300 * 7
