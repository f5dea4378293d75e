"""What this kernel does, tried; and what is said of one that does otherwise.

Where a kernel that does otherwise is none of ours, the note that it would take otherwise is replaced by one with which
this kernel does what that one would.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from notifyfs.fuse import device, probe
from notifyfs.fuse.probe import Kernel
from notifyfs.mounts import throwaway
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

pytestmark = pytest.mark.usefixtures("fuse")


def version() -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdigit, part)) or 0) for part in os.uname().release.split(".")[:2])


def left() -> tuple[int, list[str]]:
    """Descriptors, and threads of the probe's."""
    threads = [thread.name for thread in threading.enumerate() if thread.name == "probe"]
    return len(os.listdir("/proc/self/fd")), threads


def test_what_the_sources_say_is_what_this_kernel_does() -> None:
    if not (6, 2) <= version() <= (6, 18):
        pytest.skip("a kernel of which docs/architecture.md says nothing sure")
    assert probe.examine() == Kernel(waits_for_lock=True, expire_only=True, release_in_order=True)


def test_hello_says_what_was_found(mount: Mount) -> None:
    """A daemon of root's raises the limit of its own connection as well."""
    if os.geteuid():
        pytest.skip("tests/posix/test_daemons.py has users")
    with Wire(mount) as wire:
        assert wire.hello()["kernel"] == attrs.asdict(probe.examine())


def test_it_takes_a_moment_and_leaves_nothing() -> None:
    probe.examine()
    before = left()
    took = []
    for _ in range(5):
        start = time.perf_counter()
        probe.examine()
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05
    assert left() == before == (before[0], [])
    assert "notifyfs-probe" not in Path("/proc/self/mountinfo").read_text("utf-8")


def test_a_kernel_that_does_not_wait_for_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux 6.19 takes an invalidation of a name that is not there."""
    real = device.expire_entry

    def expire_entry(fuse: int, parent: int, name: bytes) -> None:
        if name == b"/":
            device.forget_attributes(fuse, parent)
        else:
            real(fuse, parent, name)

    expected = attrs.evolve(probe.examine(), waits_for_lock=False)
    monkeypatch.setattr(device, "expire_entry", expire_entry)
    assert probe.examine() == expected


def test_a_kernel_that_waits_for_the_lock_of_directories_only(monkeypatch: pytest.MonkeyPatch) -> None:
    real = device.expire_entry

    def expire_entry(fuse: int, parent: int, name: bytes) -> None:
        if parent == device.ROOT:
            real(fuse, parent, name)
        else:
            raise NotADirectoryError

    expected = attrs.evolve(probe.examine(), waits_for_lock=False)
    monkeypatch.setattr(device, "expire_entry", expire_entry)
    assert probe.examine() == expected


def test_a_kernel_that_takes_the_flag_for_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux before 6.2."""
    expected = attrs.evolve(probe.examine(), expire_only=False)
    monkeypatch.setattr(device, "_EXPIRE_ONLY", 0)
    assert probe.examine() == expected


def test_releases_that_wait_for_others_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the 12 that the kernel lets be under way; it comes to none of the others."""
    expected = attrs.evolve(probe.examine(), release_in_order=False)
    monkeypatch.setattr(probe, "_BACKGROUND", 12)
    assert probe.examine() == expected


def no_fuse(_fstype: str, _options: dict[str, str]) -> int:
    raise PermissionError(1, "Operation not permitted")


def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WITHIN", 0)


def no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unlink that the kernel lets nobody hear of: the helper hangs in it until the connection ends."""
    monkeypatch.setattr(probe, "_WITHIN", 0.2)
    monkeypatch.setattr(device, "UNLINK", -1)
    monkeypatch.setattr(device, "UNANSWERED", device.UNANSWERED | {10})


def no_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throwaway.syscalls, "mount_nowhere", no_fuse)


@pytest.mark.parametrize("missing", [no_time, no_answer, no_mount])
def test_where_it_cannot_be_tried_nothing_is_relied_on(
    missing: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if missing is no_mount and os.geteuid():
        pytest.skip("a user mounts otherwise")
    missing(monkeypatch)
    before, _ = left()
    assert probe.examine() == Kernel(waits_for_lock=False, expire_only=False, release_in_order=False)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "nothing is relied on" in caplog.text
    assert left() == (before, [])
