"""A subscriber that acts on an event at once finds the change: 10,000 times each.

The operations are done by another process, so that the subscriber really races the
return of the system call: it is told after the daemon has answered, while the caller
may not have run yet.
"""

from __future__ import annotations

import os
import select
import stat
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.support.subscriber import Subscriber

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

REACTIONS = 10_000


@pytest.fixture
def tree(shared: Callable[..., Mount], tmp_path: Path) -> Iterator[tuple[Path, Subscriber]]:
    """A directory on the mount and a subscriber below it."""
    mount = shared()
    directory = mount.root / tmp_path.name
    directory.mkdir()
    subscriber = Subscriber(mount.socket, os.fsencode(directory.name), event_fd=True)
    yield directory, subscriber
    subscriber.close()


class Doer:
    """A process that does one operation for each byte it is sent."""

    def __init__(self, operation: Callable[[int], object]) -> None:
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._writer)
            done = 0
            try:
                while os.read(reader, 1):
                    operation(done)
                    done += 1
            finally:
                os._exit(done != REACTIONS)
        os.close(reader)

    def do(self) -> None:
        """Let it do the next one; this does not wait for it."""
        os.write(self._writer, b"x")

    def end(self) -> None:
        """AssertionError unless it did all that it was to do."""
        os.close(self._writer)
        assert os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1]) == 0


def react(subscriber: Subscriber, operation: Callable[[int], object], reaction: Callable[[int], str | None]) -> None:
    """Do *operation* REACTIONS times; after the event of each, *reaction* says what is wrong, or None."""
    doer = Doer(operation)
    surprises = []
    descriptor = subscriber.event_descriptor
    for number in range(REACTIONS):
        doer.do()
        assert select.select([descriptor], [], [], 20)[0], f"nothing was told of operation {number}"
        os.read(descriptor, 8192)
        surprise = reaction(number)
        if surprise is not None:
            surprises.append(f"{number}: {surprise}")
    doer.end()
    assert surprises[:5] == [], f"{len(surprises)} of {REACTIONS}"


def test_after_modify_the_new_bytes_are_there(tree: tuple[Path, Subscriber]) -> None:
    directory, subscriber = tree
    file = directory / "f"
    file.touch()
    subscriber.add(b"f", flags.MODIFY)
    written = os.open(file, os.O_WRONLY)

    def read(number: int) -> str | None:
        found = file.read_bytes()
        expected = b"%08d" % number
        return None if found[number * 8 :] == expected else f"{expected!r} is not yet in a file of {len(found)}"

    react(subscriber, lambda number: os.pwrite(written, b"%08d" % number, number * 8), read)
    os.close(written)


def test_after_modify_the_file_has_its_new_size(tree: tuple[Path, Subscriber]) -> None:
    directory, subscriber = tree
    file = directory / "f"
    file.touch()
    subscriber.add(b"", flags.MODIFY)

    def size(number: int) -> str | None:
        found = file.stat().st_size
        return None if found == (number + 1) % 7 else f"{found} bytes"

    react(subscriber, lambda number: os.truncate(file, (number + 1) % 7), size)


def test_after_create_the_name_is_there_though_it_was_remembered_as_absent(
    shared: Callable[..., Mount], tmp_path: Path
) -> None:
    """mkdir(2) and its like look it up first, and with ``cache=always`` what they found is kept until they return."""
    mount = shared("cache=always")
    directory = mount.root / tmp_path.name
    directory.mkdir()
    (directory / "file").touch()
    subscriber = Subscriber(mount.socket, os.fsencode(directory.name), event_fd=True)
    subscriber.add(b"", flags.CREATE)
    path = directory / "made"

    def make(number: int) -> None:
        if number:
            (path.rmdir if path.is_dir() else path.unlink)()
        assert not path.exists()
        match number % 4:
            case 0:
                path.mkdir()
            case 1:
                os.mknod(path)
            case 2:
                path.hardlink_to(directory / "file")
            case 3:
                path.touch()

    def look(_number: int) -> str | None:
        return None if path.exists() else "it is not there"

    react(subscriber, make, look)
    subscriber.close()


def test_after_delete_the_name_is_gone(tree: tuple[Path, Subscriber]) -> None:
    directory, subscriber = tree
    subscriber.add(b"", flags.DELETE)

    def remove(number: int) -> None:
        (directory / f"{number}").touch()
        (directory / f"{number}").unlink()

    def look(number: int) -> str | None:
        try:
            (directory / f"{number}").stat()
        except FileNotFoundError:
            return None
        return "it is still there"

    react(subscriber, remove, look)


def test_after_moved_from_the_old_name_is_gone(tree: tuple[Path, Subscriber]) -> None:
    directory, subscriber = tree
    (directory / "0").touch()
    subscriber.add(b"", flags.MOVED_FROM)

    def look(number: int) -> str | None:
        try:
            os.close(os.open(directory / f"{number}", os.O_RDONLY))
        except FileNotFoundError:
            return None
        return "it can still be opened"

    react(subscriber, lambda number: os.rename(directory / f"{number}", directory / f"{number + 1}"), look)


def test_after_attrib_the_mode_is_new(tree: tuple[Path, Subscriber]) -> None:
    directory, subscriber = tree
    file = directory / "f"
    file.touch()
    subscriber.add(b"", flags.ATTRIB)

    def look(number: int) -> str | None:
        found = stat.S_IMODE(file.stat().st_mode)
        return None if found == number % 0o1000 else f"mode {found:o}"

    react(subscriber, lambda number: file.chmod(number % 0o1000), look)
