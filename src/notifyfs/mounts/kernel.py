"""Mounting and unmounting a /dev/fuse descriptor: mount(2) for root, fusermount3 for everybody else.

Facts: mount(2), umount2(2), fuse(4), Linux ``Documentation/filesystems/fuse.rst``, and
fusermount3's hand-over of the descriptor (``_FUSE_COMMFD``, libfuse's ``mount_util``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import stat
import subprocess
import tempfile
from typing import TYPE_CHECKING, Final

from notifyfs.mounts import mountinfo, registry
from notifyfs.mounts.mountinfo import MountError
from notifyfs.mounts.options import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.mounts.options import Options

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_DIRSYNC: Final = 128
MS_NOATIME: Final = 1024
MS_NODIRATIME: Final = 2048
MS_POSIXACL: Final = 1 << 16
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24
MS_LAZYTIME: Final = 1 << 25
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_FUSECTL: Final = "/sys/fs/fuse/connections"

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def attach(mountpoint: str, fsname: str, options: Options) -> int:
    """Mount on *mountpoint* and return the /dev/fuse descriptor that serves it. Raises MountError.

    Whoever touches the mount waits until the descriptor is served, or closed.
    ``allow_root`` mounts with ``allow_other``: keeping others out is then the daemon's part.
    """
    mountpoint = mountinfo.real(mountpoint)
    # Two that mount at once would both succeed, one above the other.
    with registry.exclusive(mountpoint):
        top = mountinfo.top(mountpoint, mountinfo.read())
        if top and top.fstype == mountinfo.NOTIFYFS:
            raise MountError(f"{mountpoint}: already a notifyfs mount; unmount it with `notifyfs umount` first")
        if os.geteuid() == 0:
            return _attach_root(mountpoint, fsname, options)
        return _attach_user(mountpoint, fsname, options)


def detach(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount *mountpoint*; *lazy* takes it out of the tree even while it is in use. Raises MountError."""
    mountpoint = mountinfo.real(mountpoint)
    if os.geteuid() != 0:
        detach_user(mountpoint, lazy=lazy)
    elif number := _umount(mountpoint, _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)):
        raise MountError(f"{mountpoint}: {_unmount_remedy(number, mountpoint)}")


