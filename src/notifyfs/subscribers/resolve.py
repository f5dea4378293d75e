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
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.core.inodes import ROOT
from notifyfs.protocol import flags
from notifyfs.system import identity, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.source import Source

_MOST_LINKS: Final = 40  # MAXSYMLINKS, path_resolution(7)
_NAME_MAX: Final = 255
_PATH_MAX: Final = 4096


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

    *judges*: the source can be asked at each event what a user may hear.
    """

    def __init__(self, source: Source, mountpoint: bytes, device: tuple[int, int], *, judges: bool = True) -> None:
        self._source = source
        self._judges = judges
        self._mountpoint = mountpoint.rstrip(b"/")
        self._device = device

    def path(self, path: bytes, mask: int, peer: Peer) -> Inode:
        """The inode at *path* below the mount's root; a last symbolic link is followed unless DONT_FOLLOW.

        ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG and EACCES as path_resolution(7) has them; EXDEV when
        ``..`` or a symbolic link leads out of the mount; EPERM for X_RECURSIVE of a user who cannot be judged.
        """
        if len(path) >= _PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        way = [self._source.inodes.root]
        try:
            self._walk(way, path, peer, follow=not mask & flags.DONT_FOLLOW)
            self._admit(way[-1], mask, peer)
        except BaseException:
            self._reap(way)
            raise
        found = way.pop()
        self._reap([place for place in way if place is not found])
        return found  # the caller reaps it, once it is watched or not

    def _reap(self, way: list[Inode]) -> None:
        for place in reversed(way):
            self._source.inodes.reap(place)

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

    def _walk(self, way: list[Inode], path: bytes, peer: Peer, *, follow: bool) -> None:
        """Go from the root in *way* to *path*, noting each place in *way*."""
        source, links = self._source, 0
        searched: set[Inode] = set()
        parts = deque(path.split(b"/")) if path else deque()
        while parts:
            part, place = parts.popleft(), way[-1]
            self._check_step(place, part, path, peer, searched)
            if part in (b"", b"."):
                continue
            if part == b"..":
                way.append(place.entry.parent)
                continue
            entry, found = source.look(place, part)
            way.append(entry.inode)
            if stat.S_ISLNK(found.st_mode) and (parts or follow):
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(b"", dir_fd=source.fd(entry.inode))
                way.append(place)
                if target.startswith(b"/"):
                    target = self._inside(target, path)
                    way.append(source.inodes.root)
                parts.extendleft(reversed(target.split(b"/")))

    def _check_step(self, place: Inode, part: bytes, path: bytes, peer: Peer, searched: set[Inode]) -> None:
        if not place.is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        if not part:
            return
        if place not in searched:
            if not peer.may(syscalls.may_search, self._source.fd(place)):
                raise OSError(errno.EACCES, "no search permission", path)
            searched.add(place)
        if len(part) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
        if part == b".." and place.number == ROOT:
            raise OSError(errno.EXDEV, "'..' leads out of the mount", path)

    def _inside(self, target: bytes, path: bytes) -> bytes:
        """An absolute link's target, relative to the mount's root."""
        if target == self._mountpoint or target.startswith(self._mountpoint + b"/"):
            return target[len(self._mountpoint) + 1 :]
        raise OSError(errno.EXDEV, "a symbolic link leads out of the mount", path)
