"""A short run of ``scripts/hostile``: anything may be sent, by anybody; each whole request is answered, in order.

The server's own part is tried without a mount too, where hypothesis makes small what fails.
"""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.hostile import attack, inputs
from scripts.hostile.serving import Served

from tests.support import wireclient as w

if TYPE_CHECKING:
    from tests.conftest import Mount

FIXED = 1
INPUTS = 6000


@pytest.mark.limit(180)
@pytest.mark.parametrize("seed", [FIXED, time.time_ns() % (1 << 32)], ids=["fixed", "random"])
def test_whatever_clients_send_another_does_not_notice(open_mount: Mount, seed: int) -> None:
    report = attack.attack(open_mount, INPUTS, seed)

    again = f"python -m scripts.hostile clients --runs {INPUTS} --seed {seed}"
    assert report.inputs > INPUTS * 0.9, again
    assert report.replies > INPUTS / 2, again
    assert report.descriptors > INPUTS, again
    assert report.round_trips > 10, again


def test_what_is_left_of_a_client_is_noticed(open_mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proof that the test above can fail: a connection that stays is what a leak looks like."""
    start, left = attack.start, []

    def leaving(mount: Mount, *arguments: Any) -> tuple[int, int]:
        left.append(w.Wire(mount))
        left[-1].ask(w.PENDING)
        return start(mount, *arguments)

    monkeypatch.setattr(attack, "start", leaving)
    monkeypatch.setattr(w, "PATIENCE", 0.5)
    with pytest.raises(AssertionError, match=r"left of the attackers: \{'instances': 4"):
        attack.attack(open_mount, 300, FIXED)
    for wire in left:
        wire.close()


# Without a mount


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Give a server whose state is looked at after each connection."""
    return Served(tmp_path_factory.mktemp("served"))


def ours(seed: int) -> bytes:
    """A few of the long run's inputs, one after the other."""
    supply = inputs.Inputs(random.Random(seed), [])
    return b"".join(supply.next().data for _ in range(seed % 12 + 1))


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.integers(0, 1 << 32).map(ours)))
def test_each_whole_request_has_one_reply_and_leaves_nothing(served: Served, data: bytes) -> None:
    framing = attack.Framing()
    framing.sent(data)

    assert served.cookies(data) == list(framing.cookies)
    served.check()


def test_how_requests_are_told_apart_is_what_the_protocol_says() -> None:
    whole, broken = w.encode(w.PENDING, 0, 7), w.HEADER.pack(0, 1, 8, 17)
    framing = attack.Framing()
    for byte in whole + w.encode(w.ADD, 1, 9, b"name")[:-1]:
        framing.sent(bytes([byte]))
    assert (list(framing.cookies), framing.broken) == ([7], False)
    framing.sent(b"\0" + broken + whole)
    assert (list(framing.cookies), framing.broken) == ([7, 9, 8], True)
