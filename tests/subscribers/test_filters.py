"""What the daemon of a real mount leaves out by a ``client.Filter``."""

from __future__ import annotations

import compileall
import errno
import os
import shlex
import subprocess
import threading
from typing import TYPE_CHECKING, Self

import pytest

from notifyfs import INotify
from notifyfs.client import Connection, Filter
from notifyfs.protocol import flags
from tests.support.wireclient import as_user

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

USER, OTHER_USER = 12345, 12346
BOTH_WAYS = pytest.mark.parametrize("event_fd", [False, True], ids=["stream", "descriptor"])


@pytest.fixture
def place(shared: Callable[..., Mount], tmp_path: Path) -> Path:
    """Make a directory of this test's own on a mount that admits everybody."""
    directory = shared("allow_other").root / tmp_path.name
    directory.mkdir()
    directory.chmod(0o777)
    return directory


@pytest.fixture
def connect(place: Path, shared: Callable[..., Mount]) -> Iterator[Callable[..., Connection]]:
    """Make a function that connects to that mount."""
    made: list[Connection] = []

    def connect(*, event_fd: bool = False, timeout: float = 30) -> Connection:
        made.append(Connection(shared("allow_other").socket, event_fd=event_fd, timeout=timeout))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def names(connection: Connection, mask: int = flags.CREATE) -> list[str]:
    """Name what was done by now to *mask*'s kind."""
    connection.sync()
    return [os.fsdecode(record.name) for record in connection.read(0) if record.mask & mask]


def make(place: Path, *paths: str) -> None:
    """Make files, and directories where a path ends with a slash."""
    for path in paths:
        if path.endswith("/"):
            (place / path).mkdir()
        else:
            os.mknod(place / path)


# What is left out


