"""The mount table of this process, from ``/proc/self/mountinfo`` (proc_pid_mountinfo(5)).

It is read instead of asking a path, because a path on a FUSE mount may never answer.
"""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

NOTIFYFS: Final = "fuse.notifyfs"
_TABLE: Final = "/proc/self/mountinfo"
_FUSE_TYPES: Final = ("fuse", "fuseblk")


class MountError(Exception):
    """Mounting or unmounting failed; ``str()`` is one line that names the path and the remedy."""


@attrs.frozen
class MountLine:
    """One mount: the fields of its line that matter here, unescaped."""

    mount_id: int
    parent_id: int
    device: str
    """``major:minor`` of the superblock; for FUSE the minor is the connection's name in fusectl."""
    mountpoint: str
    fstype: str
    source: str
    super_options: str

    @property
    def is_fuse(self) -> bool:
        """Whether a daemon has to answer for what is on it."""
        return self.fstype.partition(".")[0] in _FUSE_TYPES

    @property
    def user_id(self) -> int:
        """Who mounted it (FUSE's ``user_id=``), 0 when the line does not say."""
        found = re.search(r"(?:^|,)user_id=(\d+)", self.super_options)
        return int(found[1]) if found else 0


def unescape(field: bytes) -> str:
    """Undo the octal escapes (blank, tab, newline, backslash, ``#``); other bytes by surrogateescape."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field))


def parse(table: bytes) -> list[MountLine]:
    """Read the table's lines, in its order: a later mount on the same mountpoint covers an earlier one."""
    lines = []
    for text in table.split(b"\n")[:-1]:
        # A field may hold any byte but blank, tab and newline (a carriage return is no end of a line), so only the
        # lone "-" ends the optional fields.
        head, _, tail = text.partition(b" - ")
        mount_id, parent_id, device, _root, mountpoint = head.split(b" ")[:5]
        fstype, source, super_options = (*tail.split(b" "), b"", b"")[:3]
        lines.append(
            MountLine(
                mount_id=int(mount_id),
                parent_id=int(parent_id),
                device=device.decode(),
                mountpoint=unescape(mountpoint),
                fstype=unescape(fstype),
                source=unescape(source),
                super_options=unescape(super_options),
            )
        )
    return lines


def read() -> list[MountLine]:
    """Read the table as it is now. MountError: there is no /proc, as in a bare chroot."""
    try:
        with open(_TABLE, "rb") as file:
            return parse(file.read())
    except OSError as error:
        raise MountError(f"{_TABLE}: {error.strerror}; as root: mount -t proc proc /proc") from error


def top(mountpoint: str, table: list[MountLine]) -> MountLine | None:
    """Find the mount that a path walk meets at *mountpoint* (absolute, without links), or None."""
    return next((line for line in reversed(table) if line.mountpoint == mountpoint), None)


def real(path: str) -> str:
    """Resolve *path* to an absolute one without links, never asking a FUSE daemon about the last component."""
    parent, name = os.path.split(os.path.abspath(path))
    resolved = os.path.join(os.path.realpath(parent), name)
    found = top(resolved, read())
    # A mountpoint is never a symbolic link, so nothing is lost by not looking.
    return resolved if found and found.is_fuse else os.path.realpath(resolved)
