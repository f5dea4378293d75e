"""A client of the control socket as an outsider would write it: sockets and ``struct``, nothing of notifyfs.

It knows ``docs/protocol.md`` and inotify(7) only, and it is strict: whatever it receives must be a whole, properly
padded record, and replies must come in the order of the requests.
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.conftest import Mount

T = TypeVar("T")

ACCESS, MODIFY, ATTRIB, CLOSE_WRITE, CLOSE_NOWRITE, OPEN = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
ALL_EVENTS = 0xFFF
UNMOUNT, Q_OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
RECURSIVE, ORIGIN, REPLY = 0x10000, 0x20000, 0x800000
ONLYDIR, DONT_FOLLOW, EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000
MASK_CREATE, MASK_ADD, ISDIR, ONESHOT = 0x10000000, 0x20000000, 0x40000000, 0x80000000

ADD, HELLO, STATISTICS, PENDING = 0, -1, -2, -3
EVENT_FD = 1
GREETING = b"notifyfs 1"

PATIENCE = 10.0
"""Seconds after which something that should have happened counts as never happening."""

HEADER = struct.Struct("=iIII")
ORIGIN_PAYLOAD = struct.Struct("=QqIIII16s")
LONGEST_FIELD = 4112


class Record(NamedTuple):
    """One record as received; ``field`` is the name field with its padding."""

    wd: int
    mask: int
    cookie: int
    field: bytes

    @property
    def name(self) -> bytes:
        """The name without its padding."""
        return self.field.partition(b"\0")[0]

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return HEADER.size + len(self.field)

    @property
    def brief(self) -> tuple[int, int, bytes]:
        """What most tests compare: wd, mask and name."""
        return self.wd, self.mask, self.name


class Origin(NamedTuple):
    """The payload of an ``IN_X_ORIGIN`` record."""

    sequence: int
    time_ns: int
    pid: int
    uid: int
    gid: int
    flags: int
    comm: bytes


def origin_of(record: Record) -> Origin:
    """The origin that *record* carries; it must be one."""
    assert record.mask & ORIGIN, record
    assert len(record.field) == ORIGIN_PAYLOAD.size, record
    *numbers, comm = ORIGIN_PAYLOAD.unpack(record.field)
    return Origin(*numbers, comm.partition(b"\0")[0])


def field_of(name: bytes) -> bytes:
    """The padded name field of *name*."""
    return name.ljust((len(name) + 1 + 15) // 16 * 16, b"\0") if name else b""


def encode(wd: int, mask: int = 0, cookie: int = 0, name: bytes = b"") -> bytes:
    """The bytes of one record."""
    field = field_of(name)
    return HEADER.pack(wd, mask, cookie, len(field)) + field


def split(data: bytes) -> tuple[list[Record], bytes]:
    """The whole records at the start of *data*, each checked, and the rest."""
    records = []
    while len(data) >= HEADER.size:
        wd, mask, cookie, size = HEADER.unpack_from(data)
        if len(data) < HEADER.size + size:
            break
        field, data = data[HEADER.size : HEADER.size + size], data[HEADER.size + size :]
        record = Record(wd, mask, cookie, field)
        assert size % 16 == 0, record
        assert size <= LONGEST_FIELD, record
        if not mask & ORIGIN or mask & REPLY:
            assert field == field_of(record.name), f"the name field is not padded as in inotify(7): {record}"
        records.append(record)
    return records, data


def parse(data: bytes) -> list[Record]:
    """The records that make up *data*; nothing may be left over."""
    records, rest = split(data)
    assert not rest, f"{len(rest)} bytes are left over"
    return records


class Client:
    """One connection: one inotify instance. Every receive has a deadline.

    Args:
        path: the socket's.
        event_fd: take the events from a descriptor of their own.
        timeout: seconds that any reply may take; TimeoutError after that.

    """

    may_break_off = False
    """Whether the daemon may end within a record: it will be killed."""

    def __init__(self, path: str, *, event_fd: bool = False, timeout: float = PATIENCE) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.number = 100
        self.arrived: deque[Record] = deque()
        self.rest = b""
        self.descriptors: list[int] = []
        self.events_fd = -1
        self.greeting: dict[str, Any] = {}
        try:
            # With a time limit, connect(2) to a full backlog is EAGAIN; without one it waits.
            self.socket.connect(path)
            self.socket.settimeout(timeout)
            if event_fd:
                self.hello(EVENT_FD)
                (self.events_fd,) = self.descriptors
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and every descriptor that came over it."""
        self.socket.close()
        while self.descriptors:
            os.close(self.descriptors.pop())

    # Sending

    def send(
        self, wd: int, mask: int = 0, name: bytes = b"", *, cookie: int | None = None, descriptors: Iterable[int] = ()
    ) -> int:
        """Send one request and return its cookie."""
        if cookie is None:
            self.number += 1
            cookie = self.number
        data = encode(wd, mask, cookie, name)
        self.send_bytes(data, descriptors)
        return cookie

    def send_bytes(self, data: bytes, descriptors: Iterable[int] = ()) -> None:
        """Send *data* as it is, *descriptors* with its first byte."""
        passed = list(descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", passed))] if passed else []
        sent = self.socket.sendmsg([data], ancillary)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    # Receiving

    def receive(self) -> bytes:
        """Receive what there is; empty at the end of file."""
        data, ancillary, flags, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(16 * 4), socket.MSG_CMSG_CLOEXEC)
        assert not flags & socket.MSG_CTRUNC
        for level, kind, payload in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            self.descriptors += array.array("i", payload)
        return data

    def record(self) -> Record:
        """The next record; EOFError when the daemon has closed the connection."""
        while not self.arrived:
            data = self.receive()
            if not data:
                assert not self.rest or self.may_break_off, "the connection ended within a record"
                raise EOFError
            records, self.rest = split(self.rest + data)
            self.arrived += records
        return self.arrived.popleft()

    def until_reply(self, cookie: int) -> tuple[list[Record], Record]:
        """The events before the next reply, and that reply: it must be the one to *cookie*."""
        events = []
        try:
            while not (record := self.record()).mask & REPLY:
                events.append(record)
        except (OSError, EOFError):
            self.arrived.extendleft(reversed(events))
            raise
        assert record.cookie == cookie, "replies come in the order of the requests"
        return events, record

    def until_end(self) -> list[Record]:
        """Every record up to the end of file."""
        records = []
        while True:
            try:
                records.append(self.record())
            except EOFError:
                return records

    # The requests, for those who are not interested in the events in between

    def ask(self, wd: int, mask: int = 0, name: bytes = b"", *, descriptors: Iterable[int] = ()) -> int:
        """One request's result: 0 or more, or a negative errno. Events before the reply stay available."""
        events, reply = self.until_reply(self.send(wd, mask, name, descriptors=descriptors))
        self.arrived.extendleft(reversed(events))
        return reply.wd

    def add_descriptor(self, mask: int, *descriptors: int) -> int:
        """Add a watch on what the descriptors refer to; the result as it came."""
        return self.ask(ADD, mask, descriptors=descriptors)

    def hello(self, mask: int = 0) -> dict[str, Any]:
        """Greet, and return the daemon's greeting."""
        events, reply = self.until_reply(self.send(HELLO, mask, GREETING))
        assert (events, reply.wd) == ([], 0), (events, reply)
        self.greeting = json.loads(reply.name)
        return self.greeting

    def statistics(self) -> dict[str, Any]:
        """The counters."""
        events, reply = self.until_reply(self.send(STATISTICS))
        self.arrived.extendleft(reversed(events))
        assert reply.wd == 0, reply
        counters: dict[str, Any] = json.loads(reply.name)
        return counters

    def events(self) -> list[Record]:
        """Every event of what has returned by now: the barrier."""
        events, reply = self.until_reply(self.send(PENDING))
        assert reply.wd >= 0, reply
        return self.packets() if self.events_fd >= 0 else events

    def told(self) -> list[tuple[int, int, bytes]]:
        """As ``events``, but wd, mask and name only."""
        return [event.brief for event in self.events()]

    def packets(self) -> list[Record]:
        """What can be read on the event descriptor at once; each packet must be one whole record."""
        records = []
        while readable(self.events_fd):
            try:
                packet = os.read(self.events_fd, 1 << 16)
            except ConnectionResetError:  # said once, of a daemon that was killed; what it had sent follows
                continue
            if not packet:
                break
            (record,) = parse(packet)
            records.append(record)
        return records


