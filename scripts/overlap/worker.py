"""One of the overlap fuzzer's processes: ``python -m scripts.overlap.worker PROCESS UID``.

Each line of its standard input is a round (JSON: the tree's path, a seed, how many operations); the answer is one
line with all that it did.
"""

# ruff: noqa: S311, PLR2004 - chance that can be repeated is what is wanted, and the numbers are chances

from __future__ import annotations

import json
import os
import random
import sys

import attrs
from tests.support.posix import become

from scripts.overlap.hands import Hands

DIRECTORIES = ("", "d1", "d2", "d1/s")
"""They stay where they are."""
FILES = ("a", "b", "c", "d")
MADE = ("m", "n")
"""Directories that come and go, in those that stay."""
ATTRIBUTES, LOG, MAPPED = "f0", "f1", "f2"
"""Files that keep their names: whose attributes are changed by name only; that is appended to and truncated, but not by
O_TRUNC (see ``model.File``); that nobody truncates."""
BIG = ("d1/big0", "d2/big1", "d1/s/big2", "big3", "d1/big4", "d2/big5", "d1/s/big6", "big7")
BLOCKS = 200
"""Of a big file, each apart from the others: it takes long to truncate."""
_NAMING = ["create", *["unlink", "rename", "mkdir"] * 2, "exchange", "link", "symlink", "rmdir", "move"]
_WRITES = [("0", "1"), ("0", "100"), ("10", "100"), ("4096", "4096"), ("0", "65536")]
"""Offset and size: each one request of the kernel (parity: W1)."""
MOST = 6
"""Open files of one process."""


class Worker:
    """*chance* decides what *hands* do."""

    def __init__(self, hands: Hands, chance: random.Random) -> None:
        self._hands = hands
        self._chance = chance
        self._number = 0
        self._dirs: list[str] = []
        self._mapped: list[str] = []
        self._appending: list[str] = []
        self._files: list[str] = []

    def work(self, count: int) -> None:
        """Do so many operations, and close what is open then."""
        for _ in range(count):
            if len(self._hands.handles) >= MOST or (self._hands.handles and self._chance.random() < 0.12):
                self._close(self._chance.choice([*self._hands.handles]))
            else:
                self._chance.choices([self._name, self._path, self._open, self._handle], [26, 16, 18, 36])[0]()
        for handle in [*self._hands.handles]:
            self._close(handle)

    def _close(self, handle: str) -> None:
        for kept in (self._dirs, self._mapped, self._appending, self._files):
            if handle in kept:
                kept.remove(handle)
        self._hands.do("close", handle)

    def _any(self) -> str:
        directory = self._chance.choice(DIRECTORIES)
        if self._chance.random() < 0.15:
            directory = os.path.join(directory, self._chance.choice(MADE))
        return os.path.join(directory, self._chance.choice(FILES))

    def _made(self) -> str:
        return os.path.join(self._chance.choice(DIRECTORIES), self._chance.choice(MADE))

    def _mode(self) -> str:
        return self._chance.choice(["666", "666", "664", "646", "600"])

    def _name(self) -> None:
        do, verb = self._hands.do, self._chance.choice(_NAMING)
        if verb == "create":
            self._opened(self._any(), verb, self._mode())
        elif verb in {"unlink", "symlink"}:
            do(verb, self._any())
        elif verb in {"rename", "exchange", "link"}:
            do(verb, self._any(), self._any())
        elif verb == "move":
            do("rename", self._made(), self._made())
        else:
            do(verb, self._made())

    def _path(self) -> None:
        path = self._chance.choice(
            [ATTRIBUTES, ATTRIBUTES, LOG, self._any(), self._any(), self._any(), self._chance.choice(BIG)]
        )
        verb = self._chance.choice(["truncate", "truncate", "chmod", "utimes", "setxattr", "removexattr", "stat"])
        if path in BIG:
            self._hands.do("truncate", path, str(self._chance.randrange(BLOCKS) << 15))
        elif verb == "truncate":
            self._hands.do(verb, path, str(self._chance.choice([0, 0, 10, 5000])))
        elif verb == "chmod":
            self._hands.do(verb, path, self._mode())
        elif verb == "setxattr":
            self._hands.do(verb, path, str(self._chance.randrange(1 << 20)))
        else:
            self._hands.do(verb, path)

    def _open(self) -> None:
        what = self._chance.choices(["any", "log", "mapped", "directory", "big"], [10, 4, 2, 3, 1])[0]
        if what == "any":
            how = ["RDONLY", "RDWR", "WRONLY|CREAT", "RDWR|TRUNC", "RDWR|CREAT|TRUNC", "WRONLY|APPEND|CREAT"]
            self._opened(self._any(), "open", self._chance.choice(how))
        elif what == "log":
            self._opened(LOG, "open", "WRONLY|APPEND")
        elif what == "mapped":
            self._opened(MAPPED, "open", "RDONLY", self._mapped)
        elif what == "big":
            self._opened(self._chance.choice(BIG), "open", self._chance.choice(["RDONLY", "RDWR", "RDWR|TRUNC"]))
        else:
            self._opened(self._chance.choice([*DIRECTORIES, self._made()]), "open", "RDONLY|DIRECTORY", self._dirs)

    def _opened(self, path: str, verb: str, how: str, kept: list[str] | None = None) -> None:
        self._number += 1
        handle = f"h{self._number}"
        if self._hands.do(verb, path, how, handle):
            (kept if kept is not None else self._appending if "APPEND" in how else self._files).append(handle)

    def _handle(self) -> None:
        do, chance = self._hands.do, self._chance
        sets = [kept for kept in (self._dirs, self._mapped, self._appending, self._files, self._files) if kept]
        if not sets:
            self._open()
            return
        kept = chance.choice(sets)
        handle, value = chance.choice(kept), str(chance.randrange(1 << 20))
        if kept is self._dirs:
            do("list", handle)
        elif kept is self._mapped:
            do(*chance.choice([("peek", handle), ("read", handle, "4096"), ("fsetxattr", handle, value)]))
        elif kept is self._appending:
            others = [("ftruncate", handle, "0"), ("fsync", handle), ("futimes", handle)]
            do(*chance.choice([("append", handle, size) for size in ("1", "10", "100")] + others))
        else:
            changes = [("fchmod", handle, self._mode()), ("futimes", handle), ("fsetxattr", handle, value)]
            changes += [("write", handle, *chance.choice(_WRITES)) for _ in range(2)]
            changes += [("ftruncate", handle, chance.choice(["0", "0", "100", "100000"]))]
            do(*chance.choice([*changes, ("read", handle, "4096"), ("fsync", handle)]))


def main() -> None:
    """Work as told until the end of the input."""
    process, uid = int(sys.argv[1]), int(sys.argv[2])
    os.umask(0)
    if uid:
        become(uid, uid, [])
    for line in sys.stdin:
        base, seed, count = json.loads(line)
        hands = Hands(process, base)
        Worker(hands, random.Random(f"{seed}.{process}")).work(count)
        sys.stdout.write(json.dumps([attrs.astuple(done) for done in hands.log]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
