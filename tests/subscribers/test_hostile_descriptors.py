"""Descriptors that nobody wants: none is kept, whatever a client sends."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.subscribers.test_hostile import bystander, closed, mount
from tests.support import wireclient as w
from tests.support.wireclient import ADD, HELLO, PENDING, STATISTICS, Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["bystander", "mount"]


def test_a_descriptor_that_a_request_does_not_want_is_closed(mount: Mount, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    descriptor = os.open(marker, os.O_CREAT | os.O_RDONLY)
    with Wire(mount) as wire:
        wire.ask(HELLO, 0, w.GREETING, descriptors=[descriptor])
        for wd, mask, name in ((PENDING, 0, b""), (STATISTICS, 0, b""), (-50, 0, b""), (7, 0, b""), (ADD, 1, b"x")):
            for _ in range(20):
                wire.ask(wd, mask, name, descriptors=[descriptor] * 3)

        assert wire.ask(PENDING) == 0
        closed(mount, marker)
    os.close(descriptor)


@pytest.mark.parametrize("flags", [os.O_PATH, os.O_RDONLY, os.O_RDWR], ids=["O_PATH", "O_RDONLY", "O_RDWR"])
@pytest.mark.usefixtures("bystander")
def test_a_descriptor_that_has_served_is_closed(mount: Mount, tree: Path, flags: int) -> None:
    # The protocol asks for O_PATH: the daemon may refuse another, but must not keep it.
    w.touch(tree / "f")
    with Wire(mount) as wire:
        for _ in range(30):
            descriptor = os.open(tree / "f", flags)
            result = wire.add_descriptor(w.MODIFY, descriptor)
            os.close(descriptor)
            assert result == 1 if flags == os.O_PATH else result in (1, -errno.EINVAL, -errno.EBADF)

        assert wire.ask(PENDING) == 0
        closed(mount, tree / "f")


@pytest.mark.usefixtures("bystander")
def test_of_several_descriptors_none_is_kept(mount: Mount, tree: Path) -> None:
    descriptors = [os.open(w.touch(tree / f"{number}"), os.O_PATH) for number in range(8)]
    with Wire(mount) as wire:
        results = [wire.add_descriptor(w.MODIFY, *descriptors) for _ in range(30)]

        assert set(results) in ({1}, {-errno.EINVAL}), "the same answer each time"
        assert wire.ask(PENDING) == 0
        closed(mount, *(tree / f"{number}" for number in range(8)))
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.mark.usefixtures("bystander")
def test_descriptors_of_a_client_that_dies_are_closed(mount: Mount, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    descriptor = os.open(marker, os.O_CREAT | os.O_RDONLY)
    for length in (1, 16):
        with Wire(mount) as wire:
            wire.send_bytes(w.encode(ADD, w.CREATE, 1, b"absent")[:length], [descriptor] * 8)
    os.close(descriptor)

    closed(mount, marker)


@pytest.mark.usefixtures("bystander")
def test_descriptors_do_not_pile_up_on_a_request_that_never_ends(mount: Mount, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    descriptor = os.open(marker, os.O_CREAT | os.O_RDONLY)
    most = 253  # SCM_MAX_FD: what one sendmsg(2) can carry
    with Wire(mount) as wire:
        for byte in w.encode(ADD, w.CREATE, 1, b"absent")[:-1]:
            wire.send_bytes(bytes([byte]), [descriptor] * most)
        w.wait_until(lambda: w.unread_by_peer(wire.socket.fileno()) == 0, "all that was sent was received")
        w.wait_until(
            lambda: w.descriptors_of(mount.pid).count(str(marker)) <= most,
            "a client cannot exhaust the daemon's descriptors",
        )
    os.close(descriptor)
    closed(mount, marker)


@pytest.mark.usefixtures("bystander")
def test_the_daemons_own_socket_is_a_descriptor_like_any_other(mount: Mount, tmp_path: Path) -> None:
    marker = os.open(tmp_path / "marker", os.O_CREAT | os.O_RDONLY)
    with Wire(mount) as wire, Wire(mount) as other:
        assert wire.add_descriptor(w.CREATE, other.socket.fileno()) < 0
        assert wire.ask(PENDING, descriptors=[wire.socket.fileno(), marker]) == 0
    os.close(marker)
