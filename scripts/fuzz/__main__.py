"""``python -m scripts.fuzz``: see ``--help``. Exit code 1 when a difference is unexplained."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path


def main() -> int:
    """Run until a limit; print the findings and one line of totals."""
    parser = argparse.ArgumentParser(
        prog="fuzz",
        description="Random operations on a mount: the kernel's inotify and notifyfs must say the same.",
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="default: a random one, printed")
    parser.add_argument("--session", type=int, help="only the session of this number")
    parser.add_argument("--operations", type=int, default=1 << 62, help="end after so many (default: no limit)")
    parser.add_argument("--seconds", type=float, help="end after so many (default: 60, or none with --operations)")
    parser.add_argument("--processes", type=int, default=3, help="how many work at most (default: 3)")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first unexplained difference")
    parser.add_argument("--out", type=Path, help="directory for the scenario files of what is found")
    parser.add_argument("--replay", type=Path, help="play a file that --out wrote, and nothing else")
    arguments = parser.parse_args()

    from scripts.fuzz.fuzzer import Fuzzer  # noqa: PLC0415 - `--help` needs no pytest
    from scripts.fuzz.steps import parse  # noqa: PLC0415 - the same

    seconds = arguments.seconds or (60 if arguments.operations == 1 << 62 else float("inf"))
    with Fuzzer(arguments.seed, arguments.processes, lambda line: print(line, flush=True)) as fuzzer:
        if arguments.replay is not None:
            lines = arguments.replay.read_text(encoding="utf-8").splitlines()
            options = [line.split()[1:] for line in lines if line.startswith("@options")]
            difference = fuzzer.replay(parse(lines), tuple(options[0]) if options else ())
            print(difference or "no difference")
            return bool(difference)
        totals = fuzzer.run(
            operations=arguments.operations, seconds=seconds, keep_going=arguments.keep_going, only=arguments.session
        )
    for finding in totals.findings:
        print(f"\n===== session {finding.seed}: {finding.what}\n{finding.scenario}")
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"fuzz-{finding.seed}.txt").write_text(finding.scenario, encoding="utf-8")
    print(f"seed {arguments.seed}: {totals}")
    return bool(totals.findings)


if __name__ == "__main__":
    sys.exit(main())
