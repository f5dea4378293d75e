"""Two trees, compared completely."""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, Any, Final

from scripts.compare.operations import described

if TYPE_CHECKING:
    from collections.abc import Iterator

_HUGE: Final = 1 << 27


def differences(plain: str, mount: str, *, same: bool = False) -> list[str]:
    """One line for each difference between the trees at *plain* and at *mount*, best known first.

    Names, types, modes, owners, link counts, sizes, set times, contents, targets, extended attributes with access
    lists, and which names are links to one file. *same*: they are one tree, so that all times and numbers must agree.
    """
    found = [_describe(root, same=same) for root in (plain, mount)]
    names = sorted(found[0].keys() | found[1].keys())
    return [
        f"{name}: {found[0].get(name, 'absent')} / {found[1].get(name, 'absent')}"
        for name in names
        if found[0].get(name) != found[1].get(name)
    ]


def _describe(root: str, *, same: bool) -> dict[str, list[Any]]:
    first: dict[tuple[int, int], str] = {}
    described_: dict[str, list[Any]] = {}
    for name in _names(root):
        path = f"{root}/{name}" if name else root
        found = os.lstat(path)
        facts = described(found)
        key = (found.st_dev, found.st_ino)
        if not stat.S_ISDIR(found.st_mode):
            facts.append("is " + first.setdefault(key, name))
        if same:
            facts += [found.st_mtime_ns, found.st_ctime_ns, found.st_ino if name else "root"]
        if stat.S_ISREG(found.st_mode):
            facts.append(_checksum(path, found.st_size))
        elif stat.S_ISLNK(found.st_mode):
            facts.append(os.readlink(path))
        facts += [
            f"{attribute}={os.getxattr(path, attribute, follow_symlinks=False).hex()}"
            for attribute in sorted(os.listxattr(path, follow_symlinks=False))
        ]
        described_[name] = facts
    return described_


def _names(root: str) -> Iterator[str]:
    """Every name below *root*, relative, sorted; ``""`` is *root* itself."""
    pending = [""]
    while pending:
        name = pending.pop()
        yield name
        path = f"{root}/{name}" if name else root
        if stat.S_ISDIR(os.lstat(path).st_mode):
            pending += sorted((f"{name}/{each}" if name else each for each in os.listdir(path)), reverse=True)


def _checksum(path: str, size: int) -> str:
    """Of the content; of a file that can only be a huge hole (tmpfs has no limit), of its two ends."""
    checksum = 0
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while data := os.read(fd, 1 << 20):
            checksum = zlib.crc32(data, checksum)
            if size > _HUGE and os.lseek(fd, 0, os.SEEK_CUR) == 1 << 22:
                os.lseek(fd, size - (1 << 20), os.SEEK_SET)
    finally:
        os.close(fd)
    return f"{checksum:08x}"
