"""A directory with very many names is listed a buffer at a time."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import kernel
from tests.support.posix import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

COUNT = 60_000
MEBIBYTE = 1024  # KiB


@pytest.fixture
def large() -> Iterator[Path]:
    """A directory in memory with directories ``many`` and ``few``."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as base:
        for name, count in (("many", COUNT), ("few", 300)):
            os.mkdir(f"{base}/{name}")
            for number in range(count):
                os.mknod(f"{base}/{name}/{number:0200}")
        yield Path(base)


def memory(mount: Mount) -> int:
    """KiB that the daemon has for itself."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{mount.pid}/status").read_text("ascii"))
    assert found
    return int(found[1])


@pytest.mark.usefixtures("fuse")
def test_to_begin_a_listing_takes_no_memory_for_all_of_it(large: Path, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=large)
    with opened(mount.root / "few") as few:
        assert len(kernel.all_entries(few)) == 302
    before = memory(mount)
    with opened(mount.root / "many") as one, opened(mount.root / "many") as two, opened(large / "many") as behind:
        expected = [(entry.name, entry.following) for entry in kernel.entries(behind)][:50]
        for fd in (one, two):
            assert [(entry.name, entry.following) for entry in kernel.entries(fd)][:50] == expected
        assert memory(mount) - before < MEBIBYTE
