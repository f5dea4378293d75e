"""Who did it: process, user and command of the caller of an operation."""

from __future__ import annotations

import os
import time
from typing import Final

from notifyfs.core.wire import Origin

_CAP_FSETID: Final = 1 << 4


class Caller:
    """The caller of one operation, or of the open(2) that later operations came through.

    FUSE names the *thread*. Its process and command are read from /proc when they are first
    asked for, which must be while the caller is still blocked in the operation; 0 and an empty
    command mean that they were not visible (gone, or in another pid namespace).
    """

    __slots__ = ("_comm", "_pid", "gid", "thread", "uid")

    def __init__(self, thread: int, uid: int, gid: int) -> None:
        self.thread = thread
        self.uid = uid
        self.gid = gid
        self._pid = -1
        self._comm = b""

    @property
    def process(self) -> int:
        """Process (thread group) id; 0 when it was not visible."""
        self.look()
        return self._pid

    def look(self) -> None:
        """Read process and command, once."""
        if self._pid >= 0:
            return
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
        self.look()
        return Origin(sequence, time.time_ns(), self._pid, self.uid, self.gid, 0, self._comm)


def descriptor_path(thread: int) -> bytes:
    """The path of the descriptor that *thread* passed to the system call it is blocked in, or b"".

    FUSE does not say through which descriptor fchmod(2) and its like come; the first argument in
    /proc/TID/syscall (proc(5)) does, and its link shows the entry that it was opened through.
    """
    try:
        with open(f"/proc/{thread}/syscall", "rb") as call:
            descriptor = int(call.read().split()[1], 16)
        return os.readlink(b"/proc/%d/fd/%d" % (thread, descriptor)).removesuffix(b" (deleted)")
    except (OSError, ValueError, IndexError):
        return b""  # gone, another user's, or no descriptor (a path, AT_FDCWD)


def keeps_setuid(thread: int) -> bool:
    """Whether *thread* has CAP_FSETID: its writing leaves setuid and setgid as they are (capabilities(7))."""
    try:
        with open(f"/proc/{thread}/status", "rb") as status:
            return any(int(line[7:], 16) & _CAP_FSETID for line in status if line.startswith(b"CapEff:"))
    except (OSError, ValueError):
        return False  # gone or not visible: as for most
