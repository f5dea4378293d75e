"""What was told to the kernel, and whether it may still judge by that."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from notifyfs.core.inodes import Inodes
from notifyfs.passthrough.judgement import Judgement
from tests.conftest import wait_until
from tests.support.posix import (
    opened,
)

if TYPE_CHECKING:
    from pathlib import Path

    from notifyfs.core.entries import Inode


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Judgement, Inode, Path, list[int]]:
    """Give what judges a file that the kernel was told of, and the node numbers that it was made to ask for."""
    file = tmp_path / "f"
    file.touch(0o644)
    forgotten: list[int] = []
    inode = Inodes(0, 0, lambda _inode: None).root
    judgement = Judgement(forgotten.append, lambda _inode: b"", doubts=True)
    judgement.tell(inode, file.stat())
    return judgement, inode, file, forgotten


def test_an_answer_that_the_kernel_may_have_dropped_is_not_relied_on(
    judged: tuple[Judgement, Inode, Path, list[int]],
) -> None:
    """The kernel drops one that crosses a change of the same file, and goes on with what it had."""
    judgement, inode, file, forgotten = judged
    file.chmod(0o600)
    judgement.tell(inode, file.stat())
    assert not judgement.holds(inode, file.stat())
    assert forgotten == [inode.number]
    judgement.tell(inode, file.stat())
    assert not judgement.holds(inode, file.stat()), "requests from before may be under way"
    wait_until(lambda: judgement.holds(inode, file.stat()))
    assert forgotten == [inode.number]


def test_of_an_open_file_the_kernel_may_drop_answers_for_ever(judged: tuple[Judgement, Inode, Path, list[int]]) -> None:
    judgement, inode, file, _ = judged
    inode.entry.uses += 1
    file.chmod(0o600)
    began = time.monotonic()
    while time.monotonic() < began + 0.3:
        assert not judgement.holds(inode, file.stat())
    inode.entry.uses -= 1
    assert judgement.holds(inode, file.stat()) is False, "and once more, to make the kernel ask"
    judgement.tell(inode, file.stat())
    wait_until(lambda: judgement.holds(inode, file.stat()))


def test_what_only_changed_its_times_is_judged_as_before(judged: tuple[Judgement, Inode, Path, list[int]]) -> None:
    judgement, inode, file, forgotten = judged
    file.write_bytes(b"more")
    with opened(file, os.O_RDONLY) as fd:
        assert judgement.holds(inode, file.stat(), fd)
    assert forgotten == []


def test_a_look_at_the_owner_alone_vouches_for_no_access_list(judged: tuple[Judgement, Inode, Path, list[int]]) -> None:
    judgement, inode, file, _ = judged
    inode.acl = b"another"
    file.write_bytes(b"more")
    with opened(file, os.O_RDONLY) as fd:
        assert judgement.holds(inode, file.stat())
        assert not judgement.holds(inode, file.stat(), fd)


def test_a_chmod_through_the_mount_leaves_no_access_list_that_the_kernel_judges_by(
    judged: tuple[Judgement, Inode, Path, list[int]],
) -> None:
    """It may change the list (its mask): whoever compares with the one before takes the file for changed behind it."""
    judgement, inode, file, forgotten = judged
    inode.acl = b"the one before"
    file.chmod(0o600)
    judgement.changed(inode, file.stat())
    file.write_bytes(b"more")
    with opened(file, os.O_RDONLY) as fd:
        assert judgement.holds(inode, file.stat(), fd)
        assert judgement.lets_walk(inode, file.stat(), fd)
    assert forgotten == []
