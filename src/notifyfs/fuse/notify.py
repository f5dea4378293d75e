"""Notes to the kernel: what it must ask again, and whether it has finished.

pyfuse3 can invalidate an entry, which unhashes it: an open file then seems deleted
(``/proc/self/fd``, getcwd(3)) and the kernel's own IN_EXCL_UNLINK watches fall silent. What is
needed here is less: to end an entry's timeout, and to know when an operation is over. Both are written
to the FUSE descriptor as FUSE_NOTIFY_INVAL_ENTRY, from threads: the kernel takes the directory's
lock for it, which an operation may hold that this daemon has not answered yet. Dropping a file's
pages waits for reads under way, and so belongs here too.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.fuse import device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_NO_NAME: Final = b"/"  # never a name: the kernel takes the lock, finds nothing, and changes nothing

_MOST_WRITERS: Final = 16
"""Threads. Each but one sleeps for a lock that an operation holds for long, as one does on a source that hangs: where
so many hang, what comes after them mostly waits for the same source, and more threads would wait with it."""
_MOST_WAITING: Final = 1000
"""Tasks of one inode: who asks so often while its lock is held does not wait for the answers."""


@attrs.define
class _Task:
    write: Callable[[], None]
    note: bool
    """That ``flush`` waits for; not a question."""
    done: Callable[[], None] | None = None
    """What is called once, when it is written; of a question."""

    def end(self) -> None:
        """It is written, or need not be any more."""
        done, self.done = self.done, None
        if done is not None:
            done()


def _in_thread(run: Callable[[], None]) -> None:
    threading.Thread(target=run, name="notify", daemon=True).start()


class Notify:
    """Writes notes from threads of its own. Those about one inode keep their order, and wait for nobody else's.

    *waits*, *expires*: what ``probe`` has found. *start* is given what a writer does, and is to do it in a thread.
    Mostly there is one writer; ``relieve`` adds one, and one that is not needed any more ends.
    """

    def __init__(
        self, fuse: int, *, waits: bool, expires: bool, start: Callable[[Callable[[], None]], None] = _in_thread
    ) -> None:
        self._fuse = fuse
        self._waits = waits
        self._expires = expires
        self._start = start
        self._lock = threading.Lock()
        self._lanes: dict[int, deque[_Task]] = {}
        """By inode: the tasks under way and waiting. One writer at a time has a lane."""
        self._ready: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """The lanes that no writer has."""
        self._taken: set[int] = set()
        """The lanes that writers have."""
        self._writers = 0
        self._idle = 0
        """Writers that wait for a lane."""
        self._add_writer()

    def expire(self, parent: int, name: bytes) -> None:
        """Let the next use of *name* in the directory with node number *parent* begin with a LOOKUP.

        Where FUSE_EXPIRE_ONLY is unknown this does nothing: it would be taken for padding, and the entry unhashed.
        """
        if self._expires:
            self._put(parent, _Task(lambda: self._write(device.expire_entry, parent, name), note=True))

    def forget_attributes(self, number: int) -> None:
        """Let the kernel ask for the attributes and the access list of this node before it uses them again.

        At once, and from any handler: no lock is taken for this.
        """
        self._write(device.forget_attributes, number)

    def drop_pages(self, number: int) -> None:
        """Let the next read of the file with this node number ask for its content again."""
        self._put(number, _Task(lambda: self._write(device.drop_pages, number), note=True))

    def ask(self, number: int, names: Sequence[bytes], done: Callable[[], None]) -> None:
        """Call *done* once the operations on this inode have ended in the kernel too, or nobody can see otherwise.

        From a writer's thread; at once if too many ask. An answered unlink still has its entry hashed until its caller
        has run, an answered write its file's old size; the lock of the directory or the file is free only after that.

        *names*: those in this directory that were made, moved or removed. They serve kernels that do not wait for that:
        whoever uses one of them, or the attributes, next asks us.
        """
        expired: Sequence[bytes] = (_NO_NAME,)
        if not self._waits:
            self.forget_attributes(number)
            expired = names if self._expires else ()

        def write() -> None:
            for name in expired:
                self._write(device.expire_entry, number, name)

        if not self._put(number, _Task(write, note=False, done=done)):
            done()

    def flush(self, done: Callable[[], None]) -> None:
        """Call *done* once all that was to expire or be dropped until now has been written; at once if nothing is."""
        with self._lock:
            lanes = [lane for lane in self._lanes.values() if any(task.note for task in lane)]
            left = len(lanes)

            def passed() -> None:
                nonlocal left
                with self._lock:
                    left -= 1
                    last = not left
                if last:
                    done()

            for lane in lanes:
                lane.append(_Task(passed, note=True))
        if not lanes:
            done()

    def relieve(self) -> None:
        """Add a writer if tasks wait and all writers are busy: for who has waited for milliseconds, and waits on.

        If there are as many as there may be, all of them sleep for locks that are held: questions about anything else
        are answered unasked, or who keeps so many directories locked would hold up everybody's events.
        """
        with self._lock:
            if self._idle or self._ready.empty():
                return
            waiting: list[_Task] = []
            if self._writers >= _MOST_WRITERS:
                free = (lane for number, lane in self._lanes.items() if number not in self._taken)
                waiting = [task for lane in free for task in lane]
        if not waiting:
            self._add_writer()
        for task in waiting:
            task.end()

    def close(self) -> None:
        """End the writers, each once it is not busy."""
        self._ready.put(None)

    def _put(self, number: int, task: _Task) -> bool:
        """Whether it could be put; else too many wait for this inode."""
        with self._lock:
            lane = self._lanes.get(number)
            if lane is None:
                self._lanes[number] = deque((task,))
                self._ready.put(number)
            elif len(lane) < _MOST_WAITING:
                lane.append(task)
            else:
                log.warning("the kernel does not take notes: an event may come before its change can be seen")
                return False
        return True

    def _add_writer(self) -> None:
        with self._lock:
            self._writers += 1
            self._idle += 1
        try:
            self._start(self._run)
        except RuntimeError:  # no thread can be had: those that are there have to do
            log.warning("no thread for notes to the kernel", exc_info=True)
            with self._lock:
                self._writers -= 1
                self._idle -= 1

    def _run(self) -> None:
        """What a writer does."""
        while (number := self._ready.get()) is not None:
            with self._lock:
                self._idle -= 1
                self._taken.add(number)
                task = self._lanes[number][0]
            try:
                if task.note or task.done is not None:
                    task.write()
            except Exception:
                log.exception("a note to the kernel failed")
            try:
                task.end()
            except Exception:
                log.exception("answering a question to the kernel failed")
            if not self._go_on(number):
                return
        self._ready.put(None)  # for the next writer

    def _go_on(self, number: int) -> bool:
        """The first task of this lane is done. Whether the writer that did it is needed."""
        with self._lock:
            self._taken.remove(number)
            lane = self._lanes[number]
            lane.popleft()
            if lane:
                self._ready.put(number)
            else:
                del self._lanes[number]
            if self._idle and self._ready.empty():
                self._writers -= 1
                return False
            self._idle += 1
            return True

    def _write(self, note: Callable[..., None], *about: object) -> None:
        try:
            note(self._fuse, *about)
        except (FileNotFoundError, NotADirectoryError):
            pass  # the kernel does not remember it, or no entry was meant: just as good
        except OSError as error:
            log.debug("note: %s", error)  # unmounted meanwhile
