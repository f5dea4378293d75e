"""The comparer: ``python -m scripts.compare --help``.

Several processes do the same random operations on a plain directory and on a mount, as root and as other users. Each
result must be the same, and in the end both trees.
"""
