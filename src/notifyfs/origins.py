"""Who did it: process, user and command of the caller of an operation."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from notifyfs.core.wire import Origin

if TYPE_CHECKING:
    from pyfuse3 import RequestContext


class Caller:
    """The caller of one operation, or of the open(2) that later operations came through.

    FUSE names the *thread*. Its process and command are read from /proc when they are first
    asked for, which must be while the caller is still blocked in the operation; 0 and an empty
    command mean that they were not visible (gone, or in another pid namespace).
    """

    __slots__ = ("_comm", "_pid", "gid", "thread", "uid")

    def __init__(self, context: RequestContext) -> None:
        self.thread = context.pid
        self.uid = context.uid
        self.gid = context.gid
        self._pid = -1
        self._comm = b""

    def look(self) -> None:
        """Read process and command now."""
        self._pid = 0
        try:
            with open(f"/proc/{self.thread}/status", "rb") as status:
                for line in status:
                    if line.startswith(b"Tgid:"):
                        self._pid = int(line[5:])
                        break
            with open(f"/proc/{self._pid}/comm", "rb") as comm:
                self._comm = comm.read().rstrip(b"\n")[:15]
        except (OSError, ValueError):
            return

    def origin(self, sequence: int) -> Origin:
        """The origin of the event with this number, at this moment."""
        if self._pid < 0:
            self.look()
        return Origin(sequence, time.time_ns(), self._pid, self.uid, self.gid, 0, self._comm)
