"""A FUSE request -> a function of ``passthrough`` -> its change through the door -> the answer.

Each handler translates. Those marked ``at_once`` and ``on_source`` are plain functions and cannot
wait, those ``in_steps`` only where they yield; see ``answers``.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final, Literal

import attrs
import pyfuse3

from notifyfs.core.changes import Change
from notifyfs.fuse.answers import at_once, in_steps, may_wait, on_source
from notifyfs.fuse.replies import absent, attributes, information
from notifyfs.fuse.threads import Threads
from notifyfs.passthrough.attributes import Wanted
from notifyfs.passthrough.listing import OWN
from notifyfs.system.callers import Caller
from notifyfs.system.closing import close_apart

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyfuse3 import (
        EntryAttributes,
        FileHandleT,
        FileInfo,
        InodeT,
        ReaddirToken,
        RequestContext,
        SetattrFields,
        StatvfsData,
    )

    from notifyfs.core.changes import Changes
    from notifyfs.core.entries import Inode
    from notifyfs.core.watches import Watches
    from notifyfs.passthrough.attributes import Attributes
    from notifyfs.passthrough.files import Files
    from notifyfs.passthrough.handles import Handle
    from notifyfs.passthrough.judgement import Judgement
    from notifyfs.passthrough.listing import Listings
    from notifyfs.passthrough.names import Made, Names
    from notifyfs.passthrough.pace import Pace, Steps
    from notifyfs.passthrough.source import Source

log = logging.getLogger(__name__)

SOCKET_ATTRIBUTE: Final = b"notifyfs.socket"

MOST_TASKS: Final = 4096
"""Requests being waited for at once: 99, pyfuse3's default, stuck handlers would hang the mount."""

# Seconds: entries and attributes, for each cache policy.
TIMEOUTS: Final = {"never": 0.0, "auto": 1.0, "always": 86400.0}

_STATFS: Final = ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail", "namemax")


@attrs.frozen(kw_only=True)
class Passthrough:
    """The rooms that do what is asked."""

    source: Source
    judgement: Judgement
    names: Names
    attributes: Attributes
    files: Files
    pace: Pace
    listings: Listings


