"""Clients and crowds that mean no good: ``python scripts/hostile --help``.

What a test may only do briefly: a million inputs, a thousand subscribers, twenty times two thousand directories.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"

# The mounts and the client of the control socket are the tests' own, and have no package.
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
