"""One mount, from its start to its end.

Law: the only room that joins ``fuse`` and ``subscribers``. It gives each part what it needs when it makes it,
and decides nothing that a part could decide.
"""
