"""A short run of the differential test of recursive watches (``scripts/recursive``), and proof that it would notice."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripts.recursive.comparer import plain, run

from notifyfs.protocol import flags
from tests.conftest import Mount

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXED = 1

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory(prefix="notifyfs-test-") as base:
        Path(base).chmod(0o755)
        yield Path(base)


@pytest.fixture
def mount(fuse: None, place: Path) -> Iterator[Mount]:
    mount = Mount(place, ("allow_other",))
    yield mount
    mount.finish()


@pytest.mark.limit(120)
@pytest.mark.parametrize("seed", [FIXED, time.time_ns() % (1 << 32)], ids=["fixed", "random"])
def test_users_hear_what_their_own_watches_on_each_directory_would_tell(mount: Mount, seed: int) -> None:
    totals = run(mount, seed, print, events=800)
    assert not totals.findings, (
        f"python -m scripts.recursive --seed {seed} --session {totals.findings[0].session}\n"
        f"{totals.findings[0].what}\n" + "\n".join(totals.findings[0].transcript)
    )
    assert totals.kept > 0


BROKEN = {
    "what may not be read": """
        from notifyfs.subscribers.judging import Verdicts
        reach = Verdicts.reach
        def broken(self, places):
            found = reach(self, places)
            return found._replace(above=max(found.above, 0))
        Verdicts.reach = broken
    """,
    "what is below a directory that may not be searched": """
        from notifyfs.subscribers.judging import Verdicts
        reach = Verdicts.reach
        def broken(self, places):
            found = reach(self, places)
            return found if found.above < 0 else found._replace(above=len(places))
        Verdicts.reach = broken
    """,
    "nothing above the lowest directory": """
        from notifyfs.subscribers.judging import Verdicts
        reach = Verdicts.reach
        def broken(self, places):
            return reach(self, places)._replace(above=0)
        Verdicts.reach = broken
    """,
    "a verdict that is over": """
        from notifyfs.passthrough.judgement import Judgement
        changed = Judgement.changed
        def broken(self, inode, found):
            kept = inode.verdicts
            changed(self, inode, found)
            inode.verdicts = kept
        Judgement.changed = broken
    """,
    "a way that is closed": """
        from notifyfs.core.watches import Watches
        add = Watches.add
        def broken(self, *arguments, by_path):
            return add(self, *arguments, by_path=False)
        Watches.add = broken
    """,
}
"""What a daemon tells, or goes by, that it must not; and how that is done to it."""


@pytest.mark.limit(180)
@pytest.mark.parametrize("rule", BROKEN)
def test_a_daemon_that_breaks_the_rule_is_noticed(
    place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, rule: str
) -> None:
    lines = BROKEN[rule].splitlines()
    (place / "sitecustomize.py").write_text("\n".join(line[8:] for line in lines), "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(place))
    totals = run(request.getfixturevalue("mount"), FIXED, print, events=20000)
    assert totals.findings
    assert totals.findings[0].transcript


def test_what_is_compared_has_repetitions_once_and_cookies_by_their_order() -> None:
    told = [
        (flags.MOVED_FROM, b"a", 7),
        (flags.MOVED_FROM, b"a", 8),
        (flags.MOVED_TO, b"d/b", 7),
        (flags.OPEN, b"a", 0),
        (flags.MOVED_FROM, b"a", 9),
    ]
    assert plain(told) == ["MOVED_FROM a 1", "MOVED_TO d/b 1", "OPEN a", "MOVED_FROM a 2"]
    assert plain(told) == plain([(mask, name, cookie and cookie + 90) for mask, name, cookie in told])
