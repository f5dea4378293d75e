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
from notifyfs.protocol.session import Session
from tests.support.daemon import HELLO, Daemon, greeted

events = st.builds(
    Record,
    wd=st.integers(1, 9),
    mask=st.sampled_from([flags.CREATE, flags.DELETE, flags.MOVED_TO | flags.ISDIR, flags.IGNORED]),
    cookie=st.integers(0, 3),
    name=st.binary(max_size=40).map(lambda name: name.replace(b"\0", b".")),
)


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
