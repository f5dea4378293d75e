"""Which daemon serves which mountpoint: ``ID/state`` and ``ID/socket`` in one directory per user.

Each mountpoint has a directory of its own, ``ID``, so that a container can be given this one socket. It stays when
the mount ends, and the next daemon there uses it again: a bind mount of it leads to the new socket then.

A daemon holds an exclusive flock(2) on its state until it exits. That tells a live daemon
from a dead one across reused process ids and across process namespaces, and no path on
the mount has to be asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import stat
import time
from typing import TYPE_CHECKING, Final

import attrs
from attrs.validators import ge, instance_of, lt

from notifyfs.mounts import mountinfo
from notifyfs.mounts.mountinfo import MountError
from notifyfs.mounts.options import SOCKET_PATH_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

_STATE: Final = "state"
_READABLE: Final = 32
_LARGEST: Final = 65536
_POLL: Final = 0.01

_held: Final[dict[str, int]] = {}
"""This process's own registrations: mountpoint to the locked descriptor, kept until the process ends."""


def _text(_one: Registration, _attribute: attrs.Attribute[str], value: str) -> None:
    """ValueError or TypeError unless *value* can be a path: any user can write anything there."""
    if b"\0" in os.fsencode(value):
        raise ValueError("embedded null byte")


@attrs.frozen
class Registration:
    """What a daemon wrote about itself."""

    mountpoint: str = attrs.field(validator=_text)
    source: str = attrs.field(validator=_text)
    socket: str = attrs.field(validator=_text)
    pid: int = attrs.field(validator=[instance_of(int), ge(1), lt(1 << 31)])
    device: str | None
    """``major:minor`` of its mount."""
    file: str
    """Where this is written."""
    uid: int
    """Whose daemon it is."""

    def lock(self) -> int | None:
        """Open the file whose lock the daemon holds, for ``wait_ended``; None when it is gone. The caller closes it."""
        try:
            return _open(self.file)
        except FileNotFoundError:
            return None

    def process(self) -> int | None:
        """A pidfd (pidfd_open(2)) of the daemon; None where it cannot be known: of another pid namespace, or gone.

        The caller closes it.
        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            return None
        try:
            place = f"/proc/{self.pid}/fd"
            # By the links' text: stat(2) could ask a file system that does not answer.
            if os.path.realpath(self.file) in {os.readlink(f"{place}/{each}") for each in os.listdir(place)}:
                return descriptor
        except OSError:
            pass  # it has ended, or is not ours to look into
        os.close(descriptor)
        return None

    def held(self) -> bool:
        """Whether its daemon still runs."""
        descriptor = self.lock()
        if descriptor is None:
            return False
        try:
            return not wait_ended(descriptor, 0)
        finally:
            os.close(descriptor)

    def is_file(self, descriptor: int) -> bool:
        """Whether *descriptor* is this registration's file, not an earlier mount's on the same mountpoint."""
        return _is_file(descriptor, self.file)

    def discard(self) -> None:
        """Remove the file and the socket that it names, if they are this user's own.

        Root leaves another's alone: that user chose the paths, and could have root unlink anything.
        """
        if self.uid != os.geteuid():
            return
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self.socket).st_mode):
                os.unlink(self.socket)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file)


def run_directory() -> str:
    """Return the directory of this user's sockets and entries, made if need be.

    ``/run/notifyfs`` for root (0711: others reach a socket whose path they know, and list none), else
    ``$XDG_RUNTIME_DIR/notifyfs``, ``/run/user/UID/notifyfs`` or ``/tmp/notifyfs-UID`` (0700), the first that can be
    had. Raises MountError.
    """
    uid = os.geteuid()
    reasons = []
    for path in _directories(uid):
        try:
            return _own(path, uid, 0o711 if uid == 0 else 0o700)
        except OSError as error:
            reasons.append(f"{path}: {error.strerror}")
    raise MountError(f"{'; '.join(reasons)}; set XDG_RUNTIME_DIR to a directory of your own")


def _directories(uid: int) -> list[str]:
    """Where a user's run directory may be, best first."""
    if uid == 0:
        return ["/run/notifyfs", "/tmp/notifyfs-0"]  # noqa: S108 - _own() verifies whose it is
    bases = [f"/run/user/{uid}"]
    if uid == os.geteuid() and os.path.isabs(os.environ.get("XDG_RUNTIME_DIR", "")):
        bases.insert(0, os.environ["XDG_RUNTIME_DIR"])
    return [f"{base}/notifyfs" for base in dict.fromkeys(bases)] + [f"/tmp/notifyfs-{uid}"]  # noqa: S108 - same


