"""What is printed for an event: inotifywait 3.22's lines, and JSON.

Learned from the program's behaviour; ``tests/test_watch.py`` compares every form with the binary.
A rename in one piece, which only ``--settle`` makes, is ours: see ``joined``.
"""

from __future__ import annotations

import base64
import functools
import json
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from notifyfs.protocol.flags import (
    ACCESS,
    ALL_EVENTS,
    ATTRIB,
    CLOSE,
    CLOSE_NOWRITE,
    CLOSE_WRITE,
    CREATE,
    DELETE,
    DELETE_SELF,
    IGNORED,
    ISDIR,
    MODIFY,
    MOVE,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    ONESHOT,
    OPEN,
    Q_OVERFLOW,
    UNMOUNT,
    flags,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.client import Rename
    from notifyfs.protocol.records import Origin

WORDS: Final = {
    "access": ACCESS,
    "modify": MODIFY,
    "attrib": ATTRIB,
    "close_write": CLOSE_WRITE,
    "close_nowrite": CLOSE_NOWRITE,
    "close": CLOSE,
    "open": OPEN,
    "moved_from": MOVED_FROM,
    "moved_to": MOVED_TO,
    "move": MOVE,
    "move_self": MOVE_SELF,
    "create": CREATE,
    "delete": DELETE,
    "delete_self": DELETE_SELF,
    "unmount": UNMOUNT,
    "q_overflow": Q_OVERFLOW,
    "ignored": IGNORED,
    "isdir": ISDIR,
    "oneshot": ONESHOT,
    "all_events": ALL_EVENTS,
}
"""The words that ``-e`` takes."""

_SPELLED: Final = (
    (ACCESS, b"ACCESS"),
    (MODIFY, b"MODIFY"),
    (ATTRIB, b"ATTRIB"),
    (CLOSE_WRITE, b"CLOSE_WRITE"),
    (CLOSE_NOWRITE, b"CLOSE_NOWRITE"),
    (OPEN, b"OPEN"),
    (MOVED_FROM, b"MOVED_FROM"),
    (MOVED_TO, b"MOVED_TO"),
    (CREATE, b"CREATE"),
    (DELETE, b"DELETE"),
    (DELETE_SELF, b"DELETE_SELF"),
    (UNMOUNT, b"UNMOUNT"),
    (Q_OVERFLOW, b"Q_OVERFLOW"),
    (IGNORED, b"IGNORED"),
    (CLOSE, b"CLOSE"),
    (MOVE_SELF, b"MOVE_SELF"),
    (ISDIR, b"ISDIR"),
)

TO: Final = b"%{to}"
"""What ``--format`` calls the new path of a rename in one piece."""

_ORIGIN_FIELDS: Final = ("pid", "uid", "gid", "comm", "seq", "ts")
"""What ``%{...}`` in a format may name with ``--origin``."""


class Report(NamedTuple):
    """One event as inotifywait reports it."""

    watched: bytes
    """``%w``: the watched file as it was given, a directory with a slash at its end."""
    name: bytes
    """``%f``: the file in that directory, or nothing."""
    mask: int
    cookie: int
    wd: int
    origin: Origin | None
    mount: str
    to: Report | None = None
    """For a rename in one piece: its MOVED_TO. The rest is of its MOVED_FROM, except that ``mask`` has both."""

    @property
    def path(self) -> bytes:
        """What filters look at."""
        return self.watched + self.name


def joined(item: Report | Rename[Report]) -> Report:
    """Make one event of a rename; anything else is one."""
    if isinstance(item, Report):
        return item
    old, new = item
    return old._replace(mask=old.mask | new.mask, origin=new.origin or old.origin, to=new)


def event_mask(text: str) -> int:
    """Return the bits that ``-e TEXT`` asks for, its words separated by commas; KeyError for an unknown word.

    An empty word anywhere makes it 0, which inotifywait takes for every event.
    """
    words = text.lower().split(",")
    mask = 0
    for word in filter(None, words):
        mask |= WORDS[word]
    return 0 if "" in words else mask


def spell(mask: int, separator: bytes = b",") -> bytes:
    """Name the events in *mask*, in inotifywait's order."""
    return separator.join(name for bit, name in _SPELLED if mask & bit)


def plain(event: Report) -> bytes:
    """Print as by default: ``d/ CLOSE_WRITE,CLOSE a``; a rename as ``d/ MOVED_FROM,MOVED_TO a -> d/b``."""
    to = b" -> " + event.to.path if event.to else b""
    return event.watched + b" " + spell(event.mask) + b" " + event.name + to


def csv(event: Report) -> bytes:
    """Print as with ``-c``: ``d/,"CLOSE_WRITE,CLOSE",a``; a rename as ``d/,"MOVED_FROM,MOVED_TO",a,d/,b``."""
    first = _quoted(event.watched) + b"," if event.watched else b""
    to = b"," + _quoted(event.to.watched) + b"," + _quoted(event.to.name) if event.to else b""
    return first + _quoted(spell(event.mask)) + b"," + _quoted(event.name) + to


def as_json(event: Report) -> bytes:
    """Print as with ``--json``: an object on one line; ``path_b64`` is there when the path is not UTF-8.

    A rename has an object ``to`` with ``wd``, ``path``, ``dir``, ``name`` of the new name.
    """
    origin = event.origin
    fields: dict[str, Any] = {"v": 1}
    if origin:
        fields["seq"] = origin.sequence
    fields |= {
        "ts": origin.time_ns if origin else time.time_ns(),
        "mount": event.mount,
        "events": [flag.name for flag in flags.from_mask(event.mask)],
        "mask": event.mask,
        "cookie": event.cookie,
        **_place(event),
    }
    if event.to:
        fields["to"] = _place(event.to)
    if origin:
        fields |= {
            "pid": origin.pid,
            "uid": origin.uid,
            "gid": origin.gid,
            "comm": origin.comm.decode(errors="replace"),
        }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _place(event: Report) -> dict[str, Any]:
    path = event.path
    fields: dict[str, Any] = {
        "wd": event.wd,
        "path": path.decode(errors="replace"),
        "dir": event.watched.decode(errors="replace"),
        "name": event.name.decode(errors="replace"),
    }
    try:
        path.decode()
    except UnicodeDecodeError:
        fields["path_b64"] = base64.b64encode(path).decode()
    return fields


def template(text: bytes, timefmt: str | None) -> Callable[[Report], bytes]:
    """Compile ``--format``: a function from an event to what is printed for it, without a newline.

    ``%w %f %e %Xe %T %c %0 %n %%`` as in inotifywait, ``%{pid} %{uid} %{gid} %{comm} %{seq} %{ts}``
    ("" where no origin is known); anything else stands for itself. *timefmt* is strftime(3)'s; a time
    that comes out empty drops the event's line (as inotifywait does).

    ``%{to}`` is the new path of a rename in one piece. Without it in *text* such a rename is printed as its
    two events, so that the new name is not lost.
    """
    pieces: list[Callable[[Report], bytes | None]] = []
    position = 0
    while position < len(text):
        piece, length = _directive(text[position:], timefmt)
        pieces.append(piece)
        position += length

    def render(event: Report) -> bytes:
        rendered = [piece(event) for piece in pieces]
        return b"".join(part for part in rendered if part is not None) if None not in rendered else b""

    def halves(event: Report) -> bytes:
        if event.to is None:
            return render(event)
        return render(event._replace(mask=event.mask & ~MOVED_TO, to=None)) + render(event.to)

    return render if TO in text else halves


def named_origins(text: bytes) -> list[str]:
    """Name the ``%{...}`` fields that a format uses."""
    return [f"%{{{name}}}" for name in _ORIGIN_FIELDS if f"%{{{name}}}".encode() in text]


_SIMPLE: Final[dict[bytes, Callable[[Report], bytes]]] = {
    b"w": lambda event: event.watched,
    b"f": lambda event: event.name,
    b"e": lambda event: spell(event.mask),
    b"c": lambda event: b"%x" % event.cookie,
    b"0": lambda _: b"\0",
    b"n": lambda _: b"\n",
    b"%": lambda _: b"%",
}


def _directive(text: bytes, timefmt: str | None) -> tuple[Callable[[Report], bytes | None], int]:
    """Compile the beginning of *text*; and how long that beginning is."""
    if not text.startswith(b"%"):
        literal = text.partition(b"%")[0]
        return lambda _: literal, len(literal)
    key = text[1:2]
    if key == b"T" and timefmt is not None:
        return lambda _: time.strftime(timefmt).encode(errors="surrogateescape") or None, 2
    if key in _SIMPLE:
        return _SIMPLE[key], 2
    for name in ("to", *_ORIGIN_FIELDS):
        if text.startswith(b"%%{%s}" % name.encode()):
            return functools.partial(_field, name), len(name) + 3
    if text[2:3] == b"e":
        return lambda event: spell(event.mask, key), 3
    return lambda _: b"%", 1


def _field(name: str, event: Report) -> bytes:
    if name == "to":
        return event.to.path if event.to else b""
    origin = event.origin
    if origin is None:
        return b""
    if name == "comm":
        return origin.comm
    return b"%d" % getattr(origin, {"seq": "sequence", "ts": "time_ns"}.get(name, name))


def _quoted(field: bytes) -> bytes:
    if any(special in field for special in (b'"', b",", b"\n")) or field[:1] == b" " or field[-1:] == b" ":
        return b'"' + field.replace(b'"', b'""') + b'"'
    return field
