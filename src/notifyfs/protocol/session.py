"""A client's end of one connection, without the socket: bytes in, replies and events out.

Whoever has the socket is a shell on this, be it blocking or asynchronous. It asks what is ``to_send`` and says how much
was ``sent``, gives what it has received to ``receive``, and looks whether its call is ``over``. Nothing here waits;
threads need a lock around it.
"""

from __future__ import annotations

import errno
import json
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from notifyfs.protocol import requests
from notifyfs.protocol.flags import CREATE, MASK_ADD, MASK_CREATE, X_FILTER, X_REPLY
from notifyfs.protocol.records import HEADER, MAX_LEN, Parser, Record, carries_origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LONGEST_PACKET: Final = HEADER.size + MAX_LEN
"""Bytes: enough for any packet of an event descriptor."""

_REFUSED_ADD: Final = CREATE | MASK_ADD | MASK_CREATE | X_FILTER
"""EINVAL on any path; the draft is taken all the same."""


class Call:
    """One request, with the rules of its filter, and what became of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        """The cookie of the request itself."""
        self.begun = False
        """Whether any byte of it has left."""
        self.given_up = False
        """Whether nobody waits for it any more."""
        self.over = False
        """Whether there is a ``reply``, or will never be one."""
        self.reply: Record | None = None
        self.errno = 0
        """What the daemon said; ECONNRESET: the mount has ended; EPROTO: see ``Session.flaw``. 0: it was done."""
        self.refused: int | None = None
        """Which rule of the filter was refused first, with ``errno``; they count from 0."""

    def take(self, reply: Record, rule: int | None) -> None:
        """Take the *reply* to that *rule* of the filter, or to the request itself (None), which comes last."""
        if reply.wd < 0 and not self.errno:  # after a refused rule, the add itself is EINVAL
            self.errno, self.refused = -reply.wd, rule
        if rule is None:
            self.reply, self.over = reply, True

    def fail(self, number: int) -> None:
        """End it without a reply, unless it has one."""
        if not self.over:
            self.errno, self.over = self.errno or number, True


class Outgoing(NamedTuple):
    """What has to leave next."""

    data: bytes
    descriptor: int | None
    """To be sent with the first byte, in ``SCM_RIGHTS``."""
    call: Call
    rest: bool = False
    """Whether some of it has left already."""


class Session:
    """What was asked and not answered, and what was told and not taken.

    It begins with the hello: nothing else can be asked before ``greeting`` is over.

    Args:
        event_fd: events come on a descriptor of their own, as packets.

    """

    def __init__(self, *, event_fd: bool = False) -> None:
        self.hello: dict[str, Any] = {}
        """The answer to it, once ``greeting`` is over and well."""
        self.events: deque[Record] = deque()
        """Events and origins in their order; whoever reads takes them out."""
        self.descriptors: list[int] = []
        """Received, for the shell to keep or to close; the events' own is the first, and the only one expected."""
        self.hung_up = False
        """Whether no request can be answered any more."""
        self.ended = False
        """Whether no event can come any more."""
        self.flaw: str | None = None
        """How the other side broke the protocol, which ended the session."""
        self._event_fd = event_fd
        self._parser = Parser()
        self._number = 0
        self._leaving: deque[Outgoing] = deque()
        self._flying: Outgoing | None = None  # the first of these, between to_send and sent
        self._asked: deque[tuple[int, Call, int | None]] = deque()
        self.greeting = self._ask(requests.HELLO, requests.EVENT_FD if event_fd else 0, requests.GREETING)

    # Requests

    def add(
        self, mask: int, path: bytes = b"", descriptor: int | None = None, rules: Sequence[tuple[int, bytes]] = ()
    ) -> Call:
        """Watch *path* below the root, or what *descriptor* refers to, but for what *rules* leave out.

        The descriptor has to stay open until the call is over or given up. ValueError: a NUL in the path.

        Args:
            mask: events and flags.
            path: relative to the root.
            descriptor: instead of a path.
            rules: a kind (``requests.FILTER_...``) and a value each.

        """
        if b"\0" in path:
            raise ValueError("embedded null byte")
        if len(path) >= MAX_LEN:
            return _failed(errno.ENAMETOOLONG)
        return self._ask(requests.ADD, mask | X_FILTER if rules else mask, path, descriptor, rules)

    def remove(self, wd: int) -> Call:
        """End a watch."""
        return self._ask(wd) if wd > 0 else _failed(errno.EINVAL)  # other requests have these numbers

    def statistics(self, part: int = 0, first: int = 0) -> Call:
        """Ask for the counters; of another *part* (``requests.STATISTICS_...``) for the rows from number *first* on."""
        return self._ask(requests.STATISTICS, part, b"%d" % first if part else b"")

    def pending(self) -> Call:
        """Ask how many bytes of events have not been sent: the barrier."""
        return self._ask(requests.PENDING)

    def give_up(self, call: Call) -> None:
        """Nobody waits for *call* any more: its descriptor may be closed, and its replies are dropped.

        If nothing of it has left, nothing will. If half of its filter has, the add that follows is one that fails:
        or the rules would go to the next watch.
        """
        call.given_up = True
        if call.over:
            return
        if not call.begun and (self._flying is None or self._flying.call is not call):
            self._leaving = deque(piece for piece in self._leaving if piece.call is not call)
            self._asked = deque(asked for asked in self._asked if asked[1] is not call)
            return
        for place, piece in enumerate(self._leaving):
            if piece.call is call and not piece.rest:
                refused = bytes(Record(requests.ADD, _REFUSED_ADD, call.number))
                self._leaving[place] = Outgoing(refused, None, call)

    def _ask(
        self,
        wd: int,
        mask: int = 0,
        name: bytes = b"",
        descriptor: int | None = None,
        rules: Sequence[tuple[int, bytes]] = (),
    ) -> Call:
        if self.hung_up:
            return _failed(errno.EPROTO if self.flaw else errno.ECONNRESET)
        drafts = [Record(requests.FILTER, kind, self._next_number(), value) for kind, value in rules]
        call = Call(self._next_number())
        request = bytes(Record(wd, mask, call.number, name))
        if drafts:
            self._leaving.append(Outgoing(b"".join(map(bytes, drafts)), None, call))
        self._leaving.append(Outgoing(request, descriptor, call))
        self._asked += [(draft.cookie, call, rule) for rule, draft in enumerate(drafts)]
        self._asked.append((call.number, call, None))
        return call

    def _next_number(self) -> int:
        self._number = self._number % 0xFFFFFFFF + 1
        return self._number

    # Bytes that leave

    @property
    def sending(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._leaving)

    def to_send(self) -> Outgoing | None:
        """What has to leave next, None if all has. Until ``sent`` was called it stays as it is."""
        self._flying = self._leaving[0] if self._leaving else None
        return self._flying

    def sent(self, count: int) -> None:
        """Note that so many bytes of it have left, and, if not 0, its descriptor with them."""
        piece, self._flying = self._flying, None
        if piece is None:  # the end came first
            return
        if count:
            piece.call.begun = True
            self._leaving.popleft()
            if count < len(piece.data):
                self._leaving.appendleft(Outgoing(piece.data[count:], None, piece.call, rest=True))
        elif piece.call.given_up:
            self.give_up(piece.call)

    def unsendable(self, number: int) -> None:
        """Fail its call with this errno instead: its descriptor is none (EBADF), or one too many (ETOOMANYREFS)."""
        piece, self._flying = self._flying, None
        if piece is not None:
            self.give_up(piece.call)
            piece.call.fail(number)

    def broken_pipe(self) -> None:
        """Send no more: nobody listens (EPIPE). The end of the stream will say so, or a last reply why (EMFILE)."""
        self._leaving.clear()
        self._flying = None

    # Bytes that come

    def receive(self, data: bytes, descriptors: Iterable[int] = ()) -> None:
        """Take in what the stream has given, in pieces of any size; b"" is its end."""
        self.descriptors += descriptors
        if self.hung_up:
            return
        if not data:
            self._hang_up(errno.ECONNRESET)
            return
        self._parser.feed(data)
        try:
            for record in self._parser:
                if record.mask & X_REPLY:
                    self._answer(record)
                else:
                    self._hear(record)
        except (ValueError, LookupError, TypeError) as error:
            self._break(error)

    def receive_packet(self, packet: bytes) -> None:
        """Take in what one read of the event descriptor has given; b"" is its end."""
        if not packet:
            self.ended = True
            return
        try:
            self.events.append(_event(packet))
        except ValueError as error:
            self._break(error)

    def take_events(self) -> list[Record]:
        """Take out all events that are here."""
        events = list(self.events)
        self.events.clear()
        return events

    def _hear(self, event: Record) -> None:
        if self._event_fd:
            raise LookupError(f"an event among replies: {event}")
        self.events.append(event)

    def _answer(self, reply: Record) -> None:
        if not self._asked or self._asked[0][0] != reply.cookie:
            raise LookupError(f"a reply that nobody waits for: {reply}")
        _, call, rule = self._asked.popleft()
        if call is self.greeting and reply.wd >= 0:
            self.hello = _greeted(reply.name)
            if self._event_fd and not self.descriptors:
                raise LookupError("no descriptor for events")
        call.take(reply, rule)

    def _break(self, error: Exception) -> None:
        self.flaw = repr(error)
        self.ended = True
        self._hang_up(errno.EPROTO)

    def _hang_up(self, number: int) -> None:
        self.hung_up = True
        self.ended = self.ended or not self._event_fd
        self.broken_pipe()
        for call in [self.greeting, *(call for _, call, _ in self._asked)]:
            call.fail(number)


def _failed(number: int) -> Call:
    call = Call(0)
    call.fail(number)
    return call


def _event(packet: bytes) -> Record:
    """The one record that *packet* is; ValueError where it is none."""
    if len(packet) >= HEADER.size:
        wd, mask, cookie, size = HEADER.unpack_from(packet)
        if len(packet) == HEADER.size + size:
            name = packet[HEADER.size :]
            return Record(wd, mask, cookie, name if carries_origin(wd, mask) else name.partition(b"\0")[0])
    raise ValueError(f"no record: {packet[:64]!r}")


def _greeted(answer: bytes) -> dict[str, Any]:
    """The answer to a hello; ValueError, LookupError or TypeError for what is none."""
    hello: dict[str, Any] = json.loads(answer)
    if not isinstance(hello["max_queued_events"], int):
        raise TypeError(f"no answer to a hello: {hello}")
    return hello
