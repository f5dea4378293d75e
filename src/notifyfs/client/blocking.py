"""One connection to a mount's daemon: the protocol of ``docs/protocol.md``, one request at a time."""

from __future__ import annotations

import array
import errno
import json
import os
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Self, overload

from notifyfs.client.batches import Batch
from notifyfs.protocol import records, requests
from notifyfs.protocol.flags import X_FILTER, X_REPLY
from notifyfs.protocol.records import MAX_LEN, FramingError, Parser, Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from notifyfs.client.batches import Rename
    from notifyfs.client.filters import Filter, Rule

ATTRIBUTE: Final = "notifyfs.socket"
"""The extended attribute that names the control socket, on every inode of a mount."""

LONGEST_WAIT: Final = 2_000_000.0
"""Seconds: poll(2) counts milliseconds in an int."""

_BATCH: Final = 1 << 16
_PACKET: Final = records.HEADER.size + MAX_LEN
_SUN_PATH: Final = 107  # unix(7): sun_path holds 108 bytes, one of them the NUL
_REMEDIES: Final = {
    errno.EMFILE: "too many instances; raise the mount's option max_user_instances",
    errno.ENOSPC: "too many watches (raise the mount's option max_user_watches) or, except for root, rules in filters",
}


def find_socket(path: str | bytes | int) -> str:
    """Return the control socket of the notifyfs mount that *path* (or an open descriptor, ``O_PATH`` too) is on.

    Symbolic links are followed. OSError: ENOTSUP when it is on no notifyfs mount, ENOTCONN
    when the mount's daemon is gone, and what getxattr(2) says of a path that cannot be reached.
    """
    place = f"/proc/self/fd/{path}" if isinstance(path, int) else path
    shown: str | bytes = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else path
    try:
        return os.fsdecode(os.getxattr(place, ATTRIBUTE))
    except OSError as error:
        message = error.strerror
        number = error.errno
        if number in {errno.ENODATA, errno.ENOTSUP, errno.ENOSYS}:
            number = errno.ENOTSUP
            message = "not on a notifyfs mount; make one with `notifyfs mount SOURCE MOUNTPOINT`"
        elif number == errno.ENOTCONN:
            message = "the mount's daemon is gone; `notifyfs umount MOUNTPOINT`, then mount again"
        raise OSError(number, message, shown) from None


