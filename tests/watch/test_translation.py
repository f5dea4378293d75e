"""The parts of ``notifyfs watch``: words, reports, expressions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from notifyfs.commands.watch import lines
from notifyfs.commands.watch.inotifywait import Translator, Watched
from notifyfs.commands.watch.patterns import Pattern
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Record
from tests.support.watcher import INOTIFYWAIT, Program
from tests.watch.test_watch import judge

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["judge"]


@pytest.mark.parametrize("word", sorted(lines.WORDS))
def test_every_event_word_is_inotifywaits(judge: None, tmp_path: Path, word: str) -> None:
    code = Program(INOTIFYWAIT, tmp_path, "-e", f"{word},bogus", ".").end(None)
    known = Program(INOTIFYWAIT, tmp_path, "-e", word, "missing").end(None)
    assert code[2].startswith(f"'{word},bogus' is not a valid event!".encode())
    assert known[2].startswith(b"Setting up watches.")
    assert lines.event_mask(word.upper()) == lines.WORDS[word]


def told(translator: Translator, *records: Record) -> list[tuple[bytes, bytes, str]]:
    return [(event.watched, event.name, lines.spell(event.mask).decode()) for event in translator.translate(records)]


def test_a_directory_that_leaves_the_tree_is_told_when_the_next_record_decides() -> None:
    translator = Translator("/m", flags.ALL_EVENTS, lambda _: True, twice=True)
    translator.watches[1] = Watched(b"d/", recursive=True)
    left = Record(1, flags.MOVED_FROM | flags.ISDIR, 7, b"s/t")
    assert told(translator, left) == [(b"d/s/", b"t", "MOVED_FROM,ISDIR")]
    assert translator.pending
    assert told(translator, Record(1, flags.MOVED_TO | flags.ISDIR, 8, b"u")) == [
        (b"d/s/t/", b"", "MOVE_SELF"),
        (b"d/", b"u", "MOVED_TO,ISDIR"),
    ]
    assert not translator.pending
    assert told(translator, left, Record(1, flags.MOVED_TO | flags.ISDIR, 7, b"u")) == [
        (b"d/s/", b"t", "MOVED_FROM,ISDIR"),
        (b"d/", b"u", "MOVED_TO,ISDIR"),
        (b"d/u/", b"", "MOVE_SELF"),
    ]
    told(translator, left)
    assert [event.watched for event in translator.flush()] == [b"d/s/t/"]
    assert not translator.pending


def test_what_was_requested_only_to_make_another_event_of_it_is_not_told() -> None:
    translator = Translator("/m", flags.DELETE_SELF, lambda _: True, twice=True)
    translator.watches[1] = Watched(b"d/", recursive=True)
    assert translator.mask(recursive=True) == flags.DELETE_SELF | flags.DELETE
    assert translator.mask(recursive=False) == flags.DELETE_SELF
    assert told(translator, Record(1, flags.DELETE, 0, b"f")) == []
    assert told(translator, Record(1, flags.DELETE | flags.ISDIR, 0, b"s")) == [(b"d/s/", b"", "DELETE_SELF")]
    assert told(translator, Record(-1, flags.Q_OVERFLOW)) == [(b"", b"", "Q_OVERFLOW")]


def test_an_origin_belongs_to_the_record_after_it() -> None:
    translator = Translator("/m", flags.CREATE, lambda _: True, twice=False)
    translator.watches[1] = Watched(b"d/")
    origin = Origin(5, 6, 7, 8, 9, 0, b"sh")
    records = [
        Record(1, flags.CREATE | flags.X_ORIGIN, 0, bytes(origin)),
        Record(1, flags.CREATE, 0, b"f"),
        Record(1, flags.IGNORED),
    ]
    (first,) = translator.translate(records[:2])
    (second,) = translator.translate(records[2:])
    assert (first.name, first.origin, second.origin) == (b"f", origin, None)


@pytest.mark.parametrize("text", ["(", "[", "a{2", "[z-a]"])
def test_a_bad_pattern_is_a_valueerror_with_the_librarys_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"Unmatched|Invalid"):
        Pattern(text.encode())