class Handlers(pyfuse3.Operations):
    """What pyfuse3 calls for each request.

    *socket* is what the ``notifyfs.socket`` attribute says. *source_answers*: see ``answers.Answering``.
    *turn* begins one, and gives what says when it is over: so long a listing's answer may take.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(
        self,
        passthrough: Passthrough,
        changes: Changes,
        watches: Watches,
        *,
        socket: bytes,
        cache: Literal["auto", "always", "never"] = "auto",
        acl: bool = False,
        source_answers: Callable[[], Awaitable[None]] | None = None,
        turn: Callable[[], Callable[[], bool]] = lambda: lambda: False,
    ) -> None:
        super().__init__()
        self.enable_acl = acl
        self.source_answers = source_answers
        self.threads = Threads()
        self.lose = watches.fail
        self._source = passthrough.source
        self._inodes = passthrough.source.inodes
        self._judgement = passthrough.judgement
        self._names = passthrough.names
        self._attributes = passthrough.attributes
        self._files = passthrough.files
        self._pace = passthrough.pace
        self._handles = passthrough.files.handles
        self._listings = passthrough.listings
        self._turn = turn
        self._watches = watches
        self._tell = changes.tell
        self._self = Caller(os.getpid(), os.geteuid(), os.getegid())
        self._socket = socket
        self._timeout = TIMEOUTS[cache]
        self._absent = absent(TIMEOUTS[cache]) if cache == "always" else None

    # Names

    @on_source
    def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            entry, found = self._names.look_up(self._inodes[parent_inode], name, _caller(ctx))
        except FileNotFoundError:
            if self._absent is None:
                raise
            return self._absent
        return self._remembered(entry.inode, found)

    def forget(self, inode_list: list[tuple[InodeT, int]]) -> None:  # type: ignore[override]
        try:
            for number, lookups in inode_list:
                inode = self._inodes.get(number)
                if inode is not None and self._inodes.forget(inode, lookups) and self._watches.forgotten(inode):
                    self._tell(Change("die", inode.entry, self._self, dies=True))
        except Exception as error:
            log.exception("forget failed")
            self.lose("forget", error)

    @in_steps
    def mkdir(self, parent_inode: InodeT, name: bytes, mode: int, ctx: RequestContext) -> Steps[EntryAttributes]:
        parent = self._inodes[parent_inode]
        return self._made((yield from self._names.make_directory(parent, name, mode, _caller(ctx), ctx.umask)))

    @in_steps
    def mknod(
        self, parent_inode: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> Steps[EntryAttributes]:
        parent = self._inodes[parent_inode]
        return self._made((yield from self._names.make_node(parent, name, mode, rdev, _caller(ctx), ctx.umask)))

    @in_steps
    def symlink(self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext) -> Steps[EntryAttributes]:
        parent = self._inodes[parent_inode]
        return self._made((yield from self._names.make_symlink(parent, name, target, _caller(ctx), ctx.umask)))

    @in_steps
    def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext
    ) -> Steps[EntryAttributes]:
        parent = self._inodes[new_parent_inode]
        return self._made((yield from self._names.link(self._inodes[inode], parent, new_name, _caller(ctx))))

    @in_steps
    def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> Steps[None]:
        self._tell((yield from self._names.remove("unlink", self._inodes[parent_inode], name, _caller(ctx))))

    @in_steps
    def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> Steps[None]:
        self._tell((yield from self._names.remove("rmdir", self._inodes[parent_inode], name, _caller(ctx))))

    @in_steps
    def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> Steps[None]:
        source, target = self._inodes[parent_inode_old], self._inodes[parent_inode_new]
        for change in (yield from self._names.rename(source, name_old, target, name_new, flags, _caller(ctx))):
            self._tell(change)

    @on_source
    def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        return self._names.read_link(self._inodes[inode], _caller(ctx))

    # Attributes

    @on_source
    def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self._inodes[inode]
        return self._shown(node, self._source.stat(node))

    @in_steps
    def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> Steps[EntryAttributes]:
        node = self._inodes[inode]
        handle = None if fh is None else self._handles.get(fh)
        wanted = Wanted(
            attr.st_mode if fields.update_mode else None,
            attr.st_uid if fields.update_uid else None,
            attr.st_gid if fields.update_gid else None,
            attr.st_size if fields.update_size else None,
            attr.st_atime_ns if fields.update_atime else None,
            attr.st_mtime_ns if fields.update_mtime else None,
        )
        change, found = yield from self._attributes.set(node, wanted, handle, Caller(ctx.pid, ctx.uid, ctx.gid))
        if change is not None:
            self._tell(change)
        return self._shown(node, found)

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        # Found also while the source hangs.
        return self._socket if name == SOCKET_ATTRIBUTE else await self._getxattr(inode, name, ctx)

    @on_source
    def _getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        return self._attributes.get_extended(self._inodes[inode], name, _caller(ctx))

    @on_source
    def listxattr(self, inode: InodeT, ctx: RequestContext) -> list[bytes]:
        return self._attributes.list_extended(self._inodes[inode], _caller(ctx))

    @in_steps
    def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> Steps[None]:
        change = yield from self._attributes.set_extended(self._inodes[inode], name, value, _caller(ctx))
        if change is not None:
            self._tell(change)

    @in_steps
    def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> Steps[None]:
        change = yield from self._attributes.remove_extended(self._inodes[inode], name, _caller(ctx))
        if change is not None:
            self._tell(change)

    @on_source
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = os.fstatvfs(self._source.fd(self._inodes.root))
        answer = pyfuse3.StatvfsData()
        for field in _STATFS:
            setattr(answer, f"f_{field}", getattr(found, f"f_{field}"))
        return answer

    @at_once
    def access(self, inode: InodeT, mode: int, ctx: RequestContext) -> bool:
        # The mount has default_permissions: the kernel judges by the attributes it is given.
        return True

    # Files

    @in_steps
    def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> Steps[tuple[FileInfo, EntryAttributes]]:
        parent = self._inodes[parent_inode]
        opened = yield from self._files.create(parent, name, mode, flags, _caller(ctx), ctx.umask)
        self._tell_made(opened.change)
        return information(opened), self._remembered(opened.handle.entry.inode, opened.found)

    @in_steps
    def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> Steps[FileInfo]:
        opened = yield from self._files.open(self._inodes[inode], flags, _caller(ctx))
        self._tell(opened.change)
        return information(opened)

    @may_wait
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        handle = self._handles[fh]
        # pyfuse3 takes any buffer, whatever its types say.
        data: bytes | memoryview | None = None
        if self.source_answers is None:
            data = self._files.read_cached(handle, size, off)
        if data is None:
            data = await self.threads.run(handle.caller.uid, os.pread, handle.fd, size, off)
        if data and self._files.tells_reads:
            self._tell(handle.change("read"))
        return data

    @may_wait
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self._handles[fh]
        if not (handle.waits or self._pace.slow or self.source_answers is not None):
            written = self._pace.timed(self._files.write, handle, buf, off)
        else:
            written = await self.threads.run(handle.caller.uid, self._pace.timed, self._files.write, handle, buf, off)
        for change in self._files.wrote(handle, off, written.length):
            self._tell(change)
        return written.length if written.error is None else self._files.answer(handle, off, written)

    @may_wait
    async def flush(self, fh: FileHandleT) -> None:
        # close(2) of one of possibly many descriptors. A local disk has nothing to say, and after ENOSYS the
        # kernel never asks again; a server may have refused what was written, and says so when a file is closed.
        if self.source_answers is None:
            raise OSError(errno.ENOSYS, "nothing to flush")
        handle = self._handles[fh]
        if handle.written:
            handle.written = False
            await self.threads.run(handle.caller.uid, self._files.flush, handle)

    @at_once
    def release(self, fh: FileHandleT) -> None:
        self._close(fh)

    @may_wait
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self._sync(os.fdatasync if datasync else os.fsync, self._handles[fh])

    # Directories

    @on_source
    def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        handle, change = self._files.open_directory(self._inodes[inode], _caller(ctx))
        self._tell(change)
        return pyfuse3.FileHandleT(handle.fd)

    @on_source
    def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        handle = self._handles[fh]
        if self._files.tells_reads:  # also of a listing that fails (Linux 6.18)
            self._tell(handle.change("read"))
        for name, inode, found, following in self._listings.names(handle, start_id, self._turn()):
            if not pyfuse3.readdir_reply(token, name, self._shown(inode, found), following):
                self._inodes.reap(inode)
                break
            if name not in OWN:
                inode.lookups += 1

    @at_once
    def releasedir(self, fh: FileHandleT) -> None:
        self._listings.end(self._handles[fh])
        self._close(fh)

    @may_wait
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self._sync(os.fsync, self._handles[fh])

    # Doing

    def _close(self, fh: FileHandleT) -> None:
        handle = self._handles[fh]
        for change in self._files.close(handle):
            self._tell(change)
        # Where the source may hang this may flush, and wait for it.
        if self.source_answers is None:
            os.close(handle.fd)
        else:
            close_apart(handle.caller.uid, handle.fd)

    async def _sync(self, sync: Callable[[int], None], handle: Handle) -> None:
        await self.threads.run(handle.caller.uid, sync, handle.fd)

    # Answering

    def _tell_made(self, change: Change) -> None:
        """A name was made: if the kernel remembers that there was none, it finds none until the maker has run."""
        if self._absent is not None:
            change = change._replace(locked=((change.entry.parent.number, change.entry.name),))
        self._tell(change)

    def _made(self, made: Made) -> EntryAttributes:
        change, found = made
        self._tell_made(change)
        return self._remembered(change.entry.inode, found)

    def _remembered(self, inode: Inode, found: os.stat_result) -> EntryAttributes:
        """The attributes for a reply that makes the kernel remember the inode once more."""
        inode.lookups += 1
        return self._shown(inode, found)

    def _shown(self, inode: Inode, found: os.stat_result) -> EntryAttributes:
        self._judgement.tell(inode, found)
        return attributes(inode, found, self._timeout)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.pid, ctx.uid, ctx.gid)
