"""A thousand subscribers: the bad ones harm themselves, everyone else gets everything, and memory has a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scripts.hostile import crowd

from tests.support import wireclient as w

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

MEBIBYTE = 1 << 20


@pytest.mark.limit(240)
def test_of_a_thousand_subscribers_each_gets_what_it_asked_for(mounted: Callable[..., Mount]) -> None:
    """Beside one that stalls, one that never reads its replies, one that floods, and ten that are killed."""
    mount = mounted(max_user_instances=1100, max_queued_events=crowd.QUEUED)
    report = crowd.play(mount, 1000, 100)

    assert report.requests > 0, "nobody flooded"
    assert report.beside.daemon < 4 * report.alone.daemon, "what nobody watches costs the daemon no more than before"
    assert report.memory < 200 * MEBIBYTE


@pytest.mark.parametrize("event_fd", [False, True], ids=["stream", "event descriptor"])
def test_a_subscriber_that_does_not_read_has_a_bound(mounted: Callable[..., Mount], *, event_fd: bool) -> None:
    events, length = 4000, 200
    growth = crowd.stall(mounted(max_queued_events=events), events, length, w.ORIGIN, event_fd=event_fd)

    assert growth.full < events * 2048 + 4 * MEBIBYTE, "a record of its size, and what Python needs for it"
    assert growth.beyond < 2 * MEBIBYTE, "what is lost takes no memory"
    assert growth.losing < 2 * growth.filling, "an event that is lost costs the others no more than one that is kept"
