"""One connection to a mount's daemon: ``protocol.session`` on a blocking socket."""

from __future__ import annotations

import array
import errno
import json
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any, Final, Self, overload

from notifyfs.client.batches import Batch
from notifyfs.client.errors import no_more_events, reply_to
from notifyfs.client.waiting import Waiting, deadline_in, earlier, seconds_left
from notifyfs.protocol.session import LONGEST_PACKET, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from notifyfs.client.batches import Rename
    from notifyfs.client.filters import Filter, Rule
    from notifyfs.protocol.records import Record
    from notifyfs.protocol.session import Call

ATTRIBUTE: Final = "notifyfs.socket"
"""The extended attribute that names the control socket, on every inode of a mount."""

_BATCH: Final = 1 << 16
_SUN_PATH: Final = 107  # unix(7): sun_path holds 108 bytes, one of them the NUL


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

    With *event_fd* events have a descriptor of their own. Without it (the only way through a forwarded socket) they
    share the stream with the replies: a request may take in events that ``fileno()`` then no longer announces, so call
    ``read(0)`` before waiting for it.

    Threads may use one connection at the same time; an event goes to one of those that read. ``close()`` wakes those
    that wait, in a read or for an answer. After that, and in a child process after a fork, every method but ``close()``
    raises OSError with EBADF: a connection belongs to the process that made it, and a child makes its own. What a child
    closes is its copy; the watches last until the connection is closed in every process that has one.

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
        self._owner = os.getpid()
        self._closed = False
        self._lock = threading.RLock()  # around the session; held while nothing waits. A signal handler may close
        self._session = Session(event_fd=event_fd)
        self._event_socket: socket.socket | None = None
        self._socket = _connect(socket_path, timeout)
        self._for_answers = self._for_events = Waiting(self._lock, self._socket)
        try:
            with self._lock:
                self._complete(self._session.greeting, deadline_in(timeout))
            reply_to(self._session.greeting, self._session, socket_path)
            if event_fd:
                self._event_socket = socket.socket(fileno=self._session.descriptors.pop(0))
                self._event_socket.settimeout(0)
                self._for_events = Waiting(self._lock, self._event_socket)
        except BaseException:
            self.close()
            raise
        self.hello: dict[str, Any] = self._session.hello
        """The daemon's answer: ``version``, ``mountpoint``, ``source`` and the limits in force."""
        self._limit = 2 * (int(self.hello["max_queued_events"]) + 1)  # each with an origin; and the overflow

    def add_watch(self, mask: int, path: bytes = b"", *, filter: Filter | None = None) -> int:  # noqa: A002 - what it is
        """Watch *path*, relative to the mount's root (empty: the root); the watch descriptor.

        *filter*: what is told of it; None: everything, or what it was if the mask has ``MASK_ADD``.

        OSError as ``docs/protocol.md`` lists: EINVAL, EEXIST, ENOTDIR, ENOENT, EACCES, EXDEV, ENOSPC...
        For a refused rule of the filter its text names the rule.
        """
        return self._add(mask, path, None, filter)

    def add_watch_fd(self, mask: int, descriptor: int, *, filter: Filter | None = None) -> int:  # noqa: A002 - as above
        """Watch the file that *descriptor* (``O_PATH`` is enough) refers to; the watch descriptor.

        OSError as for ``add_watch``; EXDEV when the file is not on this mount.
        """
        return self._add(mask, b"", descriptor, filter)

    def remove_watch(self, wd: int) -> None:
        """End a watch; IGNORED follows. OSError: EINVAL for an unknown *wd*."""
        self._request(lambda: self._session.remove(wd))

    def statistics(self, part: int = 0, first: int = 0) -> dict[str, Any]:
        """Return the daemon's counters of this instance and of the mount.

        Of another *part* (``requests.STATISTICS_...``) a page: ``rows`` from number *first* on, and the number of
        the ``next`` one, or None.
        """
        counters: dict[str, Any] = json.loads(self._request(lambda: self._session.statistics(part, first)).name)
        return counters

    def pending(self) -> int:
        """Bytes of this instance's events that the daemon has queued and not sent yet. A barrier."""
        return self._request(self._session.pending).wd

    def sync(self, timeout: float | None = None) -> None:
        """Wait until every event of every system call that has returned is here: ``read(0)`` has them all.

        Of a flood it takes little more than ``max_queued_events``. *timeout*: seconds, instead of the connection's.
        """
        while True:
            waiting = self._request(self._session.pending, timeout=timeout).wd
            with self._lock:
                self._check_open()
                if self._take() >= self._limit or not waiting or self._event_socket is None:
                    break

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

        With a *timeout* of 0 it never waits, for the daemon or another thread. EOFError when the mount has ended and
        every event was read. OSError: EBADF as above; EPROTO. ValueError: *settle* is negative.
        """
        deadline = deadline_in(timeout)
        return self._read(deadline) if settle is None else self._settled(deadline, settle)

    def _read(self, deadline: float | None) -> list[Record]:
        self._check_process()
        with self._lock:
            self._check_open()
            while not self._take():
                if self._session.ended:
                    raise no_more_events(self._session, self.socket_path)
                if seconds_left(deadline) == 0 or not self._wait(self._for_events, deadline):
                    break
            return self._session.take_events()

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
        return self._session.hung_up

    def fileno(self) -> int:
        """Return the descriptor that is readable when events, or the end, are there; -1 when closed."""
        return -1 if self._closed else (self._event_socket or self._socket).fileno()

    def set_inheritable(self, inheritable: bool) -> None:  # noqa: FBT001 - as os.set_inheritable
        """Whether programs that this process executes keep the instance alive."""
        for end in filter(None, (self._socket, self._event_socket)):
            end.set_inheritable(inheritable)

    def close(self) -> None:
        """End the instance; its watches go without a word. May be called again, and while others wait."""
        if self._owner != os.getpid():  # the lock may be held by a thread that this process does not have
            self._closed = True
            self._for_answers.close_copy()
            self._for_events.close_copy()
            return
        with self._lock:
            self._closed = True
            self._for_answers.close()
            self._for_events.close()
            while self._session.descriptors:
                os.close(self._session.descriptors.pop())

    def __enter__(self) -> Self:
        """Return the connection itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _add(self, mask: int, path: bytes, descriptor: int | None, chosen: Filter | None) -> int:
        rules = [] if chosen is None else chosen.to_send()
        sent = [(rule.kind, rule.value) for rule in rules]
        return self._request(lambda: self._session.add(mask, path, descriptor, sent), path, rules).wd

    def _request(
        self, ask: Callable[[], Call], path: bytes = b"", rules: Sequence[Rule] = (), *, timeout: float | None = None
    ) -> Record:
        """Make one request and return its reply; OSError for a negative one."""
        self._check_process()
        deadline = deadline_in(self.timeout if timeout is None else timeout)
        with self._lock:
            self._check_open()
            call = ask()
            self._complete(call, deadline)
            return reply_to(call, self._session, self.socket_path, path, rules)

    def _complete(self, call: Call, deadline: float | None) -> None:
        """Send *call*, and wait until it is over."""
        try:
            self._send()
            if self._session.sending:
                self._for_answers.changed()  # who polls has to wait for room as well
            while not call.over:
                if not self._wait(self._for_answers, deadline) and not call.over:
                    raise TimeoutError(errno.ETIMEDOUT, "the mount's daemon does not answer", self.socket_path)
                if not call.over:
                    self._send()
                    self._receive()
        finally:
            self._session.give_up(call)

    def _wait(self, waiting: Waiting, deadline: float | None) -> bool:
        """Wait for the stream or for events; False when *deadline* has passed."""
        # The daemon takes no further request before its replies have room.
        writing = waiting is self._for_answers and self._session.sending
        woken = waiting.wait(deadline, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
        self._check_open()
        return woken

    def _check_process(self) -> None:
        if self._owner != os.getpid():
            message = f"this connection belongs to process {self._owner}; make another after a fork"
            raise OSError(errno.EBADF, message, self.socket_path)

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "this connection is closed", self.socket_path)

    def _send(self) -> None:
        """Send as much as there is room for."""
        while (piece := self._session.to_send()) is not None:
            rights = array.array("i", [] if piece.descriptor is None else [piece.descriptor])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
            count = 0
            try:
                count = self._socket.sendmsg([piece.data], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except (BrokenPipeError, ConnectionResetError):
                self._session.broken_pipe()
            except OSError as error:
                self._session.unsendable(error.errno or errno.EIO)
            finally:
                self._session.sent(count)

    def _receive(self) -> None:
        """Take in what the stream holds."""
        size = _BATCH
        while size == _BATCH:
            try:
                data, control, _, _ = self._socket.recvmsg(_BATCH, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                break
            except ConnectionResetError:  # said once, where the daemon left a request unread; more follows
                continue
            size = len(data)
            received = array.array("i")
            for _, _, payload in control:
                received.frombytes(payload)
            self._session.receive(data, received)
            self._for_answers.changed()

    def _take(self) -> int:
        """Take in the events that have arrived; how many are here."""
        session = self._session
        if self._event_socket is None:
            self._send()  # what another thread could not: this one may be the one that polls
            self._receive()
            return len(session.events)
        taken = False
        while not session.ended and len(session.events) < self._limit:
            try:
                session.receive_packet(self._event_socket.recv(LONGEST_PACKET))
            except BlockingIOError:
                break
            except ConnectionResetError:  # said once; what was sent before can still be read
                continue
            taken = True
        if taken:
            self._for_events.changed()
        return len(session.events)


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