class Wire(Client):
    """A client that knows where the mount is."""

    def __init__(self, mount: Mount, *, event_fd: bool = False) -> None:
        self.root = mount.root
        super().__init__(mount.socket, event_fd=event_fd)

    def below(self, path: Path) -> bytes:
        """*path* as the protocol wants it: below the mount's root."""
        relative = os.fsencode(path.relative_to(self.root))
        return b"" if relative == b"." else relative

    def watch(self, mask: int, path: Path | bytes = b"") -> int:
        """Add a watch; the result as it came."""
        return self.ask(ADD, mask, path if isinstance(path, bytes) else self.below(path))

    def add(self, mask: int, path: Path | bytes = b"") -> int:
        """Add a watch that must be accepted; its descriptor."""
        wd = self.watch(mask, path)
        assert wd > 0, f"watching {path!r} was refused: {errno.errorcode.get(-wd, wd)}"
        return wd


def readable(descriptor: int, timeout: float = 0) -> bool:
    """Whether *descriptor* is readable, or becomes so within *timeout* seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def unread(descriptor: int) -> int:
    """``FIONREAD``: the bytes that can be read on *descriptor*."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def unread_by_peer(descriptor: int) -> int:
    """``SIOCOUTQ``: 0 when the other end of a Unix socket has received everything."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.TIOCOUTQ, count)
    return count[0]


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds; fail, naming *what*, when it does not within ``PATIENCE``."""
    deadline = time.monotonic() + PATIENCE
    pause = select.poll()
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        pause.poll(5)


