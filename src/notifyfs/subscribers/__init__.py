"""The subscriber side: one connection on the control socket is one inotify instance.

Law: it knows nothing of FUSE.
"""