@BOTH_WAYS
def test_only_what_is_included_and_not_excluded_is_told(
    place: Path,
    connect: Callable[..., Connection],
    event_fd: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    with connect(event_fd=event_fd) as connection:
        chosen = Filter(include=["*.py", "/doc/"], exclude=["test_*", "!test_keep.py"])
        connection.add_watch(flags.CREATE | flags.X_RECURSIVE, os.fsencode(place.name), filter=chosen)
        make(place, "a.py", "b.c", "test_a.py", "test_keep.py", "doc/", "doc/b.c", "d/", "d/doc/", "d/c.py")
        assert names(connection) == ["a.py", "test_keep.py", "doc", "doc/b.c", "d/c.py"]


def test_what_happens_to_the_watched_file_itself_has_no_name_and_is_told(
    place: Path, connect: Callable[..., Connection]
) -> None:
    make(place, "a.o")
    descriptor = os.open(place / "a.o", os.O_PATH)
    with connect() as connection:
        connection.add_watch_fd(flags.ATTRIB, descriptor, filter=Filter(exclude=["*.o"]))
        os.close(descriptor)
        os.utime(place / "a.o")
        assert names(connection, flags.ATTRIB) == [""]


def test_adding_again_replaces_the_filter(place: Path, connect: Callable[..., Connection]) -> None:
    path = os.fsencode(place.name)
    with connect() as connection:
        for number, (mask, chosen, told) in enumerate(
            [
                (flags.CREATE, Filter(exclude=["a*"]), ["b", "c"]),
                (flags.CREATE | flags.MASK_ADD, None, ["b", "c"]),
                (flags.CREATE | flags.MASK_ADD, Filter(exclude=["b*"]), ["a", "c"]),
                (flags.CREATE | flags.MASK_ADD, Filter(), ["a", "b", "c"]),
                (flags.CREATE, Filter(exclude=["c*"]), ["a", "b"]),
                (flags.CREATE, None, ["a", "b", "c"]),
            ]
        ):
            assert connection.add_watch(mask, path, filter=chosen) == 1
            make(place, *(f"{name}{number}" for name in "abc"))
            assert names(connection) == [f"{name}{number}" for name in told]


def test_the_noise_of_a_build_never_crosses_the_socket(place: Path, connect: Callable[..., Connection]) -> None:
    """Compile a package with Python's own compiler, and compare with somebody who listens to everything."""
    (place / "package").mkdir()
    for number in range(40):
        (place / "package" / f"module{number}.py").write_text(f"x = {number}\n", "utf-8")
    (place / ".gitignore").write_text("__pycache__/\n*.log\n", "utf-8")
    mask = flags.ALL_EVENTS & ~(flags.ACCESS | flags.OPEN | flags.CLOSE) | flags.X_RECURSIVE
    with connect() as quiet, connect() as loud:
        quiet.add_watch(mask, os.fsencode(place.name), filter=Filter.from_file(place / ".gitignore"))
        loud.add_watch(mask, os.fsencode(place.name))
        assert compileall.compile_dir(str(place / "package"), quiet=1)
        (place / "build.log").write_text("done\n", "utf-8")
        (place / "package" / "done").mkdir()

        assert len(list((place / "package" / "__pycache__").iterdir())) == 40
        assert names(quiet, flags.ALL_EVENTS) == ["package/done"]
        assert quiet.statistics()["instance"]["events"] == 1
        heard = names(loud, flags.ALL_EVENTS)
        assert sum("__pycache__" in name for name in heard) > 100
        assert loud.statistics()["instance"]["events"] == len(heard)


# By whom


class Shell:
    """A process of *user* that does what it is told itself, in *place*: redirections start no other process."""

    def __init__(self, place: Path, user: int | None = None) -> None:
        self.place = place
        self.process = subprocess.Popen(
            ["/bin/sh"],
            cwd=place,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def make(self, *made: str) -> None:
        """Create files, and return when they are there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        commands = [f": > {shlex.quote(name)}" for name in made]
        self.process.stdin.write("; ".join([*commands, "echo done\n"]).encode())
        assert self.process.stdout.readline() == b"done\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait(10)


def test_processes(place: Path, connect: Callable[..., Connection]) -> None:
    with Shell(place) as one, Shell(place) as other:
        this = os.getpid()
        wanted = {
            "only one": (Filter(pids=[one.process.pid]), ["a", "d"]),
            "both": (Filter(pids=[one.process.pid, other.process.pid]), ["a", "b", "d"]),
            "not one": (Filter(not_pids=[one.process.pid]), ["b", "c"]),
            "not those": (Filter(not_pids=[one.process.pid, this]), ["b"]),
            "nobody": (Filter(pids=[one.process.pid], not_pids=[one.process.pid]), []),
            "not myself": (Filter(ignore_self=True), ["a", "b", "d"]),
            "not myself, by name": (Filter(ignore_self=True, exclude=["a"]), ["b", "d"]),
        }
        connections = {name: connect() for name in wanted}
        for name, (chosen, _) in wanted.items():
            connections[name].add_watch(flags.CREATE, os.fsencode(place.name), filter=chosen)
        one.make("a")
        other.make("b")
        make(place, "c")
        one.make("d")
        told = {name: names(connection) for name, connection in connections.items()}
    assert told == {name: expected for name, (_, expected) in wanted.items()}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_users(place: Path, connect: Callable[..., Connection]) -> None:
    with Shell(place, USER) as one, Shell(place, OTHER_USER) as other:
        wanted = {
            "one": (Filter(uids=[USER]), ["a"]),
            "both": (Filter(uids=[USER, OTHER_USER]), ["a", "b"]),
            "not one": (Filter(not_uids=[USER]), ["b", "c"]),
            "not root": (Filter(not_uids=[0]), ["a", "b"]),
            "one, but not that process": (Filter(uids=[USER], not_pids=[one.process.pid]), []),
        }
        connections = {name: connect() for name in wanted}
        for name, (chosen, _) in wanted.items():
            connections[name].add_watch(flags.CREATE, os.fsencode(place.name), filter=chosen)
        one.make("a")
        other.make("b")
        make(place, "c")
        told = {name: names(connection) for name, connection in connections.items()}
        assert (place / "a").stat().st_uid == USER
    assert told == {name: expected for name, (_, expected) in wanted.items()}


# What is refused


@BOTH_WAYS
@pytest.mark.parametrize(
    "pattern", ["a*b*c*", "*/*/*/*/*", "!", "x\\", "[b-a]", "*" * 4000 + "/" + "*a" * 5], ids=lambda it: it[-9:]
)
def test_a_pathological_pattern_is_refused_by_name_and_nothing_is_watched(
    place: Path,
    connect: Callable[..., Connection],
    tmp_path: Path,
    pattern: str,
    event_fd: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    file = tmp_path / "rules"
    file.write_text(f"good\n{pattern}\n*.o\n", "utf-8")
    path = os.fsencode(place.name)
    with connect(event_fd=event_fd) as connection:
        with pytest.raises(OSError, match=r"rules, line 2.*gitignore") as caught:
            connection.add_watch(flags.CREATE, path, filter=Filter.from_file(file))
        assert caught.value.errno == errno.EINVAL
        assert repr(pattern) in str(caught.value)
        assert connection.statistics()["instance"]["watches"] == 0
        connection.add_watch(flags.CREATE, path, filter=Filter(exclude=["a"]))
        make(place, "good", "a", "x.o")
        assert names(connection) == ["good", "x.o"], "nothing of the refused filter is left"


def test_a_filter_that_costs_too_much_is_refused_at_the_rule_that_is_too_much(
    place: Path, connect: Callable[..., Connection]
) -> None:
    costly = Filter(exclude=[f"*x*{number}" for number in range(300)])
    with connect() as connection:
        with pytest.raises(OSError, match=r"'\*x\*256': too many rules in one filter") as caught:
            connection.add_watch(flags.CREATE, os.fsencode(place.name), filter=costly)
        assert caught.value.errno == errno.E2BIG


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_filters_of_one_user_have_a_limit_together(place: Path, shared: Callable[..., Mount]) -> None:
    (place / "s").mkdir(mode=0o755)
    socket = shared("allow_other").socket

    def ask() -> tuple[int, int | None, str]:
        with Connection(socket, timeout=30) as connection:
            half = Filter(exclude=[f"x{number}" for number in range(2100)])
            first = connection.add_watch(flags.CREATE, os.fsencode(place.name), filter=half)
            try:
                connection.add_watch(flags.CREATE, os.fsencode(place.name) + b"/s", filter=half)
            except OSError as error:
                return first, error.errno, str(error)
            return first, None, ""

    first, number, said = as_user(USER, ask)
    assert (first, number) == (1, errno.ENOSPC)
    assert "rules in filters" in said


def test_a_long_filter_and_a_crowd_of_events_do_not_block_each_other(
    place: Path, connect: Callable[..., Connection]
) -> None:
    """Replies that do not fit hold up the daemon, so whoever sends must take them in meanwhile."""
    over = threading.Event()

    def work() -> None:
        number = 0
        while not over.is_set():
            (place / f"n{number}").mkdir()
            number += 1

    worker = threading.Thread(target=work)
    with connect() as connection:
        connection.add_watch(flags.CREATE, os.fsencode(place.name))
        worker.start()
        try:
            rules = Filter(exclude=[f"x{number}" for number in range(5000)] + ["n*"])
            connection.add_watch(flags.CREATE, os.fsencode(place.name), filter=rules)
        finally:
            over.set()
            worker.join()
        told = names(connection)
        make(place, "n", "x77", "m")
        assert names(connection) == ["m"]
    assert told == [f"n{number}" for number in range(len(told))]


def test_the_face_of_inotify_simple_takes_no_filter(place: Path) -> None:
    with INotify() as inotify, pytest.raises(OSError, match="Invalid argument"):
        inotify.add_watch(place, flags.CREATE | flags.X_FILTER)
