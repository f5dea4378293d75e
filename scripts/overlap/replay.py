"""The told changes in their order, done again to a model; and how that order agrees with when things were done."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from scripts.overlap.expect import Contradiction, Expectations
from scripts.overlap.model import Names
from scripts.overlap.told import DEATH, READING, STAMPED, Told, assign, changes

if TYPE_CHECKING:
    from scripts.overlap.log import Log, Operation

SILENT = frozenset({"stat", "fsync"})
MAY_BE_SILENT = frozenset({"read", "peek", "rename", "exchange"})
"""From the page cache; to another name of the same file."""


class Replay:
    """*found* is what contradicts."""

    def __init__(self, log: Log) -> None:
        self.found: list[str] = []
        emptying = [done for done in log.operations if done.verb == "open" and "TRUNC" in done.words[1]]
        self.expect = Expectations(Names(log.before, log.header["watched"]), emptying)
        self._log = log
        self._told, wrong = changes(log)
        self.found += wrong + assign(log, self._told)
        self._of: defaultdict[int, list[Told]] = defaultdict(list)
        for one in self._told:
            if one.operation is not None:
                self._of[id(one.operation)].append(one)
        self._following: dict[int, Operation] = {}
        self._silent: list[Operation] = []

    def run(self) -> None:
        """Do all of it."""
        last: dict[int, Operation] = {}
        for operation in self._log.operations:
            if operation.process in last:
                self._following[id(last[operation.process])] = operation
            last[operation.process] = operation
        for first in {operation.process: operation for operation in reversed(self._log.operations)}.values():
            self._absorb(first, None)
        latest: Operation | None = None
        for one in self._told:
            done = one.operation
            if done is not None:
                latest = self._in_time(one, done, latest)
                try:
                    self._check(done, one)
                except Contradiction as error:
                    self.found.append(f"{error}\n  {done}\n{one}")
            self._dead(one)
            if done is not None and one is self._of[id(done)][-1]:
                self._absorb(self._following.get(id(done)), one)
        self._check_silent()
        self._check_end()

    def _in_time(self, one: Told, operation: Operation, latest: Operation | None) -> Operation:
        """The operation that was begun last of those told of."""
        if one.is_read and max(one.times) > operation.until:
            return latest or operation  # nobody waited for it
        if latest is None or operation.begin > latest.begin:
            return operation
        if operation.end < latest.begin:
            self.found.append(
                f"told too late: it had returned before the other was begun, which was told before it\n"
                f"  {operation}\n  {latest}\n{one}"
            )
        return latest

    def _check(self, operation: Operation, one: Told) -> None:
        verb, parts = operation.verb, self._of[id(operation)]
        if operation.result and verb != "list":
            raise Contradiction("told of an operation that failed")
        if verb in SILENT:
            raise Contradiction("told of an operation that tells nothing")
        several = 2 if verb == "exchange" else 1
        if verb not in READING and len(parts) != several:
            if one is not parts[0] and len(parts) > several:
                raise Contradiction("told once more")
            if len(parts) < several:
                raise Contradiction("only half of it was told")
        self.expect.check(operation, one)

    def _absorb(self, operation: Operation | None, one: Told | None) -> None:
        """What tells nothing, or was merged into what *one* told, its process's last."""
        while operation is not None and not self._of[id(operation)]:
            if not operation.result and operation.verb in MAY_BE_SILENT:
                self._silent.append(operation)
            elif not operation.result and operation.verb not in SILENT:
                try:
                    self._merge(operation, one)
                except Contradiction as error:
                    self.found.append(f"lost: {error}\n  {operation}\nafter {one}")
            operation = self._following.get(id(operation))

    def _merge(self, operation: Operation, one: Told | None) -> None:
        if one is None:
            raise Contradiction("nothing was told of it")
        for voice in STAMPED:
            following = one.after[voice]
            if following is not None and following.time < operation.since:
                raise Contradiction(
                    f"nothing was told of it, and it cannot have been merged: {voice} had heard {following}"
                )
        self.expect.check(operation, Told(one.number, one.pid, before=one.last(), after=one.after))

    def _dead(self, one: Told) -> None:
        for record in one.records["origins"]:
            if record.mask & DEATH:
                try:
                    self.expect.end(record)
                except Contradiction as error:
                    self.found.append(f"{error}\n{one}")

    def _check_silent(self) -> None:
        """A rename that tells nothing is one of two names of one file."""
        names = self.expect.names
        for operation in self._silent:
            if operation.verb in READING:
                continue
            old, new = (names.possible(word, operation) for word in operation.words)
            same = {id(entry.file) for entry in old} & {id(entry.file) for entry in new}
            unsure = any(entry.file.mistaken for entry in old + new)
            if not same and not unsure and operation.words[0] != operation.words[1]:
                self.found.append(f"lost: nothing was told of it\n  {operation}")

    def _check_end(self) -> None:
        """What is there in the end must be what was told."""
        told = self.expect.names.things()
        there = {thing.path: thing for thing in self._log.after}
        self.found += [f"{path} was told, and is not there" for path in sorted(told.keys() - there.keys())]
        self.found += [f"{path} is there, and was not told" for path in sorted(there.keys() - told.keys())]
        for path in sorted(told.keys() & there.keys()):
            file, thing = told[path], there[path]
            if file.kind != thing.kind and not file.mistaken:
                self.found.append(f"{path} is a {thing.kind}, and was told to be a {file.kind}")
            for what in ("size", "mode", "value") if file.kind == "file" else ():
                if getattr(file, what) not in (None, getattr(thing, what)):
                    wrong = f"{getattr(thing, what)}, and by the order of what was told {getattr(file, what)}"
                    self.found.append(f"the {what} of {path} is {wrong}")
