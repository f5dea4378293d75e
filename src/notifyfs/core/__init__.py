"""The inotify model: what Linux would say, given what happened.

Law: nothing here performs I/O, waits, logs or reads a clock, and nothing
imports trio, pyfuse3, socket or os. ``tests/pure/test_layers.py`` enforces it.
What a room needs from the outside (is the last record still unread? what time
is it?) is handed to it as a value or as a function.
"""
