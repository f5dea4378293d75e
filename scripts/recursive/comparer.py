"""Sessions: a tree, those who listen, what is done, and whether both sides tell the same."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import difflib
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs
from tests.support.kernel import Inotify

from notifyfs.protocol import flags
from scripts.recursive.listener import WATCHED, WAYS, Heard, Listener, Told
from scripts.recursive.operations import ABOVE, OTHER, TOP, USERS, Generator, Hands, Operation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from tests.conftest import Mount

STEPS = 24
"""Changes of directories in a session."""

MOST_BETWEEN = 40
"""Other operations between two of them, at most."""

BY_ROOT = 0.4


class Difference(Exception):  # noqa: N818 - a finding, no error
    """The two sides differ."""


class Finding(NamedTuple):
    """A difference, and what was done until then."""

    session: int
    what: str
    transcript: list[str]


@attrs.define
class Totals:
    """What was done."""

    sessions: int = 0
    operations: int = 0
    compared: int = 0
    """Events of the kernel's, those of all listeners."""
    kept: int = 0
    """Events that root heard and somebody else did not."""
    findings: list[Finding] = attrs.field(factory=list)

    def __str__(self) -> str:
        return (
            f"{self.sessions} sessions, {self.operations} operations, {self.compared} events compared, "
            f"{self.kept} kept from a user; differences {len(self.findings)}"
        )


class Session:
    """One tree on the mount. A context manager."""

    def __init__(self, mount: Mount, seed: str, number: int, totals: Totals) -> None:
        self._chance = random.Random(f"{seed}.{number}")
        self._generator = Generator(self._chance)
        self._mount = mount
        self._totals = totals
        self._name = f"s{number}"
        self._base = mount.root / self._name
        self._hands = Hands(self._base)
        self._listeners: list[Listener] = []
        self._watchable: list[list[list[bytes]]] = []
        self._itself = Inotify(b"/")
        self._top = -1
        self.transcript: list[str] = []

    def __enter__(self) -> Self:
        self._base.mkdir(mode=0o755)
        for path in (ABOVE, OTHER, f"{ABOVE}/{TOP}"):
            (self._base / path).mkdir()
            (self._base / path).chmod(0o777)
        for _ in range(self._chance.randrange(6, 14)):
            self._do("root", ("mkdir", self._generator._name(), "777"))  # noqa: SLF001 - as it will draw them
            self._look()
        self._top = os.open(self._base / self._generator.top, os.O_PATH | os.O_CLOEXEC)
        self._itself.add_fd(self._top, WATCHED)
        for name in USERS:
            self._listeners.append(Listener(name, self._mount.socket, self._base, self._top))
            self._listeners[-1].ask("begin", self._path_of_top(Path(self._name)))
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.close()
        self._hands.close()
        self._itself.close()
        if self._top >= 0:
            os.close(self._top)
        shutil.rmtree(self._base)

    def run(self) -> None:
        """Difference at the first."""
        self._watch_anew()
        for _ in range(STEPS):
            for _ in range(self._chance.randrange(MOST_BETWEEN)):
                self._do(self._actor(), self._generator.ordinary())
            self._compare(self._read())
            operation = self._generator.of_a_directory()
            if operation[0] in {"rmdir", "move"}:  # what it has open would be in a directory that is gone
                self._let_go()
                self._compare(self._read())
            self._itself.drain()
            self._do(self._actor(), operation)
            heard = self._read()
            itself = [(event.mask, event.name, event.cookie) for event in self._itself.drain() if not event.name]
            self._watch_anew()
            self._compare(heard, itself)
        self._let_go()
        self._compare(self._read())

    # Doing

    def _actor(self) -> str:
        return "root" if self._chance.random() < BY_ROOT else self._chance.choice(list(USERS))

    def _do(self, name: str, operation: Operation) -> None:
        if name == "root":
            result = self._hands.do(operation)
        else:
            result = next(each for each in self._listeners if each.name == name).do(operation)
        self._totals.operations += 1
        self.transcript.append(f"{name}: {' '.join(operation)}" + (f" -> {result}" if result else ""))

    def _let_go(self) -> None:
        self._hands.close()
        for listener in self._listeners:
            listener.ask("close")

    def _look(self) -> None:
        """See which directories there are: in the source, where that is heard by nobody."""
        hidden = self._mount.source / self._name
        found = [os.path.relpath(place, hidden) for place, _, _ in os.walk(hidden)]
        self._generator.directories = sorted(found)[1:]
        self._generator.top = next(path for path in found if path.endswith(f"/{TOP}"))

    def _path_of_top(self, start: Path) -> bytes:
        return os.fsencode(start / self._generator.top)

    def _watch_anew(self) -> None:
        self._look()
        top = self._generator.top
        below = [
            os.fsencode(os.path.relpath(path, top))
            for path in self._generator.directories
            if path.startswith(f"{top}/")
        ]
        self._watchable = [listener.ask("watch", self._path_of_top(self._base), below) for listener in self._listeners]

    # Comparing

    def _read(self) -> list[list[Heard]]:
        os.statvfs(self._base)  # after each close until now
        return [listener.ask("read") for listener in self._listeners]

    def _compare(self, heard: list[list[Heard]], itself: list[Told] | None = None) -> None:
        """*itself*: what the watched directory was told of itself by what may change permissions, judged afterwards."""
        counts = []
        for listener, ways, watchable in zip(self._listeners, heard, self._watchable, strict=True):
            for way, told, places in zip(WAYS, ways, watchable, strict=True):
                theirs = told.kernel
                if itself is not None:
                    theirs = [*(each for each in theirs if each[1]), *(itself if b"" in places else [])]
                expected, ours = plain(theirs), plain(told.ours)
                self._totals.compared += len(expected)
                counts.append(len(expected))
                if expected != ours:
                    lines = difflib.unified_diff(expected, ours, "the kernel's", "recursive", lineterm="", n=4)
                    raise Difference("\n".join([f"{listener.name}, {way}:", *list(lines)[2:]]))
        self._totals.kept += sum(counts[0] - count for count in counts)


def plain(told: list[Told]) -> list[str]:
    """One line for each event: repetitions once, cookies by their order."""
    lines: list[str] = []
    cookies: dict[int, int] = {}
    last = (0, b"")
    for mask, path, cookie in told:
        if (mask, path) != last:
            number = f" {cookies.setdefault(cookie, len(cookies) + 1)}" if cookie else ""
            lines.append(f"{flags.spell(mask)} {os.fsdecode(path)}{number}")
        last = mask, path
    return lines


def run(  # noqa: PLR0913 - what a user may choose
    mount: Mount,
    seed: int,
    say: Callable[[str], None],
    *,
    events: int,
    only: int | None = None,
    keep_going: bool = False,
) -> Totals:
    """Run sessions until so many *events* were compared, or a difference is found and not *keep_going*."""
    totals = Totals()
    number = only or 0
    said = 0
    before = os.umask(0)
    try:
        while totals.compared < events:
            with Session(mount, str(seed), number, totals) as session:
                try:
                    session.run()
                except Difference as difference:
                    totals.findings.append(Finding(number, str(difference), session.transcript))
            totals.sessions += 1
            mount.check()
            if only is not None or (totals.findings and not keep_going):
                break
            number += 1
            if totals.compared - said > events // 10:
                said = totals.compared
                say(str(totals))
    finally:
        os.umask(before)
    return totals
