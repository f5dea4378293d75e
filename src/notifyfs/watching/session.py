"""The loop: records from the mounts, lines to the output, until there is a reason to end."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import TYPE_CHECKING, Final

from notifyfs.client.connection import deadline_in, seconds_left
from notifyfs.core.flags import Q_OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from notifyfs.client import Connection
    from notifyfs.core.wire import Record
    from notifyfs.watching.lines import Told
    from notifyfs.watching.telling import Teller

SEEN: Final = 0
FAILED: Final = 1
TIMED_OUT: Final = 2
"""Exit codes, inotifywait's."""

_LOST: Final = (
    "notifyfs watch: events were lost because they came faster than they were read; "
    "the mount's option max_queued_events says how many may wait"
)


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


class Session:
    """One run of the command, once its watches stand.

    Args:
        connections: each mount's connection and teller.
        line: an event as it is printed, its end included; b"" prints nothing.
        asked: the events that the user asked for.
        limit: how many of them to print, None: all there will ever be; 0: any event, also one not asked for, ends it.
        timeout: seconds without any event after which it ends; None: never.
        complain: takes a line for standard error (or syslog).

    """

    def __init__(  # noqa: PLR0913 - a keyword each
        self,
        connections: Iterable[tuple[Connection, Teller]],
        *,
        line: Callable[[Told], bytes],
        asked: int,
        limit: int | None,
        timeout: float | None,
        complain: Callable[[str], None],
    ) -> None:
        self._connections = list(connections)
        self._line = line
        self._asked = asked
        self._limit = limit
        self._timeout = timeout
        self._complain = complain
        self._printed = 0

    def run(self, output: Output) -> int:
        """Print events until there is a reason to end; the exit code. OSError: its strerror is for the user."""
        deadline = deadline_in(self._timeout)
        while self._connections:
            lines: list[bytes] = []
            code = None
            for events in map(self._events, list(self._connections)):
                if events is not None:
                    deadline = deadline_in(self._timeout)
                    code = self._print(events, lines)
                    if code is not None:
                        break
            output.write(b"".join(lines))
            if code is not None:
                return code
            if not self._wait(deadline):
                return TIMED_OUT
        self._complain("notifyfs watch: the mount has ended")
        return FAILED

    def _print(self, events: list[Told], lines: list[bytes]) -> int | None:
        """Append what is printed for *events*; the exit code if one of them is the last."""
        for event in events:
            if event.mask & Q_OVERFLOW:
                self._complain(_LOST)
            asked = event.mask & self._asked
            if asked:
                lines.append(self._line(event))
                self._printed += 1
            if self._limit == 0:
                return SEEN if asked else FAILED
            if self._printed == self._limit:
                return SEEN
        return None

    def _events(self, source: tuple[Connection, Teller]) -> list[Told] | None:
        """Take the events that have arrived from one mount; None: nothing at all did."""
        connection, teller = source
        try:
            records = connection.read(0)
        except EOFError:
            self._connections.remove(source)
            return None
        events = list(teller.tell(records))
        while teller.undecided:
            # Both halves of a rename are queued at once: after a barrier the other one is here, or there is none.
            more: list[Record] = []
            with contextlib.suppress(ConnectionResetError, EOFError):
                connection.sync()
                more = connection.read(0)
            events += teller.tell(more) if more else teller.decide()
        return events if records else None

    def _wait(self, deadline: float | None) -> bool:
        """Whether something arrived before *deadline*."""
        poll = select.poll()
        for connection, _ in self._connections:
            poll.register(connection.fileno(), select.POLLIN)
        while self._connections:
            left = seconds_left(deadline)
            if poll.poll(None if left is None else left * 1000):
                break
            if left == 0:
                return False
        return True
