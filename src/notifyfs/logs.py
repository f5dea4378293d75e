"""Where the daemon's log goes, and that it never stands in the way.

The main loop logs, so a log that blocks (a pipe that nobody reads) would block the mount, and a
log that fails (a full disk) must not print tracebacks of its own.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from notifyfs.mounts import MountError

if TYPE_CHECKING:
    from notifyfs.options import Options

_STDERR: Final = 2
_PIPE_BUF: Final = 4096  # what poll(2) promises to be writable at once (pipe(7))


def configure(options: Options) -> None:
    """Log to the file that *options* names, else to standard error, else (in the background) to syslog.

    MountError: the file cannot be opened.
    """
    handler: logging.Handler
    if options.log is not None:
        try:
            handler = logging.FileHandler(options.log)
        except OSError as error:
            raise MountError(f"{options.log}: the log: {error.strerror}; choose another with -o log=FILE") from error
    elif os.isatty(_STDERR) or os.fstat(_STDERR).st_rdev != os.stat(os.devnull).st_rdev:
        handler = Unhurried()
    elif os.path.exists("/dev/log"):
        handler = logging.handlers.SysLogHandler("/dev/log")
    else:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("notifyfs[%(process)d]: %(levelname)s: %(message)s"))
    logging.raiseExceptions = False
    # trio tells there of an accept(2) that found no descriptor left, and tries again: one line is enough.
    logging.getLogger("trio.serve_listeners").addFilter(_without_traceback)
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.INFO, handlers=[handler], force=True)


class Unhurried(logging.Handler):
    """Writes to standard error what it takes at once, and drops the rest."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, cut to what a pipe takes whole."""
        line = os.fsencode(self.format(record))[: _PIPE_BUF - 1] + b"\n"
        with suppress(OSError):  # nobody there: nobody to tell
            if select.select([], [_STDERR], [], 0)[1]:
                os.write(_STDERR, line)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = record.exc_text = None
    return True
