"""The comparer: ``python scripts/compare --help``.

Several processes do the same random operations on a plain directory and on a mount, as root and as other users. Each
result must be the same, and in the end both trees.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"

# The mount is the tests' own (pytest puts its directory on the path likewise).
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
