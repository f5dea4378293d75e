"""What this machine lacks for mounting, and how to mend it: one Finding for each thing looked at."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import os
import re
import resource
import shutil
import stat
from typing import TYPE_CHECKING, Final, Literal

import attrs

from notifyfs import mounts
from notifyfs.fuse import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

_CAP_SYS_ADMIN: Final = 21
"""Its bit in ``CapEff`` (capabilities(7), proc_pid_status(5))."""
_FILES_WANTED: Final = 8192
"""Descriptors: the daemon keeps 4,096 of the source tree, and one for each open file and subscriber."""
_FUSECTL: Final = "/sys/fs/fuse/connections"


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    verdict: Literal["ok", "note", "missing"]
    """``missing``: it cannot mount like this. ``note``: it can, with the limit that is named."""
    what: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything, in the order in which mounting needs it."""
    if not os.path.exists("/proc/self/mountinfo"):
        return [Finding("missing", "/proc: not mounted", "as root: mount -t proc proc /proc")]
    looked = (_packages, _libfuse, _device, _rights, _kernel, _allow_other, _directory, _background)
    parts = (*looked, _files, _inotify, _dead)
    return [finding for part in parts for finding in part()]


def _packages() -> Iterator[Finding]:
    try:
        requirements = importlib.metadata.requires("notifyfs") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "missing", "python package notifyfs: runs, but is not installed", "scripts/setup, or pip install ."
        )
        return
    for line in requirements:
        requirement, _, condition = line.partition(";")
        name = re.split(r"[^A-Za-z0-9._-]", requirement.strip())[0]
        if "extra" in condition:
            continue
        remedy = f"pip install '{requirement.strip()}'"
        try:
            importlib.import_module(name)
            yield Finding("ok", f"python package {name} {importlib.metadata.version(name)}")
        except ImportError as error:
            yield Finding("missing", f"python package {name}: {error}", remedy)


def _libfuse() -> Iterator[Finding]:
    library = ctypes.util.find_library("fuse3")
    if library:
        yield Finding("ok", f"libfuse3: {library}")
    else:
        yield Finding("missing", "libfuse3: not found", "install it: apt-get install libfuse3-3")


def _device() -> Iterator[Finding]:
    container = "in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Finding("missing", "/dev/fuse: does not exist", f"as root: modprobe fuse; {container}")
    except OSError as error:  # fusermount3 does not help: it opens the device with its caller's rights
        yield Finding("missing", f"/dev/fuse: {error.strerror}", f"as root: chmod 666 /dev/fuse; {container}")
    else:
        yield Finding("ok", "/dev/fuse")


def _rights() -> Iterator[Finding]:
    helper = shutil.which("fusermount3")
    if os.geteuid() == 0:
        with open("/proc/self/status", encoding="ascii") as file:
            found = re.search(r"^CapEff:\s*([0-9a-f]+)", file.read(), re.MULTILINE)
        if found and int(found[1], 16) >> _CAP_SYS_ADMIN & 1:
            yield Finding("ok", "the right to mount: root with CAP_SYS_ADMIN")
        else:
            remedy = "start the container with --cap-add SYS_ADMIN"
            yield Finding("missing", "the right to mount: root without CAP_SYS_ADMIN", remedy)
        if not helper:
            yield Finding("note", "fusermount3: not found; only root can mount", "apt-get install fuse3")
        return
    if not helper:
        yield Finding("missing", "fusermount3: not found", "apt-get install fuse3, or mount as root")
    elif not os.stat(helper).st_mode & stat.S_ISUID:
        yield Finding("missing", f"{helper}: may not mount", f"as root: chmod u+s {helper}")
    else:
        yield Finding("ok", f"the right to mount: {helper}")


def _kernel() -> Iterator[Finding]:
    # On a connection of its own, as a mount does it: what there is to say should be known before one is made.
    # What is found of a mount is in its answer to hello, which may differ in fusectl only (_background).
    try:
        kernel = probe.attempt()
    except (OSError, mounts.MountError) as error:
        yield Finding(
            "note", f"the kernel's FUSE could not be tried: {error}", f"a mount then does without: {_KERNELS}"
        )
        return
    for fact, (good, bad) in _FACTS.items():
        if getattr(kernel, fact):
            yield Finding("ok", f"the kernel's FUSE: {good}")
        else:
            yield Finding("note", f"the kernel's FUSE: {bad}", _KERNELS)


_KERNELS: Final = "see Kernels in docs/operating.md"
_FACTS: Final = {
    "waits_for_lock": ("says when an operation is over", "does not say when an operation is over; events cost more"),
    "expire_only": ("can expire a name", "cannot expire a name; a second name of a file may be told as the first"),
    "release_in_order": ("tells closes in their order", "tells closes late when many come at once"),
}


def _allow_other() -> Iterator[Finding]:
    if os.geteuid() == 0:
        return
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            allowed = any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        allowed = False
    if allowed:
        yield Finding("ok", "user_allow_other in /etc/fuse.conf")
    else:
        remedy = "as root: echo user_allow_other >> /etc/fuse.conf"
        yield Finding("note", "user_allow_other is not in /etc/fuse.conf: no -o allow_other, no allow_root", remedy)


def _directory() -> Iterator[Finding]:
    try:
        yield Finding("ok", f"sockets in {mounts.run_directory()}")
    except mounts.MountError as error:
        yield Finding("missing", "a directory for the sockets", str(error))


def _background() -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield Finding("ok", "fusectl: max_background can be raised")
    elif os.path.ismount(_FUSECTL):
        yield Finding("ok", f"fusectl on {_FUSECTL}")
    else:
        what = "fusectl is not mounted: IN_CLOSE events come late under load, and a killed daemon may leave all hanging"
        yield Finding("note", what, f"as root: mount -t fusectl fusectl {_FUSECTL}")


def _files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    what = f"open files: {soft}, at most {hard} (RLIMIT_NOFILE)"
    if hard == resource.RLIM_INFINITY or hard >= _FILES_WANTED:
        yield Finding("ok", what)
    else:
        yield Finding("note", f"{what}: few for a large tree", f"raise it: ulimit -Hn {_FILES_WANTED}, LimitNOFILE=")


def _inotify() -> Iterator[Finding]:
    limits = []
    for name in ("max_user_watches", "max_user_instances", "max_queued_events"):
        try:
            with open(f"/proc/sys/fs/inotify/{name}", encoding="ascii") as file:
                limits.append(f"{name} {file.read().strip()}")
        except OSError as error:
            yield Finding("note", f"the kernel's inotify: {error.filename}: {error.strerror}")
    if limits:
        yield Finding("ok", f"the kernel's inotify: {', '.join(limits)} (notifyfs uses none of them)")


def _dead() -> Iterator[Finding]:
    for mount in mounts.mounted():
        if not mount.alive:
            remedy = f"clear it away: notifyfs umount {mount.mountpoint}"
            yield Finding("note", f"{mount.mountpoint}: a dead mount, its daemon is gone", remedy)
