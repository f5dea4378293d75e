"""Deaths in doubt: the last name went, and only the kernel knows whether something still holds the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from notifyfs.core.changes import Change
    from notifyfs.core.entries import Inode
    from notifyfs.core.instances import Instance, Watch
    from notifyfs.core.queue import Gate, Question
    from notifyfs.core.rules import Notice


class Doubt(NamedTuple):
    """A death of which the kernel has not said whether it came about."""

    change: Change
    notice: Notice
    gate: Question
    hidden: tuple[Gate, ...]
    """Those of ``change``."""
    instances: list[Instance]
    """Who watched the inode then: whoever does when it is decided is among them."""
    deaf: list[Watch]
    """Watches that may not hear of it."""


def may_be_held(inode: Inode | None) -> bool:
    """Whether only the kernel knows that nothing holds *inode*, and somebody watches it."""
    return inode is not None and bool(inode.watches) and inode.lookups > 0 and not inode.in_use


def release(doubt: Doubt) -> None:
    """It is decided: let go of what was kept back."""
    doubt.gate.open()
    for instance in doubt.instances:
        instance.queue.release(doubt.gate)
        instance.ring()
