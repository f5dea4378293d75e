"""Who did it: process, user and command of the caller of an operation."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from notifyfs.protocol.records import Origin

if TYPE_CHECKING:
    from collections.abc import Iterator


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

    def origin(self, number: int) -> Origin:
        """The origin of the change with this number, at this moment."""
        self.look()
        return Origin(number, time.time_ns(), self._pid, self.uid, self.gid, 0, self._comm)


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


def appends(thread: int, number: int) -> bool | None:
    """Whether a descriptor by which *thread* writes to inode *number* has O_APPEND.

    None: it has no such descriptor, or is gone.
    """
    writing = [flags for flags in _descriptors(thread, number) if flags & os.O_ACCMODE]
    return any(flags & os.O_APPEND for flags in writing) if writing else None


def holds(thread: int, number: int) -> bool:
    """Whether *thread* has a descriptor of inode *number*; of this mount, or another."""
    return any(True for _ in _descriptors(thread, number))


def _descriptors(thread: int, number: int) -> Iterator[int]:
    """Yield open(2)'s flags of each descriptor that *thread* has of an inode *number* (/proc/PID/fdinfo, proc(5))."""
    with suppress(OSError):
        for descriptor in os.listdir(f"/proc/{thread}/fdinfo"):
            with suppress(OSError, ValueError, KeyError), open(f"/proc/{thread}/fdinfo/{descriptor}", "rb") as file:
                about = dict(line.split(b":", 1) for line in file if line.startswith((b"flags:", b"ino:")))
                if int(about[b"ino"]) == number:
                    yield int(about[b"flags"], 8)


class Credentials(NamedTuple):
    """What a thread may do beyond its user and group."""

    groups: tuple[int, ...] = ()
    """Supplementary groups."""
    capabilities: int = 0
    """Effective ones (capabilities(7)), a mask."""


def credentials(thread: int) -> Credentials | None:
    """Credentials of *thread*, while it is blocked in its system call.

    None where they cannot be told: it is not visible, or may do in a user namespace what is not ours to judge.
    """
    try:
        who = _status(thread)
        if who.capabilities and os.readlink(f"/proc/{thread}/ns/user") != os.readlink("/proc/self/ns/user"):
            return None
    except (OSError, ValueError):
        return None
    return who


def groups(thread: int) -> tuple[int, ...]:
    """Supplementary groups of *thread*, while it is blocked in its system call; none where it is not visible."""
    try:
        return _status(thread).groups
    except (OSError, ValueError):
        return ()


def _status(thread: int) -> Credentials:
    found: tuple[int, ...] = ()
    capabilities = 0
    with open(f"/proc/{thread}/status", "rb") as status:
        for line in status:
            if line.startswith(b"Groups:"):
                found = tuple(map(int, line.split()[1:]))
            elif line.startswith(b"CapEff:"):
                capabilities = int(line[7:], 16)
    return Credentials(found, capabilities)
