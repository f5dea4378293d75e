"""One session: steps in a directory of their own, watched by the kernel and by notifyfs, compared at each reading."""

from __future__ import annotations

import difflib
import errno
import os
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.scenario import mask_of
from tests.support.subscriber import Subscriber

from notifyfs.protocol import flags
from scripts.fuzz import allowed
from scripts.fuzz.steps import LISTENING, Step
from scripts.fuzz.voices import Kernel, Voice
from scripts.fuzz.worker import SKIPPED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

    from scripts.fuzz.alike import Cookies
    from scripts.fuzz.voices import Heard
    from scripts.fuzz.worker import Worker

GRACE = 3.0
"""Seconds that an event may be late."""

HASTE = 0.3
"""The same while a failure is made small: most of what is tried then lacks an event for good."""

_BLOCKING = frozenset({"touch", "put", "append", "cat", "open", "install", "chattr"})
_BY_DESCRIPTOR = frozenset({"chmod", "chown", "utimes", "setxattr", "removexattr", "open"})
"""With a handle as their target these reach FUSE as the inode alone."""

_WRITING = frozenset({"write", "pwrite", "writev", "copy", "sendfile", "splice", "posix_fallocate"})
_OF_PAGES = frozenset({"read", "pread", "readv", "copy", "sendfile", "splice", "willneed", "peek", "posix_fallocate"})
"""What may read a page that is in memory; posix_fallocate(3) reads a byte of each block that is there."""


class Place(NamedTuple):
    """A name in the tree, as the source has it."""

    path: str
    kind: str
    """``dir``, ``file``, ``link`` or ``special``."""
    ino: int


class Handle(NamedTuple):
    """An open descriptor."""

    process: int
    ino: int
    kind: str
    flags: str


class Difference(Exception):  # noqa: N818 - it is what is looked for, no error
    """What the kernel said and notifyfs did not, or the other way round."""

    def __init__(self, what: str, lines: list[str], instance: int = 0) -> None:
        super().__init__("\n".join([what, *lines]))
        self.what = what
        self.instance = instance


class Ended(Exception):  # noqa: N818 - as above
    """An allowed difference has made both sides differ for good: the session cannot go on."""


