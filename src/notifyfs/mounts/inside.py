"""Who is inside a directory that a mount is about to cover: what they do there goes past it, unheard and unseen."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN: Final = 8
_TELLING: Final = os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY | os.O_PATH  # who only reads sees the source as it is


def insiders(directory: str) -> list[str]:
    """Name each process that can change things in *directory* (absolute, without links), and how it is inside.

    ``bash (pid 12, working directory)``, as fuser(1) would find them: by working directory, root, what is
    open for writing or to start from, and shared maps. Not this process; and not those that this user may not
    look at (proc(5): /proc/PID/fd).
    """
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) != os.getpid():
            with suppress(OSError):
                if how := next(_ways(f"/proc/{name}", directory), None):
                    with open(f"/proc/{name}/comm", "rb") as comm:
                        found.append(f"{os.fsdecode(comm.read().rstrip())} (pid {name}, {how})")
    return found


def warning(directory: str) -> str | None:
    """One line on who is inside *directory*, and the remedy; None where nobody is."""
    found = insiders(directory)
    if not found:
        return None
    shown = ", ".join(found[:_SHOWN] + [f"and {len(found) - _SHOWN} more"] * (len(found) > _SHOWN))
    return f'{directory}: inside already, so past the mount and unheard: {shown}; have them enter again (cd "$PWD")'


def _ways(process: str, directory: str) -> Iterator[str]:
    def lies_in(path: str) -> bool:
        return path == directory or path.startswith(directory.rstrip("/") + "/")

    for link, what in (("cwd", "working directory"), ("root", "root")):
        with suppress(OSError):
            # Everybody's root is no way into a mount over it.
            if lies_in(path := os.readlink(f"{process}/{link}")) and path != "/":
                yield what
    for number in os.listdir(f"{process}/fd"):
        with suppress(OSError):
            if lies_in(path := os.readlink(f"{process}/fd/{number}")) and _flags(process, number) & _TELLING:
                yield f"open: {os.path.basename(path)}"
    with open(f"{process}/maps", "rb") as maps:
        for line in maps:
            _, rights, _, _, _, *name = os.fsdecode(line.rstrip(b"\n")).split(None, 5)
            if rights[1::2] == "ws" and name and lies_in(name[0]):
                yield f"mapped: {os.path.basename(name[0])}"


def _flags(process: str, descriptor: str) -> int:
    with open(f"{process}/fdinfo/{descriptor}", "rb") as about:
        return next(int(line[6:], 8) for line in about if line.startswith(b"flags:"))
