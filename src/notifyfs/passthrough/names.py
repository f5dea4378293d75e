"""Names: found, made, removed, moved. Each function does it in the source, in steps, and says what was done."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

from notifyfs.core.changes import Change, Rename
from notifyfs.passthrough.source import magic
from notifyfs.system import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.changes import Operation
    from notifyfs.core.entries import Entry, Inode
    from notifyfs.passthrough.attribution import Attribution
    from notifyfs.passthrough.pace import Steps
    from notifyfs.passthrough.permission import Permission
    from notifyfs.passthrough.source import Source
    from notifyfs.system.callers import Caller

Made = tuple[Change, os.stat_result]
"""What was done, and the attributes of what was made."""


class Names:
    """The names of the source. OSError: the source's errno; ESTALE where the kernel must look again."""

    def __init__(self, source: Source, permission: Permission, attribution: Attribution) -> None:
        self._source = source
        self._inodes = source.inodes
        self._permission = permission
        self._attribution = attribution

    def look_up(self, parent: Inode, name: bytes, caller: Caller) -> tuple[Entry, os.stat_result]:
        """Find *name* in *parent* as the source has it now. ``Until``: it is being changed."""
        permission, changing = self._permission, self._source.changing
        if changing and (until := changing.get((parent, name))) is not None:
            raise until
        if permission.in_doubt(parent, self._source.fd(parent), caller, refusal=errno.EACCES):
            with permission.as_caller(caller):
                entry, found = self._source.look(parent, name)
        else:
            entry, found = self._source.look(parent, name)
        self._attribution.looked_up(caller.thread, entry)
        return entry, found

    def read_link(self, inode: Inode, caller: Caller) -> bytes:
        """What a symbolic link says."""
        fd = self._source.fd(inode)
        if self._permission.in_doubt(inode, fd, caller):
            with self._permission.as_caller(caller):
                return os.readlink(b"", dir_fd=fd)
        return os.readlink(b"", dir_fd=fd)

    # Making

    def make_directory(self, parent: Inode, name: bytes, mode: int, caller: Caller, umask: int) -> Steps[Made]:
        """mkdir(2)."""
        return self._make(parent, name, caller, umask, lambda fd: os.mkdir(name, mode & 0o7777, dir_fd=fd))

    def make_node(  # noqa: PLR0913, PLR0917 - mknod(2)'s arguments, and whose they are
        self, parent: Inode, name: bytes, mode: int, device: int, caller: Caller, umask: int
    ) -> Steps[Made]:
        """mknod(2)."""
        return self._make(parent, name, caller, umask, lambda fd: os.mknod(name, mode, device, dir_fd=fd))

    def make_symlink(self, parent: Inode, name: bytes, target: bytes, caller: Caller, umask: int) -> Steps[Made]:
        """symlink(2)."""
        return self._make(parent, name, caller, umask, lambda fd: os.symlink(target, name, dir_fd=fd))

    def link(self, inode: Inode, parent: Inode, name: bytes, caller: Caller) -> Steps[Made]:
        """link(2): give *inode* another name."""
        permission = self._permission
        self._attribution.moved_on(caller.thread)
        with self._source.borrowed(inode) as fd:
            into = self._source.fd(parent)
            doubt = permission.in_doubt(inode, fd, caller) | permission.in_doubt(parent, into, caller)
            try:
                during = partial(self._source.changes, ((parent, name),))
                yield from permission.do(doubt, caller, partial(_link, name), fd, into, during=during)
            except FileNotFoundError:
                if inode.entry.live and not os.fstat(fd).st_nlink:
                    self._inodes.vanish(inode.entry.parent, inode.entry.name)
                    raise _replaced(str(inode.number)) from None
                raise
        if inode.names is None:
            self._attribution.linked(inode)
        return self._made("link", parent, name, caller)

    def _make(self, parent: Inode, name: bytes, caller: Caller, umask: int, call: Callable[[int], None]) -> Steps[Made]:
        fd = self._source.fd(parent)
        doubt = self._permission.in_doubt(parent, fd, caller)
        during = partial(self._source.changes, ((parent, name),))
        yield from self._permission.make(doubt, caller, umask, call, fd, during=during)
        return self._made("make", parent, name, caller)

    def _made(self, operation: Operation, parent: Inode, name: bytes, caller: Caller) -> Made:
        found = os.stat(name, dir_fd=self._source.fd(parent), follow_symlinks=False)
        if operation == "make":
            self._inodes.renew(found.st_dev, found.st_ino)
        return Change(operation, self._source.enter(parent, name, found), caller), found

    # Removing

    def remove(
        self, operation: Literal["unlink", "rmdir"], parent: Inode, name: bytes, caller: Caller
    ) -> Steps[Change]:
        """unlink(2), rmdir(2)."""
        self._attribution.moved_on(caller.thread)
        doubt = self._permission.in_doubt(parent, self._source.fd(parent), caller)
        entry, fd, links, unsure = self._hold_known(parent, name, caller)
        try:
            call = partial(_unlink if operation == "unlink" else _rmdir, name)
            during = partial(self._source.changes, ((parent, name),), (entry.inode,))
            yield from self._permission.do(doubt | unsure, caller, call, self._source.fd(parent), during=during)
            dies = self._inodes.remove(entry, _links_left(fd, links))
        except BaseException:
            os.close(fd)
            self._inodes.reap(entry.inode)
            raise
        self._keep_removed(entry.inode, fd)
        return Change(operation, entry, caller, dies=dies, locked=((parent.number, name),))

    def _keep_removed(self, inode: Inode, fd: int) -> None:
        """After a name of *inode* was removed: keep the only way to it, if there is no other."""
        self._inodes.reap(inode)
        if inode.entry.live:
            os.close(fd)
        else:
            self._source.pin(inode, fd)

    # Moving

    def rename(  # noqa: PLR0913, PLR0917 - renameat2(2)'s arguments, and whose they are
        self, source: Inode, old: bytes, target: Inode, new: bytes, flags: int, caller: Caller
    ) -> Steps[list[Change]]:
        """renameat2(2): one change; of an exchange, two."""
        permission = self._permission
        self._attribution.moved_on(caller.thread)
        doubt = permission.in_doubt(source, self._source.fd(source), caller)
        doubt |= permission.in_doubt(target, self._source.fd(target), caller)
        subject, unsure = self._check_known(source, old, caller)
        self._inodes.check_move(subject, target)
        move = _Move(source, old, target, new, flags, caller)
        if flags & syscalls.RENAME_EXCHANGE:
            return (yield from self._exchange(move, subject, doubt=doubt | unsure))
        return [(yield from self._replace(move, subject, doubt=doubt | unsure))]

    def _exchange(self, move: _Move, subject: Entry, *, doubt: bool) -> Steps[list[Change]]:
        source, target = move.source, move.target
        other, unsure = self._check_known(target, move.new, move.caller)
        self._inodes.check_move(other, source)
        yield from self._move(move, subject, other, doubt=doubt | unsure)
        self._inodes.exchange(subject, other)
        self._attribution.moved(subject)
        self._attribution.moved(other)
        return [
            move.change(subject, Rename(source, move.old)),
            move.change(other, Rename(target, move.new)),
        ]

    def _replace(self, move: _Move, subject: Entry, *, doubt: bool) -> Steps[Change]:
        victim, fd, links = None, -1, 0
        if not move.flags & syscalls.RENAME_NOREPLACE:
            with suppress(FileNotFoundError):
                victim, fd, links, unsure = self._hold_known(move.target, move.new, move.caller)
                doubt |= unsure
        try:
            yield from self._move(move, subject, victim, doubt=doubt)
            dies = victim is not None and self._inodes.remove(victim, _links_left(fd, links))
        except BaseException:
            if victim is not None:
                os.close(fd)
                self._inodes.reap(victim.inode)
            raise
        self._inodes.move(subject, move.target, move.new)
        self._attribution.moved(subject)
        if victim is not None:
            self._keep_removed(victim.inode, fd)
        return move.change(subject, Rename(move.source, move.old, victim.inode if victim else None, victim_dies=dies))

    def _move(self, move: _Move, subject: Entry, other: Entry | None, *, doubt: bool) -> Steps[None]:
        names = (move.source, move.old), (move.target, move.new)
        during = partial(self._source.changes, names, [entry.inode for entry in (subject, other) if entry])
        with self._source.borrowed(move.source) as fd:
            into, call = self._source.fd(move.target), partial(_rename, move.old, move.new, move.flags)
            if move.flags & syscalls.RENAME_WHITEOUT:
                yield from self._permission.make(doubt, move.caller, 0, call, fd, into, during=during)
            else:
                yield from self._permission.do(doubt, move.caller, call, fd, into, during=during)

    # What the kernel knows

    def _hold_known(self, parent: Inode, name: bytes, caller: Caller) -> tuple[Entry, int, int, bool]:
        """``Source.hold`` for the file that the kernel knows by this name: how many links it has, and ``in_doubt``.

        ESTALE if it is another now. The kernel has judged the one that it knows (sticky directories): it looks again.
        """
        known = self._inodes.peek(parent, name)
        entry, fd, found = self._source.hold(parent, name)
        try:
            self._check_same(known, entry)
            return entry, fd, found.st_nlink, self._permission.in_doubt(entry.inode, fd, caller, found, walked=False)
        except OSError:
            os.close(fd)
            raise

    def _check_known(self, parent: Inode, name: bytes, caller: Caller) -> tuple[Entry, bool]:
        known = self._inodes.peek(parent, name)
        entry, found = self._source.look(parent, name)
        self._check_same(known, entry)
        # To move a directory takes permission to write it: its ".." changes.
        fd = self._source.fd(entry.inode) if entry.inode.is_dir else -1
        return entry, self._permission.in_doubt(entry.inode, fd, caller, found, walked=False)

    def _check_same(self, known: Entry | None, entry: Entry) -> None:
        if known is not None and entry is not known:
            self._inodes.reap(entry.inode)
            raise _replaced(entry.name)


