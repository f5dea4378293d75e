"""The mount table, the registry, and mounting a descriptor, with the kernel's own table as the judge.

A mount that nobody serves hangs whoever touches it, so none of these tests does; each is detached by its path.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifyfs import mounts
from notifyfs.mounts import kernel, mountinfo, registry, table
from notifyfs.mounts.options import Options
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a directory with ``source`` and ``mount`` in it."""
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def attached(fuse: None, tree: Path) -> Iterator[Callable[..., int]]:
    """Give a function that mounts ``source`` on ``mount``, serves nothing and returns the descriptor."""
    mountpoint = str(tree / "mount")
    descriptors = []

    def attach(*words: str) -> int:
        descriptors.append(mounts.attach(mountpoint, str(tree / "source"), Options.parse(words)))
        return descriptors[-1]

    yield attach
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    while line_of(mountpoint):
        mounts.detach(mountpoint, lazy=True)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only briefly for an answer that never comes."""
    monkeypatch.setattr(table, "_PATIENCE", 0.1)


def line_of(mountpoint: str) -> mountinfo.MountLine | None:
    return mountinfo.top(mountpoint, mountinfo.read())


def mount_options(mountpoint: str) -> set[str]:
    """Both option columns of the kernel's table for *mountpoint*."""
    for text in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        fields = text.split()
        if fields[4] == mountpoint:
            return {*fields[5].split(","), *fields[-1].split(",")}
    raise AssertionError(mountpoint)


def refusal(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(mounts.MountError) as caught:
        function(*arguments)
    return str(caught.value)


def open_the_device_to_all() -> None:
    """Put a /dev/fuse of mode 666, as udev makes it, into a mount namespace of this process's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0, os.strerror(ctypes.get_errno())
    with tempfile.TemporaryDirectory() as directory:
        device = f"{directory}/fuse"
        os.mknod(device, stat.S_IFCHR | 0o666, os.stat("/dev/fuse").st_rdev)
        os.chmod(device, 0o666)
        assert libc.mount(device.encode(), b"/dev/fuse", None, MS_BIND, None) == 0, os.strerror(ctypes.get_errno())


def as_nobody(function: Callable[[], object]) -> object:
    """Run *function* in a process of uid 65534; what it returns, as JSON has it, or its exception as text."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside the time limit's thread
        child = os.fork()
    if child == 0:
        try:
            open_the_device_to_all()
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            said = json.dumps(function())
        except BaseException:  # noqa: BLE001 - the parent shows it
            said = json.dumps(traceback.format_exc())
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return json.loads(said)


# The mount table.

TABLE = rb"""22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:45 / /mnt/a\040b\011c\134d\012e\043 rw shared:3 master:1 - fuse.notifyfs /src\040dir rw,user_id=1000,group_id=0
31 30 0:46 /sub /mnt/- rw - tmpfs  rw
32 22 0:47 / /mnt/- ro propagate_from:2 - fuseblk /dev/sda1 ro
"""


def test_a_table_is_read_with_its_escapes_and_optional_fields() -> None:
    root, ours, below, above = mountinfo.parse(TABLE)
    assert (root.mount_id, root.parent_id, root.device, root.fstype) == (22, 1, "254:0", "ext4")
    assert ours.mountpoint == "/mnt/a b\tc\\d\ne#"
    assert (ours.source, ours.user_id, ours.is_fuse) == ("/src dir", 1000, True)
    assert (below.source, below.super_options, below.is_fuse) == ("", "rw", False)
    assert (above.fstype, above.is_fuse, above.user_id) == ("fuseblk", True, 0)


def test_the_later_of_two_mounts_on_a_mountpoint_is_on_top() -> None:
    lines = mountinfo.parse(TABLE)
    assert mountinfo.top("/mnt/-", lines) is lines[3]
    assert mountinfo.top("/mnt", lines) is None


@given(st.binary())
def test_escaped_names_are_read_back(name: bytes) -> None:
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes([byte]) for byte in name)
    assert os.fsencode(mountinfo.unescape(escaped)) == name


