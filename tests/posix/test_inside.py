"""Mounting over one's own source: who is inside already is named, for what they do goes past the mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from notifyfs.protocol import flags
from tests.support.kernel import Map
from tests.support.posix import collect, get, opened, put, start_child
from tests.support.subscriber import Subscriber
from tests.tools.test_cli import run, said, tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["tree"]


def stand_in(place: Path) -> None:
    os.chdir(place)


def have_open(place: Path, flags: int = os.O_RDWR) -> int:
    return os.open(place / "file", flags)


def have_mapped(place: Path) -> Map:
    with opened(place / "file", os.O_RDWR) as fd:
        return Map(fd, shared=True)


INSIDE: dict[str, Callable[[Path], object]] = {
    "working directory": stand_in,
    "root": os.chroot,
    "open: file": have_open,
    "open: source": lambda place: os.open(place, os.O_RDONLY | os.O_DIRECTORY),
    "mapped: file": have_mapped,
}


@pytest.fixture
def stay() -> Callable[[Callable[[], object]], Callable[[], None]]:
    """Give a function that starts a child process, which does something and stays until it is let go."""

    def stay(first: Callable[[], object]) -> Callable[[], None]:
        ready, go = os.pipe(), os.pipe()

        def child() -> None:
            os.close(go[1])
            kept = first()
            os.write(ready[1], b"!")
            os.read(go[0], 1)
            del kept

        started = start_child(child)
        os.read(ready[0], 1)

        def let_go() -> None:
            os.close(go[1])
            collect(started)
            for end in (*ready, go[0]):
                os.close(end)

        stay.pid = started[0]  # type: ignore[attr-defined]
        return let_go

    return stay


@pytest.mark.parametrize("how", INSIDE)
def test_who_is_inside_is_named_when_the_source_is_covered(
    tree: Path, stay: Callable[[Callable[[], object]], Callable[[], None]], how: str
) -> None:
    if how == "root" and os.getuid():
        pytest.skip("only root can change its root")
    source = tree / "source"
    let_go = stay(lambda: INSIDE[how](source))
    code, out, error = said(run("mount", source, source))
    let_go()
    assert (code, out.count("\n"), error.count("\n")) == (0, 1, 1)
    assert f"(pid {stay.pid}, {how})" in error  # type: ignore[attr-defined]
    assert error.startswith(f"notifyfs: {source}: inside already")


def test_nobody_is_named_who_only_reads_or_is_elsewhere(
    tree: Path, stay: Callable[[Callable[[], object]], Callable[[], None]]
) -> None:
    source = tree / "source"
    (tree / "source-too").mkdir()
    with opened(source / "file"):
        let_go = stay(lambda: stand_in(tree / "source-too"))
        assert said(run("mount", source, source))[2] == ""
        let_go()
    let_go = stay(lambda: stand_in(source))
    assert said(run("mount", source, tree / "mount"))[2] == "", "in a source of its own everybody goes past the mount"
    let_go()


def test_what_somebody_inside_does_is_seen_within_a_second(tree: Path) -> None:
    """The default must be right although not everybody takes the mount."""
    source = tree / "source"
    with opened(source, os.O_PATH) as inside:
        put(source / "log", b"a line\n")
        code, socket, _ = said(run("mount", source, source))
        assert code == 0
        subscriber = Subscriber(socket.rstrip("\n"))
        subscriber.add(b"", flags.ALL_EVENTS)
        os.stat(source / "log")
        with opened(f"/proc/self/fd/{inside}/log", os.O_WRONLY | os.O_APPEND) as server:
            os.write(server, b"server: a line\n")
        assert subscriber.drain() == [], "unheard"
        with opened(source / "log", os.O_WRONLY | os.O_APPEND) as user:
            os.write(user, b"x\n")
        assert get(f"/proc/self/fd/{inside}/log") == b"a line\nserver: a line\nx\n"
        subscriber.close()
