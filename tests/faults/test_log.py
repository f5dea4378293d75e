"""Who takes the daemon's log, and who may read it: a syslog that has stopped, a terminal, a file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import select
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, SOURCES, wait_until
from tests.faults.test_limits import fail_often, logging_to
from tests.support.faults import Asker, ask, root_only
from tests.support.posix import fails, in_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

__all__ = ["ask"]

pytestmark = root_only

ASKED = 300
"""Names that are not there; with -d there is a line for each."""
APART = ("--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")
DEVICES = ("null", "fuse", "urandom", "zero")


# Syslog. What follows until the next test runs in namespaces of its own, where /dev has nothing but a syslog.


def private_syslog(place: Path, kind: int) -> socket.socket:
    """A socket at /dev/log, like a syslog's."""
    (place / "dev").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "notifyfs-test", place / "dev"], check=True)
    for name in DEVICES:
        subprocess.run(["cp", "-a", f"/dev/{name}", place / "dev"], check=True)
    log = socket.socket(socket.AF_UNIX, kind)
    log.bind(str(place / "dev" / "log"))
    if kind == socket.SOCK_STREAM:
        log.listen()
    subprocess.run(["mount", "--move", place / "dev", "/dev"], check=True)
    return log


def lines(log: socket.socket) -> list[str]:
    """What was logged and not read yet."""
    taken = []
    with contextlib.suppress(BlockingIOError):
        while data := log.recv(1 << 20, socket.MSG_DONTWAIT):
            taken += data.decode().removesuffix("\0").split("\0")
    return taken


def ask_for(root: Path, first: int, last: int) -> None:
    """Ask for names that are not there, in a child: should it hang, the first process of the namespace must not."""

    def names() -> None:
        for number in range(first, last):
            with fails(errno.ENOENT):
                os.stat(root / f"absent{number}")

    in_child(names)


def in_the_namespace(place: Path, kind: int) -> None:
    """Mount in the background with a syslog that nobody reads, use the mount, and then read."""
    log = private_syslog(place, kind)
    for made in ("source", "mount"):
        (place / made).mkdir()
    command = [sys.executable, "-m", "notifyfs"]
    done = subprocess.run([*command, "mount", "-d", place / "source", place / "mount"], check=True, stdout=-1)
    if kind == socket.SOCK_STREAM:
        log, _ = log.accept()
    ask_for(place / "mount", 0, ASKED)
    full = lines(log)
    ask_for(place / "mount", ASKED, ASKED + 1)
    after = lines(log)
    if kind == socket.SOCK_DGRAM:  # syslog starts anew
        log.close()
        os.unlink("/dev/log")
        ask_for(place / "mount", ASKED + 1, ASKED + 2)
        log = socket.socket(socket.AF_UNIX, kind)
        log.bind("/dev/log")
        ask_for(place / "mount", ASKED + 2, ASKED + 3)
    anew = lines(log)
    subprocess.run([*command, "umount", place / "mount"], check=True)
    assert not Path(os.fsdecode(done.stdout.rstrip())).exists()
    print(json.dumps([full, after, anew]))  # noqa: T201 - for the test


def played(place: Path, kind: int) -> list[list[str]]:
    """What the syslog had when it was full, after that, and after it was started anew."""
    done = subprocess.run(
        ["unshare", *APART, sys.executable, "-m", "tests.faults.test_log", str(place), str(kind)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=30,  # then unshare is killed, and with it all in its namespaces
        env=os.environ | {"PYTHONPATH": f"{SOURCES}:{ROOT}"},
    )
    told: list[list[str]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["packets", "stream"])
def test_a_syslog_that_nobody_reads_stalls_nothing_and_hears_what_it_has_missed(
    fuse: None, tmp_path: Path, kind: int
) -> None:
    full, after, anew = played(tmp_path, kind)
    asked = [line for line in full if "absent" in line]
    assert re.fullmatch(r"<15>notifyfs\[\d+\]: DEBUG: lookup: .*absent0.*", asked[0])
    lost = re.fullmatch(r"<12>notifyfs\[\d+\]: WARNING: (\d+) lines of this log are lost: nobody took them", after[0])
    assert lost, after
    assert len(asked) + int(lost[1]) == ASKED
    assert [f"absent{ASKED}" in line for line in after] == [False, True]
    if kind == socket.SOCK_DGRAM:
        assert ["1 lines of this log are lost" in line for line in anew] == [True, False]


# A terminal


def test_a_terminal_that_nobody_reads_stalls_nothing(
    fuse: None, tmp_path: Path, ask: Callable[[Callable[[], object]], Asker]
) -> None:
    """As after ^S, or when ssh has lost its other end."""
    ours, terminal = pty.openpty()
    try:
        with logging_to(tmp_path, terminal) as process:
            ask(lambda: fail_often(tmp_path / "mount")).result(20)
            assert select.select([ours], [], [], 0)[0], "nothing was logged"
            process.terminate()
            assert process.wait(10) == 0
    finally:
        os.close(ours)
        os.close(terminal)


# A file


def test_the_log_file_is_its_owner_s_alone_and_an_older_one_stays_as_it_is(
    mounted: Callable[..., Mount], tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        mounted("debug", log=tmp_path / "new")
        old = tmp_path / "old"
        old.write_text("before\n", "utf-8")
        old.chmod(0o640)
        mount = mounted("debug", log=old)
    finally:
        os.umask(before)
    with fails(errno.ENOENT):
        os.stat(os.fsencode(mount.root) + b"/secret\xff")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert old.read_text("utf-8").startswith("before\n")
    wait_until(lambda: "secret" in old.read_text("utf-8"))


if __name__ == "__main__":
    in_the_namespace(Path(sys.argv[1]), int(sys.argv[2]))
