"""``python -m scripts.reliability``: see ``--help``. Exit code 1 when it was not done right, and why."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    options = argparse.ArgumentParser(
        prog="reliability", description="Real work on a notifyfs mount, checked by the programs' own means. Needs root."
    )
    options.add_argument("--plain", action="store_true", help="on a plain directory instead, to compare the times")
    options.add_argument(
        "--under",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where to make the place (default: that for temporary files)",
    )
    options.add_argument("--option", "-o", action="append", default=[], help="a mount option, besides allow_other")
    commands = options.add_subparsers(dest="command", required=True, metavar="WORKLOAD")
    build = commands.add_parser("build", help="build Debian's zlib and sqlite3, and run their tests, as nobody")
    build.add_argument("--sources", type=Path, help="where `apt-get source` has put them (default: get them by it)")
    build.add_argument("--only", choices=("zlib", "sqlite3"), help="only this one")
    database = commands.add_parser("postgresql", help="initdb, pgbench with a kill -9 halfway, recovery, amcheck, dump")
    database.add_argument("--seconds", type=int, default=300, help="of pgbench in all (default: 300)")
    database.add_argument("--scale", type=int, default=10, help="pgbench's (default: 10, which is 150 MB)")
    database.add_argument("--clients", type=int, default=8, help="pgbench's (default: 8)")
    wal = commands.add_parser(
        "sqlite", help="four writers and two readers on one database in WAL mode, one writer killed"
    )
    wal.add_argument("--seconds", type=int, default=60, help="of writing (default: 60)")
    wal.add_argument("--writers", type=int, default=4, help="how many (default: 4)")
    return options


def main() -> int:
    """Do one workload in a new place; print what was seen."""
    options = parser()
    arguments = options.parse_args()
    if os.geteuid():
        options.error("root is needed, to mount for all users and to be them: run it by sudo")

    from scripts.reliability import build as building  # noqa: PLC0415 - `--help` needs no pytest
    from scripts.reliability import postgresql, sqlite  # noqa: PLC0415 - the same
    from scripts.reliability.stage import Failed, stage  # noqa: PLC0415 - the same

    # Whoever ends it wants the mount to go, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    try:
        with stage(arguments.under, arguments.option, plain=arguments.plain) as place:
            if arguments.command == "build":
                building.work(place, arguments.sources, arguments.only)
            elif arguments.command == "postgresql":
                postgresql.work(place, seconds=arguments.seconds, scale=arguments.scale, clients=arguments.clients)
            else:
                sqlite.work(place, seconds=arguments.seconds, writers=arguments.writers)
    except (Failed, AssertionError) as failure:
        print(f"{arguments.command}: FAILED: {failure}", file=sys.stderr)
        return 1
    print(f"{arguments.command}: all as it should be, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
