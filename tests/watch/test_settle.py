"""``notifyfs watch --settle``: one batch when it is quiet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from notifyfs.client import Connection
from tests.support.watcher import OURS, Program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount


@pytest.fixture
def place(shared: Callable[..., Mount], tmp_path: Path) -> Path:
    """Make a directory of this test's own on a mount."""
    directory = shared().root / tmp_path.name
    directory.mkdir()
    return directory


def batch_of(
    place: Path, shared: Callable[..., Mount], work: Callable[[], object], *arguments: str
) -> tuple[int, bytes, bytes]:
    """What a watcher without -m prints for *work*, which is done while it cannot read."""
    program = Program(OURS, place, *arguments)
    program.established()
    os.kill(program.process.pid, signal.SIGSTOP)
    with Connection(shared().socket, timeout=30) as other:
        work()
        other.sync()
    os.kill(program.process.pid, signal.SIGCONT)
    return program.end(None)


FORMS = {
    "plain": ([], b"./ CREATE a\n./ MOVED_FROM,MOVED_TO a -> ./d/b\n"),
    "csv": (["-c"], b'./,CREATE,a\n./,"MOVED_FROM,MOVED_TO",a,./d/,b\n'),
    "to": (["--format", "%e|%w%f|%{to}"], b"CREATE|./a|\nMOVED_FROM,MOVED_TO|./a|./d/b\n"),
    "names": (["--format", "%e %w%f", "-0"], b"CREATE ./a\0MOVED_FROM ./a\0MOVED_TO ./d/b\0"),
    "null": (["-0"], b"./ CREATE a\0./ MOVED_FROM,MOVED_TO a -> ./d/b\0"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_printed_with_its_renames_in_one_piece(place: Path, shared: Callable[..., Mount], form: str) -> None:
    (place / "d").mkdir()

    def work() -> None:
        for _ in range(3):
            os.mknod(place / "a")
            (place / "a").rename(place / "d/b")

    arguments, printed = FORMS[form]
    code, out, _ = batch_of(place, shared, work, "-r", "-e", "create,move", "--settle", "500ms", *arguments, ".")
    assert (code, out) == (0, printed)


def test_a_rename_in_json_has_both_names(place: Path, shared: Callable[..., Mount]) -> None:
    (place / "d").mkdir()
    (place / "a").mkdir()
    mover: list[int] = []

    def work() -> None:
        done = subprocess.Popen(["mv", place / "a", os.fsencode(place) + b"/d/\xff"])
        done.wait()
        mover.append(done.pid)

    words = ["-r", "-e", "move", "--settle", ".5", "--json", "--origin", "."]
    code, out, _ = batch_of(place, shared, work, *words)
    event = json.loads(out)
    assert code == 0
    assert event["events"] == ["MOVED_FROM", "MOVED_TO", "ISDIR"]
    assert (event["path"], event["to"]) == (
        "./a",
        {"wd": 1, "path": "./d/\ufffd", "dir": "./d/", "name": "\ufffd", "path_b64": "Li9kL/8="},
    )
    assert (event["pid"], event["comm"]) == (mover[0], "mv")


def test_each_directory_is_told_once(place: Path, shared: Callable[..., Mount]) -> None:
    (place / "d").mkdir()
    code, out, _ = batch_of(place, shared, lambda: (place / "d").chmod(0o700), "-r", "--settle", "500ms", ".")
    assert (code, out) == (0, b"./ ATTRIB,ISDIR d\n")


def test_with_m_there_is_a_batch_after_the_other(place: Path) -> None:
    program = Program(OURS, place, "-m", "-e", "create", "--settle", "50ms", "--max-events", "3", ".")
    program.established()
    for name in ("a", "b", "c"):
        (place / name).mkdir()
        program.until(lambda: f" {name}\n".encode() in program.out)  # noqa: B023 - called at once
    assert program.end(None)[:2] == (0, b"./ CREATE,ISDIR a\n./ CREATE,ISDIR b\n./ CREATE,ISDIR c\n")


def test_noise_that_is_left_out_does_not_disturb_the_quiet(place: Path) -> None:
    over = threading.Event()
    (place / "noise").touch()

    def work() -> None:
        while not over.is_set():
            os.utime(place / "noise")

    worker = threading.Thread(target=work)
    program = Program(OURS, place, "--exclude", "noise", "--settle", "100ms", "-e", "create,attrib", ".")
    program.established()
    worker.start()
    try:
        (place / "a").mkdir()
        assert program.end(None)[:2] == (0, b"./ CREATE,ISDIR a\n")
    finally:
        over.set()
        worker.join()


@pytest.mark.parametrize(("arguments", "code"), [(["-m"], 2), ([], 0)])
def test_what_has_not_settled_is_printed_when_the_time_is_up(place: Path, arguments: list[str], code: int) -> None:
    program = Program(OURS, place, *arguments, "-e", "create", "-t", "1", "--settle", "1m", ".")
    program.established()
    (place / "a").mkdir()
    assert program.end(None)[:2] == (code, b"./ CREATE,ISDIR a\n")


def test_what_has_not_settled_is_printed_when_the_mount_ends(mount: Mount, tmp_path: Path) -> None:
    program = Program(OURS, tmp_path, "-m", "-e", "create", "--settle", "1m", str(mount.root))
    program.established()
    (mount.root / "a").mkdir()
    mount.unmount()
    code, out, err = program.end(None)
    assert (code, out) == (1, os.fsencode(mount.root) + b"/ CREATE,ISDIR a\n")
    assert err.endswith(b"the mount has ended\n")


def test_cookies_of_two_mounts_are_not_mixed_up(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    """Each mount counts its renames from 1: halves of the same number are strangers."""
    one, other = mounted(), mounted()
    for mount in (one, other):
        (mount.root / "in").mkdir()
    (one.root / "in/a").mkdir()
    (other.root / "b").mkdir()
    watched = [str(mount.root / "in") for mount in (one, other)]
    program = Program(OURS, tmp_path, "-m", "-e", "move", "--settle", "300ms", "--format", "%e %f %{to}", *watched)
    program.established()
    (one.root / "in/a").rename(one.root / "a")
    (other.root / "b").rename(other.root / "in/b")
    program.until(lambda: program.out.count(b"\n") == 2)
    program.end()
    assert sorted(program.out.splitlines()) == [b"MOVED_FROM,ISDIR a ", b"MOVED_TO,ISDIR b "]
