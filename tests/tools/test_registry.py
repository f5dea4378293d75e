"""Which daemon serves which mountpoint: the run directory, registrations, and whether a daemon lives."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from notifyfs import mounts
from notifyfs.mounts import registry
from tests.tools.test_mounts import NOBODY, refusal


def test_identifiers_are_readable_and_differ() -> None:
    assert registry.identifier("/no/such/src").startswith("src-")
    assert registry.identifier("/no/such/src") != registry.identifier("/no/other/src")
    assert registry.identifier("/no/a b/ü\n").startswith("__-")
    assert len(registry.identifier("/no/" + "x" * 200)) == 32 + 1 + 8
    assert registry.identifier("/").startswith("root-")


def test_the_socket_lies_in_the_run_directory() -> None:
    path = mounts.socket_path("/no/such/src")
    assert path == f"{mounts.run_directory()}/{registry.identifier('/no/such/src')}/socket"
    os.rmdir(os.path.dirname(path))


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an XDG_RUNTIME_DIR for a process that takes itself for uid 65534."""
    os.chown(tmp_path, NOBODY, NOBODY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    return tmp_path


def test_a_user_has_a_private_directory(runtime: Path) -> None:
    ours = runtime / "notifyfs"
    ours.mkdir(0o777)
    os.chown(ours, NOBODY, NOBODY)
    assert mounts.run_directory() == str(ours)
    assert ours.stat().st_mode & 0o777 == 0o700


def test_a_directory_of_somebody_else_is_not_trusted(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runtime / "notifyfs").mkdir()  # root's
    monkeypatch.setattr(registry, "_directories", lambda _uid: [f"{runtime}/notifyfs"])  # without the ones in /tmp
    assert refusal(mounts.run_directory) == (
        f"{runtime}/notifyfs: not a directory of uid 65534; set XDG_RUNTIME_DIR to a directory of your own"
    )


def test_a_link_in_the_directory_s_place_is_not_followed(runtime: Path) -> None:
    elsewhere = runtime / "elsewhere"
    elsewhere.mkdir()
    os.chown(elsewhere, NOBODY, NOBODY)
    (runtime / "notifyfs").symlink_to(elsewhere)
    os.lchown(runtime / "notifyfs", NOBODY, NOBODY)
    with pytest.raises(PermissionError, match="not a directory of uid"):
        registry._own(f"{runtime}/notifyfs", NOBODY, 0o700)  # noqa: SLF001 - run_directory() would go on to /tmp


def test_a_socket_path_that_unix_cannot_hold_is_refused(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = runtime / ("d" * 90)
    (deep / "notifyfs").mkdir(parents=True)
    os.chown(deep / "notifyfs", NOBODY, NOBODY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert "at most 107 bytes; give a shorter one with -o socket=PATH" in refusal(mounts.socket_path, "/no/such/src")


# Registered and alive.


def registered_elsewhere(mountpoint: str, socket_path: str) -> subprocess.Popen[bytes]:
    """Start a process that has registered *mountpoint*; a line on its stdin makes it unregister."""
    program = """
import os, sys
from notifyfs import mounts
mounts.register(sys.argv[1], "/the/source", sys.argv[2], os.getpid())
print(flush=True)
sys.stdin.readline()
mounts.unregister(sys.argv[1])
print(flush=True)
sys.stdin.readline()
"""
    command = [sys.executable, "-c", program, mountpoint, socket_path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_an_entry_is_held_until_its_process_ends(tmp_path: Path) -> None:
    mountpoint = str(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    process = registered_elsewhere(mountpoint, str(tmp_path / "s"))
    try:
        entry = registry.lookup(mountpoint, os.geteuid())
        assert entry is not None
        assert (entry.mountpoint, entry.source, entry.pid) == (mountpoint, "/the/source", process.pid)
        assert entry.held()
    finally:
        end(process)
    assert not entry.held()
    assert mounts.recover(mountpoint) is False  # no mount was dead, but what the process left goes
    assert registry.lookup(mountpoint, os.geteuid()) is None
    assert not (tmp_path / "s").exists()


def test_unregistering_removes_the_file_and_the_socket_but_waits_for_the_process(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    process = registered_elsewhere(str(tmp_path), str(tmp_path / "s"))
    try:
        entry = registry.lookup(str(tmp_path), os.geteuid())
        assert entry is not None
        lock = entry.lock()
        assert lock is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert not os.path.exists(entry.file)
        assert not (tmp_path / "s").exists()
        assert not registry.wait_ended(lock, 0)
        process.kill()
        assert registry.wait_ended(lock, 10)
        os.close(lock)
    finally:
        end(process)


def test_a_later_mount_s_entry_survives_the_end_of_an_earlier_daemon(tmp_path: Path) -> None:
    earlier = registered_elsewhere(str(tmp_path), "/no/earlier.sock")
    later = registered_elsewhere(str(tmp_path), "/no/later.sock")
    try:
        earlier.communicate(b"\n\n")
        entry = registry.lookup(str(tmp_path), os.geteuid())
        assert entry is not None
        assert (entry.socket, entry.held()) == ("/no/later.sock", True)
    finally:
        end(earlier)
        end(later)
        mounts.recover(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"mountpoint": "/else"}', "[" * 60000, "\xff"])
def test_a_broken_entry_counts_as_none(tmp_path: Path, content: str) -> None:
    path = Path(registry.directory(str(tmp_path)), "state")
    path.write_text(content, "latin-1")
    try:
        assert registry.lookup(str(tmp_path), os.geteuid()) is None
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "nonsense",
    [{"pid": "1"}, {"pid": 0}, {"pid": 1 << 40}, {"source": 7}, {"source": "\ud800"}, {"socket": "a\0b"}, {"more": 1}],
    ids=str,
)
def test_an_entry_that_makes_no_sense_counts_as_none(tmp_path: Path, nonsense: dict[str, object]) -> None:
    """Root reads those of all users."""
    path = Path(registry.directory(str(tmp_path)), "state")
    sense = {"mountpoint": str(tmp_path), "source": "/s", "socket": "/s", "pid": 1, "device": None}
    try:
        path.write_text(json.dumps(sense), "ascii")
        assert registry.lookup(str(tmp_path), os.geteuid()) is not None
        path.write_text(json.dumps(sense | nonsense), "ascii")
        assert registry.lookup(str(tmp_path), os.geteuid()) is None
    finally:
        path.unlink()


def test_only_a_socket_is_removed_as_a_socket(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    end(registered_elsewhere(str(tmp_path), str(tmp_path / "precious")))
    mounts.recover(str(tmp_path))
    assert registry.lookup(str(tmp_path), os.geteuid()) is None
    assert (tmp_path / "precious").exists()


def test_root_unlinks_nothing_that_another_user_s_entry_names(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
    entry = registry.Registration("/m", "/s", str(tmp_path / "s"), 1, None, str(tmp_path / "e.json"), uid=NOBODY)
    entry.discard()
    assert (tmp_path / "s").exists()
