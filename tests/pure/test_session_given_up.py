"""A session of whose requests some are given up, cannot be sent, or are refused in part."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from notifyfs.protocol import flags, requests
from notifyfs.protocol.records import HEADER, Record
from tests.support.daemon import greeted

if TYPE_CHECKING:
    from notifyfs.protocol.session import Call, Session


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


# Filters

RULES = [(requests.FILTER_EXCLUDE, b"a"), (requests.FILTER_EXCLUDE, b"["), (requests.FILTER_EXCLUDE, b"c")]


REFUSED = flags.CREATE | flags.MASK_ADD | flags.MASK_CREATE | flags.X_FILTER
"""EINVAL, by docs/protocol.md, and takes the draft."""


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
    heard = [(record.wd, record.mask, record.name) for record in daemon.asked]
    following = [(-4, requests.FILTER_INCLUDE, b"b"), (0, flags.OPEN | flags.X_FILTER, b"e")]
    rules = [(-4, kind, value) for kind, value in RULES]
    refused = (0, REFUSED, b"")
    if not most:
        assert (heard, daemon.descriptors) == (following, [])
    elif most <= 3 * 32:
        assert (heard, daemon.descriptors) == ([*rules, refused, *following], [])
    else:
        place = daemon.bytes - (32 + 32) - HEADER.size
        assert (heard, daemon.descriptors) == (
            [*rules, (0, flags.CREATE | flags.X_FILTER, b""), *following],
            [(place, 5)],
        )
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
        assert daemon.asked[-2].mask == REFUSED
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
    assert daemon.asked[3].mask == REFUSED
    assert daemon.descriptors == []
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
