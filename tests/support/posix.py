"""Two places with one face: a plain directory, which is the anchor, and a directory of a notifyfs mount.

PYTEST_DONT_REWRITE: test modules import names from here before pytest loads it for its fixtures.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import inspect
import os
import pickle
import shutil
import struct
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

import pytest

from tests.conftest import Mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

P = ParamSpec("P")
T = TypeVar("T")

USER, GROUP, SUPPLEMENTARY = 12345, 12345, 5555
OTHER, OTHER_GROUP = 12346, 12346

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW = 0x100, 0x400
AT_EMPTY_PATH = 0x1000
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2

libc = ctypes.CDLL(None, use_errno=True)


class Place(NamedTuple):
    """An empty directory, mode 1777, which is also the working directory."""

    root: Path
    source: Path
    """The same directory reached without notifyfs."""
    mounted: bool
    """Whether *root* is on a notifyfs mount."""


@pytest.fixture(scope="session")
def posix_base() -> Iterator[Path]:
    """Give a directory that every user can reach; pytest's own are closed to all but its user."""
    base = Path(tempfile.mkdtemp(prefix="notifyfs-posix-"))
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def _posix_mount(posix_base: Path) -> Iterator[Callable[[], Mount]]:
    mounts: list[Mount] = []

    def current() -> Mount:
        if not mounts or mounts[-1].process.poll() is not None:
            mounts.append(Mount(posix_base / f"notifyfs-{len(mounts)}", ("allow_other", "suid", "dev")))
        return mounts[-1]

    yield current
    if mounts:
        mounts[-1].finish()


@pytest.fixture(params=["plain", pytest.param("mount", marks=pytest.mark.mount)])
def place(
    request: pytest.FixtureRequest, posix_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Give an empty directory: a plain one, then one on a mount by root for all users, with suid and dev."""
    name = f"{tmp_path.parent.name}-{tmp_path.name}"[-80:]
    if request.param == "plain":
        root = source = posix_base / "plain" / name
        source.mkdir(parents=True)
    else:
        request.getfixturevalue("fuse")
        if os.getuid():
            pytest.skip("only root can mount for all users")
        mount = request.getfixturevalue("_posix_mount")()
        root, source = mount.root / name, mount.source / name
        source.mkdir()
    source.chmod(0o1777)
    before = os.umask(0o022)
    monkeypatch.chdir(root)
    yield Place(root, source, request.param == "mount")
    os.umask(before)
    monkeypatch.undo()
    if request.param == "mount":
        mount.check()


def by_both(test: Callable[P, None]) -> Callable[P, None]:
    """Run the test as root, and in a child process as an unprivileged user."""

    @pytest.mark.parametrize("who", ["root", "user"])
    @functools.wraps(test)
    def run(*args: P.args, who: str, **kwargs: P.kwargs) -> None:
        if who == "root":
            test(*args, **kwargs)
        else:
            as_user(lambda: test(*args, **kwargs))

    # pytest reads the arguments from the signature, and one more has come.
    signature = inspect.signature(test)
    who = inspect.Parameter("who", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), who])  # type: ignore[attr-defined]
    return run


def as_user(
    function: Callable[[], T], uid: int = USER, gid: int = GROUP, groups: Iterable[int] = (SUPPLEMENTARY,)
) -> T:
    """What *function* returns in a child that really is this user; its traceback as an AssertionError."""
    if os.getuid():
        pytest.skip("only root can become another user")
    return in_child(function, lambda: become(uid, gid, groups))


def become(uid: int, gid: int, groups: Iterable[int]) -> None:
    """Turn this process into this user's, for good."""
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def in_child(function: Callable[[], T], first: Callable[[], object] = lambda: None) -> T:
    """What *function* returns in a child process, after *first* there."""
    return collect(start_child(function, first))


def start_child(function: Callable[[], T], first: Callable[[], object] = lambda: None) -> tuple[int, int]:
    """Start *function* in a child process: its id, and the pipe for ``collect``."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            first()
            outcome: object = (True, function())
        except BaseException:  # noqa: BLE001 - reported to the parent, whatever it is
            outcome = (False, traceback.format_exc())
        with contextlib.suppress(OSError), open(theirs, "wb") as pipe:
            pickle.dump(outcome, pipe)
        sys.stdout.flush()
        os._exit(0)
    os.close(theirs)
    return child, ours


def collect(started: tuple[int, int]) -> T:  # type: ignore[type-var]
    """What a child returned; AssertionError if it failed."""
    child, ours = started
    try:
        with open(ours, "rb") as pipe:
            data = pipe.read()
    except BaseException:
        os.kill(child, 9)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if not data:
        raise AssertionError(f"the child ended with status {status}")
    good, what = pickle.loads(data)  # noqa: S301 - our own child wrote it
    if not good:
        raise AssertionError("in the child process:\n" + what)
    return what


@contextlib.contextmanager
def fails(*numbers: int) -> Iterator[None]:
    """The block must raise OSError with one of these errnos."""
    expected = " or ".join(errno.errorcode[number] for number in numbers)
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise AssertionError(f"{errno.errorcode.get(error.errno or 0)} instead of {expected}: {error}") from error
        return
    raise AssertionError(f"succeeded instead of {expected}")


def call(name: str, *args: object) -> int:
    """A function of the C library that says -1 and sets errno."""
    result = getattr(libc, name)(*args)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return int(result)


def put(path: str | bytes | Path, content: bytes = b"content", mode: int = 0o644) -> None:
    """Create or replace the content of a file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)


def get(path: str | bytes | Path) -> bytes:
    """The content of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(path: str | bytes | Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> Iterator[int]:
    """A descriptor, closed at the end."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def mode_of(path: str | bytes | int | Path) -> int:
    """The permission bits, of the link itself when it is one."""
    found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return found.st_mode & 0o7777


def rename2(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2) relative to the working directory."""
    call("renameat2", AT_FDCWD, old, AT_FDCWD, new, ctypes.c_uint(flags))


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The value of system.posix_acl_*: (tag, permissions, id) each; acl(5), linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, bits, who) for tag, bits, who in entries)


NOBODY = 0xFFFFFFFF
USER_OBJ, USER_TAG, GROUP_OBJ, GROUP_TAG, MASK, OTHERS = 1, 2, 4, 8, 0x10, 0x20
