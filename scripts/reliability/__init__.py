"""Real work on the mount, for longer than a test may take: ``python -m scripts.reliability --help``.

What it has shown is in ``docs/reliability.md``.
"""