def test_a_path_is_resolved_through_links_and_dots(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("dir")
    wanted = str((tmp_path / "dir").resolve())
    assert mountinfo.real(str(tmp_path / "link")) == wanted
    assert mountinfo.real(f"{tmp_path}/link/") == wanted
    assert mountinfo.real(os.path.relpath(tmp_path / "link")) == wanted
    assert mountinfo.real(str(tmp_path / "link" / "missing")) == f"{wanted}/missing"


# Identifiers and the run directory.


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


# What may be mounted.


def test_what_cannot_be_mounted_is_refused_with_a_remedy(tree: Path) -> None:
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    (tree / "file").touch()
    (tree / "link").symlink_to(tree / "source")
    nowhere = str(tree / "nowhere")
    assert refusal(mounts.check, nowhere, mountpoint) == (
        f"{nowhere}: the source: No such file or directory; create it: mkdir -p {nowhere}"
    )
    assert refusal(mounts.check, source, nowhere) == (
        f"{nowhere}: the mountpoint: No such file or directory; create it: mkdir -p {nowhere}"
    )
    assert refusal(mounts.check, str(tree / "file"), mountpoint) == (
        f"{tree}/file: the source is not a directory; name a directory"
    )
    assert refusal(mounts.check, source, str(tree / "file")) == (
        f"{tree}/file: the mountpoint is not a directory; name a directory"
    )
    assert refusal(mounts.check, source, str(tree / "link" / "in")) == (
        f"{source}/in: lies inside the source {source}; choose a mountpoint outside it, or the source itself"
    )
    assert refusal(mounts.check, source, str(tree)) == (
        f"{source}: lies inside the mountpoint {tree}, which would hide it; choose another mountpoint"
    )


def test_a_directory_and_a_namesake_beside_it_may_be_mounted(tree: Path) -> None:
    (tree / "source-2").mkdir()
    mounts.check(str(tree / "source"), str(tree / "source-2"))
    mounts.check(str(tree / "source"), str(tree / "source"))


# The kernel.


def test_the_kernel_shows_what_was_mounted(attached: Callable[..., int], tree: Path) -> None:
    attached()
    mountpoint = str(tree / "mount")
    line = line_of(mountpoint)
    assert line is not None
    assert (line.fstype, line.source, line.user_id) == ("fuse.notifyfs", str(tree / "source"), 0)
    options = mount_options(mountpoint)
    assert {"rw", "nosuid", "nodev", "default_permissions"} <= options
    assert not options & {"noexec", "noatime", "allow_other"}


def test_the_kernel_shows_every_option(attached: Callable[..., int], tree: Path) -> None:
    attached("ro,suid,dev,noexec,noatime,nodiratime,sync,dirsync,lazytime,allow_other,max_read=8192")
    options = mount_options(str(tree / "mount"))
    wanted = {"ro", "noexec", "noatime", "nodiratime", "sync", "dirsync", "lazytime", "allow_other", "max_read=8192"}
    assert wanted <= options
    assert not options & {"nosuid", "nodev"}


def test_only_root_and_the_owner_still_lets_the_kernel_ask_the_daemon(attached: Callable[..., int], tree: Path) -> None:
    attached("allow_root")
    assert "allow_other" in mount_options(str(tree / "mount"))


@pytest.mark.usefixtures("fuse", "impatient")
def test_a_mountpoint_with_any_name_is_found_again(tmp_path: Path) -> None:
    mountpoint = os.fsdecode(os.fsencode(tmp_path) + b"/a b\n\\ \xff,#")
    os.mkdir(mountpoint)
    descriptor = mounts.attach(mountpoint, "so\\urce, b", Options())
    try:
        found = mounts.find(mountpoint)
        assert found is not None
        assert (found.mountpoint, found.source) == (mountpoint, "so\\urce, b")
    finally:
        mounts.detach(mountpoint, lazy=True)
        os.close(descriptor)
    assert mounts.find(mountpoint) is None


@pytest.mark.usefixtures("impatient")
def test_a_silent_mount_counts_as_alive_and_a_second_one_is_refused(attached: Callable[..., int], tree: Path) -> None:
    attached()
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    found = mounts.find(mountpoint)
    assert found is not None
    assert (found.alive, found.pid, found.socket) == (True, None, None)
    already = f"{mountpoint}: already a notifyfs mount"
    assert refusal(mounts.check, source, mountpoint).startswith(already)
    assert refusal(mounts.attach, mountpoint, source, Options()).startswith(already)
    assert mounts.recover(mountpoint) is False


def test_a_mount_whose_descriptor_is_closed_is_dead_and_cleared_away(attached: Callable[..., int], tree: Path) -> None:
    os.close(attached())
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    found = mounts.find(mountpoint)
    assert found is not None
    assert not found.alive
    mounts.check(source, mountpoint)
    assert mounts.recover(mountpoint) is True
    assert line_of(mountpoint) is None
    assert mounts.recover(mountpoint) is False


def test_what_is_not_mounted_cannot_be_detached(tree: Path) -> None:
    mountpoint = str(tree / "mount")
    assert refusal(mounts.detach, mountpoint) == f"{mountpoint}: not mounted; `notifyfs list` says what is"


def test_the_background_queue_is_raised(attached: Callable[..., int], tree: Path) -> None:
    attached()
    line = line_of(str(tree / "mount"))
    assert line is not None
    assert mounts.raise_background(line.device) is None
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["mount", "-t", "fusectl", "fusectl", directory], check=True)
        try:
            connection = Path(directory, line.device.partition(":")[2])
            assert (connection / "max_background").read_text() == "65535\n"
            assert (connection / "congestion_threshold").read_text() == "65535\n"
        finally:
            subprocess.run(["umount", directory], check=True)


@pytest.mark.usefixtures("fuse")
def test_a_connection_that_does_not_exist_is_named() -> None:
    reason = mounts.raise_background("0:999999")
    assert reason is not None
    assert reason.endswith("/999999/max_background: No such file or directory")


