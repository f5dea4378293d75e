"""The source tree: bounded ``O_PATH`` descriptors, and every name checked.

Nothing here remembers a path. A descriptor is opened from its directory's
descriptor and one name, never through a symbolic link, and what is found must
be the very inode (device, number) that was expected: else ESTALE.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict, defaultdict
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar

from notifyfs.core.inodes import Inodes
from notifyfs.passthrough.pace import Until, frees_much
from notifyfs.system.closing import close_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from notifyfs.core.entries import Entry, Inode

T = TypeVar("T")

_SWEEP: Final = 0.001
"""Seconds that a sweep may take; what is left then is left to a thread."""
O_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Source:
    """The source's inodes and their descriptors.

    *root* is an ``O_PATH`` descriptor of the source, opened before the mount: it stays below the
    mount even when that covers the source itself. At most *limit* descriptors are kept for reuse
    (more only for files that were removed and are still in use, which no name leads to).
    *freeing* is called when there is something to ``sweep``.
    """

    def __init__(self, root: int, limit: int, freeing: Callable[[], None] = lambda: None) -> None:
        found = os.fstat(root)
        self.inodes = Inodes(found.st_dev, found.st_ino, self._reaped)
        self.limit = limit
        self.changing: dict[tuple[Inode, bytes], Until] = {}
        """Names, by their directories, of which the source may say already what nobody was told yet."""
        self._root = root
        self._kept: OrderedDict[Inode, int] = OrderedDict()
        self._pinned: dict[Inode, int] = {self.inodes.root: root}
        self._lent: dict[Inode, dict[int, None]] = {}
        self._removed: list[int] = []  # the last hold on files that nobody remembers: to close one frees the file
        self._freeing = freeing

    def close(self) -> None:
        """Close every descriptor."""
        for fd in (*self._kept.values(), *self._pinned.values(), *self._removed):
            os.close(fd)
        self._removed.clear()
        self._kept.clear()
        self._pinned.clear()

    @property
    def descriptors(self) -> int:
        """How many descriptors are held, those not counted that the next ``sweep`` closes."""
        return len(self._kept) + len(self._pinned)

    def sweep(self) -> None:
        """Free what was removed; better when nobody is waiting, for it takes ext4 some 0.1 ms each (Linux 6.18)."""
        removed, self._removed = self._removed, []
        until = perf_counter() + _SWEEP
        left: defaultdict[int, list[int]] = defaultdict(list)
        for fd in removed:
            owner, much = _freed_by(fd)
            if much or perf_counter() > until:
                left[owner].append(fd)
            else:
                os.close(fd)
        for owner, fds in left.items():
            close_apart(owner, *fds)

    def fd(self, inode: Inode) -> int:
        """An ``O_PATH`` descriptor of *inode*, good until the next call that may open another."""
        fd = self._known(inode)
        return self._reopen(inode) if fd is None else fd

    @contextmanager
    def borrowed(self, inode: Inode) -> Iterator[int]:
        """A descriptor as ``fd`` gives, that stays good while others are opened."""
        fd = os.dup(self.fd(inode))
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def all_borrowed(self, inodes: Iterable[Inode]) -> Iterator[list[int]]:
        """As ``borrowed``, of several; -1 for one to which no name leads any more."""
        descriptors = []
        try:
            for inode in inodes:
                try:
                    descriptors.append(os.dup(self.fd(inode)))
                except OSError:
                    descriptors.append(-1)
            yield descriptors
        finally:
            for fd in descriptors:
                if fd >= 0:
                    os.close(fd)

    def stat(self, inode: Inode) -> os.stat_result:
        """The attributes of *inode* now."""
        fd = self._known(inode)
        if fd is not None:
            return os.fstat(fd)
        if inode.is_dir:
            return os.fstat(self._reopen(inode))

        def by_name(entry: Entry) -> os.stat_result:
            found = os.stat(entry.name, dir_fd=self.fd(entry.parent), follow_symlinks=False)
            return self._expected(inode, found)

        return self._through_a_name(inode, by_name)

    def look(self, parent: Inode, name: bytes) -> tuple[Entry, os.stat_result]:
        """Find *name* in *parent*, as the source has it now; ENOENT also tells the table."""
        try:
            found = os.stat(name, dir_fd=self.fd(parent), follow_symlinks=False)
        except FileNotFoundError:
            self.inodes.vanish(parent, name)
            raise
        return self.enter(parent, name, found), found

    def hold(self, parent: Inode, name: bytes) -> tuple[Entry, int, os.stat_result]:
        """Find *name* in *parent*: an ``O_PATH`` descriptor too, for the caller to close or ``pin``, and attributes."""
        try:
            fd = os.open(name, O_PATH, dir_fd=self.fd(parent))
        except FileNotFoundError:
            self.inodes.vanish(parent, name)
            raise
        try:
            found = os.fstat(fd)
            return self.enter(parent, name, found), fd, found
        except BaseException:
            os.close(fd)
            raise

    def pin(self, inode: Inode, fd: int) -> None:
        """Keep *fd* for as long as *inode* is remembered: no name leads to it any more.

        While it is open the source cannot give the inode's number to another file.
        """
        if inode in self._pinned or self.inodes.get(inode.number) is not inode:
            os.close(fd)
            return
        self._pinned[inode] = fd
        kept = self._kept.pop(inode, None)
        if kept is not None:
            os.close(kept)

    def open(self, inode: Inode, flags: int) -> int:
        """Open the file *inode* with open(2)'s *flags*; the descriptor is the caller's."""
        fd = self._known(inode)
        if fd is not None:
            return os.open(magic(fd), flags | os.O_CLOEXEC)
        # O_NONBLOCK: should the name have become a FIFO behind our back, nobody waits for it.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        return self._through_a_name(inode, lambda entry: self._open_expected(inode, entry, flags))

    def lend(self, inode: Inode, fd: int) -> None:
        """*fd* is open on *inode*, until ``take_back``: as good a way to it as any."""
        self._lent.setdefault(inode, {})[fd] = None

    def take_back(self, inode: Inode, fd: int) -> None:
        """*fd* is going to be closed."""
        lent = self._lent[inode]
        del lent[fd]
        if not lent:
            del self._lent[inode]

    @contextmanager
    def changes(self, names: Iterable[tuple[Inode, bytes]], inodes: Iterable[Inode] = ()) -> Iterator[None]:
        """In here these names are being made, removed or moved, in a thread; *inodes* are those that have them now.

        Who holds the lock of their directory keeps others from that, but not from looking them up (the kernel asks for
        a name that it knows without, ``d_revalidate``), nor from asking for what has them: a descriptor leads there.
        """
        until = Until()
        with ExitStack() as stack:
            for inode in inodes:
                fd = stack.enter_context(self.borrowed(inode))
                self.lend(inode, fd)
                stack.callback(self.take_back, inode, fd)
            self.changing |= dict.fromkeys(names, until)
            try:
                yield
            finally:
                for name in names:
                    del self.changing[name]
                until.come()

    def lent(self, inode: Inode) -> Iterable[int]:
        """The descriptors of *inode* that are lent."""
        return self._lent.get(inode, ())

    def _known(self, inode: Inode) -> int | None:
        fd = self._kept.get(inode)
        if fd is not None:
            self._kept.move_to_end(inode)
            return fd
        fd = self._pinned.get(inode)
        return next(reversed(self._lent[inode])) if fd is None and inode in self._lent else fd

    def _through_a_name(self, inode: Inode, attempt: Callable[[Entry], T]) -> T:
        """Try each name of *inode* that is still thought to lead to it; ESTALE when none does any more."""
        while inode.entry.live:
            entry = inode.entry
            try:
                return attempt(entry)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE, errno.ENOTDIR):
                    raise
                self.inodes.vanish(entry.parent, entry.name)  # removed or replaced behind the mount's back
        raise OSError(errno.ESTALE, "no name leads to this node any more", str(inode.number))

    def _open_expected(self, inode: Inode, entry: Entry, flags: int) -> int:
        fd = os.open(entry.name, flags | os.O_CLOEXEC, dir_fd=self.fd(entry.parent))
        try:
            self._expected(inode, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def enter(self, parent: Inode, name: bytes, found: os.stat_result) -> Entry:
        """Note what *name* in *parent* was just *found* to be."""
        return self.inodes.enter(
            parent,
            name,
            found.st_dev,
            found.st_ino,
            is_dir=stat.S_ISDIR(found.st_mode),
            # The name that is missing may just be being removed: that it was moved is not known then.
            links=0 if self.changing else found.st_nlink,
        )

    def _reopen(self, inode: Inode) -> int:
        # Not recursive: a tree may be deeper than Python's stack.
        missing = []
        place = inode
        while self._known(place) is None:
            if not place.entry.live:
                raise OSError(errno.ESTALE, "no name leads to this node any more", str(inode.number))
            missing.append(place)
            place = place.entry.parent
        for place in reversed(missing[1:]):
            self._keep(place, self._open_expected(place, place.entry, O_PATH))
        fd = self._through_a_name(inode, lambda entry: self._open_expected(inode, entry, O_PATH))
        self._keep(inode, fd)
        return fd

    def _keep(self, inode: Inode, fd: int) -> None:
        self._kept[inode] = fd
        if len(self._kept) > self.limit:
            os.close(self._kept.popitem(last=False)[1])

    def _reaped(self, inode: Inode) -> None:
        fd = self._kept.pop(inode, None)
        if fd is not None:
            os.close(fd)
        fd = self._pinned.pop(inode, None)
        if fd is not None:
            self._removed.append(fd)
            if len(self._removed) == 1:
                self._freeing()
            elif len(self._removed) > self.limit // 8:
                self.sweep()

    @staticmethod
    def _expected(inode: Inode, found: os.stat_result) -> os.stat_result:
        if found.st_ino != inode.ino or found.st_dev != inode.device:
            raise OSError(errno.ESTALE, "replaced behind the mount", str(inode.number))
        return found


def _freed_by(fd: int) -> tuple[int, bool]:
    """Whose file it is that closing *fd* frees, and whether that may take long."""
    try:
        found = os.fstat(fd)
    except OSError:
        return -1, True  # its file system is gone, or its server: to close it may take as long as it likes
    return found.st_uid, frees_much(found)


def magic(fd: int) -> bytes:
    """A path that leads to the very file of *fd*, also of an ``O_PATH`` one (proc(5), /proc/pid/fd)."""
    return b"/proc/self/fd/%d" % fd
