"""``notifyfs.Connection`` speaks the protocol."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

import notifyfs
from notifyfs import Connection, flags
from notifyfs.client import find_socket
from notifyfs.protocol.records import Origin, Record
from tests.conftest import SOURCES, Mount

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_connection_adds_reads_and_removes(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    (mount.root / "s").mkdir()
    with Connection(mount.socket, event_fd=event_fd, timeout=10) as connection:
        assert connection.hello["mountpoint"] == str(mount.root)
        assert connection.add_watch(flags.CREATE) == 1
        descriptor = os.open((mount.root / "s"), os.O_PATH)
        assert connection.add_watch_fd(flags.CREATE, descriptor) == 2
        os.close(descriptor)
        assert connection.read(0) == []
        (mount.root / "s/t").mkdir()
        connection.sync()
        assert connection.read(0) == [Record(2, flags.CREATE | flags.ISDIR, 0, b"t")]
        (mount.root / "u").mkdir()
        assert connection.read(10) == [Record(1, flags.CREATE | flags.ISDIR, 0, b"u")]
        connection.remove_watch(2)
        assert connection.read(10) == [Record(2, flags.IGNORED)]
        assert connection.statistics()["instance"]["watches"] == 1
        assert connection.pending() == 0
        with pytest.raises(OSError, match="No such file") as missing:
            connection.add_watch(flags.CREATE, b"missing")
        assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, b"missing")
        with pytest.raises(OSError, match="too long") as long:
            connection.add_watch(flags.CREATE, b"x/" * 3000)
        assert long.value.errno == errno.ENAMETOOLONG
        with pytest.raises(ValueError, match="null byte"):
            connection.add_watch(flags.CREATE, b"a\0b")
        assert connection.add_watch(flags.CREATE, b"s") == 3


@pytest.mark.parametrize("event_fd", [False, True])
def test_sync_gathers_more_than_the_socket_holds(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd) as connection:
        connection.add_watch(flags.CREATE | flags.DELETE)
        for _ in range(1500):
            (mount.root / "s").mkdir()
            (mount.root / "s").rmdir()
        connection.sync()
        assert len(connection.read(0)) == 3000


@pytest.mark.parametrize("event_fd", [False, True])
def test_an_origin_record_says_who_did_it(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd) as connection:
        connection.add_watch(flags.CREATE | flags.X_ORIGIN)
        maker = subprocess.Popen(["mkdir", (mount.root / "s")])
        maker.wait()
        connection.sync()
        (origin, event) = connection.read(0)
        assert event == Record(1, flags.CREATE | flags.ISDIR, 0, b"s")
        who = Origin.parse(origin.name)
        assert (who.pid, who.uid, who.gid, who.comm) == (maker.pid, 0, 0, b"mkdir")


@pytest.mark.parametrize("event_fd", [False, True])
def test_a_descriptor_that_is_none_is_ebadf_and_no_harm(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd, timeout=10) as connection:
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            connection.add_watch_fd(flags.CREATE, 1 << 20)
        assert caught.value.errno == errno.EBADF
        assert connection.add_watch(flags.CREATE) == 1


def test_find_socket_knows_paths_and_descriptors(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(mount.root)
    (mount.root / "l").symlink_to("nowhere")
    assert {find_socket(str(mount.root)), find_socket(bytes(mount.root)), find_socket(str(tmp_path / "link"))} == {
        mount.socket
    }
    descriptor = os.open((mount.root / "l"), os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(descriptor).st_mode)
    assert find_socket(descriptor) == mount.socket
    os.close(descriptor)
    with pytest.raises(FileNotFoundError):
        find_socket(str(mount.root / "missing"))
    with pytest.raises(OSError, match="not on a notifyfs mount"):
        find_socket("/proc/self")


def test_a_socket_path_may_be_longer_than_an_address(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    mount = mounted()
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    (deep / "socket").symlink_to(mount.socket)
    with Connection(str(deep / "socket")) as connection:
        assert connection.hello["mountpoint"] == str(mount.root)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a notifyfs control socket"),
        (struct.pack("=iIII", 0, flags.X_REPLY, 1, 16) + b"no json".ljust(16, b"\0"), "not a notifyfs control socket"),
        (b"", "the mount has ended"),
    ],
)
def test_whoever_answers_must_speak_the_protocol(tmp_path: Path, answer: bytes, complaint: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            end, _ = listener.accept()
            with end:
                end.recv(100)
                end.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OSError, match=complaint):
            Connection(str(tmp_path / "s"))
        thread.join()


def test_a_daemon_that_does_not_answer_is_a_timeout(mount: Mount) -> None:
    with Connection(mount.socket, timeout=0.1) as connection:
        os.kill(mount.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError, match="does not answer"):
                connection.sync()
        finally:
            os.kill(mount.pid, signal.SIGCONT)
        connection.timeout = 10
        assert connection.add_watch(flags.CREATE) == 1


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, notifyfs; early = set(sys.modules);"
        "notifyfs.INotify; notifyfs.flags;"
        "print(sorted(m for m in ('socket', 'json', 'ctypes') if m in early), 'INotify' in dir(notifyfs),"
        "      sorted(m for m in ('pyfuse3', 'trio', 'attrs', 'click') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "[] True []"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        notifyfs.nothing  # noqa: B018 - reading it is the test
