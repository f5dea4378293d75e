"""What kind of session it is, and the steps of one whose processes run freely."""

# ruff: noqa: PLR2004 - the numbers are chances
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scripts.fuzz.steps import Step

if TYPE_CHECKING:
    import random


class Profile(NamedTuple):
    """What kind of session it is."""

    options: tuple[str, ...]
    processes: int
    instances: int
    drains: float
    """How often a reading follows a step: rare readings let events merge."""
    references: bool
    """O_PATH descriptors and working directories (parity: U4)."""
    pages: bool
    """Reads of cached pages and stores through maps (parity: R1, R2, W6, W7)."""
    links: bool
    """Hard links."""
    free: bool
    """The processes run without pause, each in its own directory."""
    length: int

    @classmethod
    def choose(cls, chance: random.Random, processes: int) -> Profile:
        """Pick one."""
        options = chance.choices(
            [(), ("access=exact",), ("cache=always",), ("cache=never",), ("access=exact", "cache=never")],
            [10, 5, 2, 2, 1],
        )[0]
        free = chance.random() < 0.1
        pages = not free and "access=exact" not in options and chance.random() < 0.12
        count = max(2, processes) if free else chance.randint(1, processes)
        return cls(
            options=options,
            processes=count,
            instances=count if free else chance.choice([1, 1, 2, 3]),
            drains=chance.choice([0.03, 0.1, 0.4, 1.0]),
            references=not free and chance.random() < 0.2,
            pages=pages,
            links=chance.random() < 0.6,
            free=free,
            length=chance.choice([40, 80, 150]),
        )


def freely(chance: random.Random, process: int, count: int) -> list[Step]:
    """A list of steps below ``/pN``, made without looking: many of them fail, and none waits."""
    root = f"/p{process}"
    files = [f"{root}/{name}" for name in ("a", "b", "d/a", "d/b", "e/a")]
    directories = [f"{root}/d", f"{root}/e", f"{root}/d/s"]
    handles = ["h1", "h2", "h3"]
    steps: list[tuple[str, ...]] = []
    for _ in range(count):
        pick, handle = chance.choice(files), chance.choice(handles)
        steps += chance.choice(
            [
                [("touch", pick)],
                [("put", pick)],
                [("append", pick)],
                [("cat", pick)],
                [("unlink", pick)],
                [("mkdir", chance.choice(directories))],
                [("rmdir", chance.choice(directories))],
                [("mv", pick, chance.choice(files))],
                [("mv", chance.choice(directories), chance.choice(directories))],
                [("mv", pick, chance.choice(files), "exchange")],
                [("chmod", "600", pick)],
                [("truncate", pick, "3")],
                [("utimes", pick, "now", "omit")],
                [("setxattr", pick, "user.a")],
                [("symlink", "a", pick)],
                [("ls", chance.choice([root, *directories]))],
                [("close", handle), ("open", pick, chance.choice(["RDONLY", "RDWR", "RDWR|CREAT"]), "as", handle)],
                [("write", handle, "text")],
                [("write", handle, "text")],
                [("close", handle)],
            ]
        )
    steps += [("close", handle) for handle in handles]
    return [Step(words, process) for words in steps]
