"""Why a path cannot be watched, and what would help."""

from __future__ import annotations

import errno
import os


def reason(path: bytes, error: OSError, *, recursive: bool = False, by_name: bool = False) -> str:
    """Say on one line why *error* came of watching *path*, and the remedy where there is one."""
    said = error.strerror or str(error)
    if error.errno == errno.EPERM and recursive:
        return "on a source that may hang, only root and the user who mounted it may watch a whole tree (-r)"
    if error.errno == errno.EACCES and by_name:
        return (
            f"{said}; it takes search permission from / down to there, above the mountpoint unless it has reach=socket"
        )
    if error.errno == errno.ENOTSUP:
        return _on_a_source(path) or f"{said}, or name the socket of one with --socket"
    if error.errno in {errno.ENOTCONN, errno.ECONNABORTED}:
        return _dead(path) or said
    return said


def _on_a_source(path: bytes) -> str | None:
    """Name the mount that shows *path*, if one does."""
    from notifyfs import mounts  # noqa: PLC0415 - needed in distress only

    place = os.path.realpath(os.fsdecode(path))
    found = [
        (each.source, each.mountpoint)
        for each in mounts.mounted()
        if os.path.isabs(each.source) and os.path.commonpath([each.source, place]) == each.source
    ]
    if not found:
        return None
    source, mountpoint = max(found, key=lambda pair: len(pair[0]))
    there = os.path.normpath(os.path.join(mountpoint, os.path.relpath(place, source)))
    return f"this is the source of the mount {mountpoint}, where events are; watch {there}"


def _dead(path: bytes) -> str | None:
    """Name the dead mount that *path* is on."""
    from notifyfs.mounts import mountinfo  # noqa: PLC0415 - as above

    place = mountinfo.real(os.fsdecode(path))
    around = [
        line.mountpoint
        for line in mountinfo.read()
        if line.is_fuse and os.path.commonpath([line.mountpoint, place]) == line.mountpoint
    ]
    if not around:
        return None
    mountpoint = max(around, key=len)
    return f"the mount's daemon is gone; clear it away with `notifyfs umount {mountpoint}`, then mount again"
