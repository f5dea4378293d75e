"""What is run by hand, and by CI: ``python -m scripts.NAME --help``."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
"""The project: where ``python -m`` finds ``scripts`` and ``tests``."""
