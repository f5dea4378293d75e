"""Real work: what people run on a directory, timed as a whole."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.bench.material import NEEDLE, ONE_IN, environment
from scripts.bench.measuring import clocked
from scripts.bench.micro import stat
from scripts.bench.processes import Broken, run, within

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scripts.bench.material import Material
    from scripts.bench.measuring import Course
    from scripts.bench.peers import Place

HANGS = 90.0
LATER = 1.2
"""Seconds after which names and attributes are asked for again, where the kernel may trust them for one."""


class Session:
    """Work in a new directory of a place; each step's time by its name."""

    def __init__(self, place: Place, material: Material, *, quick: bool) -> None:
        self.material = material
        self.times: dict[str, float] = {}
        self._later = LATER if place.mounted and not quick else 0.0
        self._environment = environment(material.directory)
        self.directory = Path(tempfile.mkdtemp(prefix="real-", dir=place.root))

    def step(self, name: str, *command: str | Path, directory: Path | None = None) -> None:
        """Run and time a program."""
        with clocked() as clock:
            run(*command, directory=directory or self.directory, environment=self._environment)
        self.times[name] = clock.seconds

    def wait(self) -> None:
        """Until what the kernel was told is old."""
        time.sleep(self._later)


def _tree(session: Session) -> None:
    """Unpack, look around, search, remove."""
    tree = session.directory / "tree"
    session.step("tar x", "tar", "-xf", session.material.archive)
    session.step("find -ls", "find", tree, "-ls")
    session.step("find -ls, again", "find", tree, "-ls")
    paths = [os.path.join(top, name) for top, _, names in os.walk(tree) for name in names]
    stat(paths)
    with clocked() as clock:
        stat(paths)
    session.times["stat storm"] = clock.seconds
    session.wait()
    with clocked() as clock:
        stat(paths)
    session.times["stat storm, later"] = clock.seconds
    session.wait()
    session.step("find -ls, later", "find", tree, "-ls")
    if len(paths) != session.material.files:
        raise OSError(f"{tree} has {len(paths)} files after tar x, not {session.material.files}")
    session.step("grep -r", "grep", "-r", "-l", NEEDLE, tree)
    if shutil.which("rg"):
        session.step("ripgrep", "rg", "-uu", "-l", NEEDLE, tree)
    session.step("rm -rf", "rm", "-rf", tree)
    if tree.exists():
        raise OSError(f"{tree} is still there after rm -rf")


def _git(session: Session) -> None:
    """Clone through git's own transport, and ask twice what has changed."""
    clone = session.directory / "clone"
    source = f"file://{session.material.tree}"
    session.step("git clone", "git", "clone", "--quiet", "--template=", source, clone)
    session.step("git status, first", "git", "status", "--porcelain", directory=clone)
    session.step("git status, second", "git", "status", "--porcelain", directory=clone)
    session.wait()
    session.step("git status, later", "git", "status", "--porcelain", directory=clone)
    if len(list(clone.rglob(f"module{ONE_IN // 2}.py"))) != 1:
        raise OSError(f"{clone} is not complete")


def _pip(session: Session) -> None:
    """Install wheels, with their bytecode, as pip does by itself."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed"]
    words += ["--no-warn-script-location", "--root-user-action=ignore"]
    session.step("pip install", *words, "--prefix", session.directory / "prefix", *session.material.wheels)


def _compile(session: Session) -> None:
    """Compile and link thirty C files by two jobs."""
    program = session.directory / "program"
    shutil.copytree(session.material.program, program)
    session.step("compile", "make", "-s", "-j2", "program", directory=program)
    if not (program / "program").exists():
        raise OSError(f"{program} has no program after make")


def measure(course: Course, places: Mapping[str, Place], material: Material) -> None:
    """Do all of it in each place; what cannot be done here is left out, and said."""
    works: dict[str, tuple[Callable[[Session], None], str]] = {
        "tree": (_tree, ""),
        "git": (_git, "" if shutil.which("git") else "git is not installed"),
        "pip": (_pip, "" if material.wheels else "no wheels: run scripts/setup bench"),
        "compile": (_compile, "" if shutil.which("make") and shutil.which("gcc") else "make or gcc is not installed"),
    }
    for what, (work, lacking) in works.items():
        if lacking:
            course.results.about.setdefault("left out", {})[what] = lacking
        else:
            course.alternate("real", what, places, functools.partial(_sample, work, material, quick=course.quick))


def _sample(work: Callable[[Session], None], material: Material, place: Place, *, quick: bool) -> dict[str, float]:
    # What the place before has written must not be charged to this one.
    subprocess.run(["/bin/sync", "-f", material.directory], check=True)
    with within(HANGS, place.process):
        session = Session(place, material, quick=quick)
        work(session)
        shutil.rmtree(session.directory)
    if not session.times:
        raise Broken(f"{work.__name__} did nothing")
    return session.times
