"""Records and their bytes, whatever pieces they arrive in."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifyfs.protocol import flags
from notifyfs.protocol.records import HEADER, MAX_LEN, FramingError, Origin, Parser, Record, carries_origin, field_size

names = st.binary(max_size=300).map(lambda name: name.replace(b"\0", b"."))
numbers = st.integers(0, (1 << 32) - 1)
words = st.integers(0, (1 << 64) - 1)
origins = st.builds(
    Origin,
    sequence=words,
    time_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    pid=numbers,
    uid=numbers,
    gid=numbers,
    flags=st.just(0),
    comm=st.binary(max_size=15).map(lambda comm: comm.rstrip(b"\0")),
)
events = st.builds(
    Record,
    wd=st.integers(-(1 << 31), (1 << 31) - 1),
    mask=numbers.map(lambda mask: mask & ~flags.X_ORIGIN),
    cookie=numbers,
    name=names,
)
origin_records = st.builds(
    Record,
    wd=st.integers(1, (1 << 31) - 1),
    mask=st.just(flags.X_ORIGIN),
    cookie=numbers,
    name=origins.map(bytes),
)
records = events | origin_records


def parsed(*pieces: bytes) -> list[Record]:
    parser, found = Parser(), []
    for piece in pieces:
        parser.feed(piece)
        found += parser
    return found


# Bytes


def test_a_record_is_linux_struct_inotify_event() -> None:
    data = bytes(Record(1, flags.MOVED_TO | flags.ISDIR, 7, b"name"))
    assert data == struct.pack("iIII", 1, 0x40000080, 7, 16) + b"name" + bytes(12)


def test_an_event_of_the_watched_file_itself_has_no_name_field() -> None:
    assert bytes(Record(3, flags.OPEN)) == struct.pack("iIII", 3, 0x20, 0, 0)


@pytest.mark.parametrize(
    ("length", "field"), [(0, 0), (1, 16), (14, 16), (15, 16), (16, 32), (31, 32), (32, 48), (255, 256), (4111, 4112)]
)
def test_a_name_is_padded_as_linux_pads_it(length: int, field: int) -> None:
    name = b"n" * length
    assert field_size(name) == field
    assert bytes(Record(1, flags.OPEN, 0, name))[HEADER.size :] == name.ljust(field, b"\0")


def test_a_negative_errno_travels_in_wd() -> None:
    assert parsed(bytes(Record(-28, flags.X_REPLY, 4))) == [Record(-28, flags.X_REPLY, 4)]


@given(st.lists(records))
def test_what_is_written_is_read(sent: list[Record]) -> None:
    assert parsed(b"".join(map(bytes, sent))) == sent


@given(st.lists(records, max_size=8), st.lists(st.integers(0, 3000)))
@example([Record(1, flags.OPEN), Record(2, flags.OPEN, 0, b"f")], [16])
@example([Record(2, flags.OPEN, 0, b"f")], [15])
def test_parse_does_not_care_where_the_bytes_are_cut(sent: list[Record], cuts: list[int]) -> None:
    stream = b"".join(map(bytes, sent))
    ends = [*sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert parsed(*pieces) == sent


@given(st.lists(records, min_size=1, max_size=4), st.data())
def test_an_unfinished_record_waits_for_its_rest(sent: list[Record], data: st.DataObject) -> None:
    last = bytes(sent[-1])
    missing = data.draw(st.integers(1, len(last)))
    parser = Parser()
    parser.feed(b"".join(map(bytes, sent))[:-missing])
    assert list(parser) == sent[:-1]
    assert parser.waiting == len(last) - missing
    parser.feed(last[-missing:])
    assert list(parser) == sent[-1:]
    assert parser.waiting == 0


def test_stopping_in_the_middle_loses_nothing_and_repeats_nothing() -> None:
    first, second = Record(1, flags.OPEN), Record(1, flags.MODIFY)
    parser = Parser()
    parser.feed(bytes(first) + bytes(second))
    for record in parser:
        assert record == first
        break
    assert list(parser) == [second]


# Framing


@pytest.mark.parametrize("size", [1, 15, 17, MAX_LEN - 1, MAX_LEN + 1, MAX_LEN + 16, (1 << 32) - 16])
def test_a_length_that_no_record_has_breaks_the_framing(size: int) -> None:
    parser = Parser()
    parser.feed(HEADER.pack(1, flags.OPEN, 0, size))
    with pytest.raises(FramingError):
        list(parser)


def test_the_longest_name_field_is_still_a_record() -> None:
    longest = Record(1, flags.OPEN, 0, b"n" * (MAX_LEN - 1))
    assert len(bytes(longest)) == HEADER.size + MAX_LEN
    assert parsed(bytes(longest)) == [longest]


def test_records_before_a_broken_one_are_read_first() -> None:
    good = Record(1, flags.OPEN, 0, b"f")
    parser = Parser()
    parser.feed(bytes(good) + HEADER.pack(1, flags.OPEN, 0, 5))
    reading = iter(parser)
    assert next(reading) == good
    with pytest.raises(FramingError):
        next(reading)


@given(st.binary(max_size=200))
def test_any_bytes_give_records_or_a_framing_error(noise: bytes) -> None:
    parser = Parser()
    parser.feed(noise)
    try:
        found = list(parser)
    except FramingError:
        return
    assert parser.waiting <= len(noise)
    assert len(found) <= len(noise) // HEADER.size


def test_a_name_that_no_reader_would_take_is_not_written() -> None:
    longest = b"x" * (MAX_LEN - 1)
    assert parsed(bytes(Record(1, flags.CREATE, 0, longest))) == [Record(1, flags.CREATE, 0, longest)]
    with pytest.raises(FramingError):
        bytes(Record(1, flags.CREATE, 0, longest + b"x"))


# Origins


def test_an_origin_is_the_protocols_48_bytes() -> None:
    origin = Origin(5, -1, 10, 20, 30, 0, b"cat")
    assert bytes(origin) == struct.pack("=QqIIII16s", 5, -1, 10, 20, 30, 0, b"cat")
    assert len(bytes(origin)) == 48


@given(origins)
def test_an_origin_survives_its_record_zero_bytes_and_all(origin: Origin) -> None:
    (record,) = parsed(bytes(Record(1, flags.X_ORIGIN, 3, bytes(origin))))
    assert record.cookie == 3
    assert Origin.parse(record.name) == origin


def test_a_payload_of_another_size_is_no_origin() -> None:
    with pytest.raises(struct.error):
        Origin.parse(b"\0" * 47)


@pytest.mark.parametrize(
    ("wd", "mask", "binary"),
    [
        (1, flags.X_ORIGIN, True),
        (0, flags.X_ORIGIN | flags.CREATE, False),  # a request: watch this path, with origins
        (1, flags.X_ORIGIN | flags.X_REPLY, False),
        (1, flags.CREATE, False),
    ],
)
def test_only_an_origin_record_carries_an_origin(wd: int, mask: int, *, binary: bool) -> None:
    assert carries_origin(wd, mask) is binary


def test_a_request_with_origins_still_names_a_path() -> None:
    request = Record(0, flags.X_ORIGIN | flags.CREATE, 1, b"some/path")
    assert parsed(bytes(request)) == [request]


# Spelling


@pytest.mark.parametrize(
    ("record", "spelled"),
    [
        (Record(1, flags.CREATE | flags.ISDIR, 0, b"s"), "wd1 CREATE|ISDIR s"),
        (Record(2, flags.MOVED_TO, 7, b"b"), "wd2 MOVED_TO cookie=7 b"),
        (Record(-1, flags.Q_OVERFLOW), "wd-1 Q_OVERFLOW"),
        (Record(1, flags.OPEN, 0, b"\xff"), "wd1 OPEN \\xff"),
    ],
)
def test_a_record_is_written_as_people_read_it(record: Record, spelled: str) -> None:
    assert str(record) == spelled
