"""``python -m scripts.bench``: see ``--help``. Exit code 1 when the benchmark itself breaks, never for a time."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> int:
    """Measure, write, and print what was reached."""
    from scripts.bench import report  # noqa: PLC0415 - the path is set above
    from scripts.bench.measuring import Results  # noqa: PLC0415 - as above
    from scripts.bench.plan import GROUPS, Settings, measure  # noqa: PLC0415 - as above
    from scripts.bench.processes import Broken  # noqa: PLC0415 - as above

    parser = argparse.ArgumentParser(
        prog="bench",
        description="notifyfs side by side with the plain directory and with the programs that people use instead."
        " Needs root.",
    )
    parser.add_argument("--quick", action="store_true", help="everything tiny: tries the benchmark, measures nothing")
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}")
    parser.add_argument("--rounds", type=int, help="how often each thing is measured (default: 5; 1 with --quick)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - a new directory is made in it
        help="where to work (default: /var/tmp)",
    )
    parser.add_argument(
        "--in-place", action="store_true", help="in the directory itself, not in a new ext4 in a file there"
    )
    parser.add_argument(
        "--largest", type=int, help="files in the largest tree (default: 100,000; 1,000,000 takes ten minutes more)"
    )
    parser.add_argument("--cpus", type=int, nargs="+", help="use only these processors")
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write benchmarks.json, .md and .svg (default: docs; with --quick or --only it prints the page)",
    )
    parser.add_argument("--report", action="store_true", help="measure nothing; write the rest from benchmarks.json")
    arguments = parser.parse_args()
    output = arguments.output or (None if arguments.quick or arguments.only else DOCS)
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds: one at least")

    # Whoever ends it wants the mounts to go, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if arguments.report:
            results = Results.read((output or DOCS) / report.RESULTS)
        else:
            if os.geteuid():
                parser.error("root is needed, to mount and to trace: run it by sudo")
            if arguments.cpus:
                os.sched_setaffinity(0, arguments.cpus)
            results = measure(
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


if __name__ == "__main__":
    sys.exit(main())
