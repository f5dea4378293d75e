"""The loop: records from the mounts, lines to the output, until there is a reason to end."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from notifyfs.client.batches import Batch
from notifyfs.client.waiting import deadline_in, earlier, seconds_left
from notifyfs.commands.watch.lines import joined
from notifyfs.protocol.flags import Q_OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from notifyfs.client import Connection
    from notifyfs.commands.watch.inotifywait import Translator
    from notifyfs.commands.watch.lines import Report
    from notifyfs.commands.watch.losses import Losses
    from notifyfs.protocol.records import Record

SEEN: Final = 0
FAILED: Final = 1
TIMED_OUT: Final = 2
"""Exit codes, inotifywait's."""


class Output:
    """Where the lines go: a file descriptor, standard output unless *path* is given. OSError as open(2)."""

    def __init__(self, path: str | None = None) -> None:
        if path is not None:
            self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        elif sys.stdout is None:  # closed by whoever started us; its number may be anything's by now
            self.descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        else:
            self.descriptor = sys.stdout.fileno()

    def write(self, data: bytes) -> None:
        """Put out all of *data*, also where the descriptor does not block. OSError when that fails."""
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError as error:
                raise OSError(error.errno, f"cannot write the events: {error.strerror}") from None


class _Held:
    """Events that wait to be printed: for nothing, or for *settle* seconds without another."""

    def __init__(self, settle: float | None) -> None:
        self._settle = settle
        self._events: list[Report] = []
        self._batches: defaultdict[str, Batch[Report]] = defaultdict(lambda: Batch(_identity))
        self.until: float | None = None
        """When they will have waited long enough; None: nothing waits."""

    def add(self, events: list[Report]) -> None:
        """Append *events*, which are all of one mount."""
        if self._settle is None:
            self._events += events
        elif events:
            for event in events:
                self._batches[event.mount].add(event)
            self.until = deadline_in(self._settle)

    def take(self, *, early: bool) -> list[Report]:
        """Give what has waited long enough; *early*: whatever waits."""
        if self._settle is None:
            events, self._events = self._events, []
            return events
        if not early and seconds_left(self.until) != 0:
            return []
        self.until = None
        return [joined(item) for batch in self._batches.values() for item in batch.take()]


def _identity(event: Report) -> Hashable:
    return event.wd, event.mask, event.watched, event.name


class Run:
    """One run of the command, once its watches stand.

    Args:
        connections: each mount's connection and translator.
        woken: a descriptor that is readable when a signal has come.
        line: an event as it is printed, its end included; b"" prints nothing.
        asked: the events that the user asked for.
        limit: how many of them to print, None: all there will ever be; 0: any event, also one not asked for, ends
            it, or with *settle* any batch.
        timeout: seconds without any event after which it ends; None: never.
        settle: seconds without any event after which a batch is printed; None: each event at once.
        complain: takes a line for standard error (or syslog).
        losses: says there what was lost.

    """

    def __init__(  # noqa: PLR0913 - a keyword each
        self,
        connections: Iterable[tuple[Connection, Translator]],
        *,
        woken: int,
        line: Callable[[Report], bytes],
        asked: int,
        limit: int | None,
        timeout: float | None,
        settle: float | None,
        complain: Callable[[str], None],
        losses: Losses,
    ) -> None:
        self._connections = list(connections)
        self._woken = woken
        self._line = line
        self._asked = asked
        self._limit = limit
        self._first_only = limit == 0 and settle is None
        self._timeout = timeout
        self._held = _Held(settle)
        self._complain = complain
        self._losses = losses
        self._printed = 0

    def run(self, output: Output) -> int:
        """Print events until there is a reason to end; the exit code. OSError: its strerror is for the user."""
        try:
            code = self._run(output)
        finally:
            self._losses.say()
        if code is None:
            self._complain("notifyfs watch: the mount has ended")
            return FAILED
        return code

    def _run(self, output: Output) -> int | None:
        """Print events; the exit code, None when the last mount has ended. OSError as ``run``."""
        deadline = deadline_in(self._timeout)
        while self._connections:
            for events in map(self._events, list(self._connections)):
                if events is not None:
                    deadline = deadline_in(self._timeout)
                    self._held.add(events)
            time_is_up = seconds_left(deadline) == 0
            lines: list[bytes] = []
            code = self._print(self._held.take(early=time_is_up or not self._connections), lines)
            output.write(b"".join(lines))
            if code is not None:
                return code
            if time_is_up:
                return TIMED_OUT
            if seconds_left(self._losses.until) == 0:
                self._losses.say()
            self._wait(earlier(earlier(deadline, self._held.until), self._losses.until))
        return None

    def _print(self, events: list[Report], lines: list[bytes]) -> int | None:
        """Append what is printed for *events*; the exit code if they are the last."""
        for event in events[:1] if self._first_only else events:
            if event.mask & Q_OVERFLOW:
                self._losses.add()
            if event.mask & self._asked:
                lines.append(self._line(event))
                self._printed += 1
                if self._printed == self._limit:
                    return SEEN
        if events and self._limit == 0:
            return SEEN if lines else FAILED
        return None

    def _events(self, source: tuple[Connection, Translator]) -> list[Report] | None:
        """Take the events that have arrived from one mount; None: nothing at all did."""
        connection, translator = source
        try:
            records = connection.read(0)
        except EOFError:
            self._connections.remove(source)
            return None
        events = list(translator.translate(records))
        while translator.pending:
            # Both halves of a rename are queued at once: after a barrier the other one is here, or there is none.
            more: list[Record] = []
            with contextlib.suppress(ConnectionResetError, EOFError):
                connection.sync()
                more = connection.read(0)
            events += translator.translate(more) if more else translator.flush()
        return events if records else None

    def _wait(self, deadline: float | None) -> None:
        """Wait until something arrives or *deadline* has passed."""
        poll = select.poll()
        for descriptor in (self._woken, *(connection.fileno() for connection, _ in self._connections)):
            poll.register(descriptor, select.POLLIN)
        left = seconds_left(deadline)
        if self._connections:
            poll.poll(None if left is None else left * 1000)
