"""The fuzzer of operations that overlap: ``python -m scripts.overlap --help``.

Processes work at once in one small tree. What each subscriber hears must be a possible history of it: the rules are
those of docs/architecture.md (When operations overlap), and ``check`` is where they are asked.
"""
