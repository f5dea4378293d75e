"""The differential fuzzer: ``python scripts/fuzz --help``.

Random operations on one mount, heard by the kernel's inotify and by notifyfs; whatever differs and is not in
``allowed.ROWS`` is a finding, and is shrunk to a file in the language of ``tests/scenarios``.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"

# The scenario machinery is the tests' own: it has no package (pytest puts its directory on the path likewise).
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
