"""The names of a tree as the told changes make them, and where each entry has been when."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scripts.overlap.log import Operation, Thing

NEVER = 1 << 62


@attrs.define(eq=False)
class File:
    """An inode. What is None is not known."""

    kind: str
    ino: int = 0
    size: int | None = 0
    mode: int | None = None
    value: str | None = ""
    wd: int = 0
    """Where it is watched by itself."""
    ended: bool = False
    """Its watch has ended."""
    entries: list[Entry] = attrs.field(factory=list)
    """Those that were, too."""

    mistaken: bool = False
    """What was done to it may have been done to another: nothing of its content is known any more."""
    _emptied: int = 0
    """When the last open(2) with O_TRUNC was over: FUSE takes no lock for that (without its write-back cache)."""
    _sized: int = 0
    """When the last change of its size was over."""

    def sized(self, operation: Operation, size: int | None, *, locked: bool = True) -> None:
        """*operation* has made it so large, if the order in which it was told is that in which it was done."""
        self.size = size if operation.begin > (self._emptied if locked else self._sized) and not self.mistaken else None
        self._sized = max(self._sized, operation.end)
        if not locked:
            self._emptied = max(self._emptied, operation.end)

    @property
    def several(self) -> bool:
        """Whether it has ever had more than one name."""
        return len(self.entries) > 1


@attrs.define
class Place:
    """Where an entry was from *since* at the earliest until *until* at the latest."""

    parent: File | None
    name: str
    since: int = 0
    until: int = NEVER


@attrs.define(eq=False)
class Entry:
    """One name of a file."""

    file: File
    places: list[Place]
    live: bool = True
    unsure: bool = False
    """It was linked while its other name was moved: which file it is cannot be told."""

    @property
    def parent(self) -> File | None:
        """The directory that it is in now, or was last; None of the root."""
        return self.places[-1].parent

    @property
    def name(self) -> str:
        """What it is called there."""
        return self.places[-1].name

    @property
    def path(self) -> str:
        """As it is called now, or was called last."""
        if self.parent is None:
            return ""
        above = self.parent.entries[0].path
        return f"{above}/{self.name}" if above else self.name

    def was(self, name: str, parents: list[File], operation: Operation) -> bool:
        """Whether it can have had this name in one of *parents* while *operation* was under way."""
        return any(
            place.name == name
            and place.parent in parents
            and place.since <= operation.end
            and place.until >= operation.begin
            for place in self.places
        )


class Names:
    """*things*: what there is, each directory before what is in it."""

    def __init__(self, things: Iterable[Thing], watched: list[str]) -> None:
        self.root = File("dir")
        self.root.entries.append(Entry(self.root, [Place(None, "")]))
        self.fixed: dict[str, File] = {"": self.root}
        self.watched: dict[int, File] = {}
        self._at: dict[tuple[int, str], Entry] = {}
        self._gone: dict[tuple[int, str], list[Entry]] = {}
        self._all: list[Entry] = []
        for path, kind, ino, size, mode, value in things:
            file = self.root
            if path:
                above, _, name = path.rpartition("/")
                file = File(kind, ino, size, mode, value)
                self._enter(Entry(file, [Place(self.fixed[above], name)]))
                if kind == "dir":
                    self.fixed[path] = file
            if path in watched:
                file.wd = watched.index(path) + 1
                self.watched[file.wd] = file

    def _enter(self, entry: Entry) -> None:
        if entry not in entry.file.entries:
            entry.file.entries.append(entry)
            self._all.append(entry)
        self._at[id(entry.parent), entry.name] = entry

    def at(self, path: str) -> Entry | None:
        """Who is called so now."""
        entry: Entry | None = self.root.entries[0]
        for name in filter(None, path.split("/")):
            if entry is None:
                return None
            entry = self._at.get((id(entry.file), name))
        return entry

    def called(self, path: str) -> Iterator[Entry]:
        """Who is called so now, and who was called so when it was removed; the last first."""
        found = self.at(path)
        if found is not None:
            yield found
        above, _, name = path.rpartition("/")
        parents = [entry.file for entry in self.called(above)] if path else []
        gone = [self._gone.get((id(parent), name), []) for parent in parents]
        yield from reversed(list(itertools.chain.from_iterable(gone)))

    def possible(self, path: str, operation: Operation) -> list[Entry]:
        """Who may have been called so while *operation* was under way."""
        if not path:
            return [*self.root.entries]
        above, _, name = path.rpartition("/")
        parents = [self.fixed[above]] if above in self.fixed else [e.file for e in self.possible(above, operation)]
        return [entry for entry in self._all if entry.was(name, parents, operation)]

    def make(self, path: str, file: File, operation: Operation) -> Entry | str:
        """A new name; or what is wrong with that."""
        above, _, name = path.rpartition("/")
        parent = self.at(above)
        if parent is None or parent.file.kind != "dir":
            return f"{path} is made where there is no directory"
        if self.at(path) is not None:
            return f"{path} is made, and is there already"
        entry = Entry(file, [Place(parent.file, name, since=operation.begin)])
        self._enter(entry)
        return entry

    def remove(self, entry: Entry, operation: Operation) -> None:
        """Take a name away."""
        entry.live = False
        entry.places[-1].until = operation.end
        del self._at[id(entry.parent), entry.name]
        self._gone.setdefault((id(entry.parent), entry.name), []).append(entry)

    def move(self, moves: list[tuple[Entry, str]], operation: Operation) -> str:
        """Give each entry its new path; what is wrong with that."""
        places = []
        for _, path in moves:
            above, _, name = path.rpartition("/")
            parent = self.at(above)
            if parent is None or parent.file.kind != "dir":
                return f"{path} is moved to where there is no directory"
            places.append(Place(parent.file, name, since=operation.begin))
        for entry, _ in moves:
            entry.places[-1].until = operation.end
            del self._at[id(entry.parent), entry.name]
        for (entry, _), place in zip(moves, places, strict=True):
            entry.places.append(place)
            self._enter(entry)
        return ""

    def things(self) -> dict[str, File]:
        """All that there is now."""
        return {"": self.root} | {entry.path: entry.file for entry in self._at.values()}
