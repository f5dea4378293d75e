"""What a subscriber names -> an inode, if the subscriber may watch it.

The rules are inotify_add_watch(2)'s: search permission on every directory on
the way and read permission on the file, judged with the subscriber's own
user, groups and supplementary groups, by the kernel itself.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio

from notifyfs.core.inodes import ROOT
from notifyfs.protocol import flags
from notifyfs.system import identity, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.entries import Entry, Inode
    from notifyfs.passthrough.pace import Until
    from notifyfs.passthrough.source import Source

T = TypeVar("T")

_MOST_LINKS: Final = 40  # MAXSYMLINKS, path_resolution(7)
_NAME_MAX: Final = 255
_PATH_MAX: Final = 4096
_EFFORT: Final = 2500
"""Steps that a walk takes before others have their turn, each over known ground (0.2 us)."""
_LOOKING: Final = 100
"""What a step is worth that has to ask the source, and perhaps a directory for its permissions."""


@attrs.frozen
class Peer:
    """The other end of a connection (SO_PEERCRED, SO_PEERGROUPS; unix(7))."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @property
    def trusted(self) -> bool:
        """Whether it is root or the daemon's user."""
        return self.uid in (0, os.geteuid())

    def may(self, judge: Callable[[int], bool], fd: int) -> bool:
        """Whether *judge* (``syscalls.may_read``, ``may_search``) lets this user pass."""
        own = os.geteuid()
        if self.uid in (0, own):
            return judge(fd)
        if own:
            return False  # only root can try on somebody else's permissions
        with suppress(PermissionError), identity.acting_as(self.uid, self.gid, self.groups):
            return judge(fd)
        return False  # root without the capability to be another


class Resolver:
    """Finds what subscribers name. *mountpoint* is absolute; *device* is the mount's (major, minor).

    *judges*: the source can be asked at each event what a user may hear. *died* hears of each inode
    that only a walk has kept alive, when that walk goes on.
    """

    def __init__(
        self,
        source: Source,
        mountpoint: bytes,
        device: tuple[int, int],
        died: Callable[[Inode], None] = lambda _inode: None,
        *,
        judges: bool = True,
    ) -> None:
        self._source = source
        self._judges = judges
        self._mountpoint = mountpoint.rstrip(b"/")
        self._device = device
        self._died = died

    async def path(self, path: bytes, mask: int, peer: Peer, use: Callable[[Inode], T]) -> T:
        """What *use* makes of the inode at *path* below the mount's root; a last link is followed unless DONT_FOLLOW.

        A long way is gone in parts, between which others have their turn. Where it has come to is held meanwhile:
        what is removed under its feet lives until it has gone on, as in Linux.

        ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG and EACCES as path_resolution(7) has them; EXDEV when
        ``..`` or a symbolic link leads out of the mount; EPERM for X_RECURSIVE of a user who cannot be judged.
        """
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        inodes = self._source.inodes
        walk = _Walk(self._source, self._mountpoint, path, peer, follow=not mask & flags.DONT_FOLLOW)
        held: list[Entry] = []
        try:
            while walk.goes_on():
                held.append(walk.place.entry)
                inodes.use(held[-1])
                self._let_go(held[:-1])
                del held[:-1]
                await _pass(walk.until)
            self._admit(walk.place, mask, peer)
            return use(walk.place)
        finally:
            self._let_go(held)
            for place in reversed(walk.passed):
                inodes.reap(place)

    def _let_go(self, held: list[Entry]) -> None:
        for entry in held:
            for inode in self._source.inodes.drop(entry):
                self._died(inode)

    def descriptor(self, fd: int, mask: int, peer: Peer) -> Inode:
        """The inode that an ``O_PATH`` descriptor of the subscriber's refers to, in this mount.

        Only an ``O_PATH`` one (else EINVAL): closing another kind would send this very daemon a
        FLUSH and wait for it. EXDEV: a descriptor of another file system.
        """
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
            raise OSError(errno.EINVAL, "not an O_PATH descriptor")
        *device, number = syscalls.identify(fd)
        if tuple(device) != self._device:
            raise OSError(errno.EXDEV, "a descriptor of another file system")
        inode = self._source.inodes[number]
        self._admit(inode, mask, peer)
        return inode

    def _admit(self, inode: Inode, mask: int, peer: Peer) -> None:
        if mask & flags.X_RECURSIVE and not (self._judges or peer.trusted):
            raise OSError(errno.EPERM, "on a source that may hang only root and the daemon's user may watch a tree")
        if mask & (flags.ONLYDIR | flags.X_RECURSIVE) and not inode.is_dir:
            raise OSError(errno.ENOTDIR, "not a directory")
        if not peer.may(syscalls.may_read, self._source.fd(inode)):
            raise OSError(errno.EACCES, "no read permission")


