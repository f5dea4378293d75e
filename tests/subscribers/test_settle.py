"""``Connection.read(settle=...)``: real work on real mounts, told in batches."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs.client import Connection, Rename
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Record, carries_origin
from tests.conftest import Mount, wait_until
from tests.support.watcher import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHANGES = flags.CREATE | flags.DELETE | flags.MODIFY | flags.MOVE | flags.CLOSE_WRITE
BOTH_WAYS = pytest.mark.parametrize("event_fd", [False, True], ids=["stream", "descriptor"])


@pytest.fixture
def place(shared: Callable[..., Mount], tmp_path: Path) -> Path:
    """Make a directory of this test's own on a mount."""
    directory = shared().root / tmp_path.name
    directory.mkdir()
    return directory


@pytest.fixture
def connect(place: Path, shared: Callable[..., Mount]) -> Iterator[Callable[..., Connection]]:
    """Make a function that connects and watches the whole tree *place*."""
    made: list[Connection] = []

    def connect(mask: int = CHANGES, *, event_fd: bool = False) -> Connection:
        made.append(Connection(shared().socket, event_fd=event_fd, timeout=30))
        made[-1].add_watch(mask | flags.X_RECURSIVE, os.fsencode(place.name))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def spelled(item: Record | Rename[Record]) -> str:
    if isinstance(item, Rename):
        return f"{os.fsdecode(item.old.name)} -> {os.fsdecode(item.new.name)}"
    return f"{flags.spell(item.mask & ~flags.ISDIR)} {os.fsdecode(item.name)}"


def git(place: Path, *words: str) -> None:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"]
    subprocess.run(["git", *who, *words], cwd=place, env=environment, check=True, capture_output=True)


# What a batch is


def save(path: Path, text: str) -> None:
    """Save as editors do: write another file and rename it."""
    new = path.with_suffix(".new")
    new.write_text(text, "utf-8")
    new.rename(path)


@BOTH_WAYS
def test_saving_again_and_again_is_one_rename(
    place: Path,
    connect: Callable[..., Connection],
    event_fd: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    with connect(event_fd=event_fd) as connection:
        for number in range(20):
            save(place / "notes.txt", f"{number}\n" * 100)
        connection.sync()
        assert [spelled(item) for item in connection.read(10, settle=0.05)] == [
            "CREATE notes.new",
            "MODIFY notes.new",
            "CLOSE_WRITE notes.new",
            "notes.new -> notes.txt",
        ]


def test_what_came_and_went_keeps_its_order(place: Path, connect: Callable[..., Connection]) -> None:
    with connect(flags.CREATE | flags.DELETE) as connection:
        (place / "a").mkdir()
        (place / "a").rmdir()
        (place / "b").mkdir()
        (place / "a").mkdir()
        connection.sync()
        assert [spelled(item) for item in connection.read(10, settle=0)] == ["DELETE a", "CREATE b", "CREATE a"]


def test_a_move_out_of_the_tree_stays_a_half(
    place: Path, connect: Callable[..., Connection], shared: Callable[..., Mount]
) -> None:
    (place / "a").mkdir()
    with connect(flags.MOVE) as connection:
        (place / "a").rename(place.parent / f"{place.name}-out")
        (place.parent / f"{place.name}-out").rename(place / "b")
        (place / "b").rename(place / "c")
        connection.sync()
        assert [spelled(item) for item in connection.read(10, settle=0)] == [
            "MOVED_FROM a",
            "MOVED_TO b",
            "b -> c",
        ]


def test_a_move_from_one_watch_to_another_is_one_rename(place: Path, shared: Callable[..., Mount]) -> None:
    for name in "de":
        (place / name).mkdir()
    (place / "d/a").mkdir()
    with Connection(shared().socket, timeout=30) as connection:
        wds = [connection.add_watch(flags.MOVE, os.fsencode(f"{place.name}/{name}")) for name in "de"]
        (place / "d/a").rename(place / "e/b")
        connection.sync()
        (item,) = connection.read(10, settle=0)
    assert isinstance(item, Rename)
    assert [(half.wd, half.name) for half in item] == [(wds[0], b"a"), (wds[1], b"b")]


def test_who_did_it_comes_before_what_was_done(place: Path, connect: Callable[..., Connection]) -> None:
    (place / "a").mkdir()
    with connect(flags.MOVE | flags.X_ORIGIN) as connection:
        mover = subprocess.Popen(["mv", place / "a", place / "b"])
        assert mover.wait() == 0
        connection.sync()
        origin, item = connection.read(10, settle=0)
    assert isinstance(origin, Record)
    assert carries_origin(origin.wd, origin.mask)
    assert (Origin.parse(origin.name).pid, Origin.parse(origin.name).comm) == (mover.pid, b"mv")
    assert spelled(item) == "a -> b"


def test_an_overflow_is_an_item_of_the_batch(mounted: Callable[..., Mount]) -> None:
    mount = mounted(max_queued_events=10)
    with Connection(mount.socket, event_fd=True, timeout=30) as connection:
        connection.add_watch(flags.CREATE)
        for number in range(30):
            (mount.root / f"s{number}").mkdir()
        connection.sync()
        batch = connection.read(10, settle=0.05)
    assert [spelled(item) for item in batch] == [*(f"CREATE s{number}" for number in range(10)), "Q_OVERFLOW "]


def test_checking_out_another_branch_is_told_in_one_batch_that_leads_to_what_is_there(
    place: Path, connect: Callable[..., Connection]
) -> None:
    git(place, "init", "-q")
    for number in range(60):
        (place / f"f{number}").write_text(f"{number}\n", "utf-8")
    (place / "old").mkdir()
    (place / "old/x").write_text("x\n", "utf-8")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "one")
    git(place, "checkout", "-qb", "other")
    for number in range(0, 60, 2):
        (place / f"f{number}").unlink()
    for number in range(1, 60, 2):
        (place / f"f{number}").write_text("changed\n", "utf-8")
    git(place, "mv", "old", "new")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "two")
    before = {path.name for path in place.iterdir()}

    with connect() as connection:
        git(place, "checkout", "-q", "main")
        connection.sync()
        batch = connection.read(20, settle=0.3)
        assert connection.read(0) == []
    told = [spelled(item) for item in batch]
    assert len(set(told)) == len(told), "each but once"
    assert ".git/index.lock -> .git/index" in told
    there = set(before)
    for what, name in (line.split(" ", 1) for line in told):
        if "/" not in name and what in {"CREATE", "DELETE"}:
            (there.add if what == "CREATE" else there.discard)(name)
    assert there == {path.name for path in place.iterdir()} != before
    assert {"CREATE f0", "CLOSE_WRITE f1", "CREATE old/x", "DELETE new/x"} <= set(told)


