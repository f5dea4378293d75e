"""``notifyfs watch``: inotifywait 3.22 for a notifyfs mount."""

from notifyfs.commands.watch.command import watch

__all__ = ["watch"]
