"""The command line.

Law: a command imports what it needs when it runs, and ``--help`` loads neither pyfuse3 nor trio. ``compose`` is the
one door to the daemon; everything else is asked of the mount table, the registry and the control socket.
"""
