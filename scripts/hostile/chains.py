"""Many processes make nested directories, each with a file in it at once; one recursive watch hears of all."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import TYPE_CHECKING

from tests.support import wireclient as w
from tests.support.posix import collect, start_child

if TYPE_CHECKING:
    from pathlib import Path

CHAINS, PROCESSES = 2000, 8


def path_of(number: int, *, together: bool) -> bytes:
    """The file at the end of a chain: all below a directory of its own, or half way down one of eight processes'."""
    if together:
        return b"%d/b/%d/d/f" % (number // PROCESSES, number % PROCESSES)
    return b"%d/b/c/d/f" % number


def make(root: Path, numbers: range, *, together: bool) -> None:
    """``mkdir -p a/b/c/d && touch a/b/c/d/f`` for each of *numbers*."""
    base = os.fsencode(root)
    for number in numbers:
        *directories, file = path_of(number, together=together).split(b"/")
        place = base
        for directory in directories:
            place += b"/" + directory
            with contextlib.suppress(FileExistsError):  # another process was first
                os.mkdir(place)
        os.close(os.open(place + b"/" + file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def expected(*, together: bool) -> set[tuple[bytes, bool]]:
    """Every path that is made, and whether it is a directory."""
    paths = [path_of(number, together=together) for number in range(CHAINS)]
    parts = {path.rsplit(b"/", depth)[0] for path in paths for depth in range(1, 5)}
    return {(path, False) for path in paths} | {(path, True) for path in parts}


def wrong(wire: w.Wire, root: Path, *, together: bool) -> str:
    """Make all chains below the empty directory *root*: what *wire*, which watches it, was told wrongly, or nothing.

    *wire* has one watch: for CREATE and RECURSIVE, on *root*.
    """
    # A process makes every eighth chain: so all eight are at the same place at the same time.
    shares = [range(first, CHAINS, PROCESSES) for first in range(PROCESSES)]
    children = [start_child(lambda share=share: make(root, share, together=together)) for share in shares]  # type: ignore[misc]
    heard: list[w.Record] = []
    for child in children:  # while they work, somebody reads: the queue holds only some
        while not w.readable(child[1]):
            heard += wire.events()
        collect(child)
    heard += wire.events()
    strange = [event for event in heard if event.mask & ~w.ISDIR != w.CREATE]
    told = [(event.name, bool(event.mask & w.ISDIR)) for event in heard]
    counts, right = Counter(told), expected(together=together)
    before: set[bytes] = {b""}
    early = []
    for name, _ in told:
        if name.rpartition(b"/")[0] not in before:
            early.append(name)
        before.add(name)
    missing, more = right - counts.keys(), counts - Counter(right)
    return "; ".join(
        f"{what}: {len(which)}, such as {next(iter(which))!r}"
        for what, which in (("strange", strange), ("missing", missing), ("too often", more), ("early", early))
        if which
    )
