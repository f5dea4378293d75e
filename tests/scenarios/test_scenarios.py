"""Each behaviour is a file in ``scenarios/``; the kernel sits the same exam as notifyfs.

Every script is played on a plain directory, which proves the script, and on the mount, where the kernel's inotify and
two subscribers of the control socket (one in-band, one with ``EVENT_FD``) watch the same paths at the same time.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.kernel import Inotify
from tests.support.scenario import SCENARIOS, load
from tests.support.stage import play, play_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

ROWS = {"C": 8, "U": 12, "W": 7, "R": 4, "O": 6, "A": 9, "M": 12, "N": 10, "P": 12}  # of docs/parity.md

SCENARIO = {path.stem: load(path) for path in sorted(SCENARIOS.glob("*.txt"))}


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """Make a small file system of its own, for what ends one."""
    subprocess.run(["/bin/mount", "-t", "tmpfs", "notifyfs-test", tmp_path], check=True)
    yield tmp_path
    if tmp_path.is_mount():
        subprocess.run(["/bin/umount", "-l", tmp_path], check=True)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIO.items() if "kernel" in scenario.subscribers])
def test_the_kernel_on_a_plain_directory(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    scenario = SCENARIO[name]
    base = request.getfixturevalue("tmpfs") if "own" in scenario.directives else tmp_path
    play(scenario, base, "plain", {"kernel": Inotify(os.fsencode(base))})


@pytest.mark.parametrize("name", SCENARIO)
def test_the_kernel_and_notifyfs_on_the_mount(
    name: str, shared: Callable[..., Mount], mounted: Callable[..., Mount]
) -> None:
    scenario = SCENARIO[name]
    make, below = (mounted, "") if "own" in scenario.directives else (shared, name)
    play_on(make(*scenario.directives.get("options", [])), scenario, below)


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIO.items() if "only" not in scenario.directives])
def test_notifyfs_without_the_kernel(name: str, shared: Callable[..., Mount], mounted: Callable[..., Mount]) -> None:
    """The kernel's own watches look every path up and keep the inodes: notifyfs must not live on that."""
    scenario = SCENARIO[name]._replace(directives=SCENARIO[name].directives | {"only": ["in-band", "event-fd"]})
    make, below = (mounted, "") if "own" in scenario.directives else (shared, f"{name}-alone")
    play_on(make(*scenario.directives.get("options", [])), scenario, below)


def test_every_row_of_the_parity_table_has_a_scenario() -> None:
    rows = {f"{letter}{number}" for letter, last in ROWS.items() for number in range(1, last + 1)}
    assert rows - {name.partition("-")[0] for name in SCENARIO} == set()
