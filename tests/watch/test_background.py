"""``notifyfs watch -d``: who goes to the background, and when."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from notifyfs import Connection
from tests.conftest import wait_until
from tests.support.watcher import OURS, Program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Mount


def test_the_process_in_the_background_is_the_one_that_is_connected(mount: Mount, tmp_path: Path) -> None:
    """A connection does not outlive a fork, and statistics and ``--not-pid`` mean who made it."""
    out = tmp_path / "out"
    out.touch()
    assert Program(OURS, tmp_path, "-d", "-o", str(out), "-e", "create", str(mount.root)).end(None) == (0, b"", b"")
    with Connection(mount.socket) as connection:
        (pid,) = [row["pid"] for row in connection.statistics(2)["rows"] if row["pid"] != os.getpid()]
        try:
            (mount.root / "a").mkdir()
            wait_until(out.read_bytes)
            assert out.read_bytes() == os.fsencode(mount.root) + b"/ CREATE,ISDIR a\n"
            assert os.getsid(pid) == pid
        finally:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: connection.statistics()["mount"]["instances"] == 1)


def test_what_cannot_be_watched_is_said_before_it_goes_there(mount: Mount, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch()
    missing = str(mount.root / "missing")
    code, _, err = Program(OURS, tmp_path, "-d", "-o", str(out), missing).end(None)
    assert (code, err.decode().splitlines()[-1]) == (1, f"Couldn't watch {missing}: No such file or directory")
