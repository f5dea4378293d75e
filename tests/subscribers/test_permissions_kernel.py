"""Who may watch what, judged by the kernel: inotify_add_watch(2) and the daemon, asked by the same user for a path."""

from __future__ import annotations

import errno
import os
import subprocess
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.support import kernel
from tests.support import wireclient as w
from tests.support.wireclient import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Mount

USER, OTHER_USER, GROUP = 12345, 12346, 5555

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def mount(shared: Callable[..., Mount]) -> Mount:
    """The session's mount that admits other users."""
    return shared("allow_other")


@pytest.fixture
def maze(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every kind of obstacle in a directory that is the working directory: pytest's own are closed to other users."""
    tree.chmod(0o755)
    for directory, mode, gid in (
        ("open", 0o755, 0),
        ("closed", 0o700, 0),
        ("searched", 0o711, 0),
        ("listed", 0o744, 0),
        ("grouped", 0o750, GROUP),
        ("without the group", 0o705, GROUP),
        ("own", 0o300, 0),
    ):
        (tree / directory).mkdir()
        (tree / directory / "d").mkdir()
        for name, file_mode in (("f", 0o644), ("secret", 0o600), ("written", 0o622), ("grouped", 0o640)):
            file = w.touch(tree / directory / name)
            os.chown(file, 0, GROUP)
            file.chmod(file_mode)
        (tree / directory / "link").symlink_to("f")
        os.chown(tree / directory, USER if directory == "own" else 0, gid)
        (tree / directory).chmod(mode)
    for name, target in (
        ("loop", "loop"),
        ("dangling", "absent"),
        ("to a closed one", "closed/f"),
        ("to a secret", "open/secret"),
        ("through a closed one", "closed/../open/f"),
        ("to a directory", "open/"),
    ):
        (tree / name).symlink_to(target)
    for name, mode, entry in (("granted", 0o600, f"u:{USER}:r"), ("denied", 0o644, f"u:{USER}:-")):
        w.touch(tree / name).chmod(mode)
        subprocess.run(["setfacl", "-m", entry, tree / name], check=True)
    monkeypatch.chdir(tree)
    return tree


INSIDE = ("", "/", "/.", "/..", "/f", "/d", "/d/", "/f/", "/f/x", "/secret", "/written", "/grouped", "/link", "/absent")
BESIDE = ("loop", "loop/x", "dangling", "to a closed one", "to a secret", "through a closed one", "to a directory")
PLACES = ("open", "closed", "searched", "listed", "grouped", "without the group", "own")
PATHS = (
    *(place + name for place, name in product(PLACES, INSIDE)),
    *(f"{place}/{name * length}" for place in PLACES for name, length in (("x", 256), ("d/../", 30), ("./", 30))),
    *(*BESIDE, "to a directory/secret", "to a directory/d", "granted", "denied"),
)
WHO = {
    "root": (0, 0, ()),
    "somebody": (USER, USER, ()),
    "a member of the group": (USER, USER, (7, GROUP)),
    "somebody whose group it is": (USER, GROUP, ()),
    "somebody else": (OTHER_USER, OTHER_USER, (USER,)),
    "somebody in root's group": (OTHER_USER, 0, ()),
}


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("flag", [0, w.ONLYDIR, w.DONT_FOLLOW], ids=["no flag", "ONLYDIR", "DONT_FOLLOW"])
def test_what_the_kernel_refuses_is_refused_for_the_same_reason(mount: Mount, maze: Path, who: str, flag: int) -> None:
    uid, gid, groups = WHO[who]

    def ask() -> list[tuple[str, str, str]]:
        inotify, answers = kernel.Inotify(b""), []
        with Wire(mount) as wire:
            for path in PATHS:
                try:
                    inotify.add(os.fsencode(path), w.MODIFY | flag)
                    expected = 0
                except OSError as error:
                    expected = -(error.errno or 0)
                result = min(wire.watch(w.MODIFY | flag, wire.below(maze) + b"/" + os.fsencode(path)), 0)
                answers.append((path, *(errno.errorcode.get(-number, "watched") for number in (expected, result))))
        inotify.close()
        return answers

    answers = w.as_user(uid, ask, gid=gid, groups=groups)
    assert [answer for answer in answers if answer[1] != answer[2]] == [], "path, what inotify says, what we say"
    refused = {expected for _, expected, _ in answers}
    assert {"watched", "ENOENT", "ENOTDIR"} <= refused
    assert "EACCES" in refused or uid == 0