class _Move(NamedTuple):
    """One rename that was asked for."""

    source: Inode
    old: bytes
    target: Inode
    new: bytes
    flags: int
    caller: Caller

    def change(self, entry: Entry, rename: Rename) -> Change:
        """It was done to *entry*."""
        locked = (self.source.number, self.old), (self.target.number, self.new)
        return Change("rename", entry, self.caller, rename, locked=locked)


def _link(name: bytes, fd: int, into: int) -> None:
    os.link(magic(fd), name, dst_dir_fd=into, follow_symlinks=True)


def _unlink(name: bytes, parent: int) -> None:
    os.unlink(name, dir_fd=parent)


def _rmdir(name: bytes, parent: int) -> None:
    os.rmdir(name, dir_fd=parent)


def _rename(old: bytes, new: bytes, flags: int, fd: int, into: int) -> None:
    if flags:
        syscalls.renameat2(fd, old, into, new, flags)
    else:
        os.rename(old, new, src_dir_fd=fd, dst_dir_fd=into)


def _links_left(fd: int, before: int) -> int:
    """How many links the file has after one of those *before* was removed."""
    try:
        return os.fstat(fd).st_nlink
    except OSError:
        # It is done, whatever this says: of a file without a name, a FUSE server that goes by paths knows nothing.
        return before - 1


def _replaced(which: str | bytes) -> OSError:
    return OSError(errno.ESTALE, "replaced behind the mount", which)
