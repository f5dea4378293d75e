"""A FUSE connection of a moment's, that nobody can see: to try out what this kernel does.

As root it is mounted nowhere: its root is a descriptor, and it ends with that. Other users mount through
fusermount3, on a directory of their own that is out of the tree before anybody answers.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import TYPE_CHECKING, Final

import attrs

from notifyfs.mounts import kernel
from notifyfs.system import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = "notifyfs-probe"
_WITHIN: Final = 2.0
"""Seconds for fusermount3: whoever waits for it wants to mount something else."""


@attrs.frozen
class Throwaway:
    """*fuse* is to be served, *root* is for who uses it: its root directory, to name files from."""

    fuse: int
    root: int


@contextlib.contextmanager
def throwaway() -> Iterator[Throwaway]:
    """Connect; the end of it ends every request that was not answered. OSError or MountError: it cannot be had."""
    with contextlib.ExitStack() as stack:
        made = _mounted_nowhere() if os.geteuid() == 0 else _mounted()
        stack.callback(os.close, made.root)
        stack.callback(os.close, made.fuse)  # first: to end the mount would wait for an answer
        yield made


def _mounted_nowhere() -> Throwaway:
    fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    numbers = {"fd": fuse, "user_id": os.geteuid(), "group_id": os.getegid()}
    words = {"source": _NAME, "rootmode": "40000"} | {key: str(number) for key, number in numbers.items()}
    try:
        return Throwaway(fuse, syscalls.mount_nowhere("fuse", words))
    except BaseException:
        os.close(fuse)
        raise


def _mounted() -> Throwaway:
    with tempfile.TemporaryDirectory(prefix=f"{_NAME}-") as directory:
        fuse = kernel.attach_user(directory, [f"fsname={_NAME}"], _WITHIN)
        try:
            try:
                root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            finally:
                kernel.detach_user(directory, lazy=True, within=_WITHIN)
        except BaseException:
            os.close(fuse)
            raise
    return Throwaway(fuse, root)
