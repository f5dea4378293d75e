"""``python -m scripts.recursive``: see ``--help``. Exit code 1 when there is a difference."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Run until enough was compared; print what differs and one line of totals."""
    parser = argparse.ArgumentParser(
        prog="recursive",
        description="Recursive watches of several users must tell what the kernel's watches on each directory tell.",
    )
    parser.add_argument("--events", type=int, default=20000, help="end when so many were compared (default: 20,000)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="default: a random one, printed")
    parser.add_argument("--session", type=int, help="only the session of this number")
    parser.add_argument("--keep-going", action="store_true", help="do not end at the first difference")
    arguments = parser.parse_args()

    from tests.conftest import Mount  # noqa: PLC0415 - `--help` needs no pytest

    from scripts.recursive.comparer import run  # noqa: PLC0415 - the same

    with tempfile.TemporaryDirectory(prefix="notifyfs-recursive-") as base:
        directory = Path(base)
        directory.chmod(0o755)
        mount = Mount(directory, ("allow_other",))
        try:
            totals = run(
                mount,
                arguments.seed,
                lambda line: print(line, flush=True),
                events=arguments.events,
                only=arguments.session,
                keep_going=arguments.keep_going,
            )
        finally:
            mount.finish()
    for finding in totals.findings:
        print(f"\n===== session {finding.session}: {finding.what}\n")
        print("\n".join(finding.transcript))
    print(f"seed {arguments.seed}: {totals}")
    return bool(totals.findings)


if __name__ == "__main__":
    sys.exit(main())
