"""Where the daemon's log goes, and that it never stands in the way.

The main loop logs, so a log that blocks (a pipe that nobody reads, a syslog that has stopped) would
block the mount, and a log that fails (a full disk) must not print tracebacks of its own.
"""

from __future__ import annotations

import abc
import errno
import logging
import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from notifyfs.mounts import MountError

if TYPE_CHECKING:
    from io import TextIOWrapper

    from notifyfs.mounts.options import Options

_STDERR: Final = 2
_PIPE_BUF: Final = 4096  # what poll(2) promises to be writable at once (pipe(7))
_SYSLOG: Final = "/dev/log"
_FACILITY: Final = 1 << 3  # LOG_USER (syslog(3))
_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def configure(options: Options) -> None:
    """Log to the file that *options* names, else to standard error, else (in the background) to syslog.

    A file that is not there is made for its owner only: with ``debug`` it names what is in private
    directories. MountError: it cannot be opened.
    """
    handler: logging.Handler
    if options.log is not None:
        try:
            handler = _PrivateFile(options.log, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise MountError(f"{options.log}: the log: {error.strerror}; choose another with -o log=FILE") from error
    elif os.isatty(_STDERR) or os.fstat(_STDERR).st_rdev != os.stat(os.devnull).st_rdev:
        handler = _StandardError()
    elif os.path.exists(_SYSLOG):
        handler = _Syslog(_SYSLOG)
    else:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("notifyfs[%(process)d]: %(levelname)s: %(message)s"))
    logging.raiseExceptions = False
    # trio tells there of an accept(2) that found no descriptor left, and tries again: one line is enough.
    logging.getLogger("trio.serve_listeners").addFilter(_without_traceback)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.INFO, handlers=[handler], force=True)


class _PrivateFile(logging.FileHandler):
    def _open(self) -> TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=private)


class _Unhurried(logging.Handler):
    """Writes what is taken at once, drops the rest, and says how much that was as soon as there is room."""

    def __init__(self) -> None:
        super().__init__()
        self._lost = 0

    @abc.abstractmethod
    def _take(self, line: str, level: int) -> None:
        """Write a line without waiting; OSError where that is not possible."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, and before it how many were lost."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as every handler of Python's: who logs must not fail for it
            self.handleError(record)
            return
        self.flush()
        try:
            self._take(line, record.levelno)
        except OSError:  # nobody there, or nobody who reads: nobody to tell now
            self._lost += 1

    def flush(self) -> None:
        """Say how many records were lost since that was said; the end of the process calls it, too."""
        if self._lost:
            line = f"notifyfs[{os.getpid()}]: WARNING: {self._lost} lines of this log are lost: nobody took them"
            with suppress(OSError):  # there still is no room
                self._take(line, logging.WARNING)
                self._lost = 0


class _StandardError(_Unhurried):
    def _take(self, line: str, level: int) -> None:  # noqa: ARG002 - every line looks the same here
        if not select.select([], [_STDERR], [], 0)[1]:
            raise BlockingIOError
        os.write(_STDERR, _bytes(line)[: _PIPE_BUF - 1] + b"\n")


class _Syslog(_Unhurried):
    def __init__(self, path: str) -> None:
        super().__init__()
        # Found by a descriptor of its directory when syslog has started anew: its path may lead through our own mount.
        directory, self._name = os.path.split(os.path.realpath(path))
        self._directory = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        self._socket: socket.socket | None = None

    def _take(self, line: str, level: int) -> None:
        priority = next((number for least, number in _PRIORITIES if level >= least), 7)
        data = b"<%d>%s\0" % (_FACILITY | priority, _bytes(line))
        fresh = self._socket is None
        try:
            self._send(data)
        except BlockingIOError:
            raise
        except OSError:
            if fresh:
                raise
            self._send(data)  # it has ended, and perhaps started anew

    def _send(self, data: bytes) -> None:
        self._socket = self._socket or self._connected()
        try:
            if self._socket.send(data) < len(data):
                raise ConnectionAbortedError  # a stream that took half: what follows would be part of this line
        except BlockingIOError:
            raise
        except OSError:
            self._socket.close()
            self._socket = None
            raise

    def _connected(self) -> socket.socket:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            found = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                found.connect(f"/proc/self/fd/{self._directory}/{self._name}")
            except OSError as error:
                found.close()
                if error.errno != errno.EPROTOTYPE:
                    raise
            else:
                return found
        raise ConnectionRefusedError


def _bytes(line: str) -> bytes:
    return line.encode(errors="backslashreplace")


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True
