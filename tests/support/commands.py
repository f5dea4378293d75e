"""What a scenario does to files: every command is one system call, or a familiar few.

A command's words are strings; it returns nothing, or what the line's ``-> RESULT`` names. OSError is a result as well.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import stat
import struct
import subprocess
from pathlib import Path
from typing import Any

from tests.support import kernel


class Files:
    """The files below *base*, and what is held of them: descriptors, maps, forked children."""

    def __init__(self, base: Path) -> None:
        self._base = os.fsencode(base)
        self._before = os.getcwd()
        self._handles: dict[str, int] = {}
        self._maps: dict[str, kernel.Map] = {}
        self._children: dict[str, tuple[int, int]] = {}

    def _end(self) -> None:
        for mapped in self._maps.values():
            mapped.close()
        for name in list(self._children):
            self.end(name)
        for descriptor in self._handles.values():
            os.close(descriptor)
        os.chdir(self._before)

    def _path(self, word: str) -> bytes:
        assert word.startswith("/"), f"{word!r} is no path: paths begin with '/'"
        return os.path.join(self._base, os.fsencode(word[1:]))

    def _target(self, word: str) -> Any:
        return self._path(word) if word.startswith("/") else self._handles[word]

    def touch(self, *paths: str) -> None:
        """Create each (or open it for writing) and close it."""
        for path in paths:
            os.close(os.open(self._path(path), os.O_CREAT | os.O_WRONLY, 0o644))

    def put(self, path: str, text: str = "contents") -> None:
        """Create or truncate, write once, close."""
        self._spill(path, os.O_CREAT | os.O_TRUNC, text)

    def append(self, path: str, text: str = "more") -> None:
        """Open with O_APPEND, write once, close."""
        self._spill(path, os.O_APPEND, text)

    def _spill(self, path: str, how: int, text: str) -> None:
        descriptor = os.open(self._path(path), os.O_WRONLY | how, 0o644)
        os.write(descriptor, text.encode())
        os.close(descriptor)

    def cat(self, path: str) -> None:
        """Open, read until the end, close."""
        descriptor = os.open(self._path(path), os.O_RDONLY)
        while os.read(descriptor, 65536):
            pass
        os.close(descriptor)

    def mkdir(self, *paths: str) -> None:
        """Call mkdir(2) each."""
        for path in paths:
            os.mkdir(self._path(path), 0o755)

    def rmdir(self, path: str) -> None:
        """Call rmdir(2)."""
        os.rmdir(self._path(path))

    def unlink(self, path: str) -> None:
        """Call unlink(2)."""
        os.unlink(self._path(path))

    def link(self, old: str, new: str) -> None:
        """Call link(2)."""
        os.link(self._path(old), self._path(new))

    def linkfd(self, handle: str, new: str) -> None:
        """Call linkat(2) of an open file, as for O_TMPFILE."""
        source = b"/proc/self/fd/%d" % self._handles[handle]
        kernel.call("linkat", kernel.AT_FDCWD, source, kernel.AT_FDCWD, self._path(new), kernel.AT_SYMLINK_FOLLOW)

    def symlink(self, content: str, path: str) -> None:
        """Call symlink(2): the content is taken literally."""
        os.symlink(os.fsencode(content), self._path(path))

    def mknod(self, path: str, kind: str = "reg") -> None:
        """Call mknod(2): reg, fifo, or chr (/dev/null's numbers)."""
        mode = {"reg": stat.S_IFREG, "fifo": stat.S_IFIFO, "chr": stat.S_IFCHR}[kind]
        os.mknod(self._path(path), mode | 0o644, os.makedev(1, 3) if kind == "chr" else 0)

    def bind(self, path: str) -> None:
        """Bind a Unix socket at the path."""
        directory, name = os.path.split(self._path(path))
        descriptor = os.open(directory, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(b"/proc/self/fd/%d/%s" % (descriptor, name))
        os.close(descriptor)

    def mv(self, old: str, new: str, how: str = "") -> None:
        """Call renameat2(2); noreplace, exchange or whiteout."""
        kernel.rename(self._path(old), self._path(new), how)

    def chmod(self, mode: str, target: str) -> None:
        """Call chmod(2) of a path or fchmod(2) of a handle."""
        os.chmod(self._target(target), int(mode, 8))

    def chown(self, owner: str, target: str) -> None:
        """Call chown(2) or fchown(2): UID:GID, -1 leaves one."""
        os.chown(self._target(target), *map(int, owner.split(":")))

    def lchown(self, owner: str, path: str) -> None:
        """Call lchown(2)."""
        os.lchown(self._path(path), *map(int, owner.split(":")))

    def utimes(self, target: str, atime: str, mtime: str) -> None:
        """Call utimensat(2) or futimens(3): seconds, now or omit."""
        kernel.utimes(self._target(target), (atime, mtime))

    def lutimes(self, path: str, atime: str, mtime: str) -> None:
        """Call utimensat(2) with AT_SYMLINK_NOFOLLOW."""
        kernel.utimes(self._path(path), (atime, mtime), follow=False)

    def truncate(self, target: str, size: str) -> None:
        """Call truncate(2) of a path or ftruncate(2) of a handle."""
        os.truncate(self._target(target), int(size))

    def setxattr(self, target: str, name: str, value: str = "v") -> None:
        """Call setxattr(2) or fsetxattr(2)."""
        os.setxattr(self._target(target), name, value.encode())

    def getxattr(self, target: str, name: str) -> None:
        """Call getxattr(2)."""
        os.getxattr(self._target(target), name)

    def listxattr(self, target: str) -> None:
        """Call listxattr(2)."""
        os.listxattr(self._target(target))

    def removexattr(self, target: str, name: str) -> None:
        """Call removexattr(2) or fremovexattr(2)."""
        os.removexattr(self._target(target), name)

    def setfacl(self, path: str) -> None:
        """Do ``setfacl -m u:1000:r``: version 2, then tag, permissions, id of each entry (linux/posix_acl_xattr.h)."""
        entries = [(0x01, 6, -1), (0x02, 4, 1000), (0x04, 4, -1), (0x10, 4, -1), (0x20, 4, -1)]
        value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
        os.setxattr(self._path(path), "system.posix_acl_access", value)

    def chattr(self, path: str) -> None:
        """``chattr +d``: FS_IOC_GETFLAGS, then FS_IOC_SETFLAGS with FS_NODUMP_FL."""
        descriptor = os.open(self._path(path), os.O_RDONLY)
        try:
            (now,) = struct.unpack("@l", fcntl.ioctl(descriptor, 0x80086601, bytes(8)))
            fcntl.ioctl(descriptor, 0x40086602, struct.pack("@l", now | 0x40))
        finally:
            os.close(descriptor)

    def quietly(self, target: str) -> None:
        """All that asks and changes nothing: stat, access, statfs, readlink of a link, listing of attributes."""
        os.stat(self._target(target))
        os.statvfs(self._target(target))
        if target.startswith("/"):
            os.listxattr(self._path(target))
            os.access(self._path(target), os.R_OK)
            if stat.S_ISLNK(os.lstat(self._path(target)).st_mode):
                os.readlink(self._path(target))

    def cd(self, path: str) -> None:
        """Call chdir(2); ``/..`` leaves the scenario's directory."""
        os.chdir(self._path(path) if path != "/.." else b"/")

    def open(self, target: str, *words: str) -> None:
        """Open PATH [FLAGS] as HANDLE: RDONLY, WRONLY|CREAT..., or ACCMODE (3). Without flags: RDONLY."""
        *how, _, handle = words
        path = self._path(target) if target.startswith("/") else b"/proc/self/fd/%d" % self._handles[target]
        names = "|".join(how).split("|") if how else ["RDONLY"]
        opened = sum(os.O_ACCMODE if name == "ACCMODE" else getattr(os, f"O_{name}") for name in names)
        self._handles[handle] = os.open(path, opened, 0o644)

    def hold(self, *paths: str) -> None:
        """Open each for reading until the end, or until ``close`` of the same path."""
        for path in paths:
            self._handles[path] = os.open(self._path(path), os.O_RDONLY)

    def close(self, *handles: str) -> None:
        """Call close(2) each."""
        for handle in handles:
            os.close(self._handles.pop(handle))

    def dup(self, handle: str, _: str, other: str) -> None:
        """Dup HANDLE as OTHER."""
        self._handles[other] = os.dup(self._handles[handle])

    def write(self, handle: str, text: str) -> None:
        """One write(2)."""
        os.write(self._handles[handle], text.encode())

    def writev(self, handle: str, *texts: str) -> None:
        """One writev(2)."""
        os.writev(self._handles[handle], [text.encode() for text in texts])

    def pwrite(self, handle: str, offset: str, text: str) -> None:
        """One pwrite(2)."""
        os.pwrite(self._handles[handle], text.encode(), int(offset))

    def fill(self, handle: str, size: str) -> None:
        """One write(2) of SIZE bytes."""
        assert os.write(self._handles[handle], b"n" * int(size)) == int(size)

    def read(self, handle: str, size: str) -> int:
        """One read(2): how many bytes."""
        return len(os.read(self._handles[handle], int(size)))

    def pread(self, handle: str, offset: str, size: str) -> int:
        """One pread(2): how many bytes."""
        return len(os.pread(self._handles[handle], int(size), int(offset)))

    def readv(self, handle: str, *sizes: str) -> int:
        """One readv(2): how many bytes."""
        return os.readv(self._handles[handle], [bytearray(int(size)) for size in sizes])

    def seek(self, handle: str, offset: str) -> None:
        """Call lseek(2)."""
        os.lseek(self._handles[handle], int(offset), os.SEEK_SET)

    def sync(self, handle: str) -> None:
        """Call fsync(2) and fdatasync(2)."""
        os.fsync(self._handles[handle])
        os.fdatasync(self._handles[handle])

    def lock(self, handle: str) -> None:
        """Call flock(2) and a POSIX lock."""
        fcntl.flock(self._handles[handle], fcntl.LOCK_EX)
        fcntl.lockf(self._handles[handle], fcntl.LOCK_EX)

    def willneed(self, handle: str) -> None:
        """Call posix_fadvise(2) WILLNEED."""
        os.posix_fadvise(self._handles[handle], 0, 4096, os.POSIX_FADV_WILLNEED)

    def getdents(self, handle: str) -> None:
        """One getdents64(2)."""
        kernel.getdents(self._handles[handle])

    def ls(self, path: str) -> None:
        """Open a directory, getdents until the end, close."""
        descriptor = os.open(self._path(path), os.O_RDONLY | os.O_DIRECTORY)
        while kernel.getdents(descriptor):
            pass
        os.close(descriptor)

    def fallocate(self, handle: str, mode: str, offset: str, size: str) -> None:
        """Call fallocate(2): mode 0, KEEP_SIZE (1), PUNCH_HOLE|KEEP_SIZE (3)."""
        kernel.call("fallocate", self._handles[handle], int(mode), ctypes.c_long(int(offset)), ctypes.c_long(int(size)))

    def posix_fallocate(self, handle: str, offset: str, size: str) -> None:
        """Call posix_fallocate(3)."""
        os.posix_fallocate(self._handles[handle], int(offset), int(size))

    def copy(self, source: str, target: str, size: str) -> int:
        """Call copy_file_range(2)."""
        return os.copy_file_range(self._handles[source], self._handles[target], int(size))

    def sendfile(self, source: str, target: str, size: str) -> int:
        """Call sendfile(2), at the source's own offset."""
        return os.sendfile(self._handles[target], self._handles[source], None, int(size))

    def pipe(self, reader: str, writer: str) -> None:
        """Call pipe(2) as two handles."""
        self._handles[reader], self._handles[writer] = os.pipe()

    def splice(self, source: str, target: str, size: str) -> int:
        """Call splice(2)."""
        return os.splice(self._handles[source], self._handles[target], int(size))

    def mmap(self, handle: str, kind: str, _: str, name: str) -> None:
        """Mmap HANDLE shared|private as MAP."""
        self._maps[name] = kernel.Map(self._handles[handle], shared=kind == "shared")

    def peek(self, name: str) -> None:
        """Read a mapped byte."""
        self._maps[name].peek()

    def poke(self, name: str) -> None:
        """Write a mapped byte."""
        self._maps[name].poke()

    def msync(self, name: str) -> None:
        """Call msync(2) with MS_SYNC."""
        self._maps[name].sync()

    def munmap(self, name: str) -> None:
        """Call munmap(2)."""
        self._maps.pop(name).close()

    def fork(self, _: str, name: str) -> None:
        """Fork as CHILD, which holds every handle until ``end``."""
        mine, theirs = os.pipe()
        if not (pid := os.fork()):
            os.close(theirs)
            os.read(mine, 1)
            os._exit(0)
        os.close(mine)
        self._children[name] = pid, theirs

    def end(self, name: str) -> None:
        """End a forked child and wait for it."""
        pid, pipe = self._children.pop(name)
        os.close(pipe)
        os.waitpid(pid, 0)

    def install(self, program: str, path: str) -> None:
        """Copy a program of this machine, executable."""
        target = self._path(path)
        with open(target, "wb") as copy:
            copy.write(Path(program).read_bytes())
        os.chmod(target, 0o755)

    def run(self, path: str) -> None:
        """Execute and wait."""
        subprocess.run([self._path(path)], check=True, stdin=subprocess.DEVNULL)

    def umount(self) -> None:
        """Unmount the scenario's own mount."""
        subprocess.run(["/bin/umount", os.fsdecode(self._base)], check=True)
