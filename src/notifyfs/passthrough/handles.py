"""An open file or directory, and what opening and writing gave."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import attrs

from notifyfs.core.changes import Change

if TYPE_CHECKING:
    import os

    from notifyfs.core.changes import Operation
    from notifyfs.core.entries import Entry
    from notifyfs.system.callers import Caller


@attrs.define(eq=False)
class Handle:
    """One open file or directory: what FUSE calls a file handle is its descriptor's number."""

    fd: int
    entry: Entry
    """The name it was opened through; the events of the handle are told to its directory."""
    caller: Caller
    writable: bool = False
    appends: bool = False
    """It was opened for writing with O_APPEND."""
    direct: bool = False
    """The kernel's page cache is bypassed: it cannot be mapped, and the kernel does not clear setuid."""
    waits: bool = False
    """Each write waits for the disk (O_SYNC, O_DSYNC)."""
    may_be_mapped: bool = False
    """What is written may be the pages of a shared map."""
    written: bool = False
    """Something was, since it was last flushed."""
    failed: bool = False
    """Something that was written, and may have been pages of a map, had no room."""
    stripped: bool = False
    """The last write cleared setuid or setgid, and nobody was told."""

    def change(self, operation: Operation, *, locked: bool = False) -> Change:
        """It was done through this handle: by whoever opened it, for the kernel names no other."""
        held = ((self.entry.inode.number, b""),) if locked else ()
        return Change(operation, self.entry, self.caller, None, False, (), held)  # noqa: FBT003 - each request pays for words


class Opened(NamedTuple):
    """What an open gave."""

    handle: Handle
    change: Change
    keep: bool
    """The kernel's pages of the file hold what the source has."""
    found: os.stat_result


class Written(NamedTuple):
    """What a write did: how many bytes, and why not more."""

    length: int
    error: OSError | None
