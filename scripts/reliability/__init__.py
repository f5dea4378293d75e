"""Real work on the mount, for longer than a test may take: ``python scripts/reliability --help``.

What it has shown is in ``docs/reliability.md``.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"

# The mount is the tests' own (pytest puts its directory on the path likewise).
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
