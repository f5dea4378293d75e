"""The differential fuzzer: ``python -m scripts.fuzz --help``.

Random operations on one mount, heard by the kernel's inotify and by notifyfs; whatever differs and is not in
``allowed.ROWS`` is a finding, and is shrunk to a file in the language of ``tests/scenarios``.
"""
