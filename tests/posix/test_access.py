"""IN_ACCESS and the page cache (docs/parity.md, R1), and closes that come all at once."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.conftest import wait_until
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount


def masks(subscriber: Subscriber) -> list[int]:
    """The masks of all events until now."""
    return [event.mask for event in subscriber.drain()]


def test_each_open_tells_its_reads_at_least_once_although_the_pages_are_cached(mount: Mount) -> None:
    file = mount.root / "f"
    file.write_bytes(b"x" * 8192)
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"f", flags.ACCESS)
    for _ in range(3):
        file.read_bytes()
        assert masks(subscriber) == [flags.ACCESS]
    subscriber.close()


@pytest.mark.parametrize(
    ("watched", "mask"), [(b"f", flags.ACCESS), (b"", flags.ACCESS), (b"", flags.ACCESS | flags.X_RECURSIVE)]
)
def test_a_new_watch_tells_the_next_read_of_a_file_that_is_already_open(
    mount: Mount, watched: bytes, mask: int
) -> None:
    file = mount.root / "f"
    file.write_bytes(b"x" * 4096)
    descriptor = os.open(file, os.O_RDONLY)
    os.pread(descriptor, 4096, 0)
    subscriber = Subscriber(mount.socket)
    subscriber.add(watched, mask)

    def told() -> list[int]:
        # The pages are dropped from a thread: at some read soon after the watch.
        assert os.pread(descriptor, 4096, 0) == b"x" * 4096
        return masks(subscriber)

    assert wait_until(told, what="an ACCESS for a read of the open file") == [flags.ACCESS]
    os.close(descriptor)
    subscriber.close()


def test_exact_tells_every_read(mounted: Callable[..., Mount]) -> None:
    mount = mounted("access=exact")
    file = mount.root / "f"
    file.write_bytes(b"0123456789")
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"f", flags.ACCESS)
    descriptor = os.open(file, os.O_RDONLY)
    for offset in (0, 3, 0):
        os.pread(descriptor, 2, offset)
        assert masks(subscriber) == [flags.ACCESS]
    assert os.pread(descriptor, 2, 100) == b""
    assert masks(subscriber) == []
    os.close(descriptor)
    subscriber.close()


def test_exact_leaves_files_that_nobody_watches_for_reads_in_the_cache(mounted: Callable[..., Mount]) -> None:
    mount = mounted("access=exact")
    file = mount.root / "f"
    file.write_bytes(b"x" * 4096)
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"f", flags.MODIFY)
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 4096) as mapped:
        mapped[0] = ord("y")
    assert file.read_bytes()[:2] == b"yx"
    subscriber.close()


def test_off_tells_no_reads(mounted: Callable[..., Mount]) -> None:
    mount = mounted("access=off")
    (mount.root / "f").write_bytes(b"x")
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"", flags.ALL_EVENTS)
    (mount.root / "f").read_bytes()
    os.listdir(mount.root)
    isdir = flags.ISDIR
    wait_until(lambda: subscriber.statistics()["mount"]["open_files"] == 0, what="both files closed")
    assert masks(subscriber) == [
        flags.OPEN,
        flags.CLOSE_NOWRITE,
        flags.OPEN | isdir,
        flags.CLOSE_NOWRITE | isdir,
    ]
    subscriber.close()


@pytest.mark.parametrize("how", ["os.closerange(first, first + count)", "os._exit(0)"])
def test_many_closes_at_once_are_told_before_a_later_operation(mount: Mount, how: str) -> None:
    count = 500
    for number in range(count):
        (mount.root / f"{number}").touch()
    subscriber = Subscriber(mount.socket)
    subscriber.add(b"", flags.CLOSE_NOWRITE | flags.CREATE)
    program = f"""
import os
opened = [os.open(f"{mount.root}/{{n}}", os.O_RDONLY) for n in range({count})]
first, count = opened[0], {count}
assert opened == list(range(first, first + count))
{how}
os.mkdir("{mount.root}/later")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    (mount.root / "last").mkdir()
    told = [(event.mask, event.name) for event in subscriber.drain()]
    closes = [name for mask, name in told if mask == flags.CLOSE_NOWRITE]
    # FUSE frees a process's files in any order; what counts is that none comes late.
    assert sorted(closes, key=int) == [b"%d" % number for number in range(count)]
    assert [name for _, name in told[:count]] == closes
    subscriber.close()
