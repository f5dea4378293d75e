"""O_APPEND through the mount: to what the source holds now, whatever the kernel remembers; and files that only grow."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.support.kernel import Event
from tests.support.posix import USER, as_user, collect, fails, get, mode_of, opened, put, start_child
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount
    from tests.support.posix import Place

pytest_plugins = ["tests.support.posix"]

LOG = os.O_WRONLY | os.O_APPEND


@pytest.fixture(params=["cache=auto", "cache=always", "cache=never"])
def mount(request: pytest.FixtureRequest, mounted: Callable[..., Mount]) -> Mount:
    return mounted(request.param)


@pytest.mark.parametrize("how", [LOG, LOG | os.O_CREAT, os.O_RDWR | os.O_APPEND])
def test_what_was_appended_in_the_source_is_not_written_over(mount: Mount, how: int) -> None:
    put(mount.source / "log", b"start\n")
    with opened(mount.source / "log", LOG) as server, opened(mount.root / "log", how) as user:
        os.write(user, b"first\n")
        os.write(server, b"server: a line\n")
        os.write(user, b"x\n")
        os.write(server, b"server: another\n")
        os.write(user, b"y\n")
        assert get(mount.source / "log") == b"start\nfirst\nserver: a line\nx\nserver: another\ny\n"
    assert get(mount.root / "log") == get(mount.source / "log")


def test_two_append_at_once_on_both_sides_and_no_line_is_lost(mount: Mount) -> None:
    put(mount.source / "log", b"")

    def write(path: Path, word: bytes) -> None:
        with opened(path, LOG) as fd:
            for number in range(500):
                os.write(fd, b"%s %d\n" % (word, number))

    places = {b"mount": mount.root, b"more": mount.root, b"source": mount.source}
    for child in [start_child(lambda w=word, p=place: write(p / "log", w)) for word, place in places.items()]:  # type: ignore[misc]
        collect(child)
    lines = get(mount.source / "log").splitlines()
    for word in places:
        assert [line for line in lines if line.startswith(word)] == [b"%s %d" % (word, n) for n in range(500)]


def test_a_new_file_is_appended_to_as_well(mount: Mount) -> None:
    with opened(mount.root / "new", LOG | os.O_CREAT | os.O_EXCL) as user:
        with opened(mount.source / "new", LOG) as server:
            os.write(server, b"server\n")
        os.write(user, b"user\n")
    assert get(mount.source / "new") == b"server\nuser\n"


def test_a_file_that_was_cut_off_in_the_source_begins_anew(mount: Mount) -> None:
    """As logrotate's copytruncate does."""
    with opened(mount.root / "log", LOG | os.O_CREAT) as user:
        os.write(user, b"old\n" * 1000)
        os.truncate(mount.source / "log", 0)
        os.write(user, b"new\n")
    assert get(mount.source / "log") == b"new\n"


def test_pwrite_to_a_file_opened_for_appending_appends_as_on_linux(mount: Mount) -> None:
    with opened(mount.root / "f", LOG | os.O_CREAT) as fd:
        os.write(fd, b"0123456789")
        os.pwrite(fd, b"abc", 2)
    assert get(mount.source / "f") == b"0123456789abc"


def test_append_that_is_taken_back_by_fcntl_writes_where_it_is_told(mount: Mount) -> None:
    with opened(mount.root / "f", LOG | os.O_CREAT) as fd:
        os.write(fd, b"0123456789")
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)
        os.pwrite(fd, b"abc", 2)
        os.pwrite(fd, b"end", 12)
        assert get(mount.source / "f") == b"01abc56789\0\0end"
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        os.pwrite(fd, b"!", 0)
    assert get(mount.source / "f") == b"01abc56789\0\0end!"


def test_append_that_was_taken_back_by_whoever_has_gone_since_writes_where_it_is_told(mount: Mount) -> None:
    put(mount.source / "f", b"0123456789")
    opened_there: list[int] = []
    opener = threading.Thread(target=lambda: opened_there.append(os.open(mount.root / "f", LOG)))
    opener.start()
    opener.join()
    (fd,) = opened_there
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_APPEND)
    os.pwrite(fd, b"XX", 0)
    os.close(fd)
    assert get(mount.source / "f") == b"XX23456789"