class Session:
    """*base* is below *mount*'s root, and new. *exact*: reads are told exactly, a chaperone sees to it."""

    def __init__(self, mount: Mount, workers: list[Worker], base: str, *, instances: int, exact: bool = False) -> None:
        self.mount = mount
        self.grace = GRACE
        self.exact = exact
        self.base = mount.root / base
        self.source = mount.source / base
        self.transcript: list[str] = []
        self.facts: set[str] = set()
        self.allowed: Counter[str] = Counter()
        self.compared = 0
        self.watches = 0
        self.handles: dict[str, Handle] = {}
        self.maps: dict[str, int] = {}
        self.children: dict[str, int] = {}
        self.wds: dict[tuple[int, int], str] = {}
        self.away: set[int] = set()
        self._workers = workers
        self.several: set[int] = set()
        """Inode numbers of files that have had more than one name."""
        self.base.mkdir(parents=True)
        for worker in workers:
            worker.begin(self.base)
        self._chaperone = None
        if exact:
            # A recursive ACCESS watch covers every file: with access=exact all are then opened with direct I/O.
            self._chaperone = Subscriber(mount.socket)
            self._chaperone.add(os.fsencode(base), flags.ACCESS | flags.X_RECURSIVE)
        self.voices = [self._voices(os.fsencode(base)) for _ in range(instances)]
        self.labels: list[dict[int, str]] = [{-1: "-"} for _ in range(instances)]
        self._ledgers = [{voice.name: allowed.Ledger() for voice in voices} for voices in self.voices]
        self._cookies: list[dict[str, Cookies]] = [{voice.name: {} for voice in voices} for voices in self.voices]
        self._recent: list[set[str]] = [set() for _ in self.voices]
        """Facts that hold for what this instance has not read yet."""

    def _voices(self, base: bytes) -> list[Voice]:
        return [
            Voice("kernel", Kernel(os.fsencode(self.base))),
            Voice("in-band", Subscriber(self.mount.socket, base)),
            Voice("event-fd", Subscriber(self.mount.socket, base, event_fd=True)),
        ]

    def close(self) -> None:
        """Let go of everything."""
        for voices in self.voices:
            for voice in voices:
                voice.subscriber.close()
        if self._chaperone is not None:
            self._chaperone.close()

    # What there is

    def tree(self) -> list[Place]:
        """Every name below the base, the base first; asked of the source, so that the mount hears nothing of it."""
        places = [Place("/", "dir", os.stat(self.source).st_ino)]
        for place in places:
            if place.kind == "dir":
                for entry in sorted(os.scandir(self._at(place.path)), key=lambda entry: entry.name):
                    path = f"{place.path.rstrip('/')}/{entry.name}"
                    places.append(Place(path, _kind(entry.stat(follow_symlinks=False).st_mode), entry.inode()))
        return places

    def _at(self, path: str) -> Path:
        return self.source / path[1:]

    def _found(self, path: str) -> os.stat_result | None:
        try:
            return os.stat(self._at(path))
        except OSError:
            return None

    # What is done

    def do(self, step: Step) -> str:
        """Do *step*: its result. Difference: a finding."""
        if step.verb in LISTENING:
            return self._listen(step)
        if step.process >= len(self._workers) or self._would_block(step):
            return SKIPPED
        if self._may_clear(step):
            self._recently("setuid may be cleared past the page cache")
        fact = self._passing_fact(step)
        if fact:
            self.read_all()
        result = self._workers[step.process].do(*step.words)
        if result == SKIPPED:
            return result
        self._note(step, result)
        self._write_down(step, result)
        if fact and (step.verb != "readv" or result == "0"):
            self.facts.add(fact)
            self.read_all()
            self.facts.discard(fact)
            if step.verb == "open":
                raise Ended  # what comes of this handle may have the other name, too
        return result

    def read_all(self) -> None:
        """Read and compare what every instance has heard."""
        for instance in range(len(self.voices)):
            self.do(Step(("drain",), instance=instance))

    def _write_down(self, step: Step, result: str) -> None:
        self.transcript.append(f"{step} -> {result}" if result.isupper() else str(step))

    def _would_block(self, step: Step) -> bool:
        # Opening a FIFO waits for its other end, and a device is none of FUSE's business (parity: O6).
        if step.verb in _BLOCKING and step.arguments[0].startswith("/"):
            found = self._found(step.arguments[0])
            return found is not None and _kind(found.st_mode) == "special"
        return False

    def _may_clear(self, step: Step) -> bool:
        """Whether it writes past the page cache to what is set-user-ID: the kernel then does not clear that itself."""
        if step.verb == "append" and step.arguments[0].startswith("/"):
            found = self._found(step.arguments[0])
            return found is not None and bool(found.st_mode & (stat.S_ISUID | stat.S_ISGID))
        written = [self.handles[word].flags for word in step.arguments[:2] if word in self.handles]
        return step.verb in _WRITING and any(self.exact or "APPEND" in flags for flags in written)

    def _passing_fact(self, step: Step) -> str:
        """What holds for this step only, which is then compared alone."""
        if step.verb == "readv":
            return "readv of nothing"
        targets = [word for word in step.arguments[:2] if word in self.handles]
        several = any(self.handles[word].ino in self.several for word in targets)
        if several and step.verb == "open":
            return "opened through a descriptor"
        return "changed through a descriptor" if several and step.verb in _BY_DESCRIPTOR else ""

    def _note(self, step: Step, result: str) -> None:  # noqa: C901 - one verb a line
        """Keep the books: what is held, and which facts hold from now on."""
        verb, words = step.verb, step.arguments
        if verb in _OF_PAGES and not self.exact:
            self._recently("read ahead" if verb in {"willneed", "peek"} else "read from the page cache")
        if verb == "poke":
            self.facts.add("stored through a map")
        if result.isupper():
            return
        if verb == "open":
            self._note_open(step, words)
        elif verb == "dup":
            self.handles[words[2]] = self.handles[words[0]]
        elif verb == "mmap":
            self.maps[words[3]] = step.process
        elif verb == "fork":
            self.children[words[1]] = step.process
        elif verb in {"close", "munmap", "end"}:
            held: dict[str, Any] = {"close": self.handles, "munmap": self.maps, "end": self.children}[verb]
            del held[words[0]]
            self._recently("a name was removed")  # it may have waited for this
        elif verb == "cd":
            self.facts.add("held by a path only")
            (self.away.discard if words[0] == "/.." else self.away.add)(step.process)
        elif verb in {"unlink", "rmdir", "mv"}:
            self._recently("a name was removed")
        elif verb in {"link", "linkfd"} and (found := self._found(words[1])) is not None:
            self.several.add(found.st_ino)

    def _recently(self, fact: str) -> None:
        for facts in self._recent:
            facts.add(fact)

    def _note_open(self, step: Step, words: tuple[str, ...]) -> None:
        how = words[1] if len(words) == 4 else "RDONLY"  # noqa: PLR2004 - TARGET FLAGS as HANDLE
        if words[0] in self.handles:
            opened = self.handles[words[0]]._replace(process=step.process, flags=how)
        else:
            found = self._found(words[0])
            if found is None:
                raise Difference(str(step), [f"{words[0]} was opened and is not in the source"])
            opened = Handle(step.process, found.st_ino, _kind(found.st_mode), how)
        self.handles[words[-1]] = opened
        if "PATH" in how:
            self.facts.add("held by a path only")

    # What is heard

    def settle(self) -> None:
        """Let the daemon hear of every close so far: RELEASE is asynchronous, but stays before later requests."""
        os.statvfs(self.base)

    def _listen(self, step: Step) -> str:
        if step.instance >= len(self.voices):
            return SKIPPED
        self.settle()
        if step.verb == "drain":
            self.transcript.append(str(step))
            self._read(step.instance)
            return ""
        if step.verb == "pending":
            answers = self._ask(step.instance, lambda voice: voice.subscriber.pending())
            if len(set(answers.values())) > 1:
                excused = self.facts | self._recent[step.instance]
                self._read(step.instance)  # what is pending differs as the events do: a known difference, or a finding
                if not excused:
                    raise Difference("pending", [str(answers)], step.instance)
            return ""
        if step.verb == "unwatch":
            wd = int(step.words[1])
            answers = self._ask(step.instance, lambda voice: voice.subscriber.remove(wd))
            self.wds.pop((step.instance, wd), None)
        elif step.words[1].startswith("/") or step.words[1] in self.handles:
            answers = self._watch_all(step)
        else:
            return SKIPPED
        result = answers["kernel"]
        self._write_down(step, result if isinstance(result, str) else "")
        if len(set(answers.values())) > 1:
            self._read(step.instance)
            if any(self._ledgers[step.instance].values()):
                raise Ended
            raise Difference(f"{step}: different answers", [str(answers)], step.instance)
        return str(result or "")

    def _watch_all(self, step: Step) -> dict[str, int | str | None]:
        _, target, bits = step.words
        opened = -1
        if not target.startswith("/"):
            process = self._workers[self.handles[target].process]
            opened = os.open(f"/proc/{process.pid}/fd/{process.do('fileno', target)}", os.O_PATH | os.O_CLOEXEC)
        try:
            answers = self._ask(step.instance, lambda voice: self._watch(voice, target, opened, mask_of(bits)))
        finally:
            if opened >= 0:
                os.close(opened)
        wd = answers["kernel"]
        if isinstance(wd, int):
            self.watches += (step.instance, wd) not in self.wds
            self.wds[step.instance, wd] = target
            self.labels[step.instance].setdefault(wd, target)
        return answers

    @staticmethod
    def _watch(voice: Voice, target: str, opened: int, mask: int) -> int:
        if opened >= 0:
            return voice.subscriber.add_fd(opened, mask)
        return voice.subscriber.add(os.fsencode(target[1:]), mask)

    def _ask(self, instance: int, ask: Callable[[Voice], int | None]) -> dict[str, int | str | None]:
        answers: dict[str, int | str | None] = {}
        for voice in self.voices[instance]:
            try:
                answers[voice.name] = ask(voice)
            except OSError as error:
                answers[voice.name] = errno.errorcode[error.errno or 0]
        return answers

    def _read(self, instance: int) -> None:
        kernel, *ours = self.voices[instance]
        facts = self.facts | self._recent[instance]
        self._recent[instance].clear()
        theirs = kernel.read()
        self.compared += len(theirs)
        for voice in ours:
            got = voice.read()
            ledger, cookies = self._ledgers[instance][voice.name], self._cookies[instance][voice.name]
            deadline = time.monotonic() + self.grace
            while (rows := allowed.explain(theirs, got, facts, ledger, cookies)) is None:
                left = deadline - time.monotonic()
                if left <= 0 or len(got) >= len(theirs) or not voice.subscriber.wait(left):
                    raise Difference(f"instance {instance}, {voice.name}", unlike(theirs, got, cookies), instance)
                got += voice.read()
            if theirs != got:
                self.allowed.update(rows)
                if "U4" not in rows and _ends(theirs) != _ends(got):
                    raise Ended
            more = [*voice.read(), *kernel.read()]
            if more and "held by a path only" not in self.facts:
                raise Difference(f"instance {instance}, {voice.name}: after a barrier", [*map(str, more)], instance)
            if more and allowed.explain([], more, facts, ledger, cookies) is None:
                raise Difference(f"instance {instance}, {voice.name}: after a barrier", [*map(str, more)], instance)

    def finish(self) -> None:
        """Compare what is left; nothing may be owed once nothing is held by a path only."""
        self.read_all()
        if self.away or any("PATH" in handle.flags for handle in self.handles.values()):
            return
        for instance, ledgers in enumerate(self._ledgers):
            for name, ledger in ledgers.items():
                deadline = time.monotonic() + self.grace
                voice = next(voice for voice in self.voices[instance] if voice.name == name)
                while any(ledger.values()):
                    left = deadline - time.monotonic()
                    if left <= 0 or not voice.subscriber.wait(left):
                        owed = [f"{wd}: {flags.spell(mask)} x {count}" for (wd, mask), count in ledger.items() if count]
                        raise Difference(f"instance {instance}, {name}: never told (kernel minus ours)", owed, instance)
                    if allowed.explain([], voice.read(), self.facts, ledger, self._cookies[instance][name]) is None:
                        raise Difference(f"instance {instance}, {name}: late", [*map(str, voice.heard)], instance)


def unlike(theirs: list[Heard], ours: list[Heard], cookies: Cookies) -> list[str]:
    """Say the difference, line by line, with the kernel's numbers for cookies."""
    numbers = {our: their for their, our in cookies.items()}
    renumbered = [event._replace(cookie=numbers.get(event.cookie, event.cookie)) for event in ours]
    lines = difflib.unified_diff([*map(str, theirs)], [*map(str, renumbered)], "kernel", "notifyfs", lineterm="", n=6)
    return list(lines)[2:]


def _ends(events: list[Heard]) -> list[int]:
    return [event.wd for event in events if event.mask & flags.IGNORED]


def _kind(mode: int) -> str:
    return {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "link"}.get(stat.S_IFMT(mode), "special")
