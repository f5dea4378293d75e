"""The language of ``scenarios/*.txt``: what is done, then what is heard.

A file is a comment that says the behaviour, directives (``@``), commands, and after ``---`` the events that one
subscriber reads, in order: ``WATCHED-PATH  BITS  [name]  [cookie=1]``. Cookies are numbered in order of appearance.

Words
    ``/f`` is a path below the scenario's own directory, ``h`` (lower case) a handle, ``CREATE|DELETE`` (upper case)
    a mask or flags. A line may end in ``-> RESULT``: the errno's name or the result that all must give.
    ``repeat N`` repeats the indented lines below it, among the events too; ``$queue`` is
    max_queued_events, ``$half`` half of it, ``$long`` a name of 255 bytes, ``$longer`` one of 256.
    ``plain:`` and ``mount:`` before a command restrict it to the plain directory or to the mount;
    ``unprivileged`` does it without capabilities. All commands are the methods of ``commands.Files``
    and ``stage.Stage``.
Directives
    ``@own`` its own mount (plain: its own tmpfs), for what ends it; ``@only kernel in-band event-fd`` those of them;
    ``@options access=exact`` the mount's options.
Sections
    ``---`` what everybody reads. ``--- mount``: what everybody reads on the mount, where the kernel itself reports
    something else there than on a plain directory. ``--- notifyfs``: what notifyfs tells instead; ``--- in-band``,
    ``--- event-fd``: only that way. Each of these starts with a comment that gives the reason.
"""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from notifyfs.protocol import flags

if TYPE_CHECKING:
    from tests.support import kernel

SCENARIOS = Path(__file__).resolve().parents[1] / "scenarios"
VARIABLES = {"$queue": Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii").strip()}
VARIABLES |= {"$half": str(int(VARIABLES["$queue"]) // 2), "$longer": "n" * 256, "$long": "n" * 255}
GRACE = 10  # seconds that a late close or a forgotten inode may take


class Scenario(NamedTuple):
    """One parsed file; *sections* maps ``""``, ``mount``, ``notifyfs``... to lines of expected events."""

    name: str
    directives: dict[str, list[str]]
    commands: list[str]
    sections: dict[str, list[str]]

    @property
    def subscribers(self) -> list[str]:
        """Who listens on the mount."""
        return self.directives.get("only", ["kernel", "in-band", "event-fd"])

    def expected(self, place: str, subscriber: str) -> list[str]:
        """Say what *subscriber* (``kernel``, ``in-band``, ``event-fd``) reads at *place* (``plain``, ``mount``)."""
        wanted = {"plain": [""], "mount": ["mount", ""]}[place]
        if subscriber != "kernel":
            wanted = [subscriber, "notifyfs", *wanted]
        return next(self.sections[name] for name in wanted if name in self.sections)


def load(path: Path) -> Scenario:
    """Parse one file."""
    return parse(path.stem, path.read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Scenario:
    """Parse a script; AssertionError names what is wrong with it."""
    first, *rest = re.split(r"^---[ ]?(.*)\n", text, flags=re.MULTILINE)
    assert first.startswith("# "), f"{name}: the first line says the behaviour"
    assert rest, f"{name}: no '---' line before the expected events"
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    unknown = sections.keys() - {"", "mount", "notifyfs", "in-band", "event-fd"}
    assert not unknown, f"{name}: unknown sections {unknown}"
    for section, lines in sections.items():
        assert not section or lines.startswith("# "), f"{name}: '--- {section}' must state its reason"
    commands = unroll(first)
    directives = {words[0][1:]: words[1:] for words in map(str.split, commands) if words[0].startswith("@")}
    unknown = directives.keys() - {"own", "only", "options"}
    assert not unknown, f"{name}: unknown directives {unknown}"
    expected = {section: [canonical(line) for line in unroll(lines)] for section, lines in sections.items()}
    return Scenario(name, directives, [line for line in commands if not line.startswith("@")], expected)


def unroll(text: str) -> list[str]:
    """Give the lines without comments, variables replaced, ``repeat`` blocks written out."""
    lines: list[str] = []
    block: list[str] = []
    times = 0
    for line in [*text.splitlines(), "#end"]:
        for name, value in VARIABLES.items():
            line = line.replace(name, value)  # noqa: PLW2901 - the same line, read further
        if line.startswith("    ") and times:
            block.append(line.strip())
            continue
        lines += block * times
        block, times = [], 0
        if line.startswith("repeat "):
            times = int(line.split()[1])
        elif line and not line.startswith("#"):
            lines.append(line.strip())
    return lines


def canonical(line: str) -> str:
    """Put an expected event in the spelling of ``told``."""
    label, bits, *rest = shlex.split(line)
    cookie = [word for word in rest if word.startswith("cookie=")]
    return " ".join([label, flags.spell(mask_of(bits)), *[word for word in rest if word not in cookie], *cookie])


def mask_of(word: str) -> int:
    """``CREATE|ISDIR`` or ``0x100`` as a number."""
    groups = {"ALL": flags.ALL_EVENTS, "CLOSE": flags.CLOSE, "MOVE": flags.MOVE}
    return sum({int(bit, 0) if bit[0].isdigit() else groups.get(bit) or flags.flags[bit] for bit in word.split("|")})


class Subscriber(Protocol):
    """One inotify instance, the kernel's or ours."""

    def add(self, path: bytes, mask: int) -> int: ...
    def add_fd(self, descriptor: int, mask: int) -> int: ...
    def remove(self, wd: int) -> None: ...
    def pending(self) -> int: ...
    def wait(self, seconds: float) -> bool: ...
    def drain(self) -> list[kernel.Event]: ...
    def another(self) -> Subscriber: ...
    def close(self) -> None: ...


class Listener:
    """A subscriber with the labels of its watches and what it has read so far, as lines."""

    def __init__(self, name: str, subscriber: Subscriber) -> None:
        self.name = name
        self.subscriber = subscriber
        self.labels = {-1: "-"}
        self.heard: list[str] = []
        self._cookies: dict[int, int] = {}

    def listen(self) -> None:
        """Read what is queued."""
        self.heard += [self.told(event) for event in self.subscriber.drain()]

    def told(self, event: kernel.Event) -> str:
        """Put an event in the scenario's words."""
        name = re.sub(r"^#\d+$", "#INO", event.name.decode(errors="backslashreplace"))  # O_TMPFILE
        words = [self.labels.get(event.wd, f"wd{event.wd}"), flags.spell(event.mask), name]
        if event.cookie:
            words.append(f"cookie={self._cookies.setdefault(event.cookie, len(self._cookies) + 1)}")
        return " ".join(filter(None, words))

    def listen_until(self, expected: int) -> None:
        """Read until *expected* events have come, and whatever else is queued then."""
        deadline = time.monotonic() + GRACE
        self.listen()
        while len(self.heard) < expected and (left := deadline - time.monotonic()) > 0 and self.subscriber.wait(left):
            self.listen()
