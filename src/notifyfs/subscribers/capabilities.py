"""What subscribers are given of the mount."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from notifyfs.core.entries import Inode
    from notifyfs.core.instances import Judge
    from notifyfs.core.watches import Watches
    from notifyfs.observe.statistics import Statistics
    from notifyfs.subscribers.resolve import Peer, Resolver


async def _at_once() -> None:
    """Wait for nothing."""


def _unpressed() -> bool:
    """Nobody but subscribers wants the loop."""
    return False


async def _may_pass(_peer: Peer) -> int:
    """Let everybody reach the mountpoint."""
    return 0


def _hears_everything(_peer: Peer) -> None:
    """Nobody has to be judged."""


async def _unattended(_inode: Inode, _mask: int) -> None:
    """Watching changes nothing for those who have the file open."""


@attrs.frozen(kw_only=True)
class Capabilities:
    """Each is one thing that a subscriber may know, or have done."""

    watches: Watches
    resolver: Resolver
    statistics: Statistics
    about: Mapping[str, object] = attrs.field(factory=dict)
    """What a hello says of the mount, beside the limits (``watches.accounts.limits``)."""
    attend: Callable[[Inode, int], Awaitable[None]] = _unattended
    """Waits until nothing that a watch with this mask is to hear of the inode escapes the daemon."""
    source_answers: Callable[[], Awaitable[None]] = _at_once
    """Waits until a path can be looked up without hanging."""
    judge: Callable[[Peer], Judge | None] = _hears_everything
    """Gives who says what a user's recursive watches may hear."""
    reaches: Callable[[Peer], Awaitable[int]] = _may_pass
    """Says 0, or why a user could not reach the mountpoint (an errno)."""
    pressed: Callable[[], bool] = _unpressed
    """Says whether the kernel has something to ask of the loop that all share, or had a moment ago."""
