"""Open files: opened, read, written, closed. Each function does it in the source, and says what was done.

What may take long is a step (``pace``), or a function of its own which touches nothing but the
descriptor, so that a thread can call it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import stat
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from notifyfs.core.changes import Change
from notifyfs.passthrough.handles import Handle, Opened, Written
from notifyfs.passthrough.pace import frees_much
from notifyfs.passthrough.permission import DROPPED_FLAGS, JUDGED
from notifyfs.passthrough.source import magic
from notifyfs.protocol.flags import ACCESS
from notifyfs.system import identity
from notifyfs.system.callers import Credentials, appends, credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

    from notifyfs.core.changes import Operation
    from notifyfs.core.entries import Entry, Inode
    from notifyfs.core.watches import Watches
    from notifyfs.passthrough.attribution import Attribution
    from notifyfs.passthrough.pace import Steps
    from notifyfs.passthrough.permission import Permission
    from notifyfs.passthrough.source import Source
    from notifyfs.system.callers import Caller

log = logging.getLogger(__name__)

PRIVILEGED: Final = stat.S_ISUID | stat.S_ISGID
_READ: Final = 128 << 10  # what the kernel reads ahead, unless told otherwise


class Files:
    """The mount's open files. OSError: the source's errno; ESTALE where the kernel must look again.

    *forget* makes the kernel ask for the attributes of the node with this number before it uses them again.
    *access* says whether reads are told: "cached" as far as the kernel asks for them, "exact" each, "off" none.
    *caches*: the kernel may keep pages from one open to the next. *most*: how many may be open at once; when
    a user has as many as there is room left, the rest is for others.
    """

    def __init__(  # noqa: PLR0913 - each is a capability, or an option, of its own
        self,
        source: Source,
        permission: Permission,
        attribution: Attribution,
        watches: Watches,
        *,
        forget: Callable[[int], None],
        access: Literal["cached", "exact", "off"] = "cached",
        caches: bool = True,
        noatime: bool = False,
        most: int = 1 << 20,
    ) -> None:
        self.handles: dict[int, Handle] = {}
        self.tells_reads = access != "off"
        self._source = source
        self._inodes = source.inodes
        self._permission = permission
        self._attribution = attribution
        self._watches = watches
        self._accounts = watches.accounts
        self._forget = forget
        self._exact = access == "exact"
        self._caches = caches
        self._reading = os.O_NOATIME if noatime else 0
        self._most = most
        self._held: Counter[int] = Counter()  # handles of each user
        self._buffer = memoryview(bytearray(_READ))
        self._probe = bytearray(1)

    # Opening

    def _check_room(self, caller: Caller) -> None:
        """ENFILE where the caller's user has its share of all that can be open; root has whatever there is."""
        if caller.uid and self._held[caller.uid] >= self._most - len(self.handles):
            raise OSError(errno.ENFILE, "too many open files of this user")

    def create(  # noqa: PLR0913, PLR0917 - open(2)'s arguments, and whose they are
        self, parent: Inode, name: bytes, mode: int, flags: int, caller: Caller, umask: int
    ) -> Steps[Opened]:
        """open(2) of a file that does not exist yet, with O_CREAT."""
        self._check_room(caller)
        into = self._source.fd(parent)
        how = flags & ~DROPPED_FLAGS | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            doubt, call = self._permission.in_doubt(parent, into, caller), partial(_create, name, how, mode & 0o7777)
            during = partial(self._source.changes, ((parent, name),))
            fd = yield from self._permission.make(doubt, caller, umask, call, into, during=during)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            # It appeared behind the mount after the kernel had looked. It must not be opened here: the
            # kernel believes that it was created, and would not check its permissions. ESTALE makes it look again.
            raise OSError(errno.ESTALE, "appeared behind the mount", name) from None
        found = os.fstat(fd)
        self._inodes.renew(found.st_dev, found.st_ino)
        entry = self._source.enter(parent, name, found)
        return self._opened("create", fd, entry, flags, caller, found)

    def open(self, inode: Inode, flags: int, caller: Caller) -> Steps[Opened]:
        """open(2) of *inode*, with O_TRUNC where *flags* has it."""
        self._check_room(caller)
        entry = self._attribution.opened(inode, caller)
        how = flags & ~DROPPED_FLAGS | self._reading
        if how & os.O_ACCMODE == os.O_ACCMODE:
            how &= ~os.O_ACCMODE  # mode 3: neither reading nor writing, for ioctl only (open(2))
        try:
            # On a file O_NONBLOCK means nothing but this.
            fd = self._source.open(inode, how | os.O_NONBLOCK)
        except BlockingIOError:  # somebody has a lease on it, and a time to give it back (fcntl(2), F_SETLEASE)
            self._inodes.use(entry)  # as the caller does: should it be removed meanwhile, it dies after that
            try:
                call = partial(_open, how | os.O_CLOEXEC)
                fd = yield from self._permission.pace.apart(caller.uid, call, self._source.fd(inode))
                found = self._admitted(fd, entry, flags, caller)
                return (yield from self._truncated(fd, entry, flags, caller, found))
            finally:
                self._inodes.drop(entry)  # who dies of that, FORGET says: the kernel has them yet
        found = self._admitted(fd, entry, flags, caller)
        if flags & os.O_TRUNC:
            return (yield from self._truncated(fd, entry, flags, caller, found))
        return self._opened("open", fd, entry, flags, caller, found)

    def _admitted(self, fd: int, entry: Entry, flags: int, caller: Caller) -> os.stat_result:
        """The attributes of *fd*, which was just opened; it is closed where the caller may not have it."""
        try:
            found = os.fstat(fd)
            if not found.st_nlink and entry.live and (entry.parent, entry.name) not in self._source.changing:
                self._check_still_there(entry)
            if self._permission.in_doubt(entry.inode, fd, caller, found):
                self._permission.check_may_open(fd, flags, caller)
        except BaseException:
            os.close(fd)
            raise
        return found

    def _truncated(self, fd: int, entry: Entry, flags: int, caller: Caller, before: os.stat_result) -> Steps[Opened]:
        """The rest of ``open``, with O_TRUNC where *flags* has it."""
        operation: Operation = "open"
        found = before
        try:
            if flags & os.O_TRUNC:
                found = yield from self._truncate(fd, before, caller)
                operation = "open and truncate"
                entry.inode.told_size(0)
                if before.st_mode & ~found.st_mode & PRIVILEGED:  # other bits change by others: there is no lock here
                    operation = "open, truncate and strip"
                    self._forget(entry.inode.number)
        except BaseException:
            os.close(fd)
            raise
        return self._opened(operation, fd, entry, flags, caller, found)

    def open_directory(self, inode: Inode, caller: Caller) -> tuple[Handle, Change]:
        """open(2) of a directory."""
        self._check_room(caller)
        fd = self._source.fd(inode)
        how = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if self._permission.in_doubt(inode, fd, caller):
            with self._permission.as_caller(caller):
                fd = os.open(magic(fd), how)
        else:
            fd = os.open(b".", how | self._reading, dir_fd=fd)
        handle = self._add(fd, inode.entry, caller)
        return handle, handle.change("open")

    def _opened(  # noqa: PLR0913, PLR0917 - all that an open knows
        self, operation: Operation, fd: int, entry: Entry, flags: int, caller: Caller, found: os.stat_result
    ) -> Opened:
        inode = entry.inode
        content = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        handle = self._add(fd, entry, caller)  # from here on this name is in use, and its directory hears of reads
        watched = self.tells_reads and self._accounts.watches > 0 and self._watches.wanted(inode, ACCESS)
        keep = self._caches and inode.pages == content and not watched
        inode.pages = content
        handle.writable = flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
        handle.appends = handle.writable and bool(flags & os.O_APPEND)
        handle.waits = bool(flags & os.O_SYNC)  # of which O_DSYNC is a part
        # Where it is appended the source must decide, but not for what is stored through a map.
        handle.direct = handle.appends or (watched and self._exact)
        handle.may_be_mapped = flags & os.O_ACCMODE == os.O_RDWR and not handle.direct
        return Opened(handle, handle.change(operation), keep, found)

    def _add(self, fd: int, entry: Entry, caller: Caller) -> Handle:
        if self._accounts.origins:
            caller.look()  # it may be gone when it reads and writes: others can hold its descriptor
        self._inodes.use(entry)
        self._source.lend(entry.inode, fd)
        self._held[caller.uid] += 1
        handle = self.handles[fd] = Handle(fd, entry, caller)
        return handle

    def _check_still_there(self, entry: Entry) -> None:
        """ESTALE where another file, or none, has this name in the source by now: the kernel looks again."""
        if self._source.look(entry.parent, entry.name)[0] is not entry:
            raise OSError(errno.ESTALE, "replaced behind the mount", entry.name)

    def _truncate(self, fd: int, found: os.stat_result, caller: Caller) -> Steps[os.stat_result]:
        """Truncate for an open with O_TRUNC; the attributes then, in which setuid or setgid may be gone."""
        # Not with O_TRUNC in open(2): the name might lead to another file by now, and that would
        # be empty before it could be checked. By the magic link, because O_RDONLY|O_TRUNC is legal.
        more = JUDGED if found.st_mode & PRIVILEGED and not self._permission.ours else None

        def act(waits: bool) -> Callable[[int], os.stat_result]:  # noqa: FBT001 - Pace's
            call = partial(_empty, waits=waits)
            return call if more is None else self._permission.ready(caller, call, more)

        return self._permission.pace.free(caller.uid, act, fd, much=frees_much(found))

    # Reading and writing

    def read_cached(self, handle: Handle, size: int, offset: int) -> memoryview | None:
        """Read what needs no disk; None when it does (RWF_NOWAIT, preadv2(2)) or cannot be told.

        What is returned is good until the next read: it must be sent before that.
        """
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        buffer = self._buffer[:size]
        try:
            count = os.preadv(handle.fd, [buffer], offset, os.RWF_NOWAIT)
            if 0 < count < size and os.preadv(handle.fd, [self._probe], offset + count, os.RWF_NOWAIT) != 0:
                return None  # not the end of the file: the rest is not in memory
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return None
        return buffer[:count]

    def write(self, handle: Handle, data: bytes, offset: int) -> Written:
        """Write as much of *data* as there is room for. What follows from it, ``wrote`` says."""
        if handle.direct:
            return self._write_direct(handle, data, offset)
        return self._permission.charged(handle.caller.uid, _write, handle.fd, data, offset)

    @staticmethod
    def answer(handle: Handle, offset: int, written: Written) -> int:
        """How many bytes the kernel is told were written; OSError instead where it must not take that for all."""
        if written.error is None:
            return written.length
        # The kernel takes a short count for all when it writes back a map's pages, and would say nothing of the rest.
        mapped = handle.may_be_mapped and offset % mmap.PAGESIZE == 0
        if mapped and not handle.failed:
            handle.failed = True
            what = "inode %d, opened by thread %d: %s: what was stored through a map is lost, if it was that"
            log.warning(what, handle.entry.inode.number, handle.caller.thread, written.error.strerror)
        if mapped or not written.length:
            raise written.error
        return written.length

    def wrote(self, handle: Handle, offset: int, count: int) -> Sequence[Change]:
        """What a ``write`` of *count* bytes did."""
        changes: tuple[Change, ...] = ()
        if handle.stripped:
            handle.stripped = False
            self._forget(handle.entry.inode.number)
            changes = (handle.change("attributes", locked=True),)
        if count:
            handle.written = True
            handle.entry.inode.written_to(offset + count)
            changes += (handle.change("write", locked=True),)
        return changes

    def _write_direct(self, handle: Handle, data: bytes, offset: int) -> Written:
        """Write past the page cache: where an appended file ends, and what is cleared, the kernel does not see to."""
        fd, caller = handle.fd, handle.caller
        found = os.fstat(fd)
        moved = handle.appends and offset != found.st_size and not _is_at_end(handle, offset)
        if moved:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
        try:
            if self._permission.ours or not found.st_mode & PRIVILEGED:
                return self._permission.charged(caller.uid, _write, fd, data, offset)
            # Its number may be another's by now, who would have more rights.
            who = credentials(caller.thread) or Credentials()
            with identity.acting_as(caller.uid, caller.gid, who.groups, 0 if caller.uid else who.capabilities):
                result = _write(fd, data, offset)
            handle.stripped = os.fstat(fd).st_mode != found.st_mode
            return result
        finally:
            if moved:
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    # Closing

    @staticmethod
    def flush(handle: Handle) -> None:
        """Say what a server has to say of what was written, as close(2) of one of many descriptors would."""
        os.close(os.dup(handle.fd))

    def close(self, handle: Handle) -> list[Change]:
        """The last close; the descriptor is the caller's to close, after it was told."""
        entry, user = handle.entry, handle.caller.uid
        del self.handles[handle.fd]
        if self._held[user] == 1:
            del self._held[user]
        else:
            self._held[user] -= 1
        self._source.take_back(entry.inode, handle.fd)
        changes = [handle.change("close after writing" if handle.writable else "close")]
        for inode in self._inodes.drop(entry):
            changes.append(Change("die", inode.entry, handle.caller, dies=True))  # noqa: PERF401 - there is none, mostly
        return changes


def _create(name: bytes, flags: int, mode: int, parent: int) -> int:
    return os.open(name, flags, mode, dir_fd=parent)


def _open(flags: int, fd: int) -> int:
    return os.open(magic(fd), flags)


def _empty(fd: int, *, waits: bool) -> os.stat_result:
    # Not truncate(2): that leaves the modification time of an empty file on tmpfs, O_TRUNC does not (Linux 6.18).
    os.close(_open(os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | (0 if waits else os.O_NONBLOCK), fd))
    return os.fstat(fd)


def _is_at_end(handle: Handle, offset: int) -> bool:
    """Whether *offset* is meant as the end of the file, for a handle that was opened to append.

    FUSE does not tell when fcntl(2) has taken O_APPEND back. In doubt it has not: to append what was
    meant for another place destroys nothing.
    """
    inode = handle.entry.inode
    if offset == inode.ends[0]:
        return True
    shown = appends(handle.caller.thread, inode.number)
    return offset in inode.ends if shown is None else shown


def _write(fd: int, data: bytes, offset: int) -> Written:
    """Write all if that can be."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(fd, data[written:] if written else data, offset + written)
    except OSError as error:
        return Written(written, error)
    return Written(written, None)