def test_another_descriptor_of_the_opener_does_not_make_it_write_over_the_source_s(mount: Mount) -> None:
    put(mount.source / "f", b"0123456789")
    go, ready = os.pipe()
    log, other = os.open(mount.root / "f", LOG), os.open(mount.root / "f", os.O_RDWR)

    def append() -> None:
        os.read(go, 1)
        os.write(log, b"CHILD")

    child = start_child(append)
    os.close(log)
    with opened(mount.source / "f", LOG) as server:
        os.write(server, b"SRCSRC")
    os.write(ready, b"!")
    collect(child)
    for fd in (go, ready, other):
        os.close(fd)
    assert get(mount.source / "f") == b"0123456789SRCSRCCHILD"


def test_a_map_of_a_file_that_is_appended_is_written_in_its_place(mount: Mount) -> None:
    put(mount.root / "f", b"." * mmap.PAGESIZE)
    with opened(mount.root / "f", os.O_RDWR) as fd, mmap.mmap(fd, mmap.PAGESIZE) as pages:
        pages[:4] = b"maps"
        with opened(mount.root / "f", os.O_RDWR | os.O_APPEND) as log:
            os.write(log, b"tail")
            # No page of it is kept, so none can be stored into and then appended.
            with fails(errno.ENODEV):
                mmap.mmap(log, mmap.PAGESIZE)
            private = mmap.mmap(log, mmap.PAGESIZE, mmap.MAP_PRIVATE)
            assert private[:4] in (b"maps", b"....")
            private.close()
        pages.flush()
    assert get(mount.source / "f") == b"maps" + b"." * (mmap.PAGESIZE - 4) + b"tail"


def test_each_append_is_one_event(mount: Mount) -> None:
    put(mount.root / "f", b"")
    subscriber = Subscriber(mount.socket)
    with opened(mount.root / "f", LOG) as fd:
        subscriber.add(b"f", flags.ALL_EVENTS)
        for _ in range(3):
            os.write(fd, b"line\n")
            assert subscriber.drain() == [Event(1, flags.MODIFY)]
    subscriber.close()


def test_appending_clears_setuid_and_setgid_and_says_so(open_mount: Mount) -> None:
    """Past the page cache the kernel leaves that to the daemon."""
    put(open_mount.source / "f")
    os.chown(open_mount.source / "f", USER, USER)
    os.chmod(open_mount.source / "f", 0o6777)
    subscriber = Subscriber(open_mount.socket)
    subscriber.add(b"f", flags.ALL_EVENTS)

    def append() -> None:
        with opened(open_mount.root / "f", LOG) as fd:
            os.write(fd, b"once")
            os.write(fd, b"more")

    as_user(append)
    assert mode_of(open_mount.source / "f") == mode_of(open_mount.root / "f") == 0o777
    heard = [event.mask for event in subscriber.drain()]
    assert heard == [flags.OPEN, flags.ATTRIB, flags.MODIFY, flags.CLOSE_WRITE]
    subscriber.close()
    os.chmod(open_mount.source / "f", 0o6777)
    with opened(open_mount.root / "f", LOG) as fd:
        os.write(fd, b"root may")
    assert mode_of(open_mount.source / "f") == 0o6777


@pytest.fixture
def append_only(place: Place) -> Iterator[str]:
    """A file that may only grow (chattr +a), in a place on disk."""
    put("f", b"start\n", 0o666)
    source = place.source / "f"
    done = subprocess.run(["chattr", "+a", source], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"this file system has no append-only files: {done.stderr.decode()}")
    yield "f"
    subprocess.run(["chattr", "-a", source], check=True)


def test_an_append_only_file_grows_and_is_touched_and_nothing_else(append_only: str, place: Place) -> None:
    subprocess.run(["sh", "-c", 'echo more >>"$0"', append_only], check=True)
    assert get(place.source / "f") == b"start\nmore\n"
    before = os.stat(append_only).st_mtime_ns
    subprocess.run(["touch", append_only], check=True)
    assert os.stat(append_only).st_mtime_ns > before
    for refused in (
        lambda: os.open(append_only, os.O_WRONLY),
        lambda: os.open(append_only, os.O_WRONLY | os.O_APPEND | os.O_TRUNC),
        lambda: os.truncate(append_only, 0),
        lambda: os.utime(append_only, (1, 1)),
        lambda: os.chmod(append_only, 0o600),
        lambda: os.unlink(append_only),
        lambda: os.rename(append_only, "g"),
    ):
        with fails(errno.EPERM):
            refused()
    assert get(place.source / "f") == b"start\nmore\n"
