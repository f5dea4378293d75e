"""What each verb tells, done again to a model of the tree: Contradiction where something else was told."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import attrs

from notifyfs.protocol import flags
from scripts.overlap.model import Entry, File, Names
from scripts.overlap.told import DEATH, STAMPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scripts.overlap.log import Heard, Operation
    from scripts.overlap.told import Told

Brief = tuple[int, int, str]
Expected = dict[str, list[Brief]]

_VERBS = {
    "mkdir": "make",
    "symlink": "make",
    "rmdir": "unlink",
    "peek": "read",
    "append": "write",
    "ftruncate": "write",
} | dict.fromkeys(["fchmod", "futimes", "fsetxattr"], "attributes")
_BY_PATH = {"truncate": flags.MODIFY} | dict.fromkeys(["chmod", "utimes", "setxattr", "removexattr"], flags.ATTRIB)


class Contradiction(Exception):  # noqa: N818 - it is what is looked for
    """What was told cannot be."""


@attrs.define
class _Opened:
    entry: Entry
    closing: int
    closed: bool = False


class Expectations:
    """*names* as told so far. *counts*: how often each mask was to be told of a name (watch 0), or to a watch."""

    def __init__(self, names: Names, emptying: list[Operation]) -> None:
        self.names = names
        self._emptying = emptying  # each open(2) with O_TRUNC
        self.counts: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._handles: dict[tuple[int, str], _Opened] = {}
        self._exchanged: dict[int, Entry] = {}

    def check(self, operation: Operation, one: Told) -> None:
        """*one* is what *operation* told; of some, one of several."""
        verb = operation.verb
        if verb in _BY_PATH:
            self._path(operation, one, _BY_PATH[verb])
        else:
            call: Callable[[Operation, Told], None] = getattr(self, f"_{_VERBS.get(verb, verb)}")
            call(operation, one)

    def end(self, record: Heard) -> None:
        """DELETE_SELF or IGNORED of a watch: its file must be gone."""
        file = self.names.watched.get(record.wd)
        if file is None or file.ended:
            raise Contradiction(f"{record} of a watch that has ended")
        if any(entry.live for entry in file.entries):
            raise Contradiction(f"{record}, and it has a name")
        if not file.several and any(held.entry.file is file and not held.closed for held in self._handles.values()):
            raise Contradiction(f"{record}, and it is open")
        file.ended = bool(record.mask & flags.IGNORED)

    # Names

    def _created(self, operation: Operation, one: Told, file: File, *masks: int) -> Entry:
        entry = self._fits(self.names.make(self._meant(operation, 0, one, flags.CREATE), file, operation))
        self._compare(one, [self._named(entry, *masks)])
        return entry

    def _make(self, operation: Operation, one: Told) -> None:
        is_dir = operation.verb == "mkdir"
        file = File("dir" if is_dir else "link", mode=0o777 if is_dir else None, size=None)
        self._created(operation, one, file, flags.CREATE)

    def _create(self, operation: Operation, one: Told) -> None:
        file = File("file", operation.ino, mode=int(operation.words[1], 8) if operation.verb == "create" else 0o666)
        entry = self._created(operation, one, file, flags.CREATE, flags.OPEN)
        self._hold(operation, entry)

    def _link(self, operation: Operation, one: Told) -> None:
        old = operation.words[0]
        files = [*dict.fromkeys(entry.file for entry in self.names.possible(old, operation)[::-1])]
        files.sort(key=lambda file: file not in [entry.file for entry in self.names.called(old)])
        watched = {record.wd for record in one.records["origins"] if not record.name}
        fitting = [file for file in files if (file.wd if not file.ended else 0) in (watched or {0})]
        if not fitting:
            raise Contradiction(f"no file that {old} can have been")
        entry = self._fits(self.names.make(self._meant(operation, 1, one, flags.CREATE), fitting[0], operation))
        entry.unsure = len(fitting) > 1
        if entry.unsure:
            _forget(fitting)
        self._compare(one, [self._own(entry.file, flags.ATTRIB), self._named(entry, flags.CREATE)])

    def _unlink(self, operation: Operation, one: Told) -> None:
        entry = self._there(self._meant(operation, 0, one, flags.DELETE))
        if (entry.file.kind == "dir") != (operation.verb == "rmdir"):
            raise Contradiction(f"{entry.path} is a {entry.file.kind}")
        self.names.remove(entry, operation)
        own = self._own(entry.file, flags.ATTRIB) if operation.verb == "unlink" else _nothing()
        self._compare(one, [own, self._named(entry, flags.DELETE)], unsure=entry.unsure)

    def _rename(self, operation: Operation, one: Told) -> None:
        old, new = self._meant(operation, 0, one, flags.MOVED_FROM), self._meant(operation, 1, one, flags.MOVED_TO)
        entry, victim = self._there(old), self.names.at(new)
        if victim is not None:
            if victim.file is entry.file:
                raise Contradiction("both are names of one file")
            self.names.remove(victim, operation)
        self._moved(operation, one, [(entry, new)], entry, victim)

    def _exchange(self, operation: Operation, one: Told) -> None:
        second = self._exchanged.pop(id(operation), None)
        if second is not None:
            path = self._meant(operation, 1, one, flags.MOVED_FROM)
            self._pair(one, self._named_at(path, second), second)
            return
        old, new = self._meant(operation, 0, one, flags.MOVED_FROM), self._meant(operation, 1, one, flags.MOVED_TO)
        one_entry, other = self._there(old), self._there(new)
        self._exchanged[id(operation)] = other
        self._moved(operation, one, [(one_entry, new), (other, old)], one_entry, None)

    def _moved(
        self, operation: Operation, one: Told, moves: list[tuple[Entry, str]], entry: Entry, victim: Entry | None
    ) -> None:
        before = self._named(entry, flags.MOVED_FROM)
        wrong = self.names.move(moves, operation)
        if wrong:
            raise Contradiction(wrong)
        self._pair(one, before, entry, victim)

    def _pair(self, one: Told, before: Expected, entry: Entry, victim: Entry | None = None) -> None:
        gone = self._own(victim.file, flags.ATTRIB) if victim else _nothing()
        parts = [before, self._named(entry, flags.MOVED_TO), gone, self._own(entry.file, flags.MOVE_SELF)]
        self._compare(one, parts, unsure=entry.unsure or (victim is not None and victim.unsure))
        cookies = {record.cookie for record in one.all() if record.mask & flags.MOVE}
        if cookies != {(one.number - 1) % 0xFFFFFFFF + 1}:
            raise Contradiction(f"its cookies are {cookies}")

    def _named_at(self, path: str, entry: Entry) -> Expected:
        """MOVED_FROM of *path*, where *entry* was."""
        above, _, name = path.rpartition("/")
        parent = self._there(above).file
        bits = flags.MOVED_FROM | (flags.ISDIR if entry.file.kind == "dir" else 0)
        return {"origins": [(parent.wd, bits, name)] if parent.wd else [], "tree": [(1, bits, path)]}

    # Open files

    def _open(self, operation: Operation, one: Told) -> None:
        how = operation.words[1]
        if any(record.mask & flags.CREATE for record in one.records["tree"]):
            self._create(operation, one)
            return
        masks = [flags.OPEN, flags.MODIFY] if "TRUNC" in how else [flags.OPEN]
        called = self._called(operation, one, flags.OPEN)
        called = [entry for entry in called if entry.unsure or entry.file.ino in (0, operation.ino)]
        called.sort(key=lambda entry: entry.file.ino == 0)  # the one that it was, if that is known
        entry = self._try(one, called, lambda entry: [part for mask in masks for part in self._both(entry, mask)])
        entry.file.ino = entry.file.ino or (0 if entry.unsure else operation.ino)
        if "TRUNC" in how:
            entry.file.sized(operation, 0, locked=False)
        self._hold(operation, entry)

    def _hold(self, operation: Operation, entry: Entry) -> None:
        how = operation.words[1]
        closing = flags.CLOSE_NOWRITE if "RDONLY" in how else flags.CLOSE_WRITE
        self._handles[operation.process, operation.words[2]] = _Opened(entry, closing)

    def _held(self, operation: Operation, one: Told, mask: int) -> _Opened:
        held = self._handles.get((operation.process, operation.words[0]))
        if held is None:
            raise Contradiction("of a handle whose open was told to nobody")
        entries = held.entry.file.entries if held.entry.file.several else [held.entry]
        entries = [entry for entry in entries if entry.path == self._path_told(one, mask)]
        self._try(one, entries, lambda entry: self._both(entry, mask))
        return held

    def _close(self, operation: Operation, one: Told) -> None:
        held = self._handles.get((operation.process, operation.words[0]))
        self._held(operation, one, held.closing if held else 0).closed = True

    def _read(self, operation: Operation, one: Told) -> None:
        self._held(operation, one, flags.ACCESS)

    _list = _read

    def _write(self, operation: Operation, one: Told) -> None:
        entry = self._held(operation, one, flags.MODIFY).entry
        file, words = entry.file, operation.words
        before, size = file.size, int(words[-1])
        if operation.verb == "append":
            file.sized(operation, operation.at if before is not None else None)
            orderly = file.size is not None and not self._is_emptied(file, operation)
            if orderly and before is not None and operation.at != before + size:
                raise Contradiction(f"{before} bytes by what was told, and appended to {file.size}")
        elif operation.verb == "write":
            file.sized(operation, max(before, int(words[1]) + size) if before is not None else None)
        else:
            file.sized(operation, size)

    def _is_emptied(self, file: File, operation: Operation) -> bool:
        """Whether an O_TRUNC was under way, told before or after, in an order that nobody knows."""
        return any(
            other.ino == file.ino and other.begin < operation.end and other.end > operation.begin
            for other in self._emptying
        )

    def _attributes(self, operation: Operation, one: Told) -> None:
        entry = self._held(operation, one, flags.ATTRIB).entry
        _change(entry.file, operation, known=not entry.unsure)

    def _path(self, operation: Operation, one: Told, mask: int) -> None:
        called = self._called(operation, one, mask)
        entry = self._try(one, called, lambda entry: self._both(entry, mask))
        files = {id(entry.file) for entry in called}
        for file in {entry.file for entry in called}:
            _change(file, operation, known=len(files) == 1 and not entry.unsure)

    # Which entry

    def _there(self, path: str) -> Entry:
        entry = self.names.at(path)
        if entry is None:
            raise Contradiction(f"there is no {path!r}")
        return entry

    @staticmethod
    def _fits(made: Entry | str) -> Entry:
        if isinstance(made, str):
            raise Contradiction(made)
        return made

    def _meant(self, operation: Operation, place: int, one: Told, mask: int) -> str:
        """The path that was told for one that *operation* names: directories may have moved meanwhile."""
        meant, told = operation.words[place], self._path_told(one, mask)
        above, _, name = told.rpartition("/")
        parent = self.names.at(above)
        directory = meant.rpartition("/")[0]
        if name != meant.rpartition("/")[2] or parent not in self.names.possible(directory, operation):
            raise Contradiction(f"{told!r} was told, and {meant!r} was meant")
        return told

    @staticmethod
    def _path_told(one: Told, mask: int) -> str:
        record = next((record for record in one.records["tree"] if record.mask & mask), None)
        before = one.before["tree"]
        if record is None and before is not None and before.mask & mask:
            record = before
        if record is None:
            raise Contradiction(f"the tree heard no {flags.spell(mask)}")
        return record.name

    def _called(self, operation: Operation, one: Told, mask: int) -> list[Entry]:
        """Which entries are called as was told, and can be what *operation* means."""
        possible = self.names.possible(operation.words[0], operation)
        among = [other for entry in possible for other in (entry.file.entries if entry.file.several else [entry])]
        path = self._path_told(one, mask)
        called = [entry for entry in self.names.called(path) if entry in among]
        if not called:
            raise Contradiction(f"{path!r} cannot be what {operation.words[0]!r} was")
        return called

    # Comparing

    @staticmethod
    def _named(entry: Entry, *masks: int) -> Expected:
        """Of the directory, with the name."""
        expected = _nothing()
        parent = entry.parent
        for mask in masks if parent is not None else ():
            bits = mask | (flags.ISDIR if entry.file.kind == "dir" else 0)
            if parent is not None and parent.wd:
                expected["origins"].append((parent.wd, bits, entry.name))
            expected["tree"].append((1, bits, entry.path))
        return expected

    def _own(self, file: File, mask: int) -> Expected:
        """Of the file itself."""
        bits = mask | (flags.ISDIR if file.kind == "dir" and mask != flags.MOVE_SELF else 0)
        return {
            "origins": [(file.wd, bits, "")] if file.wd and not file.ended else [],
            "tree": [(1, bits, "")] if file is self.names.root else [],
        }

    def _both(self, entry: Entry, mask: int) -> list[Expected]:
        return [self._named(entry, mask), self._own(entry.file, mask)]

    def _try(self, one: Told, entries: list[Entry], parts: Callable[[Entry], list[Expected]]) -> Entry:
        """Return the first of *entries* that was told of."""
        error = Contradiction("told with a name that it did not have")
        for entry in entries:
            try:
                self._compare(one, parts(entry), unsure=entry.unsure)
            except Contradiction as wrong:
                error = wrong
            else:
                return entry
        raise error

    def _compare(self, one: Told, parts: Iterable[Expected], *, unsure: bool = False) -> None:
        """Contradiction unless *one* tells this: all of it, but for what was merged into what was told before."""
        parts = [*parts]
        for voice in STAMPED:
            expected = [brief for part in parts for brief in part[voice]]
            got = [record.brief for record in one.records[voice] if not record.mask & DEATH]
            if unsure and voice == "origins":
                expected, got = ([brief for brief in side if brief[2]] for side in (expected, got))
            if got != expected and not _merged(one, voice, expected, got):
                raise Contradiction(f"{voice} should hear {_spell(expected)}, and hears {_spell(got)}")
            for wd, mask, name in expected:
                if bool(name) == (voice == "tree"):
                    self.counts[0 if name else wd, mask] += 1


def _nothing() -> Expected:
    return {voice: [] for voice in STAMPED}


def _merged(one: Told, voice: str, expected: list[Brief], got: list[Brief]) -> bool:
    before = one.before[voice]
    return (
        bool(expected)
        and expected[1:] == got
        and before is not None
        and before.brief == expected[0]
        and before.pid == one.pid
    )


def _spell(briefs: list[Brief]) -> str:
    return ", ".join(f"wd{wd} {flags.spell(mask)} {name}".strip() for wd, mask, name in briefs) or "nothing"


def _forget(files: Iterable[File]) -> None:
    for file in files:
        file.size = file.mode = file.value = None
        file.mistaken = True


def _change(file: File, operation: Operation, *, known: bool) -> None:
    verb, words = operation.verb.removeprefix("f"), operation.words
    known = known and not file.mistaken
    if verb == "truncate":
        file.sized(operation, int(words[1]) if known else None)
    elif verb == "chmod":
        file.mode = int(words[1], 8) if known else None
    elif verb in {"setxattr", "removexattr"}:
        file.value = (words[1] if verb == "setxattr" else "") if known else None
