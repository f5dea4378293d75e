"""A source that does not answer: a FUSE file system whose server is stopped. Only those who ask it wait."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.conftest import SOURCES, wait_until
from tests.support.faults import Asker, ask, faulty, outcome, root_only, stopped
from tests.support.kernel import Event
from tests.support.posix import get, opened, put
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount
    from tests.support.faults import FaultySource

    Ask = Callable[[Callable[[], object]], Asker]

__all__ = ["ask", "faulty"]

pytestmark = [root_only, pytest.mark.limit(40)]

SOON = 5.0
"""Seconds within which those who need not wait are answered, on a machine that does other things too."""

ASKING: dict[str, Callable[[Path], object]] = {
    "lookup": lambda root: os.stat(root / "file"),
    "open": lambda root: get(root / "file"),
    "list": lambda root: os.listdir(root / "directory"),
    "create": lambda root: put(root / "created"),
    "mkdir": lambda root: os.mkdir(root / "made"),
    "chmod": lambda root: os.chmod(root / "file", 0o600),
    "truncate": lambda root: os.truncate(root / "other", 3),
    "rename": lambda root: os.rename(root / "old", root / "new"),
    "unlink": lambda root: os.unlink(root / "doomed"),
}
"""Operations that cannot be done without the source."""

USING: dict[str, Callable[[int], object]] = {
    "read": lambda fd: os.pread(fd, 100, 0),
    "write": lambda fd: os.pwrite(fd, b"!", 0),
    "fsync": os.fsync,
}
"""The same, on a descriptor."""


def furnish(root: Path) -> None:
    for name in ("file", "other", "old", "doomed"):
        put(root / name)
    (root / "directory").mkdir()


def work(root: Path) -> None:
    """A bit of everything, in a directory of a source that answers."""
    put(root / "a")
    (root / "sub").mkdir()
    os.rename(root / "a", root / "sub" / "b")
    with opened(root / "sub" / "b", os.O_RDWR) as fd:
        os.write(fd, b"written")
        os.fsync(fd)
        os.ftruncate(fd, 3)
    assert get(root / "sub" / "b") == b"wri"
    assert os.listdir(root / "sub") == ["b"]
    os.unlink(root / "sub" / "b")
    os.rmdir(root / "sub")


def test_who_asks_a_stopped_source_waits_and_the_control_socket_answers(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask
) -> None:
    furnish(faulty.root)
    mount = mounted("cache=always", source=faulty.root)
    known = os.stat(mount.root / "other")
    with (
        opened(mount.root / "other", os.O_RDWR) as fd,
        contextlib.closing(Subscriber(mount.socket, timeout=SOON)) as subscriber,
    ):
        subscriber.add(b"", flags.CREATE | flags.DELETE)
        with stopped(faulty.pid):
            askers = [ask(lambda call=call: call(mount.root)) for call in ASKING.values()]  # type: ignore[misc]
            askers += [ask(lambda call=call: call(fd)) for call in USING.values()]  # type: ignore[misc]
            assert not any(asker.answered(0.1) for asker in askers), "it was answered without the source"
            with contextlib.closing(Subscriber(mount.socket, timeout=SOON)) as another:
                assert another.hello["version"] == 1
                assert another.statistics()["mount"]["instances"] == 2
            assert ask(lambda: os.stat(mount.root / "other")).result(SOON) == known, "what the kernel knows"
            assert subscriber.drain() == []
        for asker in askers:
            asker.result(SOON)
        told = subscriber.drain()
        assert sorted(told) == sorted(
            [
                Event(1, flags.CREATE, 0, b"created"),
                Event(1, flags.CREATE | flags.ISDIR, 0, b"made"),
                Event(1, flags.DELETE, 0, b"doomed"),
            ]
        )


def test_the_socket_is_found_although_the_source_stands_still(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask
) -> None:
    """A new client asks the mount for its socket, and the mount knows that by itself."""
    furnish(faulty.root)
    mount = mounted("cache=always", source=faulty.root)
    os.stat(mount.root / "file")
    with stopped(faulty.pid):
        found = ask(lambda: os.getxattr(mount.root / "file", "notifyfs.socket")).result(SOON)
    assert os.fsdecode(found) == mount.socket


def test_many_who_wait_do_not_use_up_what_the_others_need(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask
) -> None:
    """More than trio's 40 threads and pyfuse3's 99 tasks."""
    names = [f"f{number}" for number in range(120)]
    for name in names:
        put(faulty.root / name)
    mount = mounted(source=faulty.root)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(opened(mount.root / name)) for name in names]
        with stopped(faulty.pid):
            askers = [ask(lambda fd=fd: os.read(fd, 10)) for fd in files]  # type: ignore[misc]
            wait_until(lambda: all(asker.asleep for asker in askers))
            with contextlib.closing(Subscriber(mount.socket, timeout=SOON)) as subscriber:
                assert subscriber.statistics()["mount"]["open_files"] == len(files)
            assert not any(asker.answered(0) for asker in askers)
        assert [asker.result(SOON) for asker in askers] == [b"content"] * len(files)


# The file system that stands still is only one directory of the source: docs/filesystem.md says what waits


@pytest.mark.parametrize("call", ["read", "fsync"])
def test_who_uses_an_open_file_of_a_stopped_part_waits_and_nobody_else(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask, call: str
) -> None:
    put(faulty.root / "file", b"x" * 5000)
    mount = mounted(source=faulty.root.parent)
    (mount.source / "own").mkdir()
    with (
        opened(mount.root / faulty.root.name / "file", os.O_RDWR) as fd,
        contextlib.closing(Subscriber(mount.socket, timeout=SOON)) as subscriber,
    ):
        with stopped(faulty.pid):
            asker = ask(lambda: USING[call](fd))
            assert not asker.answered(0.3), "it was answered without the source"
            ask(lambda: work(mount.root / "own")).result(SOON)
            assert subscriber.statistics()["mount"]["instances"] == 1
        asker.result(SOON)


# The end of a mount whose source stands still


@pytest.mark.parametrize("name", ["lookup", "open", "list", "create"])
def test_sigterm_ends_the_daemon_of_a_stopped_source_and_frees_who_waited(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask, name: str
) -> None:
    furnish(faulty.root)
    get(faulty.root / "file")  # the kernel learns that this file system wants no FLUSH
    mount = mounted(source=faulty.root)
    with stopped(faulty.pid):
        asker = ask(lambda: outcome(ASKING[name], mount.root))
        assert not asker.answered(0.3)
        mount.process.send_signal(signal.SIGTERM)
        assert mount.process.wait(10) == 0
        assert asker.result(SOON) in ("ECONNABORTED", "ENOTCONN", "EIO", "EINTR")


def test_a_mount_of_a_stopped_source_is_unmounted(faulty: FaultySource, mounted: Callable[..., Mount]) -> None:
    furnish(faulty.root)
    mount = mounted(source=faulty.root)
    assert sorted(os.listdir(mount.root)) == ["directory", "doomed", "file", "old", "other"]
    with stopped(faulty.pid):
        done = subprocess.run(
            [sys.executable, "-m", "notifyfs", "umount", mount.root],
            check=False,
            capture_output=True,
            timeout=20,
            env=os.environ | {"PYTHONPATH": str(SOURCES)},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert mount.process.wait(10) == 0


def test_a_source_whose_server_is_killed_is_an_error_and_not_the_end(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask
) -> None:
    furnish(faulty.root)
    mount = mounted("cache=never", source=faulty.root.parent)
    (mount.source / "own").mkdir()
    there = mount.root / faulty.root.name
    os.kill(faulty.pid, signal.SIGKILL)
    wait_until(lambda: outcome(os.listdir, faulty.root) == "ENOTCONN")
    for name in ("open", "list", "create"):
        assert ask(lambda name=name: outcome(ASKING[name], there)).result(SOON) == "ENOTCONN"  # type: ignore[misc]
    ask(lambda: work(mount.root / "own")).result(SOON)
    mount.check()


def test_a_removed_file_whose_source_is_gone_by_its_close_does_not_end_the_daemon(
    faulty: FaultySource, mounted: Callable[..., Mount], ask: Ask
) -> None:
    furnish(faulty.root)
    mount = mounted(source=faulty.root.parent)
    (mount.source / "own").mkdir()
    there = mount.root / faulty.root.name
    with opened(there / "doomed"):
        os.unlink(there / "doomed")
        os.kill(faulty.pid, signal.SIGKILL)
        wait_until(lambda: outcome(os.listdir, faulty.root) == "ENOTCONN")
    for _ in range(3):  # the last hold on the file goes some time after its close
        ask(lambda: work(mount.root / "own")).result(SOON)
    mount.check()
