"""``python -m notifyfs``."""

from __future__ import annotations

from notifyfs.commands.main import main

if __name__ == "__main__":
    main()
