"""The notifyfs mounts of this machine: who is alive, what may be mounted, and clearing away the dead."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import sys
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.mounts import mountinfo, registry
from notifyfs.mounts.kernel import detach
from notifyfs.mounts.registry import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE: Final = 2.0
"""Seconds that an unregistered mount has to answer; a dead one does at once."""


@attrs.frozen
class Mount:
    """One notifyfs mount."""

    mountpoint: str
    source: str
    device: str
    """``major:minor``, such as ``0:45``."""
    mount_id: int
    socket: str | None
    """The control socket, as far as the daemon has registered."""
    pid: int | None
    """The live daemon; None when it is gone or has not registered."""
    alive: bool
    """Whether there is a daemon to answer."""
    entry: registry.Entry | None = attrs.field(repr=False, eq=False)


def mounted() -> list[Mount]:
    """Every notifyfs mount in this mount namespace, in the order of mounting."""
    table = mountinfo.read()
    return [_mount(line, table) for line in table if line.fstype == mountinfo.NOTIFYFS]


def find(mountpoint: str) -> Mount | None:
    """Find the notifyfs mount at *mountpoint*, the uppermost if there are several, or None."""
    mountpoint = mountinfo.real(mountpoint)
    table = mountinfo.read()
    ours = [line for line in table if line.fstype == mountinfo.NOTIFYFS and line.mountpoint == mountpoint]
    return _mount(ours[-1], table) if ours else None


def _mount(line: mountinfo.Line, table: list[mountinfo.Line]) -> Mount:
    entry = registry.lookup(line.mountpoint, line.user_id)
    if entry and entry.device not in (line.device, None):
        entry = None  # of another mount, on top of this one or gone
    registered = entry is not None and entry.held()
    alive = registered or (mountinfo.top(line.mountpoint, table) is line and _answers(line.mountpoint))
    return Mount(
        mountpoint=line.mountpoint,
        source=entry.source if entry else line.source,
        device=line.device,
        mount_id=line.mount_id,
        socket=entry.socket if entry else None,
        pid=entry.pid if entry and registered else None,
        alive=alive,
        entry=entry,
    )


def check(source: str, mountpoint: str) -> None:
    """Raise MountError where *source* cannot be mounted on *mountpoint*. Dead mounts do not count: see ``recover``."""
    source, mountpoint = mountinfo.real(source), mountinfo.real(mountpoint)
    if source != mountpoint and _inside(mountpoint, source):
        raise MountError(
            f"{mountpoint}: lies inside the source {source}; choose a mountpoint outside it, or the source itself"
        )
    if source != mountpoint and _inside(source, mountpoint):
        raise MountError(
            f"{source}: lies inside the mountpoint {mountpoint}, which would hide it; choose another mountpoint"
        )
    found = find(mountpoint)
    if found and found.alive:
        raise MountError(
            f"{mountpoint}: already a notifyfs mount of {found.source}; unmount it with `notifyfs umount` first"
        )
    for path, what in ((source, "source"), (mountpoint, "mountpoint")):
        if not (found and path == mountpoint):
            _check_directory(path, what)


def recover(mountpoint: str) -> bool:
    """Detach dead notifyfs mounts at *mountpoint* and remove what their daemons left; True if there was one.

    An entry or socket without a mount (unmounted behind the daemon's back) is removed too, for
    the next mount needs its name. Raises MountError.
    """
    mountpoint = mountinfo.real(mountpoint)
    recovered = False
    while (found := find(mountpoint)) and not found.alive:
        detach(mountpoint, lazy=True)
        recovered = True
    entry = registry.lookup(mountpoint, os.geteuid())
    if entry and not found:
        entry.discard()
    return recovered


@contextlib.contextmanager
def ending(mount: Mount) -> Iterator[Callable[[float], bool]]:
    """Unmount in the body of this context, then wait by calling what it yields.

    The call takes seconds and says whether the daemon has ended. One that still has users after a
    lazy unmount gives up its name in the end, so that the next mount can have it.
    """
    lock = mount.entry.lock() if mount.entry else None
    try:
        yield lambda seconds: lock is None or registry.wait_ended(lock, seconds)
        if mount.entry and lock is not None and mount.entry.is_file(lock):
            mount.entry.discard()
    finally:
        if lock is not None:
            os.close(lock)


def _inside(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory


def _check_directory(path: str, what: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        remedies = {
            errno.ENOENT: f"create it: mkdir -p {path}",
            errno.EACCES: "ask for search permission on the directories above it, or run as root",
            errno.ENOTCONN: f"its daemon is gone; clear it with: notifyfs umount {path}",
        }
        remedy = remedies.get(error.errno or 0, "choose another directory")
        raise MountError(f"{path}: the {what}: {error.strerror}; {remedy}") from error
    if not stat.S_ISDIR(mode):
        raise MountError(f"{path}: the {what} is not a directory; name a directory")


def _answers(mountpoint: str) -> bool:
    """Whether somebody serves the mount: a dead one says ENOTCONN, and a silent one counts as served.

    A child asks, because a request that a stuck daemon has read cannot even be killed.
    """
    ask = "import os, sys\ntry: os.statvfs(sys.argv[1])\nexcept OSError as error: sys.exit(error.errno)"
    try:
        child = os.posix_spawn(sys.executable, [sys.executable, "-I", "-S", "-c", ask, mountpoint], os.environ)
    except OSError:
        return True  # this user may not start this Python (it is in root's home, say): nobody can be asked
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], _PATIENCE)[0]:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return True
    finally:
        os.close(descriptor)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status not in (errno.ENOTCONN, errno.ECONNABORTED)
