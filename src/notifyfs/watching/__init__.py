"""``notifyfs watch``: inotifywait 3.22 for a notifyfs mount."""

from notifyfs.watching.command import watch

__all__ = ["watch"]
