"""Whose turn it is on the control socket: one step of one connection at a time, users in a ring.

A step goes from where a task was woken to where it waits again, and shares the loop with the kernel's requests.
What a user's steps take of the loop is counted. Who has had no more than its share, or has the loop for itself,
goes on at once; any other waits for its turn, of which there are some each time that the loop goes round. While the
kernel asks for something as well, nobody gets more than the share.
"""

from __future__ import annotations

import types
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from notifyfs.subscribers.delivery import Bell

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

T = TypeVar("T")

SHARE: Final = 4
"""One part in so many of the loop's time is for all users together, while the kernel asks for something."""
AHEAD: Final = 0.002
"""Seconds by which a user may be early: it then had a ``SHARE`` of that at once. An epoll waits no less than 1 ms."""
_FEW: Final = 64
_AT_ONCE: Final = 4
"""Steps for which nobody waits, before the loop goes round: others may have been woken meanwhile."""
_GIVEN: Final = 3
"""Turns that are given each time that the loop goes round, which costs half a short step; one of long ones."""
_LONG: Final = 0.00015
"""Seconds that the steps of one round took, from which on they are long."""


class _User:
    """What one user has had, and who of its connections wait."""

    __slots__ = ("due", "queued", "waiting", "works")

    def __init__(self) -> None:
        self.works = 0
        """How many are being done."""
        self.due = 0.0
        """When its share will have come to what it has had."""
        self.queued = False
        """Whether it is in the ring."""
        self.waiting: deque[trio.lowlevel.Task] = deque()


class _Round(trio.abc.Instrument):
    """Counts what was done since the loop has looked who is to be woken."""

    steps = 0
    took = 0.0
    before = 0.0
    """What those of the round before took."""

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's
        self.before, self.took, self.steps = self.took, 0.0, 0


class Turns:
    """*pressed*: whether the kernel has something to ask, or had a moment ago."""

    def __init__(self, pressed: Callable[[], bool]) -> None:
        self._pressed = pressed
        self._users: dict[int, _User] = {}
        self._enough = _FEW  # users at which to look who may be forgotten
        self._round = _Round()
        self._ring: deque[_User] = deque()
        self._bell = Bell()

    async def keep(self) -> None:
        """Give turns, until cancelled."""
        trio.lowlevel.add_instrument(self._round)
        try:
            while True:
                await self._give()
        finally:
            trio.lowlevel.remove_instrument(self._round)

    async def _give(self) -> None:
        if not self._ring:
            await self._bell.wait_rung()
            return
        given, most = 0, _GIVEN if self._round.before < _LONG else 1
        while given < most and (task := self._next()) is not None:
            trio.lowlevel.reschedule(task)
            given += 1
        if given:
            await trio.lowlevel.checkpoint()
        elif self._ring:  # all have had their share
            with trio.move_on_at(min(user.due for user in self._ring)):
                await self._bell.wait_rung()

    @types.coroutine
    def run(self, uid: int, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Return what *work* does, each of its steps in a turn of the user *uid*."""
        user = self._user(uid)
        user.works += 1
        step: Callable[[Any], Any] = work.send
        value: Any = None
        try:
            yield from self._turn(user)
            while True:
                began = trio.current_time()
                try:
                    waits_for = step(value)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                finally:
                    self._charge(user, began)
                try:
                    step, value = work.send, (yield waits_for)
                except BaseException as error:  # noqa: BLE001 - it is the work's
                    step, value = work.throw, error
                yield from self._turn(user)
        finally:
            user.works -= 1
            work.close()

    def _turn(self, user: _User) -> Generator[Any, Any, None]:
        """Wait for the next turn of *user*; not at all where it has had no more than its share, or nobody else asks."""
        self._round.steps += 1
        if self._round.steps <= _AT_ONCE and not user.waiting:
            ahead = trio.current_time() + AHEAD
            if user.due <= ahead:
                return
            if not (self._ring or self._pressed()):
                user.due = ahead
                return
        task = trio.lowlevel.current_task()
        user.waiting.append(task)
        if not user.queued:
            user.queued = True
            self._ring.append(user)
            self._bell.ring()

        def abort(_: object) -> trio.lowlevel.Abort:
            # What the work has waited for has come about: to hear of the cancellation here instead would break a
            # nursery. It goes on without a turn, and hears of it where it waits next.
            user.waiting.remove(task)
            trio.lowlevel.reschedule(task)
            return trio.lowlevel.Abort.FAILED

        yield from trio.lowlevel.wait_task_rescheduled(abort).__await__()  # noqa: ASYNC105 - as await does

    def _next(self) -> trio.lowlevel.Task | None:
        """Whose turn it is; None while all have had their share and the kernel asks for more."""
        ahead, pressed = trio.current_time() + AHEAD, self._pressed()
        for _ in range(len(self._ring)):
            user = self._ring.popleft()
            if not user.waiting:  # they were cancelled
                user.queued = False
            elif user.due <= ahead or not pressed:
                user.due = min(user.due, ahead)  # what was had with nobody there to mind need not be made up for
                task = user.waiting.popleft()
                user.queued = bool(user.waiting)
                if user.queued:
                    self._ring.append(user)
                return task
            else:
                self._ring.append(user)
        return None

    def _charge(self, user: _User, began: float) -> None:
        took = trio.current_time() - began
        self._round.took += took
        user.due = max(user.due, began) + took * SHARE * (len(self._ring) or 1)

    def _user(self, uid: int) -> _User:
        user = self._users.get(uid)
        if user is None:
            if len(self._users) >= self._enough:
                now = trio.current_time()
                self._users = {each: had for each, had in self._users.items() if had.works or had.due > now}
                self._enough = max(_FEW, 2 * len(self._users))
            user = self._users[uid] = _User()
        return user
