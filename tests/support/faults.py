# ruff: noqa: ARG002, PLR0913, PLR0917 - a handler has pyfuse3's signature
"""Sources that fail: small disks, and a file system whose requests are refused on demand, or never answered."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyfuse3
import pytest
import trio

from tests.conftest import ROOT
from tests.support.posix import collect, start_child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk that fails")


def run(*command: str | Path) -> None:
    """Run a program; its complaint in an AssertionError if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"


@contextlib.contextmanager
def tmpfs(root: Path, options: str) -> Iterator[Path]:
    """A file system in memory."""
    root.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "notifyfs-test", root)
    try:
        yield root
    finally:
        run("umount", "-l", root)


@contextlib.contextmanager
def ext4(root: Path, size: str = "16M", *options: str) -> Iterator[Path]:
    """A disk: ext4 on a loop device, which goes with the mount."""
    root.mkdir()
    image = root.with_suffix(".image")
    run("truncate", "-s", size, image)
    run("mkfs.ext4", "-q", "-F", *options, image)
    run("mount", "-o", "loop,errors=remount-ro", image, root)
    try:
        yield root
    finally:
        run("umount", "-l", root)


@contextlib.contextmanager
def btrfs(root: Path) -> Iterator[Path]:
    """A disk with quotas to be had: btrfs on a loop device."""
    root.mkdir()
    image = root.with_suffix(".image")
    run("truncate", "-s", "128M", image)
    run("mkfs.btrfs", "-q", image)
    run("mount", "-o", "loop", image, root)
    try:
        yield root
    finally:
        run("umount", "-l", root)


def device_of(disk: Path) -> str:
    """The name of the block device below *disk*."""
    number = os.stat(disk).st_dev
    return Path(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")).name


@contextlib.contextmanager
def limited(pid: int, limit: int, most: int) -> Iterator[None]:
    """The running process *pid* has this soft resource limit meanwhile."""
    before = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, before)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still (SIGSTOP) meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def forget(mount: Mount) -> None:
    """Clear away whatever a mount that was not to end well has left: process, mounts, socket and entry."""
    mount.process.kill()
    mount.process.wait()
    if mount.process.stdout is not None:
        mount.process.stdout.close()
    while str(mount.root) in [line.split()[4] for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines()]:
        run("umount", "-l", mount.root)
    for left in (Path(mount.socket), Path(mount.socket).with_name("state")):
        left.unlink(missing_ok=True)


class FaultySource:
    """A file system in memory, in a process of its own, mounted on *root*. It keeps nothing back from its server."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._faults = root.with_name(root.name + "-faults")
        self._faults.mkdir()
        root.mkdir()
        command = [sys.executable, "-m", "tests.support.faults", str(root), str(self._faults)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 20)
        assert ready, "the faulty file system does not start"
        assert self._process.stdout.read(1), "the faulty file system has ended"

    @property
    def pid(self) -> int:
        """Its server's."""
        return self._process.pid

    @contextlib.contextmanager
    def failing(self, request: str, number: int) -> Iterator[None]:
        """Each *request* (a handler of ``_Server``, or "lookup NAME") is refused with this errno meanwhile."""
        fault = self._faults / request
        fault.with_suffix(".new").write_text(str(number), "ascii")
        fault.with_suffix(".new").rename(fault)
        try:
            yield
        finally:
            fault.unlink()

    def close(self) -> None:
        """Unmount and end it, in whatever state it is."""
        os.kill(self.pid, signal.SIGCONT)
        subprocess.run(["umount", "-l", self.root], check=False, capture_output=True)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def faulty(fuse: None, tmp_path: Path) -> Iterator[FaultySource]:
    """Give a file system that fails on demand."""
    (tmp_path / "tree").mkdir()
    source = FaultySource(tmp_path / "tree" / "faulty")
    yield source
    source.close()