def _own(path: str, uid: int, mode: int) -> str:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise PermissionError(0, f"not a directory of uid {uid}")
    if stat.S_IMODE(found.st_mode) != mode:
        os.chmod(path, mode)  # umask, or somebody's hand
    return path


def identifier(mountpoint: str) -> str:
    """Name *mountpoint* in a readable and unique way: ``src-1f3a9c07``."""
    mountpoint = mountinfo.real(mountpoint)
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", os.path.basename(mountpoint))[:_READABLE] or "root"
    return f"{readable}-{hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:8]}"


def directory(mountpoint: str) -> str:
    """Return the directory of *mountpoint*'s socket and state, made if need be. Raises MountError."""
    path = f"{run_directory()}/{identifier(mountpoint)}"
    try:
        return _own(path, os.geteuid(), 0o711)
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}; remove it, or mend the rights of the directory above") from error


def socket_path(mountpoint: str) -> str:
    """Return the control socket's default path, in a ``directory`` that is made if need be. Raises MountError."""
    path = f"{run_directory()}/{identifier(mountpoint)}/socket"
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise MountError(
            f"{path}: a socket's path has at most {SOCKET_PATH_MAX} bytes; give a shorter one with -o socket=PATH"
        )
    directory(mountpoint)
    return path


def register(mountpoint: str, source: str, socket: str, pid: int) -> None:
    """Tell that *pid* (this process) serves *mountpoint*, until it exits or unregisters. Raises MountError."""
    mountpoint = mountinfo.real(mountpoint)
    path = f"{directory(mountpoint)}/{_STATE}"
    line = mountinfo.top(mountpoint, mountinfo.read())
    words = {
        "mountpoint": mountpoint,
        "source": source,
        "socket": socket,
        "pid": pid,
        "device": line.device if line else None,
    }
    temporary = f"{path}.{os.getpid()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # before others can see it
        os.write(descriptor, json.dumps(words).encode() + b"\n")
        os.rename(temporary, path)
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}; make room or mend the rights of its directory") from error
    if mountpoint in _held:
        os.close(_held[mountpoint])
    _held[mountpoint] = descriptor


def unregister(mountpoint: str) -> None:
    """Remove this process's registration and socket for *mountpoint*.

    A later mount's are left alone: after a lazy unmount an old daemon may end when the next one already
    serves. The lock stays until the process ends, for those who wait for that.
    """
    mountpoint = mountinfo.real(mountpoint)
    registration = lookup(mountpoint, os.geteuid())
    if registration and mountpoint in _held and registration.is_file(_held[mountpoint]):
        registration.discard()


def lookup(mountpoint: str, uid: int) -> Registration | None:
    """Find the registration for *mountpoint* (absolute, without links) that user *uid*'s daemon wrote, or None."""
    for run in _directories(uid):
        path = f"{run}/{identifier(mountpoint)}/{_STATE}"
        try:
            # In /tmp anybody could have made the directory: believe only its owner.
            if os.lstat(run).st_uid != uid:
                continue
            with open(_open(path), "rb") as file:
                own = os.fstat(file.fileno()).st_uid == uid  # not what a link in its place leads to
                words = json.loads(file.read(_LARGEST))
            if own and words["mountpoint"] == mountpoint:
                return Registration(**words, file=path, uid=uid)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # absent, not ours to read, or no registration at all: nobody registered here
    return None


def _is_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _open(path: str) -> int:
    # Another user's directory may hold a link or a FIFO under this name.
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextlib.contextmanager
def exclusive(mountpoint: str) -> Iterator[None]:
    """Let no other process of this user mount on *mountpoint* meanwhile; raises MountError if one does."""
    path = f"{directory(mountpoint)}/lock"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}; mend the rights of its directory") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = _is_file(descriptor, path)  # else its last owner removed it between our two calls
    except BlockingIOError:
        free = False
    if not free:
        os.close(descriptor)
        raise MountError(f"{mountpoint}: somebody else mounts there right now; see `notifyfs list`")
    try:
        yield
    finally:
        os.unlink(path)
        os.close(descriptor)


def wait_ended(lock: int, seconds: float) -> bool:
    """Wait until the daemon that locked the open file *lock* has ended; False when *seconds* were too few."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)  # flock(2) has no deadline of its own
        else:
            return True
