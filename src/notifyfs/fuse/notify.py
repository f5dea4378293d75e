"""Notes to the kernel: what it must ask again, and whether it has finished.

pyfuse3 can invalidate an entry, which unhashes it: an open file then seems deleted
(``/proc/self/fd``, getcwd(3)) and the kernel's own IN_EXCL_UNLINK watches fall silent. What is
needed here is less: to end an entry's timeout, and to wait for an inode's lock. Both are written
to the FUSE descriptor as FUSE_NOTIFY_INVAL_ENTRY, from a thread: the kernel takes the directory's
lock for it, which an operation may hold that this daemon has not answered yet. Dropping a file's
pages waits for reads under way, and so belongs here too.
"""

from __future__ import annotations

import logging
import os
import queue
import struct
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_NOTIFY_INVAL_INODE: Final = 2
_NOTIFY_INVAL_ENTRY: Final = 3
_EXPIRE_ONLY: Final = 1
_HEADER: Final = struct.Struct("=IiQ")  # struct fuse_out_header
_ENTRY: Final = struct.Struct("=QII")  # struct fuse_notify_inval_entry_out
_INODE: Final = struct.Struct("=Qqq")  # struct fuse_notify_inval_inode_out
_NO_NAME: Final = b"/"  # never a name: the kernel takes the lock, finds nothing, and changes nothing

_MOST_WAITING: Final = 10000


class Notes:
    """Writes notes from a thread of its own, in order."""

    def __init__(self, fuse: int) -> None:
        self._fuse = fuse
        self._tasks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="notes", daemon=True).start()

    def expire(self, parent: int, name: bytes) -> None:
        """Let the next use of *name* in the directory with node number *parent* begin with a LOOKUP.

        Not on Linux before 6.2, which takes FUSE_EXPIRE_ONLY for padding and would unhash the entry.
        """
        if _KNOWS_EXPIRE:
            self._put(lambda: self._write(_NOTIFY_INVAL_ENTRY, _entry(parent, name)))

    def forget_attributes(self, number: int) -> None:
        """Let the kernel ask for the attributes and the access list of this node before it uses them again.

        At once, and from any handler: no lock is taken for this (kernel: ``fuse_reverse_inval_inode``).
        """
        self._write(_NOTIFY_INVAL_INODE, _INODE.pack(number, -1, 0))

    def drop_pages(self, number: int) -> None:
        """Let the next read of the file with this node number ask for its content again."""
        self._put(lambda: self._write(_NOTIFY_INVAL_INODE, _INODE.pack(number, 0, 0)))

    def settle(self, inodes: frozenset[int], done: Callable[[], None]) -> None:
        """Call *done* from the thread once the operations on these inodes have ended in the kernel too.

        An answered unlink still has its entry hashed until its caller has run, an answered write its
        file's old size; the lock of the directory or the file is free only after that.
        """

        def write() -> None:
            for number in inodes:
                self._write(_NOTIFY_INVAL_ENTRY, _entry(number, _NO_NAME))
            done()

        if not self._put(write):
            done()

    def _put(self, task: Callable[[], object]) -> bool:
        if self._tasks.qsize() >= _MOST_WAITING:
            log.warning("the kernel does not take notes: an event may come before its change can be seen")
            return False
        self._tasks.put(task)
        return True

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except Exception:
                log.exception("a note to the kernel failed")

    def _write(self, code: int, body: bytes) -> None:
        try:
            os.write(self._fuse, _HEADER.pack(_HEADER.size + len(body), code, 0) + body)
        except (FileNotFoundError, NotADirectoryError):
            pass  # the kernel does not remember it, or no entry was meant: just as good
        except OSError as error:
            log.debug("note %d: %s", code, error)  # unmounted meanwhile


def _entry(parent: int, name: bytes) -> bytes:
    return _ENTRY.pack(parent, len(name), _EXPIRE_ONLY) + name + b"\0"


def _knows_expire() -> bool:
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (6, 2)


_KNOWS_EXPIRE: Final = _knows_expire()
