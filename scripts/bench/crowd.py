"""``python crowd.py KIND DIRECTORY NUMBER``: so many subscribers of a directory, each of which reads what it is sent.

It prints a line when all are connected, and one each time that all have heard of a new directory ``mark-N``.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL_EVENTS: Final = 0xFFF
MARK: Final = b"mark-"
SIZE: Final = 1 << 16


def connections(kind: str, directory: str, number: int) -> Iterator[int]:
    """Their descriptors."""
    if kind == "kernel":
        libc = ctypes.CDLL(None, use_errno=True)
        for _ in range(number):
            descriptor = libc.inotify_init1(os.O_CLOEXEC)
            if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(directory), ALL_EVENTS) < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), directory)
            yield descriptor
        return
    from notifyfs.client.blocking import Connection, find_socket  # noqa: PLC0415 - the kernel's need it not

    socket = find_socket(directory)
    for _ in range(number):
        connection = Connection(socket, event_fd=kind == "event-fd")
        connection.add_watch(ALL_EVENTS, os.fsencode(os.path.relpath(directory, connection.hello["mountpoint"])))
        KEPT.append(connection)
        yield connection.fileno()


KEPT: Final[list[object]] = []
"""A connection that is dropped is closed."""


def main() -> None:
    """See the module."""
    kind, directory, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    poll = select.epoll()
    tails = {}
    for descriptor in connections(kind, directory, number):
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.EPOLLIN)
        tails[descriptor] = b""
    print("ready", flush=True)
    heard, read, keep = 0, os.read, len(MARK) - 1
    while True:
        for descriptor, _ in poll.poll():
            data = read(descriptor, SIZE)
            if not data:
                return
            whole = tails[descriptor] + data
            tails[descriptor] = whole[-keep:]
            heard += whole.count(MARK)
            while heard >= number:
                heard -= number
                print("heard", flush=True)


if __name__ == "__main__":
    main()
