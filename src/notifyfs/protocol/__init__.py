"""Bytes and values of the control socket.

Law: no I/O. Server, clients and what is generated from here share it; nothing here imports anything else of ours.
"""
