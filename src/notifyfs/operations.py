"""Kernel side: a FUSE request -> a system call -> the event it tells.

Each handler does the operation, then tells it, then answers. Those marked
``at_once`` and ``on_source`` are plain functions and cannot wait; see ``answers``.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import attrs
import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo

from notifyfs import syscalls
from notifyfs.answers import at_once, may_wait, on_source
from notifyfs.backing import magic
from notifyfs.core.flags import ACCESS, X_RECURSIVE
from notifyfs.core.rules import Renamed, setattr_operation
from notifyfs.descriptors import close_apart
from notifyfs.origins import Caller, keeps_setuid
from notifyfs.reporting import Reporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pyfuse3 import FileHandleT, InodeT, ReaddirToken, RequestContext, SetattrFields, StatvfsData

    from notifyfs.backing import Backing
    from notifyfs.core.inodes import Entry, Inode
    from notifyfs.core.watches import Watches
    from notifyfs.settling import Deaths, Settling

log = logging.getLogger(__name__)

T = TypeVar("T")

SOCKET_ATTRIBUTE: Final = b"notifyfs.socket"

# The kernel has done these for us (path walk, append position, exclusive create) or they would
# ask more of the buffers than Python's have (O_DIRECT's alignment). 0x20 is FMODE_EXEC: exec's open.
_DROPPED_FLAGS: Final = (
    os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_APPEND | os.O_DIRECT | 0x20
)

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
    ) -> None:
        super().__init__()
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
        self._own = (os.geteuid(), os.getegid())
        # Each of the requests that pyfuse3 lets wait may need one: those stuck on one file must not stop the others.
        self._threads = trio.CapacityLimiter(MOST_TASKS)
        self._buffer = memoryview(bytearray(_READ))
        self._probe = bytearray(1)

    # Names

    @on_source
    def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            entry, found = self.backing.look(self.inodes[parent_inode], name)
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
        with self._making(ctx):
            os.mkdir(name, mode & 0o7777, dir_fd=self.backing.fd(parent))
        return self._made("make", parent, name, ctx)

    @on_source
    def mknod(self, parent_inode: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        with self._making(ctx):
            os.mknod(name, mode, rdev, dir_fd=self.backing.fd(parent))
        return self._made("make", parent, name, ctx)

    @on_source
    def symlink(self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self.inodes[parent_inode]
        with self._making(ctx):
            os.symlink(target, name, dir_fd=self.backing.fd(parent))
        return self._made("make", parent, name, ctx)

    @on_source
    def link(self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent, node = self.inodes[new_parent_inode], self.inodes[inode]
        self.report.moved_on(ctx.pid)
        with self.backing.borrowed(node) as fd:
            os.link(magic(fd), new_name, dst_dir_fd=self.backing.fd(parent), follow_symlinks=True)
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
        subject = self._check_known(source, name_old)
        self.inodes.check_move(subject, target)
        if flags & syscalls.RENAME_EXCHANGE:
            other = self._check_known(target, name_new)
            self.inodes.check_move(other, source)
            self._rename(source, name_old, target, name_new, flags, ctx)
            self.inodes.exchange(subject, other)
            self.report.moved(subject)
            self.report.moved(other)
            places = (parent_inode_old, parent_inode_new)
            self.report.tell("rename", subject, ctx, Renamed(source, name_old, self.watches.cookie()), changed=places)
            self.report.tell("rename", other, ctx, Renamed(target, name_new, self.watches.cookie()), changed=places)
            return
        victim, fd = None, -1
        if not flags & syscalls.RENAME_NOREPLACE:
            with suppress(FileNotFoundError):
                victim, fd = self._hold_known(target, name_new)
        try:
            self._rename(source, name_old, target, name_new, flags, ctx)
            dies = victim is not None and self.inodes.remove(victim, os.fstat(fd).st_nlink)
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
        return os.readlink(b"", dir_fd=self.backing.fd(self.inodes[inode]))

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
        path = magic(fd)
        owner = fields.update_uid or fields.update_gid
        if fields.update_size:
            if handle is None:
                os.truncate(path, attr.st_size)
            else:
                os.ftruncate(fd, attr.st_size)
        if owner:
            os.chown(path, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1)
        if fields.update_mode:  # after chown, which clears setuid and setgid
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_atime or fields.update_mtime:
            syscalls.utimensat(
                path,
                attr.st_atime_ns if fields.update_atime else None,
                attr.st_mtime_ns if fields.update_mtime else None,
            )
        operation = setattr_operation(
            size=fields.update_size,
            atime=fields.update_atime,
            mtime=fields.update_mtime,
            mode_or_owner=fields.update_mode or owner,
        )
        found = os.fstat(fd)
        if operation is not None:
            self.report.tell_change(operation, node, ctx, handle.entry if handle else None)
        return self._attributes(node, found)

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        # Found also while the source hangs.
        return self._socket if name == SOCKET_ATTRIBUTE else await self._getxattr(inode, name)

    @on_source
    def _getxattr(self, inode: InodeT, name: bytes) -> bytes:
        return os.getxattr(magic(self.backing.fd(self.inodes[inode])), name)

    @on_source
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        names = [os.fsencode(name) for name in os.listxattr(magic(self.backing.fd(self.inodes[inode])))]
        # The kernel lists trusted.* to CAP_SYS_ADMIN only (xattr(7)); here the daemon asks.
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @on_source
    def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        node = self.inodes[inode]
        fd = self.backing.fd(node)
        os.setxattr(magic(fd), name, value)
        if name == b"system.posix_acl_access":
            self._strip_setgid(fd, ctx)
        self.report.tell_change("attributes", node, ctx)

    @on_source
    def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        node = self.inodes[inode]
        os.removexattr(magic(self.backing.fd(node)), name)
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
        try:
            with self._making(ctx):
                fd = os.open(
                    name,
                    kept | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                    mode & 0o7777,
                    dir_fd=self.backing.fd(parent),
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
        if self.source_answers is None:
            written = _write(handle.fd, buf, off)
        else:
            written = await self._in_thread(_write, handle.fd, buf, off)
        self.report.tell_by("write", handle.entry, handle.caller, changed=(handle.entry.inode.number,))
        return written

    @at_once
    def flush(self, fh: FileHandleT) -> None:
        # close(2) of one of possibly many descriptors: nothing to do. After ENOSYS the kernel never asks again.
        raise OSError(errno.ENOSYS, "nothing to flush")

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
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | self._reading, dir_fd=self.backing.fd(node))
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

    @contextmanager
    def _making(self, ctx: RequestContext) -> Iterator[None]:
        """What is created in here belongs to the caller, and has the caller's umask."""
        # Mounted with MS_POSIXACL the kernel leaves the umask to us, because a default ACL
        # replaces it; else it has applied it, and applying it again changes nothing.
        os.umask(ctx.umask)
        try:
            if self._own == (ctx.uid, ctx.gid) or self._own[0]:
                yield
            else:
                with syscalls.creating_as(ctx.uid, ctx.gid):
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
        entry, fd = self._hold_known(parent, name)
        try:
            call = os.unlink if operation == "unlink" else os.rmdir
            call(name, dir_fd=self.backing.fd(parent))
            dies = self.inodes.remove(entry, os.fstat(fd).st_nlink)
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

    def _hold_known(self, parent: Inode, name: bytes) -> tuple[Entry, int]:
        """``Backing.hold`` for the file that the kernel knows by this name; ESTALE if it is another now.

        The kernel has judged the one that it knows (sticky directories): after ESTALE it looks again.
        """
        known = self.inodes.peek(parent, name)
        entry, fd = self.backing.hold(parent, name)
        try:
            self._check_same(known, entry)
        except OSError:
            os.close(fd)
            raise
        return entry, fd

    def _check_known(self, parent: Inode, name: bytes) -> Entry:
        known = self.inodes.peek(parent, name)
        entry, _ = self.backing.look(parent, name)
        self._check_same(known, entry)
        return entry

    def _check_same(self, known: Entry | None, entry: Entry) -> None:
        if known is not None and entry is not known:
            self.inodes.reap(entry.inode)
            raise OSError(errno.ESTALE, "replaced behind the mount", entry.name)

    def _rename(self, source: Inode, old: bytes, target: Inode, new: bytes, flags: int, ctx: RequestContext) -> None:
        with self.backing.borrowed(source) as fd:
            if not flags:
                os.rename(old, new, src_dir_fd=fd, dst_dir_fd=self.backing.fd(target))
                return
            with self._making(ctx) if flags & syscalls.RENAME_WHITEOUT else nullcontext():
                syscalls.renameat2(fd, old, self.backing.fd(target), new, flags)

    def _open(self, entry: Entry, flags: int, ctx: RequestContext) -> FileInfo:
        kept = flags & ~_DROPPED_FLAGS
        if kept & os.O_ACCMODE == os.O_ACCMODE:
            kept &= ~os.O_ACCMODE  # mode 3: neither reading nor writing, for ioctl only (open(2))
        operation = "open"
        fd = self.backing.open(entry.inode, kept | self._reading)
        try:
            if flags & os.O_TRUNC:
                operation = "open, truncate and strip" if self._truncate(fd, ctx) else "open and truncate"
            found = os.fstat(fd)
        except BaseException:
            os.close(fd)
            raise
        info = self._handle(fd, entry, flags, ctx, found)
        self.report.tell(operation, entry, ctx)
        return info

    def _truncate(self, fd: int, ctx: RequestContext) -> bool:
        """Truncate for an open with O_TRUNC; whether that cleared setuid or setgid."""
        # Not with O_TRUNC in open(2): the name might lead to another file by now, and that would
        # be empty before it could be checked. By the magic link, because O_RDONLY|O_TRUNC is legal.
        mode = os.fstat(fd).st_mode
        if self._own[0] or not mode & (stat.S_ISUID | stat.S_ISGID) or keeps_setuid(ctx.pid):
            _empty(fd)
        else:
            with syscalls.without_fsetid():
                _empty(fd)
        return os.fstat(fd).st_mode != mode

    def _handle(self, fd: int, entry: Entry, flags: int, ctx: RequestContext, found: os.stat_result) -> FileInfo:
        self._add_handle(fd, entry, ctx, writable=flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR))
        inode = entry.inode
        content = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        watched = self._access != "off" and self.watches.wanted(inode, ACCESS)
        keep = self._timeout > 0 and inode.pages == content and not watched
        inode.pages = content
        return FileInfo(fh=pyfuse3.FileHandleT(fd), keep_cache=keep, direct_io=watched and self._access == "exact")

    def _add_handle(self, fd: int, entry: Entry, ctx: RequestContext, *, writable: bool = False) -> None:
        caller = Caller(ctx.pid, ctx.uid, ctx.gid)
        if self.watches.origins:
            caller.look()  # it may be gone when it reads and writes: others can hold its descriptor
        self.inodes.use(entry)
        self.backing.lend(entry.inode, fd)
        self.handles[fd] = Handle(fd, entry, caller, writable)

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


def _empty(fd: int) -> None:
    # Not truncate(2): that leaves the modification time of an empty file on tmpfs, O_TRUNC does not (measured).
    os.close(os.open(magic(fd), os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC))


def _write(fd: int, data: bytes, offset: int) -> int:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        try:
            written += os.pwrite(fd, data[written:], offset + written)
        except OSError:
            break  # what was written counts; the caller's next write will hear of it
    return written