def descriptors_of(pid: int) -> list[str]:
    """What each open descriptor of the process refers to."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(entry.path))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


def touch(path: Path) -> Path:
    """Create an empty file."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    return path


def unmount(root: Path) -> None:
    """Unmount as an administrator would; must succeed."""
    subprocess.run(["/bin/umount", root], check=True, timeout=PATIENCE)


def as_user(uid: int, function: Callable[[], T], *, gid: int | None = None, groups: Iterable[int] = ()) -> T:
    """What *function* returns in a child process that really is *uid*, *gid* (default: as uid) and *groups*."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            if uid != os.getuid():
                os.setgroups(list(groups))
                os.setresgid(*[uid if gid is None else gid] * 3)
                os.setresuid(uid, uid, uid)
            outcome: object = ("returned", function())
        except BaseException as error:  # noqa: BLE001 - reported to the parent, whatever it is
            outcome = ("raised", repr(error))
        os.write(theirs, pickle.dumps(outcome))
        os._exit(0)
    os.close(theirs)
    try:
        assert readable(ours, PATIENCE), "the child process did not answer"
        how, what = pickle.loads(os.read(ours, 1 << 16))  # noqa: S301 - our own child wrote it
    except AssertionError:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(ours)
        os.waitpid(child, 0)
    assert how == "returned", what
    return what


def in_child(function: Callable[[], T]) -> tuple[int, T]:
    """Run *function* in a child process of the same user; its process id and the result."""
    return as_user(os.getuid(), lambda: (os.getpid(), function()))
