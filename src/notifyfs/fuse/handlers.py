"""Kernel side: a FUSE request -> a system call -> the event it tells.

Each handler does the operation, then tells it, then answers. Those marked
``at_once`` and ``on_source`` are plain functions and cannot wait; see ``answers``.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import stat
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeVar

import attrs
import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo

from notifyfs.core.rules import Renamed, setattr_operation
from notifyfs.fuse.answers import at_once, may_wait, on_source
from notifyfs.passthrough.attribution import Reporter
from notifyfs.passthrough.judgement import ACL, Judgement, access_list
from notifyfs.passthrough.source import magic
from notifyfs.protocol.flags import ACCESS, X_RECURSIVE
from notifyfs.system.closing import close_apart
from notifyfs.system import identity, syscalls
from notifyfs.system.callers import Caller, Credentials, appends, credentials, holds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager

    from pyfuse3 import FileHandleT, InodeT, ReaddirToken, RequestContext, SetattrFields, StatvfsData

    from notifyfs.core.inodes import Entry, Inode
    from notifyfs.core.watches import Watches
    from notifyfs.fuse.visibility import Deaths, Settling
    from notifyfs.passthrough.source import Backing

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

SOCKET_ATTRIBUTE: Final = b"notifyfs.socket"

_FMODE_EXEC: Final = 0x20  # exec's open
# The kernel has done these for us (path walk, exclusive create) or they would ask more of the
# buffers than Python's have (O_DIRECT's alignment).
_DROPPED_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_DIRECT | _FMODE_EXEC

_PRIVILEGED: Final = stat.S_ISUID | stat.S_ISGID
_JUDGED: Final = identity.CAP_CHOWN | identity.CAP_DAC_OVERRIDE | identity.CAP_FOWNER
"""What a caller needs to truncate and to chown where the kernel has judged already."""
_NOBODY: Final = nullcontext()
_FRESH: Final = 0.002  # seconds for which the directories above are taken to be as they were found
_MOMENT: Final = 1_000_000_000  # ns: a time no older than that when it arrives may have been UTIME_NOW

MOST_TASKS: Final = 4096
"""Requests being waited for at once: 99, pyfuse3's default, stuck handlers would hang the mount."""

_READ: Final = 128 << 10  # what the kernel reads ahead, unless told otherwise

# Seconds: entries and attributes, for each cache policy.
TIMEOUTS: Final = {"never": 0.0, "auto": 1.0, "always": 86400.0}


@attrs.define(eq=False)
class Handle:
    """One open file or directory: what FUSE calls a file handle is its descriptor's number."""

    fd: int
    entry: Entry
    """The name it was opened through; the events of the handle are told to its directory."""
    caller: Caller
    writable: bool = False
    appends: bool = False
    """It was opened for writing with O_APPEND."""
    direct: bool = False
    """The kernel's page cache is bypassed: it cannot be mapped, and the kernel does not clear setuid."""
    may_be_mapped: bool = False
    """What is written may be the pages of a shared map."""
    written: bool = False
    """Something was, since it was last flushed."""
    failed: bool = False
    """Something that was written, and may have been pages of a map, had no room."""
    stripped: bool = False
    """The last write cleared setuid or setgid, and nobody was told."""
    names: list[bytes] = attrs.field(factory=list)
    """Of a directory: the listing that offsets refer to, taken at offset 0."""


