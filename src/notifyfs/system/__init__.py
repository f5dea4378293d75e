"""What Python lacks of Linux: system calls, identities of a thread, what /proc says of a caller.

Law: it imports nothing else of ours but ``protocol``.
"""