async def _pass(until: Until | None) -> None:
    """Let others have their turn; and wait."""
    if until is None:
        await trio.lowlevel.checkpoint()
        return
    come = trio.Event()
    until.then(come.set)
    await come.wait()


class _Walk:
    """A way from the mount's root along *path*."""

    def __init__(self, source: Source, mountpoint: bytes, path: bytes, peer: Peer, *, follow: bool) -> None:
        self._source = source
        self._mountpoint = mountpoint
        self._path = path
        self._peer = peer
        self._follow = follow
        self._links = 0
        self._parts = path.split(b"/")[::-1] if path else []
        self.place = source.inodes.root
        self.until: Until | None = None
        """What to wait for, where it does not go on: the next name is just being changed."""
        self.passed: dict[Inode, None] = {}
        """What was found, in its order."""

    def goes_on(self) -> bool:
        """Go some way, for a millisecond at most; whether there is more of it.

        What was found is good for that time, since nobody else can do anything: ``a/../a/..`` is looked for once.
        """
        parts, left, changing = self._parts, _EFFORT, self._source.changing
        self.until = None
        known: dict[tuple[Inode, bytes], Inode] = {}
        while parts and left > 0:
            part, place = parts.pop(), self.place
            if changing and (until := changing.get((place, part))) is not None:
                parts.append(part)
                self.until = until
                break
            following = known.get((place, part))
            if following is None:
                left -= _LOOKING
                following = self._step(part, searched=(place, b".") in known)
                if part:
                    known[place, b"."] = place
                if following is not None:
                    known[place, part] = following
            left -= 1
            if following is not None:
                self.place = following
        return bool(parts)

    def _step(self, part: bytes, *, searched: bool) -> Inode | None:
        """Where *part* leads from here; None for a link, which is followed then."""
        place, source = self.place, self._source
        self._check(part, searched=searched)
        if part in (b"", b"."):
            return place
        if part == b"..":
            return place.entry.parent
        entry, found = source.look(place, part)
        self.passed.setdefault(entry.inode)
        if not stat.S_ISLNK(found.st_mode) or not (self._parts or self._follow):
            return entry.inode
        self._links += 1
        if self._links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._path)
        target = os.readlink(b"", dir_fd=source.fd(entry.inode))
        if target.startswith(b"/"):
            target = self._inside(target)
            self.place = source.inodes.root
        self._parts += reversed(target.split(b"/"))
        return None

    def _check(self, part: bytes, *, searched: bool) -> None:
        if not self.place.is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), self._path)
        if part and not searched and not self._peer.may(syscalls.may_search, self._source.fd(self.place)):
            raise OSError(errno.EACCES, "no search permission", self._path)
        if len(part) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), self._path)
        if part == b".." and self.place.number == ROOT:
            raise OSError(errno.EXDEV, "'..' leads out of the mount", self._path)

    def _inside(self, target: bytes) -> bytes:
        """An absolute link's target, relative to the mount's root."""
        if target == self._mountpoint or target.startswith(self._mountpoint + b"/"):
            return target[len(self._mountpoint) + 1 :]
        raise OSError(errno.EXDEV, "a symbolic link leads out of the mount", self._path)
