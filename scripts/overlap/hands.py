# ruff: noqa: D102 - the verbs are their system calls
"""What a process of the overlap fuzzer does: one system call for each verb, timed."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from tests.support import kernel

from scripts.overlap.log import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

ATTRIBUTE = "user.a"
NOWHERE = "nowhere/nothing"
"""What every symbolic link says: no operation goes through one."""


class Hands:
    """One process's open files in the tree at *base*."""

    def __init__(self, process: int, base: str) -> None:
        self.process = process
        self.log: list[Operation] = []
        self.handles: dict[str, int] = {}
        self._base = base
        self._at = -1

    def do(self, verb: str, *words: str) -> bool:
        """Do it and write it down; whether it succeeded."""
        call: Callable[..., None] = getattr(self, verb)
        self._at = -1
        done = Operation(self.process, verb, list(words), 0, 0, 0, 0, "")
        arguments = [*words]
        if verb in OF_PATHS:
            arguments[0] = os.path.join(self._base, words[0])
        if verb in OF_TWO_PATHS:
            arguments[1] = os.path.join(self._base, words[1])
        done.since, done.begin = time.time_ns(), time.monotonic_ns()
        try:
            call(*arguments)
        except OSError as error:
            done.result = errno.errorcode[error.errno or 0]
        done.end, done.until = time.monotonic_ns(), time.time_ns()
        done.at = self._at
        if verb in OPENING and not done.result:
            done.ino = os.fstat(self.handles[words[-1]]).st_ino
        if verb == "append" and not done.result:
            done.at = os.lseek(self.handles[words[0]], 0, os.SEEK_CUR)
        self.log.append(done)
        return not done.result

    # Names

    def create(self, path: str, mode: str, handle: str) -> None:
        self.handles[handle] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, int(mode, 8))

    def open(self, path: str, how: str, handle: str) -> None:
        bits = 0
        for word in how.split("|"):
            bits |= getattr(os, f"O_{word}")
        self.handles[handle] = os.open(path, bits, 0o666)

    def mkdir(self, path: str) -> None:
        os.mkdir(path, 0o777)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def symlink(self, path: str) -> None:
        os.symlink(NOWHERE, path)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def exchange(self, old: str, new: str) -> None:
        kernel.rename(os.fsencode(old), os.fsencode(new), "exchange")

    def link(self, old: str, new: str) -> None:
        os.link(old, new)

    # Files by name

    def stat(self, path: str) -> None:
        os.stat(path)

    def truncate(self, path: str, size: str) -> None:
        os.truncate(path, int(size))

    def chmod(self, path: str, mode: str) -> None:
        os.chmod(path, int(mode, 8))

    def utimes(self, path: str) -> None:
        os.utime(path)

    def setxattr(self, path: str, value: str) -> None:
        os.setxattr(path, ATTRIBUTE, value.encode())

    def removexattr(self, path: str) -> None:
        os.removexattr(path, ATTRIBUTE)

    # Files by handle

    def write(self, handle: str, offset: str, size: str) -> None:
        os.pwrite(self.handles[handle], b"w" * int(size), int(offset))

    def append(self, handle: str, size: str) -> None:
        os.write(self.handles[handle], b"a" * int(size))

    def read(self, handle: str, size: str) -> None:
        os.pread(self.handles[handle], int(size), 0)

    def peek(self, handle: str) -> None:
        """Read through a map; of a file that nobody truncates."""
        page = kernel.Map(self.handles[handle], shared=False)
        page.peek()
        page.close()

    def ftruncate(self, handle: str, size: str) -> None:
        os.ftruncate(self.handles[handle], int(size))

    def fchmod(self, handle: str, mode: str) -> None:
        os.fchmod(self.handles[handle], int(mode, 8))

    def futimes(self, handle: str) -> None:
        os.utime(self.handles[handle])

    def fsetxattr(self, handle: str, value: str) -> None:
        os.setxattr(self.handles[handle], ATTRIBUTE, value.encode())

    def fsync(self, handle: str) -> None:
        os.fsync(self.handles[handle])

    def list(self, handle: str) -> None:
        os.lseek(self.handles[handle], 0, os.SEEK_SET)
        while kernel.getdents(self.handles[handle]):
            pass

    def close(self, handle: str) -> None:
        """And wait for a request behind it: close(2) may return before it is told."""
        os.close(self.handles.pop(handle))
        os.statvfs(self._base)


OPENING = frozenset({"create", "open"})
OF_TWO_PATHS = frozenset({"rename", "exchange", "link"})
OF_PATHS = OPENING | OF_TWO_PATHS | {"mkdir", "rmdir", "unlink", "symlink"}
OF_PATHS |= {"stat", "truncate", "chmod", "utimes", "setxattr", "removexattr"}
