"""``python -m scripts.compare``: see ``--help``. Exit code 1 when the mount and the plain directory differ."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.compare.known import KNOWN

if TYPE_CHECKING:
    from scripts.compare.comparer import Comparer, Found


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    options = argparse.ArgumentParser(
        prog="compare",
        description="Random operations by several processes and users, on a plain directory and on a mount: each result"
        " must be the same, and so must both trees. Needs root.",
    )
    options.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="default: a random one, printed")
    options.add_argument("--operations", type=int, default=20_000, help="of each process (default: 20,000)")
    options.add_argument("--processes", type=int, default=4, help="how many (default: 4)")
    options.add_argument("--session", type=int, default=5000, help="operations until all begins anew (default: 5,000)")
    options.add_argument("--only", type=int, metavar="N", help="only the session of this number")
    options.add_argument(
        "--source",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where to make both trees: on the file system to be tried (default: that for temporary files)",
    )
    options.add_argument(
        "--option", "-o", action="append", default=[], help="a mount option, besides allow_other,suid,dev"
    )
    options.add_argument(
        "--include", action="append", default=[], choices=KNOWN, help="also what is known to differ by this"
    )
    options.add_argument(
        "--replay", type=Path, metavar="FILE", help="do the operations in this file, one in a line, and no other"
    )
    return options


def main() -> int:
    """Compare; print the difference that was found, or one line."""
    options = parser()
    arguments = options.parse_args()
    if os.geteuid():
        options.error("root is needed, to mount for all users and to be them: run it by sudo")

    from scripts.compare.comparer import Comparer  # noqa: PLC0415 - `--help` needs no pytest

    # Whoever ends it wants the mount to go, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    without = frozenset(KNOWN) - frozenset(arguments.include)

    def say(line: str) -> None:
        print(f"\r{line} ", end="", flush=True, file=sys.stderr)

    with Comparer(arguments.source, arguments.option, say, without) as comparer:
        if arguments.replay is not None:
            return replayed(comparer, arguments.replay, without)
        found = comparer.run(
            arguments.seed,
            arguments.processes,
            arguments.operations,
            arguments.session,
            only=arguments.only,
        )
    print(file=sys.stderr)
    again = f"--seed {arguments.seed} --processes {arguments.processes} --operations {arguments.operations}"
    if found is not None:
        print(f"{again}: process {found.process} found after {found.done} operations:\n{found.what}")
        return kept(found, Path(tempfile.gettempdir()) / f"notifyfs-compare-{arguments.seed}.operations")
    total = arguments.processes * arguments.operations
    print(f"{again}: {total} operations, {time.monotonic() - began:.0f} s: no difference")
    print("outcomes: " + ", ".join(f"{number} {outcome}" for outcome, number in comparer.outcomes.most_common()))
    return 0


def replayed(comparer: Comparer, file: Path, without: frozenset[str]) -> int:
    """Do the operations in *file*; the exit code."""
    from scripts.compare.worker import replay  # noqa: PLC0415 - `--help` needs no pytest

    history = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
    shown = replay(comparer.places, 0, history, trees_every=1, without=without)
    print("no difference" if shown is None else shown[1])
    return shown is not None


def kept(found: Found, out: Path) -> int:
    """Write to *out* what shows the difference again, and say so; the exit code."""
    out.write_text("".join(json.dumps(each) + "\n" for each in found.fewest or found.prefix), encoding="ascii")
    if found.fewest:
        print(f"shortest prefix of its session: {len(found.prefix)} operations, of which these are enough:")
        print("\n".join(map(json.dumps, found.fewest)))
    else:
        print(f"it does not show again when the process does its {len(found.prefix)} operations alone")
    print(f"again: --replay {out}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
