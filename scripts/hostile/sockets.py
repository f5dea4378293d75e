"""Rows about subscribers: many connections, many requests, much to keep, and much that hangs."""

# ruff: noqa: S101 - tests run this

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from tests.support import wireclient as w

from scripts.hostile.ground import Ground, Pulse, Work, row

if TYPE_CHECKING:
    from collections.abc import Iterator

FILTER, EXCLUDE, FILTERED = -4, 1, 0x40000


@contextlib.contextmanager
def connected(ground: Ground, count: int) -> Iterator[list[w.Client]]:
    """*count* connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ground.connect()) for _ in range(count)]


# Asking


@row()
def link_chains(ground: Ground) -> list[Work]:
    """20 connections ask for a watch on a chain of 40 links with targets of 4,090 bytes, a/../a/../...: a long walk."""

    def furnish() -> None:
        os.mkdir("a")
        os.mknod("end")
        for number in range(40):
            target = b"l%d" % (number + 1) if number < 39 else b"end"  # noqa: PLR2004 - the last but one
            os.symlink(b"a/../" * ((4_090 - len(target)) // 5) + target, b"l%d" % number)

    ground.make(furnish)

    def work(pulse: Pulse) -> None:
        with connected(ground, 5) as wires:
            while pulse.on:
                asked = [(wire, wire.send(w.ADD, w.MODIFY, b"attacker/l0")) for wire in wires]
                for wire, cookie in asked:
                    _, reply = wire.until_reply(cookie)
                    assert reply.wd > 0, reply
                    pulse.round()

    return [Work(work) for _ in range(4)]
