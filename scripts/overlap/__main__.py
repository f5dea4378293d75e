"""``python -m scripts.overlap``: see ``--help``. Exit code 1 when something was told that cannot be."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Run until a limit; print what contradicts, where the logs are, and one line of totals."""
    parser = argparse.ArgumentParser(
        prog="overlap", description="Operations at once on a mount: what is told of them must be a possible history."
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="default: a random one, printed")
    parser.add_argument("--operations", type=int, default=1 << 62, help="end after so many (default: no limit)")
    parser.add_argument("--seconds", type=float, help="end after so many (default: 60, or none with --operations)")
    parser.add_argument("--processes", type=int, default=6, help="how many work at once (default: 6)")
    parser.add_argument(
        "--source", choices=["disk", "memory", "leases", "apart", "fuse"], help="default: one after the other"
    )
    parser.add_argument("--option", action="append", default=[], help="of all mounts (default: others for each)")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first contradiction")
    parser.add_argument("--out", type=Path, help="directory for the logs of what is found (default: /tmp/overlap-SEED)")
    parser.add_argument("--check", type=Path, metavar="LOG", help="check a log again, and nothing else")
    arguments = parser.parse_args()

    from scripts.overlap.arena import Arena  # noqa: PLC0415 - `--help` needs no pytest
    from scripts.overlap.check import check  # noqa: PLC0415 - the same
    from scripts.overlap.log import Log  # noqa: PLC0415 - the same
    from scripts.overlap.sources import KINDS  # noqa: PLC0415 - the same

    if arguments.check is not None:
        found = check(Log.load(arguments.check))
        print("\n".join(found) or "no contradiction")
        return bool(found)
    seconds = arguments.seconds or (60 if arguments.operations == 1 << 62 else float("inf"))
    kinds = (arguments.source,) if arguments.source else KINDS
    out = arguments.out or Path(tempfile.gettempdir()) / f"overlap-{arguments.seed}"
    options = tuple(arguments.option)
    with Arena(arguments.seed, arguments.processes, kinds, _say, out=out, options=options) as arena:
        totals = arena.run(operations=arguments.operations, seconds=seconds, keep_going=arguments.keep_going)
    print(f"--seed {arguments.seed} --processes {arguments.processes}: {totals}")
    return bool(totals.findings)


if __name__ == "__main__":
    sys.exit(main())
