"""A session asks, and takes the answers apart, whatever pieces they come in; there is no socket anywhere."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import HEADER, Parser, Record
from notifyfs.protocol.session import Call, Session

HELLO = {"version": 1, "mountpoint": "/m", "source": "/s", "max_queued_events": 16384}
events = st.builds(
    Record,
    wd=st.integers(1, 9),
    mask=st.sampled_from([flags.CREATE, flags.DELETE, flags.MOVED_TO | flags.ISDIR, flags.IGNORED]),
    cookie=st.integers(0, 3),
    name=st.binary(max_size=40).map(lambda name: name.replace(b"\0", b".")),
)


class Daemon:
    """The other end of a session, as docs/protocol.md has it, for as long as it behaves.

    Args:
        session: that is served.
        room: how many bytes it takes at a time.

    """

    def __init__(self, session: Session, room: int = 1 << 20) -> None:
        self.session = session
        self.room = room
        self.parser = Parser()
        self.asked: list[Record] = []
        self.descriptors: list[tuple[int, int]] = []
        self.bytes = 0

    def take(self, most: int = 1 << 30) -> None:
        """Let the session send *most* bytes."""
        while most > 0 and (piece := self.session.to_send()) is not None:
            data = piece.data[: min(self.room, most)]
            if piece.descriptor is not None:
                self.descriptors.append((self.bytes, piece.descriptor))
            self.session.sent(len(data))
            self.bytes += len(data)
            most -= len(data)
            self.parser.feed(data)
            self.asked += self.parser

    def reply(self, result: int = 0, name: bytes = b"") -> bytes:
        """Answer the oldest request."""
        return bytes(Record(result, flags.X_REPLY, self.asked.pop(0).cookie, name))


def greeted(*, event_fd: bool = False, room: int = 1 << 20) -> tuple[Session, Daemon]:
    session = Session(event_fd=event_fd)
    daemon = Daemon(session, room)
    daemon.take()
    session.receive(daemon.reply(0, json.dumps(HELLO).encode()), [7] if event_fd else [])
    assert session.greeting.over
    return session, daemon


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [piece for start, end in zip([0, *ends], ends, strict=False) if (piece := data[start:end])]


# The hello


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_session_begins_with_a_hello(event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    session = Session(event_fd=event_fd)
    daemon = Daemon(session)
    daemon.take()
    assert daemon.asked == [Record(requests.HELLO, int(event_fd), 1, b"notifyfs 1")]
    session.receive(daemon.reply(0, json.dumps(HELLO).encode()), [7] if event_fd else [])
    assert session.greeting.over
    assert session.greeting.errno == 0
    assert session.hello == HELLO
    assert session.descriptors == ([7] if event_fd else [])


@pytest.mark.parametrize(
    ("answer", "flaw"),
    [
        (b"no json", "JSONDecodeError"),
        (b"{}", "KeyError"),
        (b"[]", "TypeError"),
        (b"3", "TypeError"),
        (b'{"max_queued_events": "many"}', "TypeError"),
    ],
)
def test_an_answer_that_is_no_hello_ends_it(answer: bytes, flaw: str) -> None:
    session = Session()
    Daemon(session).take()
    session.receive(bytes(Record(0, flags.X_REPLY, 1, answer)))
    assert (session.greeting.over, session.greeting.errno) == (True, errno.EPROTO)
    assert session.flaw is not None
    assert flaw in session.flaw
    assert (session.hung_up, session.ended) == (True, True)
    assert session.pending().errno == errno.EPROTO


def test_a_hello_without_the_descriptor_that_was_asked_for_ends_it() -> None:
    session = Session(event_fd=True)
    daemon = Daemon(session)
    daemon.take()
    session.receive(daemon.reply(0, json.dumps(HELLO).encode()))
    assert session.greeting.errno == errno.EPROTO


def test_a_refusal_of_the_hello_is_its_errno() -> None:
    """``EMFILE`` is said to the first request; then comes the end."""
    session = Session()
    daemon = Daemon(session)
    daemon.take()
    session.receive(daemon.reply(-errno.EMFILE))
    session.receive(b"")
    assert (session.greeting.over, session.greeting.errno, session.flaw) == (True, errno.EMFILE, None)


# Requests


def test_requests_are_those_of_the_protocol() -> None:
    session, daemon = greeted()
    session.add(flags.CREATE, b"d")
    session.add(flags.CREATE, rules=[(requests.FILTER_EXCLUDE, b"*.o"), (requests.FILTER_USER, b"0")])
    session.remove(3)
    session.statistics()
    session.statistics(requests.STATISTICS_OPERATIONS, 20)
    session.pending()
    daemon.take()
    assert daemon.asked == [
        Record(0, flags.CREATE, 2, b"d"),
        Record(-4, 1, 3, b"*.o"),
        Record(-4, 16, 4, b"0"),
        Record(0, flags.CREATE | flags.X_FILTER, 5),
        Record(3, 0, 6),
        Record(-2, 0, 7),
        Record(-2, 1, 8, b"20"),
        Record(-3, 0, 9),
    ]


@given(st.lists(st.sampled_from([None, 11, 12, 13]), max_size=6), st.integers(1, 40))
def test_a_descriptor_goes_with_the_first_byte_of_its_request(descriptors: list[int | None], room: int) -> None:
    session, daemon = greeted(room=room)
    expected, place = [], daemon.bytes
    for descriptor in descriptors:
        session.add(flags.CREATE, b"" if descriptor else b"name", descriptor)
        expected += [(place, descriptor)] if descriptor else []
        place += HEADER.size + (0 if descriptor else 16)
    daemon.take()
    assert daemon.descriptors == expected
    assert daemon.bytes == place


def test_what_the_daemon_would_refuse_anyway_is_not_even_sent() -> None:
    session, _ = greeted()
    assert session.add(flags.CREATE, b"x" * 4112).errno == errno.ENAMETOOLONG
    for wd in (0, -1, -3):
        assert session.remove(wd).errno == errno.EINVAL
    with pytest.raises(ValueError, match="null byte"):
        session.add(flags.CREATE, b"a\0b")
    assert not session.sending


# Answers and events


@given(st.data())
def test_each_call_gets_its_reply_and_events_keep_their_order(data: st.DataObject) -> None:
    """However the stream is cut, and whatever comes between the replies."""
    session, daemon = greeted()
    calls = [session.pending() for _ in range(data.draw(st.integers(0, 5)))]
    daemon.take()
    stream, told = b"", []
    for number, _ in enumerate(calls):
        between = data.draw(st.lists(events, max_size=4))
        told += between
        stream += b"".join(map(bytes, between)) + daemon.reply(100 + number)
    last = data.draw(st.lists(events, max_size=4))
    for piece in pieces(stream + b"".join(map(bytes, last)), data.draw(st.lists(st.integers(0, 2000), max_size=8))):
        session.receive(piece)
    assert [call.reply and call.reply.wd for call in calls] == [100 + number for number, _ in enumerate(calls)]
    assert all(call.over and not call.errno for call in calls)
    assert session.take_events() == told + last
    assert session.take_events() == []


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_replies_to_requests_that_were_given_up_on_are_dropped(given_up: list[bool], sent: list[bool]) -> None:
    session, daemon = greeted()
    calls = []
    for _, leaves in zip(given_up, sent, strict=False):
        calls.append(session.pending())
        if leaves:
            daemon.take()
    for call, gone in zip(calls, given_up, strict=True):
        if gone:
            session.give_up(call)
    daemon.take()
    withdrawn = [call for call, gone in zip(calls, given_up, strict=True) if gone and not call.begun]
    assert [record.cookie for record in daemon.asked] == [call.number for call in calls if call not in withdrawn]
    while daemon.asked:
        session.receive(daemon.reply(daemon.asked[0].cookie))
    for call, gone in zip(calls, given_up, strict=True):
        assert gone or (call.reply is not None and call.reply.wd == call.number)
    assert session.flaw is None


def test_numbers_begin_again_after_the_last() -> None:
    session, daemon = greeted()
    session._number = 0xFFFFFFFE  # noqa: SLF001 - four thousand million requests take too long
    calls = [session.pending() for _ in range(3)]
    daemon.take()
    assert [record.cookie for record in daemon.asked] == [0xFFFFFFFF, 1, 2]
    for _ in calls:
        session.receive(daemon.reply())
    assert all(call.over for call in calls)


@given(st.lists(events, max_size=5))
def test_packets_are_events(told: list[Record]) -> None:
    session, daemon = greeted(event_fd=True)
    call = session.pending()
    daemon.take()
    for event in told:
        session.receive_packet(bytes(event))
    session.receive(daemon.reply())
    assert call.over
    assert session.take_events() == told
    session.receive(b"")
    assert (session.hung_up, session.ended) == (True, False), "the packets that were sent can still be read"
    session.receive_packet(b"")
    assert session.ended


# Filters

RULES = [(requests.FILTER_EXCLUDE, b"a"), (requests.FILTER_EXCLUDE, b"["), (requests.FILTER_EXCLUDE, b"c")]


def add(session: Session) -> Call:
    return session.add(flags.CREATE, b"d", rules=RULES)


def test_a_refused_rule_is_named_and_the_call_is_over_with_the_last_reply() -> None:
    session, daemon = greeted()
    call = add(session)
    daemon.take()
    for result in (0, -errno.EINVAL, -errno.E2BIG):
        session.receive(daemon.reply(result))
        assert not call.over
    session.receive(daemon.reply(-errno.EINVAL))
    assert (call.over, call.refused, call.errno) == (True, 1, errno.EINVAL)


def test_a_refused_add_is_no_rule_s_fault() -> None:
    session, daemon = greeted()
    call = add(session)
    daemon.take()
    for result in (0, 0, 0, -errno.ENOENT):
        session.receive(daemon.reply(result))
    assert (call.over, call.refused, call.errno) == (True, None, errno.ENOENT)


def test_a_filter_that_the_end_cuts_short_fails_with_the_end_or_the_refusal() -> None:
    for results, expected in (([0], (None, errno.ECONNRESET)), ([0, -errno.EINVAL], (1, errno.EINVAL))):
        session, daemon = greeted()
        call = add(session)
        daemon.take()
        for result in results:
            session.receive(daemon.reply(result))
        session.receive(b"")
        assert call.over
        assert (call.refused, call.errno) == expected


@given(st.integers(0, 200))
def test_no_half_of_a_filter_is_left_to_the_next_watch(most: int) -> None:
    """A call is given up after any number of bytes: what the daemon hears are whole records that leave no draft."""
    session, daemon = greeted(room=7)
    first = session.add(flags.CREATE, descriptor=5, rules=RULES)
    daemon.take(most)
    session.give_up(first)
    second = session.add(flags.OPEN, b"e", rules=[(requests.FILTER_INCLUDE, b"b")])
    daemon.take()
    heard = [(record.wd, record.mask & ~flags.X_FILTER, record.name) for record in daemon.asked]
    following = [(-4, requests.FILTER_INCLUDE, b"b"), (0, flags.OPEN, b"e")]
    rules = [(-4, kind, value) for kind, value in RULES]
    refused = (0, flags.CREATE | flags.MASK_ADD | flags.MASK_CREATE, b"")
    if not most:
        assert (heard, daemon.descriptors) == (following, [])
    elif most <= 3 * 32:
        assert (heard, daemon.descriptors) == ([*rules, refused, *following], [])
    else:
        place = daemon.bytes - (32 + 32) - HEADER.size
        assert (heard, daemon.descriptors) == ([*rules, (0, flags.CREATE, b""), *following], [(place, 5)])
    while daemon.asked:
        session.receive(daemon.reply(daemon.asked[0].cookie))
    assert second.reply is not None
    assert second.reply.wd == second.number


@given(st.integers(0, 40), st.booleans())
def test_what_is_being_sent_is_not_withdrawn_meanwhile(count: int, has_rules: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """An asynchronous shell may be told to give up while its bytes are on their way."""
    session, daemon = greeted()
    call = session.add(flags.CREATE, descriptor=5, rules=RULES if has_rules else ())
    later = session.pending()
    piece = session.to_send()
    assert piece is not None
    count = min(count, len(piece.data))
    session.give_up(call)
    session.sent(count)
    daemon.parser.feed(piece.data[:count])
    daemon.take()
    assert daemon.asked[-1] == Record(requests.PENDING, 0, later.number)
    assert daemon.descriptors == [], "it may have been closed"
    if not count:
        assert len(daemon.asked) == 1
    elif has_rules:
        assert daemon.asked[-2].mask & (flags.MASK_ADD | flags.MASK_CREATE) == flags.MASK_ADD | flags.MASK_CREATE
    while daemon.asked:
        session.receive(daemon.reply())
    assert later.over
    assert session.flaw is None


def test_what_cannot_be_sent_fails_alone() -> None:
    session, daemon = greeted()
    call = session.add(flags.CREATE, descriptor=99, rules=RULES)
    later = session.pending()
    daemon.take(3 * 32)
    assert session.to_send() is not None
    session.unsendable(errno.EBADF)
    assert (call.over, call.errno, later.over) == (True, errno.EBADF, False)
    daemon.take()
    assert [record.wd for record in daemon.asked] == [-4, -4, -4, 0, -3]
    while daemon.asked:
        session.receive(daemon.reply())
    assert later.over
    assert (call.errno, session.flaw) == (errno.EBADF, None)


def test_the_end_may_come_while_something_is_being_sent() -> None:
    session, _ = greeted()
    call = session.pending()
    assert session.to_send() is not None
    session.receive(b"")
    session.sent(16)
    assert (call.over, call.errno, session.sending) == (True, errno.ECONNRESET, False)


# The end


@given(st.lists(events, max_size=4), st.integers(1, 4), st.integers(0, 40))
def test_the_end_ends_every_call_and_keeps_the_events(told: list[Record], unanswered: int, cut: int) -> None:
    session, daemon = greeted()
    calls = [session.pending() for _ in range(unanswered)]
    daemon.take(unanswered * HEADER.size // 2)
    session.receive(b"".join(map(bytes, told)) + bytes(Record(1, flags.CREATE, 0, b"cut off"))[: cut % 32])
    session.receive(b"")
    assert {(call.over, call.errno) for call in calls} == {(True, errno.ECONNRESET)}
    assert not session.sending
    assert session.take_events() == told
    assert (session.hung_up, session.ended, session.flaw) == (True, True, None)
    later = session.pending()
    assert (later.over, later.errno) == (True, errno.ECONNRESET)


def test_who_does_not_listen_any_more_may_have_said_why() -> None:
    session = Session()
    session.broken_pipe()
    assert not session.sending
    session.receive(bytes(Record(-errno.EMFILE, flags.X_REPLY, 1)))
    session.receive(b"")
    assert (session.greeting.over, session.greeting.errno) == (True, errno.EMFILE)


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (HEADER.pack(1, flags.CREATE, 0, 17), "FramingError"),
        (HEADER.pack(1, flags.CREATE, 0, 1 << 20), "FramingError"),
        (bytes(Record(0, flags.X_REPLY, 9)), "nobody waits for"),
        (bytes(Record(0, flags.X_REPLY, 2)) + bytes(Record(0, flags.X_REPLY, 2)), "nobody waits for"),
        (bytes(Record(0, flags.X_REPLY, 3)), "nobody waits for"),
    ],
    ids=["no multiple of 16", "too long", "unasked", "twice", "out of order"],
)
def test_a_broken_protocol_ends_it(data: bytes, flaw: str) -> None:
    session, daemon = greeted()
    calls = [session.pending(), session.pending()]
    daemon.take()
    session.receive(data)
    assert session.flaw is not None
    assert flaw in session.flaw
    assert calls[1].errno == errno.EPROTO
    assert (session.hung_up, session.ended) == (True, True)
    session.receive(bytes(Record(1, flags.CREATE)), [8])
    assert session.take_events() == []
    assert session.descriptors == [8], "whoever has them must close them"


def test_events_among_the_replies_are_a_broken_protocol_where_they_have_a_descriptor() -> None:
    session, _ = greeted(event_fd=True)
    session.receive(bytes(Record(1, flags.CREATE)))
    assert session.flaw is not None


@given(st.binary(min_size=1, max_size=40))
def test_a_packet_is_one_record_or_a_flaw(packet: bytes) -> None:
    session, _ = greeted(event_fd=True)
    session.receive_packet(packet)
    parser = Parser()
    expected: list[Any] = []
    try:
        parser.feed(packet)
        expected = list(parser)
    except ValueError:
        pass
    if len(expected) == 1 and not parser.waiting:
        assert session.take_events() == expected
    else:
        assert session.flaw is not None


@given(st.lists(st.binary(max_size=60), max_size=6), st.booleans())
def test_whatever_comes_it_ends_in_order(received: list[bytes], event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    session = Session(event_fd=event_fd)
    for data in received:
        session.receive(data, [])
    session.receive(b"")
    assert session.greeting.over
    assert session.greeting.errno in {errno.EPROTO, errno.ECONNRESET} or session.greeting.reply is not None
    assert session.hung_up
