"""File systems that somebody else answers for, and that may therefore hang."""

from __future__ import annotations

from typing import Final

from notifyfs.system import syscalls

# statfs(2) and linux/magic.h; virtiofs and most others that are not in the kernel are FUSE.
_REMOTE: Final = {
    0x65735546: "fuse",
    0x00006969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x0000517B: "smb",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x0BD00BD0: "lustre",
    0x0000564C: "ncp",
}


def may_hang(fd: int) -> bool:
    """Whether *fd* is on a file system that another machine or a daemon answers for.

    Asked with statfs(2), for the mount table shows nothing of what lies outside a chroot.
    """
    try:
        return syscalls.file_system_type(fd) in _REMOTE
    except OSError:  # a local one knows its own type; a FUSE server may not
        return True
