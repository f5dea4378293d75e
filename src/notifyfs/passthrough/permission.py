"""Whom the kernel has let pass, and as whom the source is then asked."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from notifyfs.passthrough.source import magic
from notifyfs.system import identity, syscalls
from notifyfs.system.callers import Credentials, credentials, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from notifyfs.core.entries import Inode
    from notifyfs.passthrough.judgement import Judgement
    from notifyfs.passthrough.pace import During, Pace, Steps
    from notifyfs.passthrough.source import Source
    from notifyfs.system.callers import Caller

T = TypeVar("T")

JUDGED: Final = identity.CAP_CHOWN | identity.CAP_DAC_OVERRIDE | identity.CAP_FOWNER
"""What a caller needs to truncate and to chown where the kernel has judged already."""
FMODE_EXEC: Final = 0x20
"""exec's open."""
# The kernel has done these for us (path walk, exclusive create) or they would ask more of the
# buffers than Python's have (O_DIRECT's alignment).
DROPPED_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_NOFOLLOW | os.O_DIRECT | FMODE_EXEC

_FRESH: Final = 0.002  # seconds for which the directories above are taken to be as they were found
_STEPS: Final = 32
"""Directories above that are looked at within ``_FRESH`` (3 us each): nobody works so deep that others wait for it."""
_MOST_AFAR: Final = 1024
"""Directories of which it is remembered how far up was looked."""


class Permission:
    """Says whether the source must judge a caller, and has things done as one who may do them.

    *judges*: others than the daemon's user may enter the mount, and are not let do everything by the source.
    """

    def __init__(self, source: Source, judgement: Judgement, pace: Pace, *, judges: bool) -> None:
        self._source = source
        self._judgement = judgement
        self.judges = judges
        self.ours = bool(os.geteuid())
        """The daemon is not root: whatever is done is done as its own user."""
        self.charged = identity.uncharged if self.ours else identity.charged
        self.pace = pace
        self._afar: dict[Inode, Inode] = {}

    def in_doubt(  # noqa: PLR0913 - of what, by whom, and what is known already
        self,
        inode: Inode,
        fd: int,
        caller: Caller,
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
        if not self.judges:
            return False
        if walked:
            self.check_way(inode, caller, refusal)
        if self._judgement.holds(inode, os.fstat(fd) if found is None else found, fd):
            return False
        if not self.ours and credentials(caller.thread) is not None:
            return True
        if self._judgement.forgot:
            raise OSError(errno.ESTALE, "changed behind the mount", str(inode.number))
        return False

    def check_way(self, place: Inode, caller: Caller, refusal: int = errno.ESTALE) -> None:
        """Raise *refusal* where the caller was let walk to *place* by what is past, and the source would not let it."""
        if not self.judges or not caller.uid:
            return
        now, lowest, root = time.monotonic(), place, self._source.inodes.root
        if now - lowest.walked < _FRESH:
            return
        place = self._afar.pop(lowest, lowest)
        for _ in range(_STEPS):
            if place is root:
                break
            place = place.entry.parent
            try:
                fd = self._source.fd(place)
            except OSError:
                return  # moved behind the mount: the names are the kernel's to ask for
            if not self._judgement.lets_walk(place, os.fstat(fd), fd) and not self._may_search(fd, caller):
                if lowest.in_use and holds(caller.thread, lowest.number):
                    return  # by its own descriptor, for which nobody walks
                raise OSError(refusal, "changed behind the mount", str(place.number))
            if now - place.walked < _FRESH:
                lowest.walked = place.walked
                return
        lowest.walked = now
        if place is not root:
            self._go_on_later(lowest, place)

    def _go_on_later(self, lowest: Inode, place: Inode) -> None:
        """The way to *lowest* was looked at up to *place*: the rest is for later operations."""
        self._afar[lowest] = place
        if len(self._afar) > _MOST_AFAR:
            del self._afar[next(iter(self._afar))]

    def check_may_open(self, fd: int, flags: int, caller: Caller) -> None:
        """Raise what open(2) with these flags says to the caller of the file that *fd* refers to."""
        with self.as_caller(caller):
            if flags & FMODE_EXEC and not syscalls.may_search(fd):
                raise OSError(errno.EACCES, "no execute permission")
            with suppress(BlockingIOError):  # a lease: that comes after the judgement
                if not flags & FMODE_EXEC:
                    os.close(os.open(magic(fd), flags & ~DROPPED_FLAGS | os.O_NONBLOCK | os.O_CLOEXEC))
                if flags & os.O_TRUNC:
                    os.close(os.open(magic(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))

    def do(
        self,
        doubt: bool,  # noqa: FBT001 - one of two ways
        caller: Caller,
        call: Callable[..., T],
        *fds: int,
        during: During = nullcontext,
    ) -> Steps[T]:
        """Call it with *fds*, as one whom the kernel let pass, and who pays for space; in *doubt* the source judges."""
        return self.pace.do(caller.uid, self.ready(caller, call, 0 if doubt else None), *fds, during=during)

    def ready(
        self, caller: Caller, call: Callable[..., T], more: int | None, payer: int | None = None
    ) -> Callable[..., T]:
        """*call*, once, as one whom the kernel let pass; as the caller, with *more* capabilities, where that is given.

        *payer* pays for the space, if it is not the caller.
        """
        if more is None:
            return partial(self.charged, caller.uid if payer is None else payer, call)
        return partial(_within, self.as_caller(caller, more), call)

    def make(
        self,
        doubt: bool,  # noqa: FBT001 - as ``do``
        caller: Caller,
        umask: int,
        call: Callable[..., T],
        *fds: int,
        during: During = nullcontext,
    ) -> Steps[T]:
        """Call it with *fds*: what it creates belongs to the caller, and has the caller's *umask*."""
        making = partial(_within, self._making(caller, umask, in_doubt=doubt), call)
        return self.pace.do(caller.uid, making, *fds, during=during)

    def as_caller(self, caller: Caller, more: int = 0) -> AbstractContextManager[None]:
        """In here the source judges the caller, who has *more* capabilities."""
        who = credentials(caller.thread) or Credentials()
        return identity.acting_as(caller.uid, caller.gid, who.groups, who.capabilities | more)

    @contextmanager
    def _making(self, caller: Caller, umask: int, *, in_doubt: bool) -> Iterator[None]:
        """What is created in here belongs to the caller, and has the caller's *umask*. *in_doubt*: see ``in_doubt``."""
        # Mounted with MS_POSIXACL the kernel leaves the umask to us, because a default ACL
        # replaces it; else it has applied it, and applying it again changes nothing.
        os.umask(umask)
        try:
            if self.ours:
                yield
            elif in_doubt:
                with self.as_caller(caller):
                    yield
            elif caller.uid or caller.gid:
                with identity.creating_as(caller.uid, caller.gid):
                    yield
            else:
                identity.as_root()
                yield
        finally:
            os.umask(0)

    def _may_search(self, fd: int, caller: Caller) -> bool:
        if self.ours or credentials(caller.thread) is None:
            return not self._judgement.forgot
        with self.as_caller(caller):
            return syscalls.may_search(fd)


def _within(whom: AbstractContextManager[None], call: Callable[..., T], *fds: int) -> T:
    with whom:
        return call(*fds)