# How long it takes


def test_it_waits_until_it_has_been_quiet_for_so_long(place: Path, connect: Callable[..., Connection]) -> None:
    last = []

    def work() -> None:
        for number in range(5):
            (place / f"s{number}").mkdir()
            last.append(time.monotonic())

    with connect(flags.CREATE) as connection:
        worker = threading.Thread(target=work)
        worker.start()
        batch = connection.read(settle=1)
        worker.join()
        assert time.monotonic() - last[-1] >= 1
    assert [spelled(item) for item in batch] == [f"CREATE s{number}" for number in range(5)]


def test_a_tree_that_is_never_quiet_is_told_in_time(place: Path, connect: Callable[..., Connection]) -> None:
    over = threading.Event()
    (place / "f").touch()

    def work() -> None:
        while not over.is_set():
            os.utime(place / "f")

    with connect(flags.ATTRIB) as connection:
        worker = threading.Thread(target=work)
        worker.start()
        try:
            start = time.monotonic()
            batch = connection.read(0.5, settle=60)
            assert 0.5 <= time.monotonic() - start < 30
        finally:
            over.set()
            worker.join()
    assert [spelled(item) for item in batch] == ["ATTRIB f"]


def test_when_nothing_comes_the_time_is_up_too(connect: Callable[..., Connection]) -> None:
    with connect() as connection:
        start = time.monotonic()
        assert connection.read(0.2, settle=60) == []
        assert 0.2 <= time.monotonic() - start < 30
        assert connection.read(0, settle=60) == []


@pytest.mark.parametrize("settle", [-1, -0.001, float("nan")])
def test_a_time_that_is_none_is_a_valueerror(connect: Callable[..., Connection], settle: float) -> None:
    with connect() as connection, pytest.raises(ValueError, match="not a time to be quiet"):
        connection.read(settle=settle)


@BOTH_WAYS
def test_the_end_of_the_mount_ends_the_batch(mount: Mount, event_fd: bool) -> None:  # noqa: FBT001 - a parameter of the test
    with Connection(mount.socket, event_fd=event_fd, timeout=30) as connection:
        connection.add_watch(flags.CREATE)
        (mount.root / "s").mkdir()
        mount.unmount()
        told = [spelled(item) for item in connection.read(settle=60)]
        assert told == ["CREATE s", "UNMOUNT ", "IGNORED "]
        with pytest.raises(EOFError, match="the mount has ended"):
            connection.read(settle=60)


def test_the_example_of_the_readme_runs(mount: Mount, tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    programs = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (program,) = [text for text in programs if "settle" in text]
    (tmp_path / "view").symlink_to(mount.root)
    (tmp_path / "example.py").write_text(program, "utf-8")
    (mount.root / ".gitignore").write_text("*.log\n", "utf-8")
    example = Program((sys.executable, "-u", "example.py"), tmp_path)
    with Connection(mount.socket, timeout=30) as other:
        wait_until(lambda: other.statistics()["mount"]["watches"] == 1 or example.process.poll() is not None)
        save(mount.root / "notes.txt", "x")
        (mount.root / "build.log").touch()
        (mount.root / "d").mkdir()
        example.until(lambda: b"CREATE ISDIR\n" in example.out)
    assert example.end(signal.SIGTERM)[1].decode().splitlines() == [
        "notes.new CREATE",
        "notes.new CLOSE_WRITE",
        "notes.new is now notes.txt",
        "d CREATE ISDIR",
    ]