class Asker:
    """A function that a child process is in: whoever asks a mount that may not answer should be one."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._child, self._pipe = start_child(function)
        self._open = True

    def answered(self, seconds: float) -> bool:
        """Whether the function has ended, or does within *seconds*."""
        return bool(select.select([self._pipe], [], [], seconds)[0])

    @property
    def asleep(self) -> bool:
        """Whether the child waits in the kernel for something (proc(5), state)."""
        state = Path(f"/proc/{self._child}/stat").read_text("ascii").rpartition(")")[2].split()[0]
        return state in ("S", "D")

    def result(self, seconds: float = 10) -> Any:
        """What it returned; AssertionError when it failed, or is not done within *seconds*."""
        assert self.answered(seconds), f"no answer within {seconds} s"
        self._open = False
        return collect((self._child, self._pipe))

    def kill(self) -> None:
        """End it in the middle of what it does."""
        if self._open:
            self._open = False
            os.kill(self._child, signal.SIGKILL)
            os.close(self._pipe)
            os.waitpid(self._child, 0)


@pytest.fixture
def ask() -> Iterator[Callable[[Callable[[], object]], Asker]]:
    """Give a function that starts an ``Asker``; all have ended with the test."""
    started: list[Asker] = []

    def ask(function: Callable[[], object]) -> Asker:
        started.append(Asker(function))
        return started[-1]

    yield ask
    for asker in started:
        asker.kill()


def outcome(operation: Callable[[Path], object], root: Path) -> str:
    """The name of the errno that *operation* in *root* fails with, or "done"."""
    try:
        operation(root)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


class _Node:
    def __init__(self, number: int, mode: int) -> None:
        self.number = number
        self.mode = mode
        self.links = 2 if stat.S_ISDIR(mode) else 1
        self.content = bytearray()
        self.names: dict[bytes, _Node] = {}
        self.changed = time.time_ns()


class _Server(pyfuse3.Operations):  # type: ignore[misc]
    """Directories and regular files, nothing cached; a file in *faults* named like a request is its errno."""

    def __init__(self, faults: str) -> None:
        super().__init__()
        self._faults = faults
        self._nodes = {pyfuse3.ROOT_INODE: _Node(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o755)}

    def _asked(self, request: str) -> None:
        with contextlib.suppress(FileNotFoundError), open(f"{self._faults}/{request}", encoding="ascii") as fault:
            raise pyfuse3.FUSEError(int(fault.read()))

    def _attributes(self, node: _Node) -> pyfuse3.EntryAttributes:
        answer = pyfuse3.EntryAttributes()
        answer.st_ino = node.number
        answer.st_mode = node.mode
        answer.st_nlink = node.links
        answer.st_size = len(node.content)
        answer.st_blocks = -(-len(node.content) // 512)
        answer.st_mtime_ns = answer.st_ctime_ns = answer.st_atime_ns = node.changed
        answer.attr_timeout = answer.entry_timeout = 0
        return answer

    def _child(self, parent: int, name: bytes) -> _Node:
        try:
            return self._nodes[parent].names[name]
        except KeyError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None

    def _make(self, parent: int, name: bytes, mode: int) -> pyfuse3.EntryAttributes:
        node = _Node(max(self._nodes) + 1, mode)
        self._nodes[node.number] = self._nodes[parent].names[name] = node
        return self._attributes(node)

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        self._asked("lookup")
        self._asked(f"lookup {os.fsdecode(name)}")
        return self._attributes(self._child(parent, name))

    async def getattr(self, number: int, ctx: Any) -> pyfuse3.EntryAttributes:
        self._asked("getattr")
        return self._attributes(self._nodes[number])

    async def setattr(self, number: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        self._asked("setattr")
        node = self._nodes[number]
        if fields.update_size:
            node.content[attr.st_size :] = bytes(max(0, attr.st_size - len(node.content)))
        if fields.update_mode:
            node.mode = attr.st_mode
        node.changed = time.time_ns()
        return self._attributes(node)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        self._asked("mkdir")
        return self._make(parent, name, mode | stat.S_IFDIR)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._asked("create")
        made = self._make(parent, name, mode)
        return pyfuse3.FileInfo(fh=made.st_ino, direct_io=True), made

    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        self._asked("unlink")
        self._child(parent, name).links -= 1
        del self._nodes[parent].names[name]

    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        self._asked("rmdir")
        del self._nodes[parent].names[name]

    async def rename(self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int, ctx: Any) -> None:
        self._asked("rename")
        moved = self._child(old_parent, old)
        del self._nodes[old_parent].names[old]
        self._nodes[new_parent].names[new] = moved

    async def open(self, number: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        self._asked("open")
        if flags & os.O_TRUNC:
            self._nodes[number].content.clear()
        return pyfuse3.FileInfo(fh=number, direct_io=True)

    async def read(self, number: int, offset: int, size: int) -> bytes:
        self._asked("read")
        return bytes(self._nodes[number].content[offset : offset + size])

    async def write(self, number: int, offset: int, data: bytes) -> int:
        self._asked("write")
        content = self._nodes[number].content
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        self._nodes[number].changed = time.time_ns()
        return len(data)

    async def fsync(self, number: int, datasync: bool) -> None:  # noqa: FBT001 - pyfuse3's signature
        self._asked("fsync")

    async def fsyncdir(self, number: int, datasync: bool) -> None:  # noqa: FBT001 - the same
        self._asked("fsyncdir")

    async def flush(self, number: int) -> None:
        self._asked("flush")

    async def release(self, number: int) -> None:
        pass

    async def opendir(self, number: int, ctx: Any) -> int:
        self._asked("opendir")
        return number

    async def readdir(self, number: int, start: int, token: Any) -> None:
        self._asked("readdir")
        for position, (name, node) in list(enumerate(self._nodes[number].names.items(), 1))[start:]:
            if not pyfuse3.readdir_reply(token, name, self._attributes(node), position):
                break

    async def releasedir(self, number: int) -> None:
        pass


def _serve(mountpoint: str, faults: str) -> None:
    pyfuse3.init(_Server(faults), mountpoint, {"fsname=faulty", "default_permissions"})
    try:
        os.write(1, b"!")
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
