"""Killing a daemon, and clearing away what it leaves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.conftest import SOURCES, Mount

if TYPE_CHECKING:
    from collections.abc import Iterator


def dead(daemon: Mount) -> None:
    """Kill the daemon as the kernel would: without a word."""
    daemon.process.kill()
    daemon.process.wait()


def dies_with(daemon: Mount) -> contextlib.AbstractContextManager[None]:
    """Kill a mount's daemon at the end of the block, and leave the fixture nothing to complain of."""

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        yield
        dead(daemon)
        clear = [sys.executable, "-m", "notifyfs", "umount", daemon.root]
        subprocess.run(clear, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(SOURCES)})
        daemon.process.returncode = 0  # what was done to it is no complaint of the fixture's

    return block()
