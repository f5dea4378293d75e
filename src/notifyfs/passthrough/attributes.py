"""Attributes, also extended ones: set in the source, and what was done."""

from __future__ import annotations

import os
import stat
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from notifyfs.core.rules import SETATTRS
from notifyfs.passthrough.files import PRIVILEGED
from notifyfs.passthrough.judgement import ACL, access_list
from notifyfs.passthrough.pace import frees_much
from notifyfs.passthrough.permission import JUDGED
from notifyfs.passthrough.source import magic
from notifyfs.system import identity, syscalls
from notifyfs.system.callers import credentials, groups

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.changes import Change
    from notifyfs.core.entries import Entry, Inode
    from notifyfs.passthrough.attribution import Attribution
    from notifyfs.passthrough.files import Files
    from notifyfs.passthrough.handles import Handle
    from notifyfs.passthrough.judgement import Judgement
    from notifyfs.passthrough.pace import Steps
    from notifyfs.passthrough.permission import Permission
    from notifyfs.passthrough.source import Source
    from notifyfs.system.callers import Caller

_MOMENT: Final = 1_000_000_000  # ns: a time no older than that when it arrives may have been UTIME_NOW


class Wanted(NamedTuple):
    """What a setattr asks for; None: leave it."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    """Nanoseconds since 1970."""
    mtime: int | None = None

    def only_mode(self) -> bool:
        """Whether the mode and nothing else."""
        return self.mode is not None and self[1:] == (None,) * 5


class Attributes:
    """The attributes of the source's files. OSError: the source's errno; ESTALE where the kernel must look again."""

    def __init__(
        self,
        source: Source,
        permission: Permission,
        judgement: Judgement,
        attribution: Attribution,
        files: Files,
    ) -> None:
        self._source = source
        self._permission = permission
        self._judgement = judgement
        self._attribution = attribution
        self._files = files

    def set(
        self, inode: Inode, wanted: Wanted, handle: Handle | None, caller: Caller
    ) -> Steps[tuple[Change | None, os.stat_result]]:
        """chmod(2), chown(2), truncate(2), utimensat(2): the change, and the attributes then.

        *handle*: it came through this one.
        """
        # One descriptor serves all: an O_PATH one cannot be truncated itself, its magic link can.
        fd = self._source.fd(inode) if handle is None else handle.fd
        entry = _only(inode) if handle is None else handle.entry
        before = os.fstat(fd)
        owner = wanted.uid is not None or wanted.gid is not None
        takes = owner or wanted.size is not None  # space, or privileges away
        opened, more = handle is not None, None
        if self._permission.judges or (takes and before.st_mode & PRIVILEGED):
            more = self._judged_with(inode, fd, wanted, caller, before, takes=takes, opened=opened)

        def act(waits: bool) -> Callable[[int], os.stat_result]:  # noqa: FBT001 - Pace's
            call = partial(_set, wanted, opened, waits)
            return self._permission.ready(caller, call, more, None if takes else 0)

        pace = self._permission.pace
        if wanted.size is not None:
            found = yield from pace.free(caller.uid, act, fd, much=frees_much(before, wanted.size))
        elif pace.slow:
            found = yield from pace.do(caller.uid, act(False), fd)  # noqa: FBT003 - as above
        else:
            found = pace.timed(act(False), fd)  # noqa: FBT003 - as above
        self._judgement.changed(inode, found)
        other = wanted.mode is not None or owner or found.st_mode != before.st_mode
        operation = SETATTRS[wanted.size is not None, wanted.atime is not None, wanted.mtime is not None, other]
        if operation is None:
            return None, found
        return self._attribution.changed(operation, inode, caller, entry), found

    def _judged_with(  # noqa: PLR0913 - what is to be done, and all that says as whom
        self,
        inode: Inode,
        fd: int,
        wanted: Wanted,
        caller: Caller,
        before: os.stat_result,
        *,
        takes: bool,
        opened: bool,
    ) -> int | None:
        """What the caller has beside its own capabilities where the source judges; None where the kernel has judged."""
        permission = self._permission
        privileged = before.st_mode & PRIVILEGED
        judged = not opened and not (privileged and self._clears_for_a_writer(inode, wanted, before))
        if judged and permission.in_doubt(inode, fd, caller, before):
            return 0
        return JUDGED if takes and privileged and not permission.ours else None

    def _clears_for_a_writer(self, inode: Inode, wanted: Wanted, before: os.stat_result) -> bool:
        """Whether nothing is asked but to clear setuid and setgid: so the kernel does by itself for whoever writes."""
        if wanted.mode is None or not wanted.only_mode():
            return False
        if stat.S_IMODE(before.st_mode ^ wanted.mode) & ~(before.st_mode & PRIVILEGED):
            return False
        handles = map(self._files.handles.get, self._source.lent(inode))
        return any(handle is not None and handle.writable for handle in handles)

    # Extended

    def get_extended(self, inode: Inode, name: bytes, caller: Caller) -> bytes:
        """getxattr(2)."""
        fd = self._source.fd(inode)
        if name == ACL:
            inode.acl = access_list(fd)
        # The kernel asks for security.capability before each write.
        if name.startswith(b"user.") and self._permission.in_doubt(inode, fd, caller):
            with self._permission.as_caller(caller):
                return os.getxattr(magic(fd), name)
        return os.getxattr(magic(fd), name)

    def list_extended(self, inode: Inode, caller: Caller) -> list[bytes]:
        """listxattr(2)."""
        self._permission.check_way(inode, caller)
        # All at once: there may be thousands of them.
        found = os.fsencode("\0".join(os.listxattr(magic(self._source.fd(inode)))))
        names = found.split(b"\0") if found else []
        if b"trusted." not in found:
            return names
        # The kernel lists trusted.* to CAP_SYS_ADMIN only (xattr(7)); here the daemon asks.
        who = credentials(caller.thread)
        if who is not None and who.capabilities & identity.CAP_SYS_ADMIN:
            return names
        return [name for name in names if not name.startswith(b"trusted.")]

    def set_extended(self, inode: Inode, name: bytes, value: bytes, caller: Caller) -> Steps[Change | None]:
        """setxattr(2)."""
        fd, entry = self._source.fd(inode), _only(inode)
        doubt = self._in_doubt(inode, fd, name, caller)
        yield from self._permission.do(doubt, caller, lambda fd: os.setxattr(magic(fd), name, value), fd)
        if name == ACL:
            _strip_setgid(self._source.fd(inode), caller)
        return self._changed(inode, entry, name, caller)

    def remove_extended(self, inode: Inode, name: bytes, caller: Caller) -> Steps[Change | None]:
        """removexattr(2)."""
        fd, entry = self._source.fd(inode), _only(inode)
        doubt = self._in_doubt(inode, fd, name, caller)
        yield from self._permission.do(doubt, caller, lambda fd: os.removexattr(magic(fd), name), fd)
        return self._changed(inode, entry, name, caller)

    def _in_doubt(self, inode: Inode, fd: int, name: bytes, caller: Caller) -> bool:
        # The others are for capabilities to judge; and the kernel itself removes security.capability for who writes.
        return name.startswith((b"user.", b"system.")) and self._permission.in_doubt(inode, fd, caller)

    def _changed(self, inode: Inode, entry: Entry | None, name: bytes, caller: Caller) -> Change | None:
        if name == ACL:
            self._judgement.changed(inode, self._source.stat(inode))
        elif not name.startswith(b"user."):
            inode.verdicts = None  # a security module's label, or a list of another kind
        return self._attribution.changed("attributes", inode, caller, entry)


def _only(inode: Inode) -> Entry | None:
    """The one name that it has; others may come while it is changed."""
    return inode.entry if inode.names is None else None


def _strip_setgid(fd: int, caller: Caller) -> None:
    """Clear setgid where a user outside the group has set an access list, as Linux does (posix_acl_update_mode)."""
    found = os.fstat(fd)
    if not found.st_mode & stat.S_ISGID or caller.uid == 0 or found.st_gid == caller.gid:
        return
    if found.st_gid not in groups(caller.thread):
        os.chmod(magic(fd), stat.S_IMODE(found.st_mode) & ~stat.S_ISGID)


def _set(wanted: Wanted, opened: bool, waits: bool, fd: int) -> os.stat_result:  # noqa: FBT001 - each request pays for words
    """Change what is *wanted*: the attributes then. *opened*: *fd* is not an ``O_PATH`` one. *waits*: for a lease."""
    path = magic(fd)
    mode, uid, gid, size, atime, mtime = wanted
    if size is not None:
        if opened:
            os.ftruncate(fd, size)
        else:
            _truncate(path, size, waits=waits)
    if uid is not None or gid is not None:
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
    elif mode is not None and size is None:
        # With a size or owner the mode is what the kernel makes of setuid and setgid; the source has done that by now.
        os.chmod(path, stat.S_IMODE(mode))
    if atime is not None or mtime is not None:
        try:
            syscalls.utimensat(path, atime, mtime)
        except PermissionError:
            # UTIME_NOW, which is allowed where another time is not (chattr +a), comes as a time that has just been.
            if any(ns is not None and not 0 <= time.time_ns() - ns < _MOMENT for ns in (atime, mtime)):
                raise
            syscalls.utimensat(path, atime, mtime, now=True)
    return os.fstat(fd)


def _truncate(path: bytes, size: int, *, waits: bool) -> None:
    # truncate(2) would wait in any case for who has a lease on the file, and be interrupted by a signal in that
    # (fcntl(2), F_SETLEASE): Python repeats open(2), and not truncate(2).
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | (0 if waits else os.O_NONBLOCK))
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