class Connection:
    """One connection to a mount's daemon, which is one inotify instance; closing it frees all its watches.

    With *event_fd* events have a descriptor of their own, and one thread may read them
    while others make requests. Without it (the only way through a forwarded socket) events share
    the stream with the replies and one thread must do everything: a request may take in events
    that ``fileno()`` then no longer announces, so call ``read(0)`` before waiting for it.

    Args:
        socket_path: from ``find_socket``, or the local end of a forwarded socket.
        event_fd: as above.
        timeout: seconds that the daemon may take to answer, None for ever; TimeoutError after that.

    Raises OSError: the socket cannot be reached; EMFILE, the user has ``max_user_instances``;
    EPROTO, whoever answers does not speak the protocol.

    """

    def __init__(self, socket_path: str, *, event_fd: bool = False, timeout: float | None = None) -> None:
        self.socket_path = socket_path
        self.timeout = timeout
        self._lock = threading.Lock()
        self._parser = Parser()
        self._events: deque[Record] = deque()
        self._replies: deque[Record] = deque()
        self._received: list[int] = []
        self._number = 0
        self._hung_up = False
        self._ended = False
        self._limit = 1
        self._event_socket: socket.socket | None = None
        self._socket = _connect(socket_path, timeout)
        try:
            greeted = self._request(requests.HELLO, requests.EVENT_FD if event_fd else 0, requests.GREETING)
            self.hello: dict[str, Any] = json.loads(greeted.name)
            """The daemon's answer: ``version``, ``mountpoint``, ``source`` and the limits in force."""
            self._limit = 2 * (int(self.hello["max_queued_events"]) + 1)  # each with an origin; and the overflow
            if event_fd:
                self._event_socket = socket.socket(fileno=self._received.pop())
                self._event_socket.settimeout(0)
        except (ValueError, LookupError) as error:
            self._socket.close()
            raise OSError(errno.EPROTO, f"not a notifyfs control socket ({error!r})", socket_path) from None
        except BaseException:
            self._socket.close()
            raise

    def add_watch(self, mask: int, path: bytes = b"", *, filter: Filter | None = None) -> int:  # noqa: A002 - what it is
        """Watch *path*, relative to the mount's root (empty: the root); the watch descriptor.

        *filter*: what is told of it; None: everything, or what it was if the mask has ``MASK_ADD``.

        OSError as ``docs/protocol.md`` lists: EINVAL, EEXIST, ENOTDIR, ENOENT, EACCES, EXDEV, ENOSPC...
        For a refused rule of the filter its text names the rule.
        """
        if b"\0" in path:
            raise ValueError("embedded null byte")
        if len(path) >= MAX_LEN:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        return self._add(mask, path, None, filter)

    def add_watch_fd(self, mask: int, descriptor: int, *, filter: Filter | None = None) -> int:  # noqa: A002 - as above
        """Watch the file that *descriptor* (``O_PATH`` is enough) refers to; the watch descriptor.

        OSError as for ``add_watch``; EXDEV when the file is not on this mount.
        """
        return self._add(mask, b"", descriptor, filter)

    def remove_watch(self, wd: int) -> None:
        """End a watch; IGNORED follows. OSError: EINVAL for an unknown *wd*."""
        if wd <= 0:  # other requests have these numbers
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._request(wd, 0)

    def statistics(self, part: int = 0, first: int = 0) -> dict[str, Any]:
        """Return the daemon's counters of this instance and of the mount.

        Of another *part* (``records.STATISTICS_...``) a page: ``rows`` from number *first* on, and the number of
        the ``next`` one, or None.
        """
        counters: dict[str, Any] = json.loads(
            self._request(requests.STATISTICS, part, b"%d" % first if part else b"").name
        )
        return counters

    def pending(self) -> int:
        """Bytes of this instance's events that the daemon has queued and not sent yet. A barrier."""
        return self._request(requests.PENDING, 0).wd

    def sync(self, timeout: float | None = None) -> None:
        """Wait until every event of every system call that has returned is here: ``read(0)`` has them all.

        Of a flood it takes little more than ``max_queued_events``. *timeout*: seconds, instead of the connection's.
        """
        while self._request(requests.PENDING, 0, timeout=timeout).wd and self._event_socket is not None:
            if self._take() >= self._limit:
                break
        self._take()

    @overload
    def read(self, timeout: float | None = None, *, settle: None = None) -> list[Record]: ...

    @overload
    def read(self, timeout: float | None = None, *, settle: float) -> list[Record | Rename[Record]]: ...

    def read(
        self, timeout: float | None = None, *, settle: float | None = None
    ) -> list[Record] | list[Record | Rename[Record]]:
        """Events: those already here, else wait *timeout* seconds (None: for ever) for the first; [] when none came.

        With *settle* it goes on until no event has come for so many seconds, and gives each event once and
        the halves of a rename as one ``Rename``: see ``batches.Batch``. *timeout* is the limit for all of
        that; when it is over, what there is by then is given. A tree that is never quiet needs one.

        EOFError when the mount has ended and every event was read. ValueError: *settle* is negative.
        """
        deadline = deadline_in(timeout)
        return self._read(deadline) if settle is None else self._settled(deadline, settle)

    def _read(self, deadline: float | None) -> list[Record]:
        while not self._take():
            if self._ended:
                raise EOFError(f"{self.socket_path}: the mount has ended")
            if not _wait(self.fileno(), deadline):
                break
        events, self._events = self._events, deque()
        return list(events)

    def _settled(self, deadline: float | None, quiet: float) -> list[Record | Rename[Record]]:
        if not quiet >= 0:
            raise ValueError(f"{quiet}: not a time to be quiet")
        batch: Batch[Record] = Batch(lambda record: (record.wd, record.mask, record.name))
        until = deadline
        try:
            while events := self._read(until):
                for event in events:
                    batch.add(event)
                if seconds_left(deadline) == 0:  # and events without end
                    break
                until = earlier(deadline, deadline_in(quiet))
        except EOFError:
            if not batch:
                raise
        return batch.take()

    @property
    def hung_up(self) -> bool:
        """Whether no request can be made any more; events may still be unread."""
        return self._hung_up

    def fileno(self) -> int:
        """Return the descriptor that is readable when events, or the end, are there."""
        return (self._event_socket or self._socket).fileno()

    def set_inheritable(self, inheritable: bool) -> None:  # noqa: FBT001 - as os.set_inheritable
        """Whether programs that this process executes keep the instance alive."""
        for end in filter(None, (self._socket, self._event_socket)):
            end.set_inheritable(inheritable)

    def close(self) -> None:
        """End the instance; its watches go without a word."""
        self._socket.close()
        if self._event_socket is not None:
            self._event_socket.close()

    def __enter__(self) -> Self:
        """Return the connection itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _add(self, mask: int, path: bytes, descriptor: int | None, chosen: Filter | None) -> int:
        if chosen is None:
            return self._request(requests.ADD, mask, path, descriptor=descriptor).wd
        return self._request(requests.ADD, mask | X_FILTER, path, descriptor=descriptor, rules=chosen.to_send()).wd

    def _request(  # noqa: PLR0913 - the parts of a request
        self,
        wd: int,
        mask: int,
        name: bytes = b"",
        *,
        descriptor: int | None = None,
        timeout: float | None = None,
        rules: Sequence[Rule] = (),
    ) -> Record:
        """Send one request, after *rules* for its filter, and return its reply; OSError for a negative one."""
        with self._lock:
            deadline = deadline_in(self.timeout if timeout is None else timeout)
            drafts = [Record(requests.FILTER, rule.kind, self._next_number(), rule.value) for rule in rules]
            request = Record(wd, mask, self._next_number(), name)
            try:
                self._send(b"".join(map(bytes, drafts)), None, deadline)
                self._send(bytes(request), descriptor, deadline)
            except TimeoutError:
                if rules:  # those that were sent would become part of the next filter
                    self._socket.shutdown(socket.SHUT_RDWR)
                raise
            for rule, draft in zip(rules, drafts, strict=True):
                reply = self._reply(draft.cookie, deadline)
                if reply.wd < 0:
                    raise rule.refused(-reply.wd)
            return _checked(self._reply(request.cookie, deadline), name)

    def _next_number(self) -> int:
        self._number = self._number % 0xFFFFFFFF + 1
        return self._number

    def _reply(self, number: int, deadline: float | None) -> Record:
        while True:
            # A reply with another number answers a request that was given up on.
            while self._replies:
                reply = self._replies.popleft()
                if reply.cookie == number:
                    return reply
            if self._hung_up:
                raise ConnectionResetError(errno.ECONNRESET, "the mount has ended", self.socket_path)
            if not _wait(self._socket.fileno(), deadline):
                raise self._too_late()
            self._receive()

    def _send(self, data: bytes, descriptor: int | None, deadline: float | None) -> None:
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        while data:
            try:
                data = data[self._socket.sendmsg([data], rights, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                # The daemon takes no further request before its replies have room.
                if not _wait(self._socket.fileno(), deadline, select.POLLIN | select.POLLOUT):
                    raise self._too_late() from None
                self._receive()
            except (BrokenPipeError, ConnectionResetError):
                return  # nobody listens any more: the end of file says so, or a last reply says why (EMFILE)
            else:
                rights = []

    def _too_late(self) -> TimeoutError:
        return TimeoutError(errno.ETIMEDOUT, "the mount's daemon does not answer", self.socket_path)

    def _receive(self) -> None:
        """Take in what the stream holds, sorted into replies and events."""
        size = _BATCH
        while size == _BATCH:
            try:
                data, control, _, _ = self._socket.recvmsg(_BATCH, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except ConnectionResetError:  # said once, where the daemon left a request unread; more follows
                continue
            size = len(data)
            self._hung_up = not data
            for _, _, payload in control:
                self._received += array.array("i", payload)
            self._parser.feed(data)
            try:
                for record in self._parser:
                    (self._replies if record.mask & X_REPLY else self._events).append(record)
            except FramingError as error:
                self._hung_up = True
                raise OSError(errno.EPROTO, f"not a notifyfs control socket ({error!r})", self.socket_path) from None
        if self._event_socket is None:
            self._ended = self._hung_up

    def _take(self) -> int:
        """Take in the events that have arrived; how many are here."""
        if self._event_socket is None:
            with self._lock:
                self._receive()
            return len(self._events)
        while not self._ended and len(self._events) < self._limit:
            try:
                packet = self._event_socket.recv(_PACKET)
            except BlockingIOError:
                break
            except ConnectionResetError:  # said once; what was sent before can still be read
                continue
            if packet:
                self._events.append(_record(packet))
            else:
                self._ended = True
        return len(self._events)


def _connect(socket_path: str, timeout: float | None) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.settimeout(timeout)
    try:
        if len(os.fsencode(socket_path)) <= _SUN_PATH:
            end.connect(socket_path)
        else:
            place = os.open(socket_path, os.O_PATH | os.O_CLOEXEC)
            try:
                end.connect(f"/proc/self/fd/{place}")
            finally:
                os.close(place)
    except OSError as error:
        end.close()
        message = f"cannot reach the mount's daemon: {error.strerror or error}; `notifyfs list` shows the living mounts"
        raise OSError(error.errno or errno.ETIMEDOUT, message, socket_path) from None
    except BaseException:
        end.close()
        raise
    end.settimeout(0)  # a timeout or MSG_DONTWAIT would not do: Python waits by itself then
    return end


def _checked(reply: Record, name: bytes) -> Record:
    if reply.wd < 0:
        raise OSError(-reply.wd, _REMEDIES.get(-reply.wd) or os.strerror(-reply.wd), name or None)
    return reply


def _record(packet: bytes) -> Record:
    wd, mask, cookie, size = records.HEADER.unpack_from(packet)
    name = packet[records.HEADER.size : records.HEADER.size + size]
    return Record(wd, mask, cookie, name if records.carries_origin(wd, mask) else name.partition(b"\0")[0])


def deadline_in(seconds: float | None) -> float | None:
    """When *seconds* will have passed, on the monotonic clock; None (never) for None and for negative ones."""
    return None if seconds is None or seconds < 0 else time.monotonic() + seconds


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines; None is never."""
    return min((deadline for deadline in (one, other) if deadline is not None), default=None)


def seconds_left(deadline: float | None) -> float | None:
    """How long it is until *deadline*: 0 or more, at most ``LONGEST_WAIT``; None when there is none."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), LONGEST_WAIT)


def _wait(descriptor: int, deadline: float | None, what: int = select.POLLIN) -> bool:
    poll = select.poll()
    poll.register(descriptor, what)
    left = seconds_left(deadline)
    return bool(poll.poll(None if left is None else left * 1000))