def raise_background(device: str, value: int = 65535) -> str | None:
    """Let *value* requests wait in the kernel's background queue of the connection *device* (``0:45``).

    With the kernel's 12, RELEASE comes late under load, and with it IN_CLOSE (measured on Linux 6.18;
    ``fuse.probe`` tries it). To be called once the daemon answers, for FUSE_INIT sets the limits anew.
    Returns None, or why it could not be done.
    """
    try:
        with _connection(device) as connection:
            return _write_background(connection, value)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def open_abort(device: str) -> int:
    """A descriptor; to write to it ends the connection *device* (``0:45``), and nothing once that has ended.

    Unlike its path, which may be another connection's by then. Raises OSError where fusectl cannot be had.
    """
    with _connection(device) as connection:
        return os.open(f"{connection}/abort", os.O_WRONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _connection(device: str) -> Iterator[str]:
    """The directory in fusectl that stands for the connection *device*."""
    minor = device.partition(":")[2]
    if os.path.isdir(f"{_FUSECTL}/{minor}"):
        yield f"{_FUSECTL}/{minor}"
        return
    if os.geteuid() != 0:
        remedy = f"not there; as root: mount -t fusectl fusectl {_FUSECTL}"
        raise OSError(errno.ENOENT, remedy, f"{_FUSECTL}/{minor}")
    with tempfile.TemporaryDirectory(prefix="notifyfs-fusectl-") as directory:
        if number := _mount("fusectl", directory, "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""):
            raise OSError(number, f"mounting fusectl: {os.strerror(number)}", directory)
        try:
            yield f"{directory}/{minor}"
        finally:
            if number := _umount(directory, _UMOUNT_NOFOLLOW | _MNT_DETACH):
                raise MountError(f"{directory}: {_unmount_remedy(number, directory)}")


def _write_background(connection: str, value: int) -> str | None:
    for name in ("max_background", "congestion_threshold"):
        try:
            with open(f"{connection}/{name}", "w", encoding="ascii") as file:
                file.write(str(value))
        except OSError as error:
            return f"{connection}/{name}: {error.strerror}"
    return None


def _mount(source: str, target: str, fstype: str, flags: int, data: str) -> int:
    """mount(2); returns 0 or the errno."""
    words = (os.fsencode(source), os.fsencode(target), fstype.encode(), flags, data.encode())
    return ctypes.get_errno() if _libc.mount(*words) else 0


def _umount(target: str, flags: int) -> int:
    """umount2(2); returns 0 or the errno."""
    return ctypes.get_errno() if _libc.umount2(os.fsencode(target), flags) else 0


def _attach_root(mountpoint: str, fsname: str, options: Options) -> int:
    rootmode = _file_type(mountpoint)
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"/dev/fuse: {_device_remedy(error)}") from error
    words = [f"fd={descriptor}", f"rootmode={rootmode:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    flags = sum(flag for flag, wanted in _mount_flags(options).items() if wanted)
    number = _mount(fsname, mountpoint, mountinfo.NOTIFYFS, flags, ",".join(words + _fuse_words(options)))
    if number:
        os.close(descriptor)
        raise MountError(f"{mountpoint}: {_mount_remedy(number)}")
    return descriptor


def _mount_flags(options: Options) -> dict[int, bool]:
    return {
        MS_POSIXACL: True,  # the daemon then sees the caller's umask, and default ACLs can be inherited
        MS_RDONLY: options.read_only,
        MS_NOSUID: not options.suid,
        MS_NODEV: not options.dev,
        MS_NOEXEC: not options.exec,
        MS_SYNCHRONOUS: options.sync,
        MS_DIRSYNC: options.dirsync,
        MS_NOATIME: options.noatime,
        MS_NODIRATIME: options.nodiratime,
        MS_RELATIME: options.relatime,
        MS_STRICTATIME: options.strictatime,
        MS_LAZYTIME: options.lazytime,
    }


def _fuse_words(options: Options) -> list[str]:
    words = ["default_permissions"]
    if options.allow_other or options.allow_root:
        words.append("allow_other")
    if options.max_read is not None:
        words.append(f"max_read={options.max_read}")
    return words


def _file_type(mountpoint: str) -> int:
    try:
        return stat.S_IFMT(os.stat(mountpoint).st_mode)
    except OSError as error:
        raise MountError(f"{mountpoint}: {error.strerror}; create the directory, or choose another") from error


def _device_remedy(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return "does not exist; load the module with `modprobe fuse`, or start the container with --device /dev/fuse"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{error.strerror}; start the container with --device /dev/fuse, or mend the device's rights"
    return f"{error.strerror}; see `notifyfs doctor`"


def _mount_remedy(number: int) -> str:
    remedies = {
        errno.EPERM: "the kernel does not let us mount; run as root, a container with --cap-add SYS_ADMIN and "
        "without an AppArmor profile that forbids mount",
        errno.ENODEV: "the kernel knows no FUSE; load it with `modprobe fuse`",
        errno.ENOENT: "does not exist; create it",
        errno.ENOTDIR: "is not a directory; name a directory",
    }
    return remedies.get(number, f"mounting: {os.strerror(number)}; see `notifyfs doctor`")


def _unmount_remedy(number: int, mountpoint: str) -> str:
    remedies = {
        errno.EBUSY: f"in use; `fuser -vm {mountpoint}` says by whom, `notifyfs umount -l` detaches it all the same",
        errno.EINVAL: "not mounted; `notifyfs list` says what is",
        errno.ENOENT: "does not exist; `notifyfs list` says what is mounted",
        errno.EPERM: "only root and the user who mounted it may unmount it; become one of them",
    }
    return remedies.get(number, f"unmounting: {os.strerror(number)}; `notifyfs umount -l` may help")


def _attach_user(mountpoint: str, fsname: str, options: Options) -> int:
    if options.suid or options.dev:
        raise MountError(f"{mountpoint}: suid and dev are for root to give; leave them out, or mount as root")
    words = _fuse_words(options)
    # Of the rest, fusermount3 3.14 knows no more than these; it takes any other for FUSE's and fails.
    words += [name for name in ("noatime", "sync", "dirsync") if getattr(options, name)]
    words += ["ro"] if options.read_only else []
    words += [] if options.exec else ["noexec"]
    return attach_user(mountpoint, [*words, f"fsname={escape(fsname)}", "subtype=notifyfs"])


def attach_user(mountpoint: str, words: list[str], within: float | None = None) -> int:
    """Mount through fusermount3 with ``-o`` *words*, which may take *within* seconds; as ``attach``."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            arguments = ["-o", ",".join(words), "--", mountpoint]
            failure = _fusermount(mountpoint, arguments, theirs.fileno(), within)
        if failure:
            raise MountError(failure)
        descriptors = socket.recv_fds(ours, 1, 1)[1]
    if not descriptors:
        raise MountError(f"{mountpoint}: fusermount3 handed no descriptor over; reinstall the package fuse3")
    os.set_inheritable(descriptors[0], False)  # noqa: FBT003 - positional only
    return descriptors[0]


def detach_user(mountpoint: str, *, lazy: bool, within: float | None = None) -> None:
    """Unmount through fusermount3, which may take *within* seconds; as ``detach``."""
    failure = _fusermount(mountpoint, ["-uz" if lazy else "-u", "--", mountpoint], within=within)
    if failure:
        raise MountError(failure)


def _fusermount(
    mountpoint: str, arguments: list[str], descriptor: int | None = None, within: float | None = None
) -> str | None:
    """Run fusermount3; None, or the one line for the user."""
    environment = os.environ | {"LC_ALL": "C"}
    if descriptor is not None:
        environment["_FUSE_COMMFD"] = str(descriptor)
    try:
        done = subprocess.run(
            ["fusermount3", *arguments],  # noqa: S607 - found as libfuse finds it
            env=environment,
            pass_fds=() if descriptor is None else (descriptor,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=within,
        )
    except subprocess.TimeoutExpired:
        return f"{mountpoint}: fusermount3 did not end within {within} s; see what it waits for, or run as root"
    except OSError as error:
        return f"fusermount3: {error.strerror}; install the package fuse3, or run as root"
    if done.returncode == 0:
        return None
    said = os.fsdecode(done.stderr).strip().rpartition("\n")[2].removeprefix("fusermount3: ")
    for part, remedy in _FUSERMOUNT_REMEDIES.items():
        if part in said:
            return f"{mountpoint}: {remedy}"
    for number in (errno.EBUSY, errno.EINVAL, errno.EPERM):
        if descriptor is None and os.strerror(number) in said:
            return f"{mountpoint}: {_unmount_remedy(number, mountpoint)}"
    return f"{mountpoint}: {said or f'fusermount3 ended with {done.returncode}'}; see `notifyfs doctor`"


_FUSERMOUNT_REMEDIES: Final = {
    "/dev/fuse: Permission denied": "/dev/fuse may not be opened; as root: chmod 666 /dev/fuse",
    "user_allow_other": "allow_other needs the line user_allow_other in /etc/fuse.conf; add it as root, or do without",
    "mount failed: Operation not permitted": "fusermount3 may not mount; as root: chmod u+s the program fusermount3, "
    "and in a container --cap-add SYS_ADMIN",
    "no write access": "the mountpoint must be yours to write; choose one of your own",
    "not owned by user": "the mountpoint is in a sticky directory and not yours; choose one of your own",
    "mount_max": "too many FUSE mounts; unmount some, or raise mount_max in /etc/fuse.conf",
    "device not found": "/dev/fuse does not exist; as root: modprobe fuse, in a container --device /dev/fuse",
    "not found in /etc/mtab": "not mounted, or not by you; `notifyfs list` says what is",
}
