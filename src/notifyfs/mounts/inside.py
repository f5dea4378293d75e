"""Who is inside a directory that a mount is about to cover: what they do there goes past it, unheard and unseen."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN: Final = 8
_TELLING: Final = os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY | os.O_PATH  # who only reads sees the source as it is


def insiders(directory: bytes) -> list[bytes]:
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
                        found.append(b"%s (pid %s, %s)" % (comm.read().rstrip(b"\n"), name.encode(), how))
    return found


def warning(directory: bytes) -> bytes | None:
    """One line on who is inside *directory*, and the remedy; None where nobody is."""
    found = insiders(directory)
    if not found:
        return None
    more = [b"and %d more" % (len(found) - _SHOWN)] if len(found) > _SHOWN else []
    return b'%s: inside already, and so past the mount, unheard: %s; have them enter again (cd "$PWD", reopen)' % (
        directory,
        b", ".join(found[:_SHOWN] + more),
    )


def _ways(process: str, directory: bytes) -> Iterator[bytes]:
    def lies_in(path: bytes) -> bool:
        return path == directory or path.startswith(directory.rstrip(b"/") + b"/")

    for link, what in (("cwd", b"working directory"), ("root", b"root")):
        with suppress(OSError):
            # The root of everybody is no way into a mount over it.
            if lies_in(path := os.readlink(os.fsencode(f"{process}/{link}"))) and path != b"/":
                yield what
    for number in os.listdir(f"{process}/fd"):
        with suppress(OSError):
            if lies_in(path := os.readlink(os.fsencode(f"{process}/fd/{number}"))):
                with open(f"{process}/fdinfo/{number}", "rb") as info:
                    flags = next(int(line[6:], 8) for line in info if line.startswith(b"flags:"))
                if flags & _TELLING:
                    yield b"open: " + os.path.basename(path)
    with open(f"{process}/maps", "rb") as maps:
        for line in maps:
            fields = line.rstrip(b"\n").split(None, 5)
            if len(fields) > 5 and fields[1][1:4:2] == b"ws" and lies_in(fields[5]):  # noqa: PLR2004 - proc(5)
                yield b"mapped: " + os.path.basename(fields[5])
