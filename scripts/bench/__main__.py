"""``python -m scripts.bench``: see ``--help``. Exit code 1 when the benchmark itself breaks, never for a time."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from scripts import ROOT
from scripts.bench import report
from scripts.bench.measuring import Results
from scripts.bench.plan import GROUPS, Settings, measure
from scripts.bench.processes import Broken

DOCS = ROOT / "docs"


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    options = argparse.ArgumentParser(
        prog="bench",
        description="notifyfs side by side with the plain directory and with the programs that people use instead."
        " Needs root.",
    )
    options.add_argument("--quick", action="store_true", help="everything tiny: tries the benchmark, measures nothing")
    options.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    options.add_argument("--rounds", type=int, help="how often each thing is measured (default: 5; 1 with --quick)")
    options.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - a new directory is made in it
        help="where to work (default: /var/tmp)",
    )
    options.add_argument(
        "--in-place", action="store_true", help="in the directory itself, not in a new ext4 in a file there"
    )
    options.add_argument(
        "--largest", type=int, help="files in the largest tree (default: 100,000; 1,000,000 takes ten minutes more)"
    )
    options.add_argument("--cpus", type=int, nargs="+", help="use only these processors")
    options.add_argument(
        "--output",
        type=Path,
        help="where to write benchmarks.json, .md and .svg (default: docs; with --quick or --only it prints the page)",
    )
    options.add_argument("--report", action="store_true", help="measure nothing; write the rest from benchmarks.json")
    return options


def main() -> int:
    """Measure, write, and print what was reached."""
    options = parser()
    arguments = options.parse_args()
    output = arguments.output or (None if arguments.quick or arguments.only else DOCS)
    if arguments.rounds is not None and arguments.rounds < 1:
        options.error("--rounds: one at least")
    if os.geteuid() and not arguments.report:
        options.error("root is needed, to mount and to trace: run it by sudo")

    # Whoever ends it wants the mounts to go, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        results = Results.read((output or DOCS) / report.RESULTS) if arguments.report else measured(arguments)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            results.write(output / report.RESULTS)
            report.write(results, output)
    except (Broken, OSError) as broken:
        print(f"bench: {broken}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is left mounted", file=sys.stderr)
        return 130
    print(report.page(results) if output is None else report.summary(results))
    return 0


def measured(arguments: argparse.Namespace) -> Results:
    """Measure what was asked for. Broken, OSError: it cannot be done."""
    if arguments.cpus:
        os.sched_setaffinity(0, arguments.cpus)
    return measure(
        Settings(
            arguments.directory,
            arguments.only or GROUPS,
            arguments.rounds or (1 if arguments.quick else 5),
            arguments.quick,
            arguments.in_place,
            arguments.largest or (2000 if arguments.quick else 100_000),
            " ".join(["python -m scripts.bench", *sys.argv[1:]]),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
