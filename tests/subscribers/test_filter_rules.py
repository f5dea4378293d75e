"""``client.Filter``: what it sends, and what it complains of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from notifyfs.client import Filter
from notifyfs.protocol import requests

if TYPE_CHECKING:
    from pathlib import Path


# What is sent


def spelled(filtered: Filter) -> list[tuple[int, bytes]]:
    return [(rule.kind, rule.value) for rule in filtered.rules]


def test_the_lines_of_a_file_are_read_as_git_does(tmp_path: Path) -> None:
    file = tmp_path / "ignored"
    file.write_bytes(b"\xef\xbb\xbf*.o\r\n# comment\n\n  \n\\#kept\n!keep.o\n\xff \nlast")
    read = Filter.from_file(file)
    assert [(rule.kind, rule.value, rule.place) for rule in read.rules] == [
        (requests.FILTER_EXCLUDE, value, f"{file}, line {line}")
        for value, line in [(b"*.o", 1), (b"\\#kept", 5), (b"!keep.o", 6), (b"\xff ", 7), (b"last", 8)]
    ]


def test_the_file_is_named_where_it_cannot_be_read_or_a_line_cannot_be_sent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        Filter.from_file(tmp_path / "missing")
    (tmp_path / "long").write_bytes(b"a\n" + b"x" * 4112)
    with pytest.raises(ValueError, match=r"long, line 2: a pattern has at most 4111 bytes"):
        Filter.from_file(tmp_path / "long")
    (tmp_path / "null").write_bytes(b"a\0b")
    with pytest.raises(ValueError, match=r"null, line 1.*without NUL"):
        Filter.from_file(tmp_path / "null")


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ("*.o", "/d/e/**/*.o"),
        ("build/", "/d/e/**/build/"),
        ("build/ ", "/d/e/**/build/ "),
        ("/a", "/d/e/a"),
        ("a/b", "/d/e/a/b"),
        ("a/b/", "/d/e/a/b/"),
        ("!a", "!/d/e/**/a"),
        ("!/a", "!/d/e/a"),
        ("\\!a", "/d/e/**/\\!a"),
        ("**/a", "/d/e/**/a"),
        ("a\\ ", "/d/e/**/a\\ "),
        ("/", "/"),
        ("!/", "!/"),
    ],
)
def test_lines_of_a_file_further_down_are_tied_to_its_directory(line: str, moved: str) -> None:
    assert spelled(Filter.from_lines(line.encode(), "x", beneath=b"d/e/")) == [
        (requests.FILTER_EXCLUDE, moved.encode())
    ]


def test_a_directory_with_a_strange_name_is_taken_literally() -> None:
    (rule,) = Filter.from_lines(b"/x", "x", beneath=b"a*[\\?\n/").rules
    assert rule.value == b"/a\\*\\[\\\\\\??/x"


def test_every_argument_is_a_rule() -> None:
    made = Filter(
        include=["é", b"\xff"], exclude="*.o", pids=[1], not_pids=[2], uids=[3], not_uids=[0], ignore_self=True
    )
    assert spelled(made + Filter(exclude=["!keep.o"])) == [
        (requests.FILTER_INCLUDE, "é".encode()),
        (requests.FILTER_INCLUDE, b"\xff"),
        (requests.FILTER_EXCLUDE, b"*.o"),
        (requests.FILTER_PROCESS, b"1"),
        (requests.FILTER_NOT_PROCESS, b"2"),
        (requests.FILTER_USER, b"3"),
        (requests.FILTER_NOT_USER, b"0"),
        (requests.FILTER_NOT_PROCESS, b""),
        (requests.FILTER_EXCLUDE, b"!keep.o"),
    ]


@pytest.mark.parametrize(
    "arguments", [{"exclude": ["a\nb"]}, {"include": ["a\0"]}, {"exclude": ["x" * 4112]}, {"pids": [-1]}], ids=str
)
def test_what_cannot_be_a_rule_is_a_valueerror(arguments: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"pattern|number"):
        Filter(**arguments)  # type: ignore[arg-type]
