"""The benchmark: ``python -m scripts.bench --help``.

Every figure is a ratio of things measured side by side in one run. ``docs/benchmarks.md`` is written from its results.
"""
