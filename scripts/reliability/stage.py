"""A place to work in, plain or mounted, and the programs that work there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from tests.conftest import Mount

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence


class Failed(Exception):  # noqa: N818 - what is said of the workload
    """The workload did not do what it does on a plain directory."""


@attrs.frozen
class Place:
    """*root* is where the work is done, *source* the same without notifyfs; *aside* is not mounted."""

    root: Path
    source: Path
    aside: Path
    mount: Mount | None

    def check(self) -> None:
        """AssertionError if the daemon has ended or has logged an exception."""
        if self.mount is not None:
            self.mount.check()

    def directory(self, name: str, user: str) -> Path:
        """Make an empty directory of *user*'s, here."""
        made = self.root / name
        made.mkdir(mode=0o755)
        shutil.chown(made, user)
        return made


@contextlib.contextmanager
def stage(under: Path, options: Sequence[str], *, plain: bool) -> Iterator[Place]:
    """A place below *under*, which goes away afterwards if all went well."""
    base = Path(tempfile.mkdtemp(prefix="notifyfs-reliability-", dir=under))
    base.chmod(0o755)
    aside = base / "aside"
    aside.mkdir(mode=0o1777)
    aside.chmod(0o1777)
    if plain:
        root = base / "plain"
        root.mkdir()
        yield Place(root, root, aside, None)
    else:
        mount = Mount(base / "stage", ("allow_other", *options))
        ok = False
        try:
            yield Place(mount.root, mount.source, aside, mount)
            ok = True
        finally:
            if ok:
                mount.finish(60)
            else:
                with contextlib.suppress(AssertionError):
                    mount.finish(60)
    shutil.rmtree(base)


def run(
    *command: str | Path,
    user: str,
    directory: Path,
    seconds: float = 900,
    environment: Mapping[str, str] | None = None,
    codes: Container[int] = (0,),
) -> str:
    """What a program of *user*'s has said; Failed with the end of it, unless it ended with one of *codes*."""
    settings = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(directory)}
    done = subprocess.run(
        command,
        cwd=directory,
        env=settings | dict(environment or {}),
        user=user,
        group=group_of(user),
        extra_groups=[],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    said = done.stdout.decode(errors="replace")
    if done.returncode not in codes:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said[-4000:]}")
    return said


def group_of(user: str) -> int:
    """The number of the group that *user* has by default."""
    import pwd  # noqa: PLC0415 - only root comes here

    return pwd.getpwnam(user).pw_gid


class Clock:
    """Prints what has been done, and how long it took."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def done(self, what: str) -> None:
        """*what* was done since the last time."""
        now = time.monotonic()
        print(f"{now - self._last:8.1f} s  {what}", flush=True)
        self._last = now


def cores() -> str:
    """For make's ``-j``."""
    return str(os.cpu_count() or 1)
