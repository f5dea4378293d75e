"""Where the benchmark works: a new ext4 in a file, or a directory."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench.peers import unmount
from scripts.bench.processes import Broken

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = "32G"
"""Of the file: it has holes, and grows with what is written."""


@contextlib.contextmanager
def ground(under: Path, inodes: int) -> Iterator[Path]:
    """An empty directory below *under* that goes afterwards; *inodes*: of a file system of its own, 0 for none.

    On ext4 without a journal the kernel does not use an inode again for a minute after its deletion, and looks at each
    of them for a new file (``recently_deleted`` in its ialloc.c): there a create takes the longer, the more was deleted
    before. A new file system has a journal, and the same state in each run.
    """
    base = Path(tempfile.mkdtemp(prefix="notifyfs-bench-", dir=under))
    base.chmod(0o755)
    image, root = base / "ext4", base / "root"
    root.mkdir()
    try:
        if inodes:
            _make(image, root, inodes)
        yield root
    finally:
        unmount(root)
        shutil.rmtree(base)


def _make(image: Path, root: Path, inodes: int) -> None:
    commands: tuple[list[str | Path], ...] = (
        ["truncate", "-s", SIZE, image],
        ["mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(inodes), "-E", "nodiscard", image],
        # noinit_itable: or the kernel goes on making the file system while it is measured.
        ["mount", "-o", "loop,noinit_itable", image, root],
    )
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise Broken(f"{image}: {command[0]}: {said}; work without a file system of its own: --in-place")
