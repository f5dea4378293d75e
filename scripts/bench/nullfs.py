"""``python nullfs.py MOUNTPOINT SECONDS [turns]``: a filesystem on pyfuse3 that answers each request at once.

It is the floor: what a request costs in the kernel, pyfuse3 and trio before anything is done for it. Names are kept in
dictionaries, what is written is thrown away, and reading gives zeros. SECONDS is for how long the kernel may trust
names and attributes; with ``turns`` its requests are read as notifyfs reads them. Each name that begins with ``seed``
exists.
"""

# ruff: noqa: D102, ARG002, PLR0913, PLR0917 - pyfuse3 says what the handlers do, and which arguments they have

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
from typing import TYPE_CHECKING

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyfuse3 import FileHandleT, InodeT, ReaddirToken, RequestContext, SetattrFields

ZEROS = bytes(1 << 20)
SEEDED = b"seed"


class Null(pyfuse3.Operations):
    """One attribute object for each inode, made once and given as the answer each time."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._numbers = itertools.count(pyfuse3.ROOT_INODE)
        self._children: dict[int, dict[bytes, EntryAttributes]] = {}
        self._nodes: dict[int, EntryAttributes] = {}
        self._make(stat.S_IFDIR | 0o755)
        self._missing = FUSEError(errno.ENOENT)
        self._unknown = FUSEError(errno.ENOSYS)

    def _make(self, mode: int) -> EntryAttributes:
        made = EntryAttributes()
        made.st_ino = pyfuse3.InodeT(next(self._numbers))
        made.st_mode = pyfuse3.ModeT(mode)
        made.st_nlink = 1
        made.entry_timeout = made.attr_timeout = self._seconds
        self._nodes[made.st_ino] = made
        if stat.S_ISDIR(mode):
            self._children[made.st_ino] = {}
        return made

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        found = self._children[parent_inode].get(name)
        if found is None:
            if not name.startswith(SEEDED):
                raise self._missing
            found = self._children[parent_inode][name] = self._make(stat.S_IFREG | 0o644)
        return found

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        pass

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._nodes[inode]

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._nodes[inode]
        if fields.update_mode:
            node.st_mode = attr.st_mode
        if fields.update_size:
            node.st_size = attr.st_size
        return node

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        if name.startswith(b"security."):
            raise FUSEError(pyfuse3.ENOATTR)
        return b"value"

    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        pass

    async def mkdir(self, parent_inode: InodeT, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        made = self._children[parent_inode][name] = self._make(stat.S_IFDIR | mode & 0o7777)
        return made

    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        del self._children[parent_inode][name]

    async def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        del self._children[parent_inode][name]

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: bytes,
        parent_inode_new: InodeT,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        self._children[parent_inode_new][name_new] = self._children[parent_inode_old].pop(name_old)

    async def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        made = self._children[parent_inode][name] = self._make(stat.S_IFREG | mode & 0o7777)
        return FileInfo(fh=pyfuse3.FileHandleT(made.st_ino)), made

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=pyfuse3.FileHandleT(inode), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return ZEROS[: max(0, min(size, self._nodes[fh].st_size - off))]

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        node = self._nodes[fh]
        node.st_size = max(node.st_size, off + len(buf))
        return len(buf)

    async def flush(self, fh: FileHandleT) -> None:
        raise self._unknown  # once: the kernel asks no more

    async def release(self, fh: FileHandleT) -> None:
        pass

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return pyfuse3.FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        for number, (name, node) in enumerate(itertools.islice(self._children[fh].items(), start_id, None), start_id):
            if not pyfuse3.readdir_reply(token, name, node, number + 1):
                break

    async def releasedir(self, fh: FileHandleT) -> None:
        pass


def _device() -> int:
    """The descriptor that pyfuse3 reads requests from."""
    names = os.listdir("/proc/self/fd")
    return next(int(name) for name in names if _leads_to(name) == "/dev/fuse")


def _leads_to(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except FileNotFoundError:  # that of the listing itself
        return ""


def main() -> None:
    """Mount, and serve until it is unmounted."""
    mountpoint, seconds, *rest = sys.argv[1:]
    os.umask(0)
    pyfuse3.init(Null(float(seconds)), mountpoint, {*pyfuse3.default_options, "fsname=null"})
    if rest == ["turns"]:
        from notifyfs.fuse.readloop import Readiness, ReadLoop  # noqa: PLC0415 - the other floor is without anything of ours

        pyfuse3.trio = ReadLoop(Readiness(_device()), lambda: False)  # type: ignore[attr-defined]
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
