"""From Python's exceptions to FUSE's answers, in one place; and how long each answer took.

Anything but ``FUSEError`` that leaves a handler ends pyfuse3's main loop, and
with it the mount for everyone.

A request is timed from when pyfuse3 has parsed it until its handler is done, waiting included.
"""

from __future__ import annotations

import errno
import functools
import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

from notifyfs.core.rules import SILENT
from notifyfs.fuse.threads import come_about
from notifyfs.observe import counters
from notifyfs.passthrough.pace import Until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from notifyfs.fuse.threads import Threads
    from notifyfs.passthrough.pace import Steps

log = logging.getLogger(__name__)

_CHANGES_NOTHING: Final = SILENT | {"readdir"}


class Answering(Protocol):
    """Who has handlers."""

    source_answers: Callable[[], Awaitable[None]] | None
    """Waits until the source has answered a question; None where it always answers."""
    threads: Threads
    """For what may take long."""

    @property
    def lose(self) -> Callable[[str, Exception], None]:
        """Logs what failed, and why, and tells everybody of it: it may have been done and not told."""
        ...


P = ParamSpec("P")
H = TypeVar("H", bound=Answering)
T = TypeVar("T")


def at_once(handler: Callable[Concatenate[H, P], T]) -> Callable[Concatenate[H, P], Coroutine[None, None, T]]:
    """A handler that does not wait: a plain function, so that it cannot.

    It runs to its end before the next request is read. That is why the order of events is the
    order of operations, and why the core needs no lock.
    """
    counter = counters.of_operation(handler.__name__)

    @functools.wraps(handler)
    async def answer(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = perf_counter_ns()
        try:
            return handler(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the point of this module
            counter.errors += 1
            raise _answer(self, error, handler.__name__) from None
        finally:
            counter.add(perf_counter_ns() - began)

    return answer


def on_source(handler: Callable[Concatenate[H, P], T]) -> Callable[Concatenate[H, P], Coroutine[None, None, T]]:
    """A handler like ``at_once``, whose system calls are on the source.

    Where the source may hang (``Answering.source_answers``), it starts when the source has answered. Where it raises
    ``Until``, having done nothing, it starts anew when that has come.
    """
    counter = counters.of_operation(handler.__name__)

    @functools.wraps(handler)
    async def answer(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = perf_counter_ns()
        try:
            if self.source_answers is not None:
                await self.source_answers()
            while True:
                try:
                    return handler(self, *args, **kwargs)
                except Until as until:
                    await come_about(until)
        except Exception as error:  # noqa: BLE001 - the point of this module
            counter.errors += 1
            raise _answer(self, error, handler.__name__) from None
        finally:
            counter.add(perf_counter_ns() - began)

    return answer


def in_steps(handler: Callable[Concatenate[H, P], Steps[T]]) -> Callable[Concatenate[H, P], Coroutine[None, None, T]]:
    """A handler like ``on_source`` in steps (``passthrough.pace``): mostly there is one, done at once.

    What it yields is done in a thread, and other requests are served meanwhile.
    """
    counter = counters.of_operation(handler.__name__)

    @functools.wraps(handler)
    async def answer(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = perf_counter_ns()
        try:
            if self.source_answers is not None:
                await self.source_answers()
            steps = handler(self, *args, **kwargs)
            try:
                apart = next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            return await self.threads.finish(steps, apart)
        except Exception as error:  # noqa: BLE001 - the point of this module
            counter.errors += 1
            raise _answer(self, error, handler.__name__) from None
        finally:
            counter.add(perf_counter_ns() - began)

    return answer


def may_wait(
    handler: Callable[Concatenate[H, P], Awaitable[T]],
) -> Callable[Concatenate[H, P], Coroutine[None, None, T]]:
    """A handler that may leave slow work to a thread; other requests go on meanwhile."""
    counter = counters.of_operation(handler.__name__)

    @functools.wraps(handler)
    async def answer(self: H, /, *args: P.args, **kwargs: P.kwargs) -> T:
        began = perf_counter_ns()
        try:
            return await handler(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the point of this module
            counter.errors += 1
            raise _answer(self, error, handler.__name__) from None
        finally:
            counter.add(perf_counter_ns() - began)

    return answer


def _answer(handlers: Answering, error: Exception, operation: str) -> FUSEError:
    """The answer for *error*: its errno, ENOMEM, or EIO for what should not happen, of which everybody hears."""
    if isinstance(error, FUSEError):
        return error
    if isinstance(error, OSError) and error.errno:
        log.debug("%s: %s", operation, error)
        return FUSEError(error.errno)
    if isinstance(error, MemoryError) and operation.lstrip("_") in _CHANGES_NOTHING:
        log.warning("%s: out of memory", operation)
    else:
        handlers.lose(operation, error)
    return FUSEError(errno.ENOMEM if isinstance(error, MemoryError) else errno.EIO)
