"""What one user learns of another's mounts: from the list, and from what daemons leave in the run directory."""

from __future__ import annotations

import ctypes
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SOURCES
from tests.posix.test_daemons import open_to_all
from tests.support.faults import root_only
from tests.support.posix import as_user, become, call, in_child, opened, put
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Mount

pytestmark = root_only

USER = 12345
MS_BIND, MS_REC, MS_SLAVE, CLONE_NEWNS = 1 << 12, 1 << 14, 1 << 19, 0x00020000


@pytest.fixture
def base() -> Iterator[Path]:
    """Give a directory that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="notifyfs-list-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def listed_for(uid: int, base: Path) -> dict[str, dict[str, object]]:
    """What `notifyfs list` shows to this user of the mounts below *base*, by mountpoint.

    With a Python and the sources where the user finds them, in a mount namespace of its own.
    """

    def first() -> None:
        call("unshare", CLONE_NEWNS)
        call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None)
        packages = [Path(each) for each in sys.path if each.endswith("site-packages")]
        for number, place in enumerate([SOURCES, *packages]):
            shown = base / f"python-{number}"
            shown.mkdir()
            call("mount", bytes(place), bytes(shown), None, ctypes.c_ulong(MS_BIND), None)
        open_to_all(Path(sys.base_prefix))
        become(uid, uid, ())

    def run() -> str:
        command = [f"{sys.base_prefix}/bin/python3", "-m", "notifyfs", "list", "--json"]
        path = os.pathsep.join(str(each) for each in sorted(base.glob("python-*")))
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=40, env={"PYTHONPATH": path}
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    listed = json.loads(in_child(run, first))
    for each in base.glob("python-*"):
        each.rmdir()
    return {each["mountpoint"]: each for each in listed if each["mountpoint"].startswith(f"{base}/")}


def test_others_are_shown_the_mounts_that_they_can_reach(base: Path, mounted: Callable[..., Mount]) -> None:
    mounts = {}
    for name in ("open", "closed"):
        (base / name).mkdir(mode=0o700)
        mounts[name] = mounted("allow_other", source=base / name / "source", root=base / name / "mount")
    (base / "open").chmod(0o711)
    listed = listed_for(USER, base)
    assert set(listed) == {str(mounts["open"].root)}
    found = listed[str(mounts["open"].root)]
    assert (found["state"], found["source"], found["socket"]) == (
        "live",
        str(base / "open/source"),
        mounts["open"].socket,
    )
    assert {each["pid"] for each in listed_for(0, base).values()} == {mount.pid for mount in mounts.values()}


def test_a_mount_that_keeps_others_out_tells_them_no_socket(base: Path, mounted: Callable[..., Mount]) -> None:
    mount = mounted(source=base / "source", root=base / "mount")
    assert listed_for(USER, base)[str(mount.root)]["socket"] is None


def test_what_a_daemon_writes_about_itself_is_for_its_user_only(base: Path, mounted: Callable[..., Mount]) -> None:
    mount = mounted("allow_other", source=base / "source", root=base / "mount")
    place = Path(mount.socket).parent

    def read() -> list[str]:
        told = []
        for attempt in (lambda: os.listdir(place), lambda: os.listdir(place.parent), (place / "state").read_bytes):
            try:
                told.append(str(attempt()))
            except PermissionError:
                told.append("refused")
        with Wire(mount) as wire:
            told.append(wire.hello()["mountpoint"])
        return told

    assert stat.S_IMODE(os.stat(place).st_mode) == 0o711
    assert as_user(read, USER) == ["refused"] * 3 + [str(mount.root)], "the socket is all that others get at"
    mount.unmount()
    mount.finish()


def test_a_container_that_holds_the_directory_of_a_socket_finds_the_next_daemon_s_in_it(
    base: Path, mounted: Callable[..., Mount]
) -> None:
    """As with a bind mount: what it holds is the directory itself, not its name."""
    first = mounted(source=base / "source", root=base / "mount")
    with opened(os.path.dirname(first.socket), os.O_PATH) as held:
        subprocess.run([sys.executable, "-m", "notifyfs", "umount", first.root], check=True, timeout=30)
        assert first.process.wait(20) == 0
        assert os.listdir(f"/proc/self/fd/{held}") == []
        second = mounted(source=base / "source", root=base / "mount")
        put(second.root / "file")
        assert second.socket == first.socket
        second.socket = f"/proc/self/fd/{held}/socket"
        with Wire(second) as wire:
            assert wire.add(0x100) == 1
        second.socket = first.socket
