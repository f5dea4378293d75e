"""The kernel judges who may do what by attributes that it was told; whether that can be relied on.

Behind the mount a file's owner, mode or access list can have changed, or its name and number can be
another file's by now. What was judged by that, the source has to judge once more, as the caller.
"""

from __future__ import annotations

import errno
import math
import os
from time import monotonic
from typing import TYPE_CHECKING, Final

from notifyfs.passthrough.source import magic

if TYPE_CHECKING:
    from collections.abc import Callable

    from notifyfs.core.entries import Inode

ACL: Final = b"system.posix_acl_access"

_UNDER_WAY: Final = 0.1
"""Seconds after which no request is under way any more that was judged before the kernel was made to forget."""


class Judgement:
    """What the kernel was told of each inode last.

    *forget* makes the kernel ask for an inode's attributes (a node number) before it judges by them again.
    *access_list* gives that of an inode; None: the kernel does not judge by them. *doubts*: whether somebody else can
    judge as long as it may go by what is past; else the caller has to try again, and must find that done.
    """

    def __init__(
        self, forget: Callable[[int], None], access_list: Callable[[Inode], bytes] | None, *, doubts: bool
    ) -> None:
        self._forget = forget
        self._access_list = access_list
        self._doubts = doubts
        self.forgot = False
        """Whether the kernel was made to ask when the last answer was False, and may not have had the time."""

    def tell(self, inode: Inode, found: os.stat_result) -> None:
        """*found* is about to be told.

        The kernel may not take it: an answer that crosses a change (its ``attr_version``) or that does not
        fit into a listing is dropped, and the old attributes stay in force. To make it forget them now
        would drop this answer, too (measured on Linux 6.18).
        """
        told, now = inode.told, _judged_by(found)
        if self._doubts and told is not None and (told[1:] != now[1:] or self._is_another_list(inode, told, now)):
            inode.doubted = math.inf
            inode.verdicts = None
        inode.told = now
        inode.told_size(found.st_size)

    def changed(self, inode: Inode, found: os.stat_result) -> None:
        """The kernel itself had this done, and will know it like this.

        An access list it will ask for before it judges again: it forgets that with each setattr and each list
        that is set (``forget_all_cached_acls`` in ``fuse_setattr`` and ``fuse_set_acl``).
        """
        inode.told = _judged_by(found)
        inode.acl = None
        inode.verdicts = None

    def holds(self, inode: Inode, found: os.stat_result, fd: int = -1) -> bool:
        """Whether the kernel's judgement of *inode*, *found* like this just now, is what it would be today.

        *fd* refers to it, where more than its owner and mode matters. If not, the kernel is made to ask.
        """
        told = inode.told
        now = (found.st_ctime_ns, found.st_mode, found.st_uid, found.st_gid)
        if (told == now and not inode.doubted) or told is None:
            return True
        if inode.doubted:
            if inode.doubted < math.inf and (inode.in_use or monotonic() - inode.doubted < _UNDER_WAY):
                self.forgot = False
                return False  # each write makes the kernel drop answers: of an open file it may never hear
            if inode.doubted < math.inf:
                inode.doubted = 0.0
        if not inode.doubted and told[1:] == now[1:]:
            if told == now or fd < 0:
                return True
            if self._same_list(inode, fd):
                inode.told = now
                return True
        inode.doubted = monotonic() if self._doubts else 0.0
        self._forget(inode.number)
        self.forgot = True
        return False

    def _same_list(self, inode: Inode, fd: int) -> bool:
        # None: the kernel has not asked for it, and has judged without.
        return self._access_list is None or inode.acl is None or inode.acl == access_list(fd)

    def _is_another_list(self, inode: Inode, told: tuple[int, ...], now: tuple[int, ...]) -> bool:
        # The kernel keeps the list that it has when it is only told of another change time (measured on Linux 6.18).
        if self._access_list is None or inode.acl is None or told[0] == now[0]:
            return False
        try:
            return self._access_list(inode) != inode.acl
        except OSError:
            return True

    def lets_walk(self, place: Inode, found: os.stat_result, fd: int) -> bool:
        """Whether the kernel walks through the directory *place*, *found* like this just now, by what is so.

        If not, it is made to ask, and later walks will be right: who looks from a descriptor or a working directory
        below does not walk here, and is let by then.
        """
        told, now = place.told, _judged_by(found)
        self.forgot = False
        if place.way is not None and place.way[0] == now:
            return monotonic() - place.way[1] > _UNDER_WAY
        if told is None or (told == now and place.doubted != math.inf):
            return True
        if told[1:] == now[1:] and place.doubted != math.inf and self._same_list(place, fd):
            return True
        place.way = now, monotonic()
        self._forget(place.number)
        self.forgot = True
        return False


def access_list(fd: int) -> bytes:
    """The access list of the file that *fd* (``O_PATH`` is enough) refers to; empty where it has none."""
    try:
        return os.getxattr(magic(fd), ACL)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return b""


def _judged_by(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_ctime_ns, found.st_mode, found.st_uid, found.st_gid