def test_a_missing_device_is_a_message(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def without_fuse(path: str, *arguments: int) -> int:
        return real_open("/no/such/device" if path == "/dev/fuse" else path, *arguments)

    monkeypatch.setattr(kernel.os, "open", without_fuse)
    said = refusal(mounts.attach, str(tree / "mount"), "x", Options())
    assert said.startswith("/dev/fuse: does not exist; load the module with `modprobe fuse`")


# As a user, through fusermount3.


@pytest.fixture
def user_tree(fuse: None) -> Iterator[str]:
    """Make a directory of uid 65534 outside pytest's own, which is private to root."""
    with tempfile.TemporaryDirectory() as directory:
        os.mkdir(f"{directory}/mount")
        for path in (directory, f"{directory}/mount"):
            os.chown(path, NOBODY, NOBODY)
        yield directory
        while line_of(f"{directory}/mount"):
            mounts.detach(f"{directory}/mount", lazy=True)


def test_a_user_mounts_and_unmounts_through_fusermount3(user_tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", user_tree)
    mountpoint = f"{user_tree}/mount"

    def mount_and_unmount() -> list[object]:
        descriptor = mounts.attach(mountpoint, "a,b\\c", Options.parse(["ro,noexec,noatime,max_read=8192"]))
        line = line_of(mountpoint)
        assert line is not None
        seen = [
            os.get_inheritable(descriptor),
            line.fstype,
            line.source,
            line.user_id,
            sorted(mount_options(mountpoint)),
        ]
        mounts.detach(mountpoint)
        os.close(descriptor)
        return [*seen, line_of(mountpoint)]

    said = as_nobody(mount_and_unmount)
    assert isinstance(said, list), said
    *seen, options, after = said
    assert seen == [False, "fuse.notifyfs", "a,b\\c", NOBODY]
    assert {"ro", "noexec", "nosuid", "nodev", "noatime", "max_read=8192", "default_permissions"} <= set(options)
    assert after is None


@pytest.mark.parametrize(
    ("words", "owner", "said"),
    [
        ("suid", NOBODY, "suid and dev are for root to give; leave them out, or mount as root"),
        ("", 0, "the mountpoint must be yours to write; choose one of your own"),
    ],
)
def test_a_user_s_refusal_has_a_remedy(
    user_tree: str, monkeypatch: pytest.MonkeyPatch, words: str, owner: int, said: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", user_tree)
    os.chown(f"{user_tree}/mount", owner, owner)
    os.chmod(f"{user_tree}/mount", 0o755)

    def try_it() -> str:
        return refusal(mounts.attach, f"{user_tree}/mount", "x", Options.parse([words]))

    assert as_nobody(try_it) == f"{user_tree}/mount: {said}"


def test_a_user_without_fusermount3_is_told_the_package(user_tree: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", user_tree)
    monkeypatch.setenv("PATH", user_tree)
    said = as_nobody(lambda: refusal(mounts.attach, f"{user_tree}/mount", "x", Options()))
    assert said == "fusermount3: No such file or directory; install the package fuse3, or run as root"


def test_a_user_cannot_detach_root_s_mount(attached: Callable[..., int], tree: Path) -> None:
    attached("allow_other")
    mountpoint = str(tree / "mount")
    os.chmod(tree, 0o755)
    said = as_nobody(lambda: refusal(mounts.detach, mountpoint))
    assert isinstance(said, str)
    assert said.startswith(f"{mountpoint}: ")
    assert "Traceback" not in said
    assert line_of(mountpoint) is not None


# A daemon that is killed.


@pytest.mark.usefixtures("fuse")
def test_a_killed_daemon_s_mount_is_recovered_and_mounts_again(tree: Path) -> None:
    source, mountpoint = str(tree / "source"), str(tree / "mount")
    (tree / "source" / "file").write_text("here")
    mount = [sys.executable, "-m", "notifyfs", "mount", source, mountpoint]
    try:
        first = subprocess.run(mount, check=True, capture_output=True, timeout=30).stdout.decode().strip()
        found = mounts.find(mountpoint)
        assert found is not None
        assert found.pid is not None
        assert (found.alive, found.socket, found.source) == (True, first, source)
        os.kill(found.pid, signal.SIGKILL)
        wait_until(lambda: (dead := mounts.find(mountpoint)) and not dead.alive)
        assert subprocess.run(mount, check=True, capture_output=True, timeout=30).stdout.decode().strip() == first
        again = mounts.find(mountpoint)
        assert again is not None
        assert again.pid not in (None, found.pid)
        assert [line.mountpoint for line in mountinfo.read()].count(mountpoint) == 1
        assert (tree / "mount" / "file").read_text() == "here"
        with (tree / "mount" / "file").open():
            assert "in use; `fuser -vm" in refusal(mounts.detach, mountpoint)
    finally:
        subprocess.run([sys.executable, "-m", "notifyfs", "umount", mountpoint], check=True, timeout=30)
    assert line_of(mountpoint) is None
