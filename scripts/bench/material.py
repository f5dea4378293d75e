"""What the real work is done with: a source tree, its archive and its git repository, a C program, wheels.

The tree is made up, the same each time; so the benchmark needs no network.
"""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import os
import random
import shutil
import sys
from typing import TYPE_CHECKING, Final

import attrs

from scripts.bench.peers import FETCHED
from scripts.bench.processes import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WORDS: Final = ("watch", "event", "inode", "queue", "mount", "name", "reader", "while", "return", "import", "self")
NEEDLE: Final = "needle-in-the-tree"
ONE_IN: Final = 50
"""How rare the files are that have the needle."""

C_FILE: Final = """#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common.h"

{functions}
int run_{number}(int argument)
{{
    return {calls};
}}
"""
C_FUNCTION: Final = """static int part_{number}_{part}(int argument)
{{
    char text[64];
    snprintf(text, sizeof text, "%d {number} {part}", argument);
    return (int) strlen(text) * argument + {part};
}}
"""
MAKEFILE: Final = """objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: $(objects)
\tgcc -o $@ $^
%.o: %.c common.h
\tgcc -O1 -c -o $@ $<
"""


@attrs.frozen
class Material:
    """All of it below one directory, which is on no peer's mount."""

    directory: Path
    files: int
    """In the tree."""
    wheels: Sequence[Path]
    """To install; empty if there are none."""

    @property
    def tree(self) -> Path:
        """A source tree, which is a git repository too."""
        return self.directory / "tree"

    @property
    def archive(self) -> Path:
        """The tree without its repository."""
        return self.directory / "tree.tar"

    @property
    def program(self) -> Path:
        """C files and a makefile."""
        return self.directory / "program"


def make(directory: Path, *, quick: bool) -> Material:
    """Make it in the new directory *directory*."""
    directory.mkdir()
    wheels = sorted((FETCHED / "wheels").glob("*.whl"), key=lambda wheel: wheel.stat().st_size)
    material = Material(directory, 30 if quick else 2000, wheels[:1] if quick else wheels)
    _tree(material.tree, material.files)
    run("tar", "-cf", material.archive, "tree", directory=directory)
    if shutil.which("git"):
        for words in (
            ["init", "--quiet", "--initial-branch=main"],
            ["add", "."],
            ["-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "all"],
            ["gc", "--quiet"],
        ):
            run("git", *words, directory=material.tree, environment=environment(directory))
    _program(material.program, 2 if quick else 30)
    return material


def environment(home: Path) -> dict[str, str]:
    """Settings of nobody in particular; git without its fsync, which would measure the disk."""
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsync",
        "GIT_CONFIG_VALUE_0": "none",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VIRTUAL_ENV": sys.prefix,
    }


def _tree(top: Path, files: int) -> None:
    chance = random.Random(6)
    directories = [top]
    top.mkdir()
    for number in range(files):
        if number % 12 == 0:
            parent = chance.choice(directories[-20:])
            made = parent / f"package{number}"
            made.mkdir()
            directories.append(made)
        size = min(200_000, int(chance.lognormvariate(8, 1.2)))
        line = " ".join(chance.choices(WORDS, k=12)) + "\n"
        text = line * (size // len(line) + 1)
        if number % ONE_IN == 0:
            text += NEEDLE + "\n"
        (directories[-1] / f"module{number}.py").write_text(text, encoding="ascii")


def _program(directory: Path, files: int) -> None:
    directory.mkdir()
    (directory / "Makefile").write_text(MAKEFILE, encoding="ascii")
    names = [f"run_{number}" for number in range(files)]
    (directory / "common.h").write_text("".join(f"int {name}(int);\n" for name in names), encoding="ascii")
    for number in range(files):
        parts = range(10)
        text = C_FILE.format(
            number=number,
            functions="\n".join(C_FUNCTION.format(number=number, part=part) for part in parts),
            calls=" + ".join(f"part_{number}_{part}(argument)" for part in parts),
        )
        (directory / f"part{number}.c").write_text(text, encoding="ascii")
    calls = " + ".join(f"{name}(argc)" for name in names)
    main = (
        f'#include "common.h"\nint main(int argc, char **argv)\n{{\n    (void) argv;\n    return ({calls}) == 0;\n}}\n'
    )
    (directory / "main.c").write_text(main, encoding="ascii")
