"""The source: what is asked is done there, by descriptors, and said as a value.

Law: no FUSE binding, no event loop, no subscriber; every function can be tried on a directory.
"""
