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
from notifyfs.mounts.mountinfo import MountError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notifyfs.mounts.options import Options

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
    registration: registry.Registration | None = attrs.field(repr=False, eq=False)


def mounted() -> list[Mount]:
    """Every notifyfs mount in this mount namespace, in the order of mounting.

    Of other users' mounts only those whose mountpoint this user can reach.
    """
    table = mountinfo.read()
    found = [_mount(line, table) for line in table if line.fstype == mountinfo.NOTIFYFS]
    return [mount for mount in found if mount is not None]


def find(mountpoint: str) -> Mount | None:
    """Find the notifyfs mount at *mountpoint*, the uppermost if there are several, or None: as ``mounted`` has it."""
    mountpoint = mountinfo.real(mountpoint)
    table = mountinfo.read()
    ours = [line for line in table if line.fstype == mountinfo.NOTIFYFS and line.mountpoint == mountpoint]
    return _mount(ours[-1], table) if ours else None


def _mount(line: mountinfo.MountLine, table: list[mountinfo.MountLine]) -> Mount | None:
    """The mount of *line*; None where it is another user's, at a place that this one cannot reach."""
    registration = registry.lookup(line.mountpoint, line.user_id)
    if registration and registration.device not in (line.device, None):
        registration = None  # of another mount, on top of this one or gone
    registered = registration is not None and registration.held()
    on_top = mountinfo.top(line.mountpoint, table) is line
    another_s = os.geteuid() not in (0, line.user_id)
    answer = _ask(line.mountpoint) if another_s or (on_top and not registered) else None
    if another_s and not (answer and answer.reached):
        return None
    return Mount(
        mountpoint=line.mountpoint,
        source=registration.source if registration else line.source,
        device=line.device,
        mount_id=line.mount_id,
        socket=registration.socket if registration else answer.socket if answer and on_top else None,
        pid=registration.pid if registration and registered else None,
        alive=registered or bool(answer and answer.alive and on_top),
        registration=registration,
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


def check_files(mountpoint: str, options: Options) -> None:
    """Raise MountError where a mount on *mountpoint* would hide the socket, or anything else that is found by name."""
    mountpoint = mountinfo.real(mountpoint)
    run = registry.run_directory()
    for path, what, remedy in (
        (run, "the directory of the sockets", "choose another mountpoint"),
        (options.socket, "the control socket", "choose another with -o socket=PATH"),
        (options.log, "the log", "choose another with -o log=FILE"),
    ):
        # As written first: whatever is mounted there now need not be asked.
        if path and (_inside(os.path.abspath(path), mountpoint) or _inside(os.path.realpath(path), mountpoint)):
            raise MountError(f"{path}: {what} would be hidden by the mount on {mountpoint}; {remedy}")


def recover(mountpoint: str) -> bool:
    """Detach dead notifyfs mounts at *mountpoint* and remove what their daemons left; True if there was one.

    A registration or socket without a mount (unmounted behind the daemon's back) is removed too, for
    the next mount needs its name. Raises MountError.
    """
    mountpoint = mountinfo.real(mountpoint)
    recovered = False
    while (found := find(mountpoint)) and not found.alive:
        detach(mountpoint, lazy=True)
        recovered = True
    registration = registry.lookup(mountpoint, os.geteuid())
    if registration and not found:
        registration.discard()
    return recovered


@contextlib.contextmanager
def ending(mount: Mount) -> Iterator[Callable[[float], bool]]:
    """Unmount in the body of this context, then wait by calling what it yields.

    The call takes seconds and says whether the daemon has ended. One that still has users after a
    lazy unmount gives up its name in the end, so that the next mount can have it.
    """
    lock = mount.registration.lock() if mount.registration else None
    process = mount.registration.process() if mount.registration else None

    def wait(seconds: float) -> bool:
        if lock is not None and not registry.wait_ended(lock, seconds):
            return False
        # It lets go of the lock on its way out; what it has mapped and its pid it has for a moment more.
        return process is None or bool(select.select([process], [], [], seconds)[0])

    try:
        yield wait
        if mount.registration and lock is not None and mount.registration.is_file(lock):
            mount.registration.discard()
    finally:
        for descriptor in (lock, process):
            if descriptor is not None:
                os.close(descriptor)


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


@attrs.frozen
class _Answer:
    """What a mount says that has no registration, or none that this user may read."""

    reached: bool
    """Whether this user may search the directories above the mountpoint."""
    alive: bool
    """Whether somebody serves it: a dead one says ENOTCONN, and a silent one counts as served."""
    socket: str | None


_QUESTION: Final = """
import os, sys
place = sys.argv[1]
if os.access(os.path.dirname(place), os.X_OK): os.write(1, b"reached ")
try: os.statvfs(place)
except OSError as error: sys.exit(error.errno)
try: os.write(1, os.getxattr(place, "notifyfs.socket"))
except OSError: pass
"""


def _ask(mountpoint: str) -> _Answer:
    """Ask the mount itself, from a child: a request that a stuck daemon has read cannot even be killed."""
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:
        try:
            child = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", _QUESTION, mountpoint],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
            )
        except OSError:
            # This user may not start this Python (it is in root's home, say): nobody can be asked.
            return _Answer(os.access(os.path.dirname(mountpoint), os.X_OK), alive=True, socket=None)
        finally:
            os.close(writing)
        descriptor = os.pidfd_open(child)
        try:
            if silent := not select.select([descriptor], [], [], _PATIENCE)[0]:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
        os.set_blocking(pipe.fileno(), False)
        said = pipe.read() or b""
    reached, socket = said.startswith(b"reached "), said.removeprefix(b"reached ")
    if silent:
        return _Answer(reached, alive=True, socket=None)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    alive = status not in (errno.ENOTCONN, errno.ECONNABORTED)
    return _Answer(reached, alive, os.fsdecode(socket) or None)
