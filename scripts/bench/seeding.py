"""Large trees: many files or many directories, made in the source before anything is mounted on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A_DIRECTORY: Final = 1000
"""Files in each directory of a tree of files."""

FAN: Final = 50
"""Directories in each directory of a tree of directories."""


def files(top: Path, count: int) -> None:
    """*count* empty files, a thousand to a directory; ``name(n)`` is the n-th's."""
    top.mkdir(exist_ok=True)
    for number in range(count):
        if number % A_DIRECTORY == 0:
            (top / _directory(number)).mkdir()
        os.close(os.open(top / name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))


def name(number: int) -> str:
    """The path of a file of ``files``, below its top."""
    return f"{_directory(number)}/f{number}"


def parts(count: int) -> list[str]:
    """The directories that have the first *count* files."""
    return [_directory(number) for number in range(0, count, A_DIRECTORY)]


def _directory(number: int) -> str:
    return f"d{number // A_DIRECTORY}"


def directories(top: Path, count: int) -> None:
    """*count* directories below *top*, fifty in each."""
    top.mkdir(exist_ok=True)
    waiting: list[str] = [os.fspath(top)]
    for place in _take(waiting):
        for number in range(FAN):
            if count == 0:
                return
            made = f"{place}/d{number}"
            os.mkdir(made)
            waiting.append(made)
            count -= 1


def _take(waiting: list[str]) -> Iterator[str]:
    number = 0
    while number < len(waiting):
        yield waiting[number]
        number += 1
