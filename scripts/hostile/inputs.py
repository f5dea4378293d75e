"""Random bytes and requests that are almost right, and the descriptors that come with them."""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING, NamedTuple

from tests.support import wireclient as w

if TYPE_CHECKING:
    import contextlib
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from tests.conftest import Mount

FILTER = -4
FILTERED = 0x40000
LONGEST = 600
"""Bytes of the longest random string."""

NAMES = (
    *(
        b"",
        b".",
        b"..",
        b"/",
        b"d",
        b"d/f",
        b"d/e/f",
        b"//d///f",
        b"d/../f",
        b"d/f/",
        b"absent",
        b"../x",
        b"d/absent/f",
    ),
    *(b"loop", b"in", b"out", b"up", b"in/f", b"private", b"private/f", b"x" * 255, b"x" * 256, b"d/" * 2000, b"\xff"),
    *(b"notifyfs 1", b"notifyfs 2", b"notifyfs"),
    *(
        b"*.o",
        b"!keep",
        b"**/x",
        b"a/**/b",
        b"[a-",
        b"[!a]?",
        b"\\",
        b"/",
        b"#",
        b" ",
        b"*a*",
        b"*" * 9,
        b"[[:alpha:]]",
    ),
    *(b"0", b"1", b"-1", b"4294967295", b"99999999999999999999", b"\xd9\xa3"),
)
"""Paths on the attacked mount, greetings, patterns, numbers: each request gets the others' too."""

MASKS = (
    *(1 << bit for bit in range(32)),
    *(0, 1, w.CREATE | w.DELETE, w.ALL_EVENTS, w.ALL_EVENTS | w.ORIGIN, w.ALL_EVENTS | w.RECURSIVE, 0xFFFFFFFF),
    *(w.CREATE | FILTERED, w.ALL_EVENTS | FILTERED | w.ORIGIN, w.CREATE | w.MASK_ADD, w.CREATE | w.MASK_CREATE),
    *(w.ALL_EVENTS | w.ONESHOT, w.ALL_EVENTS | w.DONT_FOLLOW, w.ALL_EVENTS | w.ONLYDIR, w.MASK_ADD | w.MASK_CREATE),
)

KINDS = (w.ADD, w.ADD, w.ADD, w.HELLO, w.STATISTICS, w.PENDING, FILTER, FILTER, 1, 2, 3, -5)


class Input(NamedTuple):
    """What is sent at once."""

    data: bytes
    descriptors: list[int]


class Inputs:
    """An endless supply; *descriptors* are what some of them carry."""

    def __init__(self, chance: random.Random, descriptors: Sequence[int]) -> None:
        self._chance = chance
        self._descriptors = descriptors

    def next(self) -> Input:
        """One random string in five, else a request, in two of three cases mutated."""
        chance = self._chance
        if self._one_in(5):
            data = chance.randbytes(chance.randrange(1, LONGEST))
        else:
            data = self._request()
            if not self._one_in(3):
                data = self._mutated(data)
        return Input(data, self._some_descriptors())

    def _request(self) -> bytes:
        chance = self._chance
        kind = chance.choice(KINDS) if not self._one_in(20) else chance.randrange(-(1 << 31), 1 << 31)
        mask = chance.choice(MASKS)
        if kind == w.HELLO:
            mask, name = chance.choice((0, 1, mask)), w.GREETING
        elif kind == FILTER:
            mask, name = 1 << chance.randrange(7), chance.choice(NAMES)
        elif kind == w.ADD:
            name = chance.choice(NAMES)
        elif kind == w.STATISTICS:
            mask, name = chance.randrange(4), chance.choice((b"", b"0", b"3", b"9" * 19))
        else:
            mask, name = 0, b""
        if self._one_in(10):
            name = chance.choice(NAMES)
        return w.encode(kind, mask, chance.getrandbits(32), name)

    def _mutated(self, data: bytes) -> bytes:
        chance = self._chance
        changed = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            place = chance.randrange(len(changed) + 1)
            match chance.randrange(6):
                case 0 if place < len(changed):
                    changed[place] ^= 1 << chance.randrange(8)
                case 1 if place < len(changed):
                    changed[place] = chance.randrange(256)
                case 2:
                    del changed[place : place + chance.randrange(1, 20)]
                case 3:
                    changed[place:place] = chance.randbytes(chance.randrange(1, 20))
                case 4:
                    changed += self._request()[: chance.randrange(1, 64)]
                case _:  # the mask or the name field anew, the framing as it was
                    changed[4:8] = chance.randbytes(4)
                    changed[16:] = chance.randbytes(max(0, len(changed) - 16))
        return bytes(changed)

    def _one_in(self, many: int) -> bool:
        return not self._chance.randrange(many)

    def _some_descriptors(self) -> list[int]:
        chance = self._chance
        if not self._descriptors or not self._one_in(4):
            return []
        count = 1 if not self._one_in(4) else chance.choice((2, 3, 50, 253))
        return [chance.choice(self._descriptors) for _ in range(count)]


def furnish(mount: Mount) -> None:
    """Make what NAMES leads to."""
    source = mount.source
    (source / "d/e").mkdir(parents=True)
    (source / "private").mkdir(mode=0o700)
    for name in ("f", "d/f", "d/e/f", "private/f"):
        w.touch(source / name)
    for name, target in (("loop", "loop"), ("in", mount.root / "d"), ("out", "/etc"), ("up", "..")):
        (source / name).symlink_to(target)
    for directory in (source, source / "d"):
        directory.chmod(0o777)


def descriptors(root: Path, stack: contextlib.ExitStack) -> list[int]:
    """Of every kind that there is, on the mount and elsewhere; closed with *stack*."""
    found = [
        *(os.open(root / name, os.O_PATH) for name in ("", "d", "d/f", "d/e/f")),
        os.open(root / "loop", os.O_PATH | os.O_NOFOLLOW),
        os.open(root / "d", os.O_RDONLY),
        os.open(root / "d/f", os.O_RDWR),
        *(os.open(name, os.O_PATH) for name in ("/", "/etc/passwd", "/proc/self")),
        os.open("/dev/null", os.O_RDWR),
        os.memfd_create("hostile"),
        os.eventfd(0),
        os.pidfd_open(os.getpid()),
        *os.pipe(),
        *(end.detach() for end in socket.socketpair()),
    ]
    gone = os.open(root / f"gone-{os.getpid()}", os.O_CREAT | os.O_RDWR, 0o600)
    os.unlink(root / f"gone-{os.getpid()}")
    found += [gone, os.open(f"/proc/self/fd/{gone}", os.O_PATH)]
    for descriptor in found:
        stack.callback(os.close, descriptor)
    poll = stack.enter_context(select.epoll())
    return [*found, poll.fileno()]