class Operations(pyfuse3.Operations):
    """The passthrough. *socket* is what the ``notifyfs.socket`` attribute says."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        backing: Backing,
        watches: Watches,
        settling: Settling,
        deaths: Deaths,
        *,
        socket: bytes,
        cache: Literal["auto", "always", "never"] = "auto",
        access: Literal["cached", "exact", "off"] = "cached",
        acl: bool = False,
        noatime: bool = False,
        others: bool = True,
    ) -> None:
        super().__init__()
        self._judges = others  # who may enter but is not let by the source; else all that may is the daemon's user
        self.source_answers: Callable[[], Awaitable[None]] | None = None
        self.enable_acl = acl
        self._reading = os.O_NOATIME if noatime else 0
        self.backing = backing
        self.inodes = backing.inodes
        self.watches = watches
        self.handles: dict[int, Handle] = {}
        self.settling = settling
        self.report = Reporter(watches, settling, TIMEOUTS[cache])
        self.deaths = deaths
        self._self = Caller(os.getpid(), os.geteuid(), os.getegid())
        self._socket = socket
        self._timeout = TIMEOUTS[cache]
        self._absent = _absent(TIMEOUTS[cache]) if cache == "always" else None
        self._access = access
        if access != "off":
            watches.listening = self._drop_pages
        self._own = os.geteuid()
        self._charged = identity.uncharged if self._own else identity.charged
        self.judgement = Judgement(self._forget_attributes, self._access_list if acl else None, doubts=not self._own)
        # Each of the requests that pyfuse3 lets wait may need one: those stuck on one file must not stop the others.
        self._threads = trio.CapacityLimiter(MOST_TASKS)
        self._buffer = memoryview(bytearray(_READ))
        self._probe = bytearray(1)

    # Names

    @on_source
    def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        try:
            if self._in_doubt(parent, self.backing.fd(parent), ctx, refusal=errno.EACCES):
                with self._as_caller(ctx):
                    entry, found = self.backing.look(parent, name)
            else:
                entry, found = self.backing.look(parent, name)
        except FileNotFoundError:
            if self._absent is None:
                raise
            return self._absent
        self.report.looked_up(ctx.pid, entry)
        return self._told(entry.inode, found)

    def forget(self, inode_list: list[tuple[InodeT, int]]) -> None:  # type: ignore[override]
        try:
            for number, lookups in inode_list:
                inode = self.inodes.get(number)
                if inode is not None and self.inodes.forget(inode, lookups) and inode.gone:
                    self.watches.forgotten(inode, self._self)
            self.deaths.forgotten()
        except Exception:
            log.exception("forget failed")

    @on_source
    def mkdir(self, parent_inode: InodeT, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        fd = self.backing.fd(parent)
        with self._making(ctx, in_doubt=self._in_doubt(parent, fd, ctx)):
            os.mkdir(name, mode & 0o7777, dir_fd=fd)
        return self._made("make", parent, name, ctx)

    @on_source
    def mknod(self, parent_inode: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        fd = self.backing.fd(parent)
        with self._making(ctx, in_doubt=self._in_doubt(parent, fd, ctx)):
            os.mknod(name, mode, rdev, dir_fd=fd)
        return self._made("make", parent, name, ctx)

    @on_source
    def symlink(self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        fd = self.backing.fd(parent)
        with self._making(ctx, in_doubt=self._in_doubt(parent, fd, ctx)):
            os.symlink(target, name, dir_fd=fd)
        return self._made("make", parent, name, ctx)

    @on_source
    def link(self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent, node = self.inodes[new_parent_inode], self.inodes[inode]
        self.report.moved_on(ctx.pid)
        with self.backing.borrowed(node) as fd:
            into = self.backing.fd(parent)
            doubt = self._in_doubt(node, fd, ctx) | self._in_doubt(parent, into, ctx)
            try:
                self._do(doubt, ctx, os.link, magic(fd), new_name, dst_dir_fd=into, follow_symlinks=True)
            except FileNotFoundError:
                if node.entry.live and not os.fstat(fd).st_nlink:  # replaced behind the mount: look again
                    self.inodes.vanish(node.entry.parent, node.entry.name)
                    raise OSError(errno.ESTALE, "replaced behind the mount", str(node.number)) from None
                raise
        if node.names is None:
            self.report.linked(node)
        return self._made("link", parent, new_name, ctx)

    @on_source
    def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        self._remove("unlink", parent_inode, name, ctx)

    @on_source
    def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        self._remove("rmdir", parent_inode, name, ctx)

    @on_source
    def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        source, target = self.inodes[parent_inode_old], self.inodes[parent_inode_new]
        self.report.moved_on(ctx.pid)
        doubt = self._in_doubt(source, self.backing.fd(source), ctx)
        doubt |= self._in_doubt(target, self.backing.fd(target), ctx)
        subject, unsure = self._check_known(source, name_old, ctx)
        doubt |= unsure
        self.inodes.check_move(subject, target)
        if flags & syscalls.RENAME_EXCHANGE:
            other, unsure = self._check_known(target, name_new, ctx)
            self.inodes.check_move(other, source)
            self._rename(source, name_old, target, name_new, flags, ctx, in_doubt=doubt | unsure)
            self.inodes.exchange(subject, other)
            self.report.moved(subject)
            self.report.moved(other)
            places = (parent_inode_old, parent_inode_new)
            self.report.tell("rename", subject, ctx, Renamed(source, name_old, self.watches.cookie()), changed=places)
            self.report.tell("rename", other, ctx, Renamed(target, name_new, self.watches.cookie()), changed=places)
            return
        victim, fd, replaced = None, -1, 0
        if not flags & syscalls.RENAME_NOREPLACE:
            with suppress(FileNotFoundError):
                victim, fd, replaced, unsure = self._hold_known(target, name_new, ctx)
                doubt |= unsure
        try:
            self._rename(source, name_old, target, name_new, flags, ctx, in_doubt=doubt)
            dies = victim is not None and self.inodes.remove(victim, _links_left(fd, replaced))
        except BaseException:
            if victim is not None:
                os.close(fd)
                self.inodes.reap(victim.inode)
            raise
        self.inodes.move(subject, target, name_new)
        self.report.moved(subject)
        self.report.tell(
            "rename",
            subject,
            ctx,
            Renamed(source, name_old, self.watches.cookie(), victim.inode if victim else None, victim_dies=dies),
            changed=(parent_inode_old, parent_inode_new),
        )
        if victim is not None:
            self._keep_removed(victim.inode, fd)

    @on_source
    def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        node = self.inodes[inode]
        fd = self.backing.fd(node)
        return self._do(self._in_doubt(node, fd, ctx), ctx, os.readlink, b"", dir_fd=fd)

    # Attributes

    @on_source
    def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self.inodes[inode]
        return self._attributes(node, self.backing.stat(node))

    @on_source
    def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self.inodes[inode]
        handle = None if fh is None else self.handles.get(fh)
        # One descriptor serves all: an O_PATH one cannot be truncated itself, its magic link can.
        fd = self.backing.fd(node) if handle is None else handle.fd
        before = os.fstat(fd)
        owner = fields.update_uid or fields.update_gid
        takes = fields.update_size or owner  # space, or privileges away
        judged = handle is None and not self._clears_for_a_writer(node, attr, fields, before)
        if judged and self._in_doubt(node, fd, ctx, before):
            with self._as_caller(ctx):
                _set(fd, attr, fields, opened=False)
        elif takes and before.st_mode & _PRIVILEGED and not self._own:
            with self._as_caller(ctx, _JUDGED):
                _set(fd, attr, fields, opened=handle is not None)
        else:
            self._charged(ctx.uid if takes else 0, _set, fd, attr, fields, opened=handle is not None)
        found = os.fstat(fd)
        self.judgement.changed(node, found)
        operation = setattr_operation(
            size=fields.update_size,
            atime=fields.update_atime,
            mtime=fields.update_mtime,
            mode_or_owner=fields.update_mode or owner or found.st_mode != before.st_mode,
        )
        if operation is not None:
            self.report.tell_change(operation, node, ctx, handle.entry if handle else None)
        return self._attributes(node, found)

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        # Found also while the source hangs.
        return self._socket if name == SOCKET_ATTRIBUTE else await self._getxattr(inode, name, ctx)

    @on_source
    def _getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        node = self.inodes[inode]
        fd = self.backing.fd(node)
        if name == ACL:
            node.acl = access_list(fd)
        # The kernel asks for security.capability before each write.
        judged = name.startswith(b"user.")
        with self._as_caller(ctx) if judged and self._in_doubt(node, fd, ctx) else _NOBODY:
            return os.getxattr(magic(fd), name)

    def _xattr_in_doubt(self, node: Inode, fd: int, name: bytes, ctx: RequestContext) -> bool:
        # The others are for capabilities to judge; and the kernel itself removes security.capability for who writes.
        return name.startswith((b"user.", b"system.")) and self._in_doubt(node, fd, ctx)

    @on_source
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        node = self.inodes[inode]
        self._check_way(node, ctx)
        names = [os.fsencode(name) for name in os.listxattr(magic(self.backing.fd(node)))]
        visible = [name for name in names if not name.startswith(b"trusted.")]
        # The kernel lists trusted.* to CAP_SYS_ADMIN only (xattr(7)); here the daemon asks.
        who = credentials(ctx.pid) if len(visible) < len(names) else None
        return names if who is not None and who.capabilities & identity.CAP_SYS_ADMIN else visible

    @on_source
    def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        node = self.inodes[inode]
        fd = self.backing.fd(node)
        self._do(self._xattr_in_doubt(node, fd, name, ctx), ctx, os.setxattr, magic(fd), name, value)
        if name == ACL:
            self._strip_setgid(fd, ctx)
            self.judgement.changed(node, os.fstat(fd))
        self.report.tell_change("attributes", node, ctx)

    @on_source
    def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        node = self.inodes[inode]
        fd = self.backing.fd(node)
        self._do(self._xattr_in_doubt(node, fd, name, ctx), ctx, os.removexattr, magic(fd), name)
        if name == ACL:
            self.judgement.changed(node, os.fstat(fd))
        self.report.tell_change("attributes", node, ctx)

    @on_source
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = os.fstatvfs(self.backing.fd(self.inodes.root))
        answer = pyfuse3.StatvfsData()
        for field in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax"):
            setattr(answer, f"f_{field}", getattr(found, f"f_{field}"))
        return answer

    @at_once
    def access(self, inode: InodeT, mode: int, ctx: RequestContext) -> bool:
        # The mount has default_permissions: the kernel judges by the attributes it is given.
        return True

    # Files

    @on_source
    def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        parent = self.inodes[parent_inode]
        kept = flags & ~_DROPPED_FLAGS
        into = self.backing.fd(parent)
        try:
            with self._making(ctx, in_doubt=self._in_doubt(parent, into, ctx)):
                fd = os.open(
                    name,
                    kept | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                    mode & 0o7777,
                    dir_fd=into,
                )
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            # It appeared behind the mount after the kernel had looked. It must not be opened here: the
            # kernel believes that it was created, and would not check its permissions. ESTALE makes it look again.
            raise OSError(errno.ESTALE, "appeared behind the mount", name) from None
        found = os.fstat(fd)
        self.inodes.renew(found.st_dev, found.st_ino)
        entry = self.backing.enter(parent, name, found)
        info = self._handle(fd, entry, flags, ctx, found)
        self.report.tell("create", entry, ctx)
        return info, self._told(entry.inode, found)

    @on_source
    def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        return self._open(self.report.opened(self.inodes[inode], ctx), flags, ctx)

    @may_wait
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        handle = self.handles[fh]
        # pyfuse3 takes any buffer, whatever its types say.
        data: bytes | memoryview | None = (
            self._read_cached(handle.fd, size, off) if self.source_answers is None else None
        )
        if data is None:
            data = await self._in_thread(os.pread, handle.fd, size, off)
        if data and self._access != "off":
            self.report.tell_by("read", handle.entry, handle.caller)
        return data

    @may_wait
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self.handles[fh]
        number = handle.entry.inode.number
        if self.source_answers is not None:
            written, error = await self._in_thread(self._write, handle, buf, off)
        elif handle.direct:
            written, error = self._write_direct(handle, buf, off)
        else:
            written, error = self._charged(handle.caller.uid, _write, handle.fd, buf, off)
        if handle.stripped:
            handle.stripped = False
            self._forget_attributes(number)
            self.report.tell_by("attributes", handle.entry, handle.caller, changed=(number,))
        if written:
            handle.written = True
            handle.entry.inode.written_to(off + written)
            self.report.tell_by("write", handle.entry, handle.caller, changed=(number,))
        if error is None:
            return written
        # The kernel takes a short count for all when it writes back a map's pages, and would say nothing of the rest.
        mapped = handle.may_be_mapped and off % mmap.PAGESIZE == 0
        if mapped and not handle.failed:
            handle.failed = True
            what = "inode %d, opened by thread %d: %s: what was stored through a map is lost, if it was that"
            log.warning(what, number, handle.caller.thread, error.strerror)
        if mapped or not written:
            raise error
        return written

    @may_wait
    async def flush(self, fh: FileHandleT) -> None:
        # close(2) of one of possibly many descriptors. A local disk has nothing to say, and after ENOSYS the
        # kernel never asks again; a server may have refused what was written, and says so when a file is closed.
        if self.source_answers is None:
            raise OSError(errno.ENOSYS, "nothing to flush")
        handle = self.handles[fh]
        if handle.written:
            handle.written = False
            await self._in_thread(lambda: os.close(os.dup(handle.fd)))

    @at_once
    def release(self, fh: FileHandleT) -> None:
        self._close(fh)

    @may_wait
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        sync = os.fdatasync if datasync else os.fsync
        await self._in_thread(sync, self.handles[fh].fd)

    # Directories

    @on_source
    def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        node = self.inodes[inode]
        fd = self.backing.fd(node)
        how = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if self._in_doubt(node, fd, ctx):
            with self._as_caller(ctx):
                fd = os.open(magic(fd), how)
        else:
            fd = os.open(b".", how | self._reading, dir_fd=fd)
        self._add_handle(fd, node.entry, ctx)
        self.report.tell("open", node.entry, ctx)
        return pyfuse3.FileHandleT(fd)

    @on_source
    def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        handle = self.handles[fh]
        directory = handle.entry.inode
        if self._access != "off":  # also of a listing that fails (measured)
            self.report.tell_by("read", handle.entry, handle.caller)
        if start_id == 0:
            handle.names = [b".", b"..", *map(os.fsencode, os.listdir(handle.fd))]
        accepted = 0
        for position in range(start_id, len(handle.names)):
            name = handle.names[position]
            try:
                inode, found = self._listed(directory, handle.fd, name)
            except FileNotFoundError:
                continue  # removed since the listing was taken
            except OSError:
                if not accepted:
                    raise
                break  # the kernel remembers what was listed; the next call begins with the error
            if not pyfuse3.readdir_reply(token, name, self._attributes(inode, found), position + 1):
                self.inodes.reap(inode)
                break
            accepted += 1
            if name not in (b".", b".."):
                inode.lookups += 1

    @at_once
    def releasedir(self, fh: FileHandleT) -> None:
        self._close(fh)

    @may_wait
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._in_thread(os.fsync, self.handles[fh].fd)

    # Whom the kernel has let pass

    def _in_doubt(
        self,
        inode: Inode,
        fd: int,
        ctx: RequestContext,
        found: os.stat_result | None = None,
        *,
        walked: bool = True,
        refusal: int = errno.ESTALE,
    ) -> bool:
        """Whether the source must judge the caller, since the kernel may have done so by what is past.

        *fd* refers to *inode*, which was *found* like this; -1: only its owner matters. *walked*: the way there was
        not looked at for this request. ESTALE, once, where the caller cannot be judged by us: the kernel then asks, and
        judges, again (``retry_estale``). *refusal* is what who may not walk there any more gets.
        """
        if not self._judges:
            return False
        if walked:
            self._check_way(inode, ctx, refusal)
        if self.judgement.holds(inode, os.fstat(fd) if found is None else found, fd):
            return False
        if not self._own and credentials(ctx.pid) is not None:
            return True
        if self.judgement.forgot:
            raise OSError(errno.ESTALE, "changed behind the mount", str(inode.number))
        return False

    def _do(self, doubt: bool, ctx: RequestContext, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it as one whom the kernel let pass, and who pays for the space; in *doubt* the source judges."""
        if not doubt:
            return self._charged(ctx.uid, call, *args, **kwargs)
        with self._as_caller(ctx):
            return call(*args, **kwargs)

    def _check_way(self, place: Inode, ctx: RequestContext, refusal: int = errno.ESTALE) -> None:
        """Raise *refusal* where the caller was let walk to *place* by what is past, and the source would not let it."""
        if not self._judges or not ctx.uid:
            return
        now, lowest = time.monotonic(), place
        if now - lowest.walked < _FRESH:
            return
        while place is not self.inodes.root:
            place = place.entry.parent
            try:
                fd = self.backing.fd(place)
            except OSError:
                return  # moved behind the mount: the names are the kernel's to ask for
            if not self.judgement.lets_walk(place, os.fstat(fd), fd) and not self._may_search(fd, ctx):
                if lowest.in_use and holds(ctx.pid, lowest.number):
                    return  # by its own descriptor, for which nobody walks
                raise OSError(refusal, "changed behind the mount", str(place.number))
        lowest.walked = now

    def _may_search(self, fd: int, ctx: RequestContext) -> bool:
        if self._own or credentials(ctx.pid) is None:
            return not self.judgement.forgot
        with self._as_caller(ctx):
            return syscalls.may_search(fd)

    def _check_may_open(self, fd: int, flags: int, ctx: RequestContext) -> None:
        """Raise what open(2) with these flags says to the caller of the file that *fd* refers to."""
        with self._as_caller(ctx):
            if flags & _FMODE_EXEC and not syscalls.may_search(fd):
                raise OSError(errno.EACCES, "no execute permission")
            if not flags & _FMODE_EXEC:
                os.close(os.open(magic(fd), flags & ~_DROPPED_FLAGS | os.O_NONBLOCK | os.O_CLOEXEC))
            if flags & os.O_TRUNC:
                os.close(os.open(magic(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def _as_caller(self, ctx: RequestContext, more: int = 0) -> AbstractContextManager[None]:
        """In here the source judges the caller, who has *more* capabilities."""
        who = credentials(ctx.pid) or Credentials()
        return identity.acting_as(ctx.uid, ctx.gid, who.groups, who.capabilities | more)

    def _access_list(self, inode: Inode) -> bytes:
        return access_list(self.backing.fd(inode))

    def _forget_attributes(self, number: int) -> None:
        if self.settling.notes is not None:
            self.settling.notes.forget_attributes(number)

    # Doing

    async def _in_thread(self, call: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(call, *args, abandon_on_cancel=True, limiter=self._threads)

    def _drop_pages(self, inode: Inode, mask: int) -> None:
        """Open files that are now watched for reads: let each be told once more (see ``_handle``)."""
        notes = self.settling.notes
        if not mask & ACCESS or notes is None:
            return
        if mask & X_RECURSIVE:
            files = {handle.entry.inode for handle in self.handles.values()}
            files = {file for file in files if self.watches.wanted(file, ACCESS)}
        else:
            files = {entry.inode for entry in (inode.children or {}).values()} if inode.is_dir else {inode}
        for file in files:
            if file.in_use and not file.is_dir:
                file.pages = None
                notes.drop_pages(file.number)
                self.settling.mark()  # the watch is answered when that is done

    def _clears_for_a_writer(
        self, node: Inode, attr: EntryAttributes, fields: SetattrFields, before: os.stat_result
    ) -> bool:
        """Whether nothing is asked but to clear setuid and setgid: so the kernel does by itself for whoever writes."""
        others = (fields.update_size, fields.update_uid, fields.update_gid, fields.update_atime, fields.update_mtime)
        if not fields.update_mode or any(others) or not before.st_mode & _PRIVILEGED:
            return False
        if stat.S_IMODE(before.st_mode ^ attr.st_mode) & ~(before.st_mode & _PRIVILEGED):
            return False
        return any(handle.writable and handle.entry.inode is node for handle in self.handles.values())

    @contextmanager
    def _making(self, ctx: RequestContext, *, in_doubt: bool) -> Iterator[None]:
        """What is created in here belongs to the caller, and has the caller's umask. *in_doubt*: see ``_in_doubt``."""
        # Mounted with MS_POSIXACL the kernel leaves the umask to us, because a default ACL
        # replaces it; else it has applied it, and applying it again changes nothing.
        os.umask(ctx.umask)
        try:
            if self._own:
                yield
            elif in_doubt:
                with self._as_caller(ctx):
                    yield
            elif ctx.uid or ctx.gid:
                with identity.creating_as(ctx.uid, ctx.gid):
                    yield
            else:
                identity.as_root()
                yield
        finally:
            os.umask(0)

    def _made(self, operation: str, parent: Inode, name: bytes, ctx: RequestContext) -> EntryAttributes:
        found = os.stat(name, dir_fd=self.backing.fd(parent), follow_symlinks=False)
        if operation == "make":
            self.inodes.renew(found.st_dev, found.st_ino)
        entry = self.backing.enter(parent, name, found)
        self.report.tell(operation, entry, ctx)
        return self._told(entry.inode, found)

    def _remove(
        self, operation: Literal["unlink", "rmdir"], parent_inode: InodeT, name: bytes, ctx: RequestContext
    ) -> None:
        parent = self.inodes[parent_inode]
        self.report.moved_on(ctx.pid)
        doubt = self._in_doubt(parent, self.backing.fd(parent), ctx)
        entry, fd, links, unsure = self._hold_known(parent, name, ctx)
        try:
            call = os.unlink if operation == "unlink" else os.rmdir
            self._do(doubt | unsure, ctx, call, name, dir_fd=self.backing.fd(parent))
            dies = self.inodes.remove(entry, _links_left(fd, links))
        except BaseException:
            os.close(fd)
            self.inodes.reap(entry.inode)
            raise
        self.report.tell(operation, entry, ctx, dies=dies, changed=(parent_inode,))
        self._keep_removed(entry.inode, fd)

    def _keep_removed(self, inode: Inode, fd: int) -> None:
        """After a name of *inode* was removed: keep the only way to it, if there is no other."""
        self.inodes.reap(inode)
        if inode.entry.live:
            os.close(fd)
        else:
            self.backing.pin(inode, fd)

    def _hold_known(self, parent: Inode, name: bytes, ctx: RequestContext) -> tuple[Entry, int, int, bool]:
        """``Backing.hold`` for the file that the kernel knows by this name: how many links it has, and ``_in_doubt``.

        ESTALE if it is another now. The kernel has judged the one that it knows (sticky directories): it looks again.
        """
        known = self.inodes.peek(parent, name)
        entry, fd, found = self.backing.hold(parent, name)
        try:
            self._check_same(known, entry)
            return entry, fd, found.st_nlink, self._in_doubt(entry.inode, fd, ctx, found, walked=False)
        except OSError:
            os.close(fd)
            raise

    def _check_known(self, parent: Inode, name: bytes, ctx: RequestContext) -> tuple[Entry, bool]:
        known = self.inodes.peek(parent, name)
        entry, found = self.backing.look(parent, name)
        self._check_same(known, entry)
        # To move a directory takes permission to write it: its ".." changes.
        fd = self.backing.fd(entry.inode) if entry.inode.is_dir else -1
        return entry, self._in_doubt(entry.inode, fd, ctx, found, walked=False)

    def _check_same(self, known: Entry | None, entry: Entry) -> None:
        if known is not None and entry is not known:
            self.inodes.reap(entry.inode)
            raise OSError(errno.ESTALE, "replaced behind the mount", entry.name)

    def _rename(
        self,
        source: Inode,
        old: bytes,
        target: Inode,
        new: bytes,
        flags: int,
        ctx: RequestContext,
        *,
        in_doubt: bool,
    ) -> None:
        with self.backing.borrowed(source) as fd:
            into = self.backing.fd(target)
            if not flags:
                self._do(in_doubt, ctx, os.rename, old, new, src_dir_fd=fd, dst_dir_fd=into)
            elif flags & syscalls.RENAME_WHITEOUT:
                with self._making(ctx, in_doubt=in_doubt):
                    syscalls.renameat2(fd, old, into, new, flags)
            else:
                self._do(in_doubt, ctx, syscalls.renameat2, fd, old, into, new, flags)

    def _open(self, entry: Entry, flags: int, ctx: RequestContext) -> FileInfo:
        kept = flags & ~_DROPPED_FLAGS
        if kept & os.O_ACCMODE == os.O_ACCMODE:
            kept &= ~os.O_ACCMODE  # mode 3: neither reading nor writing, for ioctl only (open(2))
        operation = "open"
        fd = self.backing.open(entry.inode, kept | self._reading)
        try:
            found = os.fstat(fd)
            if not found.st_nlink and entry.live:
                self._check_still_there(entry)
            if self._in_doubt(entry.inode, fd, ctx, found):
                self._check_may_open(fd, flags, ctx)
            if flags & os.O_TRUNC:
                before, found = found, self._truncate(fd, found, ctx)
                operation = "open and truncate"
                entry.inode.told_size(0)
                if found.st_mode != before.st_mode:
                    operation = "open, truncate and strip"
                    self._forget_attributes(entry.inode.number)
        except BaseException:
            os.close(fd)
            raise
        info = self._handle(fd, entry, flags, ctx, found)
        self.report.tell(operation, entry, ctx)
        return info

    def _check_still_there(self, entry: Entry) -> None:
        """ESTALE where another file, or none, has this name in the source by now: the kernel looks again."""
        if self.backing.look(entry.parent, entry.name)[0] is not entry:
            raise OSError(errno.ESTALE, "replaced behind the mount", entry.name)

    def _truncate(self, fd: int, found: os.stat_result, ctx: RequestContext) -> os.stat_result:
        """Truncate for an open with O_TRUNC; the attributes then, in which setuid or setgid may be gone."""
        # Not with O_TRUNC in open(2): the name might lead to another file by now, and that would
        # be empty before it could be checked. By the magic link, because O_RDONLY|O_TRUNC is legal.
        with self._as_caller(ctx, _JUDGED) if found.st_mode & _PRIVILEGED and not self._own else _NOBODY:
            _empty(fd)
        return os.fstat(fd)

    def _handle(self, fd: int, entry: Entry, flags: int, ctx: RequestContext, found: os.stat_result) -> FileInfo:
        inode = entry.inode
        content = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        watched = self._access != "off" and self.watches.wanted(inode, ACCESS)
        keep = self._timeout > 0 and inode.pages == content and not watched
        inode.pages = content
        handle = self._add_handle(fd, entry, ctx)
        handle.writable = flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
        handle.appends = handle.writable and bool(flags & os.O_APPEND)
        # Where it is appended the source must decide, but not for what is stored through a map.
        handle.direct = handle.appends or (watched and self._access == "exact")
        handle.may_be_mapped = flags & os.O_ACCMODE == os.O_RDWR and not handle.direct
        return FileInfo(fh=pyfuse3.FileHandleT(fd), keep_cache=keep, direct_io=handle.direct)

    def _add_handle(self, fd: int, entry: Entry, ctx: RequestContext) -> Handle:
        caller = Caller(ctx.pid, ctx.uid, ctx.gid)
        if self.watches.origins:
            caller.look()  # it may be gone when it reads and writes: others can hold its descriptor
        self.inodes.use(entry)
        self.backing.lend(entry.inode, fd)
        handle = self.handles[fd] = Handle(fd, entry, caller)
        return handle

    def _close(self, fh: FileHandleT) -> None:
        handle = self.handles.pop(fh)
        entry = handle.entry
        self.backing.take_back(entry.inode, handle.fd)
        self.report.tell_by("close after writing" if handle.writable else "close", entry, handle.caller)
        for inode in self.inodes.drop(entry):
            self.report.tell_by("die", inode.entry, handle.caller, dies=True)
        if self.source_answers is None:
            os.close(handle.fd)
        else:  # may flush, and wait for it
            close_apart(handle.fd)

    def _write(self, handle: Handle, data: bytes, offset: int) -> tuple[int, OSError | None]:
        if handle.direct:
            return self._write_direct(handle, data, offset)
        return self._charged(handle.caller.uid, _write, handle.fd, data, offset)

    def _write_direct(self, handle: Handle, data: bytes, offset: int) -> tuple[int, OSError | None]:
        """Write past the page cache: where an appended file ends, and what is cleared, the kernel does not see to."""
        fd, caller = handle.fd, handle.caller
        found = os.fstat(fd)
        moved = handle.appends and offset != found.st_size and not _is_at_end(handle, offset)
        if moved:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
        try:
            if self._own or not found.st_mode & _PRIVILEGED:
                return self._charged(caller.uid, _write, fd, data, offset)
            # Its number may be another's by now, who would have more rights.
            who = credentials(caller.thread) or Credentials()
            with identity.acting_as(caller.uid, caller.gid, who.groups, 0 if caller.uid else who.capabilities):
                result = _write(fd, data, offset)
            handle.stripped = os.fstat(fd).st_mode != found.st_mode
            return result
        finally:
            if moved:
                fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    def _read_cached(self, fd: int, size: int, offset: int) -> memoryview | None:
        """Read what needs no disk; None when it does (RWF_NOWAIT, preadv2(2)) or cannot be told.

        What is returned is good until the next read: pyfuse3 sends it before it takes another request.
        """
        if size > len(self._buffer):
            self._buffer = memoryview(bytearray(size))
        buffer = self._buffer[:size]
        try:
            count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
            if 0 < count < size and os.preadv(fd, [self._probe], offset + count, os.RWF_NOWAIT) != 0:
                return None  # not the end of the file: the rest is not in memory
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return None
        return buffer[:count]

    @staticmethod
    def _strip_setgid(fd: int, ctx: RequestContext) -> None:
        """Clear setgid where a user outside the group has set an access list, as Linux does (posix_acl_update_mode)."""
        found = os.fstat(fd)
        if not found.st_mode & stat.S_ISGID or ctx.uid == 0 or found.st_gid == ctx.gid:
            return
        with suppress(OSError):  # the caller is visible in /proc, or counts as no member
            if found.st_gid in pyfuse3.get_sup_groups(ctx.pid):
                return
        os.chmod(magic(fd), stat.S_IMODE(found.st_mode) & ~stat.S_ISGID)

    def _listed(self, directory: Inode, fd: int, name: bytes) -> tuple[Inode, os.stat_result]:
        if name == b".":
            return directory, os.fstat(fd)
        if name == b"..":
            # The mount's root is its own parent, whatever the source has above it.
            above = self.inodes.root if directory is self.inodes.root else directory.entry.parent
            return above, self.backing.stat(above)
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        return self.backing.enter(directory, name, found).inode, found

    # Answering

    def _told(self, inode: Inode, found: os.stat_result) -> EntryAttributes:
        """The attributes for a reply that makes the kernel remember the inode once more."""
        inode.lookups += 1
        return self._attributes(inode, found)

    def _attributes(self, inode: Inode, found: os.stat_result) -> EntryAttributes:
        self.judgement.tell(inode, found)
        answer = EntryAttributes()
        answer.st_ino = pyfuse3.InodeT(inode.number)
        answer.generation = inode.generation
        answer.st_mode = pyfuse3.ModeT(found.st_mode)
        answer.st_nlink = found.st_nlink
        answer.st_uid = found.st_uid
        answer.st_gid = found.st_gid
        answer.st_rdev = found.st_rdev
        answer.st_size = found.st_size
        answer.st_blksize = found.st_blksize
        answer.st_blocks = found.st_blocks
        answer.st_atime_ns = found.st_atime_ns
        answer.st_mtime_ns = found.st_mtime_ns
        answer.st_ctime_ns = found.st_ctime_ns
        answer.attr_timeout = self._timeout
        # A file with several names is looked up again at each use: that tells which name is used.
        several = (found.st_nlink > 1 or inode.names is not None) and not inode.is_dir
        answer.entry_timeout = 0 if several else self._timeout
        return answer


def _absent(seconds: float) -> EntryAttributes:
    """The answer that there is no such name, good for so long (FUSE: an entry with inode 0)."""
    answer = EntryAttributes()
    answer.st_ino = pyfuse3.InodeT(0)
    answer.entry_timeout = seconds
    return answer


def _links_left(fd: int, before: int) -> int:
    """How many links the file has after one of those *before* was removed."""
    try:
        return os.fstat(fd).st_nlink
    except OSError:
        # It is done, whatever this says: of a file without a name, a FUSE server that goes by paths knows nothing.
        return before - 1


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


def _empty(fd: int) -> None:
    # Not truncate(2): that leaves the modification time of an empty file on tmpfs, O_TRUNC does not (measured).
    os.close(os.open(magic(fd), os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC))


def _set(fd: int, attr: EntryAttributes, fields: SetattrFields, *, opened: bool) -> None:
    """Change what *fields* names. *opened*: *fd* is more than an ``O_PATH`` one."""
    path = magic(fd)
    owner = fields.update_uid or fields.update_gid
    if fields.update_size and opened:
        os.ftruncate(fd, attr.st_size)
    elif fields.update_size:
        os.truncate(path, attr.st_size)
    if owner:
        os.chown(path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
    # With a size or owner the mode is what the kernel makes of setuid and setgid; the source has done that by now.
    if fields.update_mode and not (fields.update_size or owner):
        os.chmod(path, stat.S_IMODE(attr.st_mode))
    if fields.update_atime or fields.update_mtime:
        atime = attr.st_atime_ns if fields.update_atime else None
        mtime = attr.st_mtime_ns if fields.update_mtime else None
        try:
            syscalls.utimensat(path, atime, mtime)
        except PermissionError:
            # UTIME_NOW, which is allowed where another time is not (chattr +a), comes as a time that has just been.
            if any(ns is not None and not 0 <= time.time_ns() - ns < _MOMENT for ns in (atime, mtime)):
                raise
            syscalls.utimensat(path, atime, mtime, now=True)


def _write(fd: int, data: bytes, offset: int) -> tuple[int, OSError | None]:
    """Write all if that can be: how much was, and why not more."""
    written = 0
    try:
        while written < len(data):
            written += os.pwrite(fd, data[written:] if written else data, offset + written)
    except OSError as error:
        return written, error
    return written, None
