"""One of the comparer's processes: sessions of operations, each done on the plain directory and then on the mount."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import stat
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from scripts.compare.generate import NAMES, Generator
from scripts.compare.operations import Side, acting, becoming, failed
from scripts.compare.tree import differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scripts.compare.operations import Operation

OWN = range(6)
"""Slots of descriptors of the process's own files. Those in the tree that all share have others in each process."""

CHECK_EVERY = 1000
"""Operations between two comparisons of the process's trees."""

CHILD = 0.004
SHARED = 0.12
APPENDING = 0.01


class Places(NamedTuple):
    """The two trees, and a directory for what belongs to neither."""

    plain: Path
    mount: Path
    aside: Path


class Difference(Exception):  # noqa: N818 - a finding, no error
    """The plain directory and the mount differ."""

    def __init__(self, what: str, operations: list[Operation]) -> None:
        super().__init__(what)
        self.what = what
        self.operations = operations


class Pair:
    """The same operation on both sides."""

    def __init__(self, places: Places, without: frozenset[str]) -> None:
        self.sides = (Side(str(places.plain), without), Side(str(places.mount), without))

    def do(self, operation: Operation) -> list[Any]:
        """Both outcomes, plain first."""
        who, mask, verb = operation[:3]
        if verb == "child":
            return self._in_child(operation)
        before = os.umask(mask)
        acting(who)
        try:
            return [side.do(operation) for side in self.sides]
        finally:
            acting("root")
            os.umask(before)

    def _in_child(self, operation: Operation) -> list[Any]:
        """Several operations in a process that is another user for good; it shares our descriptors, and leaves none."""
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            try:
                becoming(operation[0])
                outcomes: list[list[Any]] = [[], []]
                for each in operation[3]:
                    os.umask(each[1])
                    for side, outcome in zip(self.sides, outcomes, strict=True):
                        outcome.append(side.do(each))
                os.write(theirs, json.dumps(outcomes).encode())
            except BaseException:  # noqa: BLE001 - the parent hears of it by the missing outcome
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(theirs)
        with open(ours, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        return list(json.loads(said)) if said else [None, "the child failed"]

    def close(self) -> None:
        """Close what is open on both sides."""
        for side in self.sides:
            side.close()


class Worker:
    """Process *number* of the comparer. *say* is called with the count of operations now and then.

    *without* has the words of ``known.KNOWN`` for what is left out.
    """

    def __init__(
        self, places: Places, seed: int, number: int, say: Callable[[int], None], without: frozenset[str]
    ) -> None:
        self._places = places
        self._seed = seed
        self._number = number
        self._say = say
        self._without = without
        self._pair = Pair(places, without)
        self.done = 0
        self.outcomes: Counter[str] = Counter()

    def run(self, operations: int, session: int, only: int | None = None) -> None:
        """Sessions of *session* operations each, *operations* in all; Difference at the first."""
        number = 0
        while self.done < operations:
            length = min(session, operations - self.done)
            if only is None or number == only:
                self._session(number, length)
            else:
                self.done += length
            number += 1

    def _session(self, session: int, length: int) -> None:
        chance = random.Random(f"{self._seed}.{self._number}.{session}")  # noqa: S311 - chance that can be repeated is what is wanted
        base = prepare(self._places, self._number)
        own = Generator(chance, base, OWN, beside=f"p{self._number}-", without=self._without)
        serial = Generator(
            chance, "serial", range(first := 10 * (self._number + 1), first + 3), names=NAMES[:4], without=self._without
        )
        history: list[Operation] = []
        try:
            for position in range(length):
                if chance.random() < SHARED:
                    with self._alone() as log:
                        try:
                            self._step(serial, serial.operation(), log)
                        except Difference as difference:  # what the others did there counts, too
                            with open(self._places.aside / "serial", encoding="ascii") as file:
                                earlier = [json.loads(line) for line in file]
                            raise Difference(difference.what, [*earlier, *log]) from None
                elif chance.random() < APPENDING:
                    record = f"p{self._number} {session} {position}".ljust(31) + "\n"
                    self._step(own, ["root", 0, "append", "free/log", record], history)
                else:
                    self._step(own, self._drawn(own, chance), history)
                self.done += 1
                if (position + 1) % CHECK_EVERY == 0:
                    check(self._places, self._number, history)
                    self._say(self.done)
            check(self._places, self._number, history)
        finally:
            self._pair.close()
            self._say(self.done)

    def _drawn(self, own: Generator, chance: random.Random) -> Operation:
        if chance.random() < CHILD:
            return [chance.choice(("ann", "bob", "root")), 0, "child", [own.operation() for _ in range(6)]]
        return own.operation()

    def _step(self, generator: Generator, operation: Operation, history: list[Operation]) -> None:
        following: Operation | None = operation
        while following is not None:
            history.append(following)
            plain, mount = self._pair.do(following)
            self.outcomes[plain if failed(plain) else "done"] += 1
            if plain != mount:
                raise Difference(f"{following}: {plain} on the plain directory, {mount} on the mount", history)
            if following is operation:
                if operation[2] != "child":
                    generator.learn(operation, plain)
                    following = generator.following(operation)
                else:
                    following = None
            else:
                following = None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[list[Operation]]:
        """Alone in the serial tree, in all processes."""
        fd = os.open(self._places.aside / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        log: list[Operation] = []
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield log
        finally:
            with open(self._places.aside / "serial", "a", encoding="ascii") as file:
                file.writelines(json.dumps(each) + "\n" for each in log)
            os.close(fd)


def prepare(places: Places, number: int, *, alone: bool = False) -> str:
    """Empty what belongs to process *number*, on both sides, or all when it is *alone*; where it works, relative."""
    roots = (places.plain, places.mount)
    # While others work in them the shared directories are not listed on the mount: FUSE's answer to a listing has the
    # attributes of each name, and the kernel takes them even if they have changed before it gets to read the answer.
    beside = {
        path.relative_to(root)
        for root in (roots if alone else roots[:1])
        for pattern in (f"free/d?/p{number}-*", f"free/p{number}-*", f"p{number}-*")
        for path in root.glob(pattern)
    }
    for root in roots:
        for name in beside:
            remove(root / name)
        if alone:
            for path in (root / "serial").iterdir():
                remove(path)
        own = root / f"p{number}"
        remove(own)
        (own / "s" / "r").mkdir(parents=True)
        for made in (own, own / "s", own / "s" / "r"):
            made.chmod(0o777)
    return f"p{number}/s/r"


def remove(path: Path) -> None:
    """Remove a file or a tree, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()


def check(places: Places, number: int, history: list[Operation], *, alone: bool = False) -> None:
    """Difference unless the process's trees are the same."""
    tops = [f"p{number}", *(["serial"] if alone else [])]
    found = [line for top in tops for line in differences(str(places.plain / top), str(places.mount / top))]
    if found:
        raise Difference("the trees differ:\n" + "\n".join(found[:5]), history)


def replay(
    places: Places,
    number: int,
    history: list[Operation],
    *,
    trees_every: int = 0,
    without: frozenset[str] = frozenset(),
) -> tuple[int, str] | None:
    """Do *history* again: after how many operations there is a difference, and which; None if there is none.

    The trees are compared after each *trees_every* operations (0: never), and at the end.
    """
    prepare(places, number, alone=True)
    pair = Pair(places, without)
    try:
        for position, operation in enumerate(history, 1):
            plain, mount = pair.do(operation)
            if plain != mount:
                return position, f"{operation}: {plain} on the plain directory, {mount} on the mount"
            if position == len(history) or (trees_every and position % trees_every == 0):
                try:
                    check(places, number, [], alone=True)
                except Difference as difference:
                    return position, f"after {operation}: {difference.what}"
    finally:
        pair.close()
    return None
