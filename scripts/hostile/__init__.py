"""Clients and crowds that mean no good: ``python -m scripts.hostile --help``.

What a test may only do briefly: a million inputs, a thousand subscribers, twenty times two thousand directories.
"""
