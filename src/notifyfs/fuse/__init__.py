"""The kernel side: requests of /dev/fuse, notes to the kernel, and when what it was told can be seen.

Law: the only place that knows pyfuse3 and /dev/fuse. It translates; what is done, ``passthrough`` does.
"""
