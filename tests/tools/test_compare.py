"""A short run of the comparer (``scripts/compare``), and proof that it would notice."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from scripts.compare import comparer
from scripts.compare.comparer import Comparer
from scripts.compare.known import KNOWN
from scripts.compare.tree import differences
from scripts.compare.worker import replay

FIXED = 1
BASE = "p0/s/r"
TEMPORARY = Path(tempfile.gettempdir())
"""pytest's own directories are closed to other users."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")


@pytest.mark.limit(120)
@pytest.mark.parametrize("seed", [FIXED, time.time_ns() % (1 << 32)], ids=["fixed", "random"])
def test_random_operations_end_in_the_same_tree(fuse: None, seed: int) -> None:
    with Comparer(TEMPORARY, (), print) as both:
        found = both.run(seed, processes=2, operations=5000)
        assert found is None, f"python -m scripts.compare --seed {seed} --processes 2 --operations 5000\n{found}"
        assert both.outcomes["done"] > 2000
        assert {"ENOENT", "EACCES", "EPERM", "EEXIST", "ENOTDIR", "ENOTEMPTY"} < both.outcomes.keys()


def test_a_difference_is_found_and_made_small(fuse: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparer, "SHRINKING", 3.0)
    with Comparer(TEMPORARY, (), print, frozenset(KNOWN) - {"setgid"}) as both:
        found = both.run(FIXED, processes=2, operations=20_000, session=500)
    assert found is not None
    assert 1 < len(found.fewest) <= 8 < len(found.prefix)


def test_what_is_left_out_still_differs(fuse: None) -> None:
    """Each must still be a difference, or go from the list."""
    shows = {
        "whiteout": [
            *[["ann", 0, "mkdir", f"{BASE}/{name}", 0o755] for name in ("a", "b", "b/c")],
            ["root", 0, "utimes", BASE, [1, 1, 1, 1], True],
            ["ann", 0, "rename", f"{BASE}/a", f"{BASE}/b", 4],
            ["ann", 0, "stat", BASE, True],
        ],
        "setgid": [
            ["root", 0, "open", 1, f"{BASE}/a", os.O_RDWR | os.O_CREAT, 0o2606],
            ["ann", 0, "write", 1, 10, 1],
        ],
        "far": [
            ["root", 0, "open", 1, f"{BASE}/a", os.O_RDWR | os.O_CREAT, 0o644],
            ["root", 0, "seek", 1, 1 << 45, os.SEEK_SET],
        ],
        "appended": [
            ["root", 0, "open", 1, f"{BASE}/a", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644],
            ["root", 0, "ftruncate", 1, 100],
            ["root", 0, "map", 1, [0], 1, True, True],
        ],
        "mapped": [
            ["root", 0, "open", 1, f"{BASE}/a", os.O_RDWR | os.O_CREAT, 0o755],
            ["root", 0, "ftruncate", 1, 100],
            ["root", 0, "setxattr", f"{BASE}/a", "security.capability", "01000002" + "00200000" + "0" * 24, 0, True],
            ["root", 0, "map", 1, [0], 1, True, True],
        ],
    }
    assert shows.keys() == KNOWN.keys()
    with Comparer(TEMPORARY, (), print, frozenset()) as both:
        for word, history in shows.items():
            found = replay(both.places, 0, history)
            assert found is not None, f"{word} is no difference any more: take it out of scripts/compare/known.py"
            assert found[0] == len(history)


def test_every_kind_of_difference_between_trees_is_told(tmp_path: Path) -> None:
    sides = [tmp_path / "plain", tmp_path / "mount"]
    for side in sides:
        side.mkdir()
        for name in ("name", "mode", "owner", "time", "content", "attribute", "link", "one", "target"):
            (side / name).write_bytes(b"0123456789")
            os.utime(side / name, ns=(1, 1))
    other = sides[1]
    (other / "name").rename(other / "eman")
    (other / "mode").chmod(0o600)
    os.chown(other / "owner", 1, 1)
    os.utime(other / "time", ns=(1, 2))
    (other / "content").write_bytes(b"012345678x")
    os.utime(other / "content", ns=(1, 1))
    os.setxattr(other / "attribute", "user.a", b"b")
    for side, second in zip(sides, ("link", "one"), strict=True):
        (side / "two").hardlink_to(side / second)
    for side, target in zip(sides, ("a", "b"), strict=True):
        (side / "target").unlink()
        (side / "target").symlink_to(target)
    told = {line.split(":")[0] for line in differences(*map(str, sides))}
    assert told == {"attribute", "content", "eman", "link", "mode", "name", "one", "owner", "target", "time", "two"}
