"""Bytes of /dev/fuse that pyfuse3 neither reads nor writes: notes to the kernel, and a connection served by hand.

Facts: fuse(4), Linux ``include/uapi/linux/fuse.h``.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import struct
from time import monotonic
from typing import Final

import attrs

ROOT: Final = 1
"""The node number of the root directory."""

LOOKUP: Final = 1
FORGET: Final = 2
GETATTR: Final = 3
UNLINK: Final = 10
OPEN: Final = 14
RELEASE: Final = 18
INIT: Final = 26
INTERRUPT: Final = 36
BATCH_FORGET: Final = 42
UNANSWERED: Final = frozenset({FORGET, INTERRUPT, BATCH_FORGET})

_REQUEST: Final = struct.Struct("=IIQQIIIHxx")  # struct fuse_in_header
_ANSWER: Final = struct.Struct("=IiQ")  # struct fuse_out_header
_INIT: Final = struct.Struct("=IIIIHHIIHHIIH22x")  # struct fuse_init_out
_INIT_IN: Final = struct.Struct("=IIIII")  # struct fuse_init_in, up to flags2
_ATTRIBUTES: Final = struct.Struct("=6Q10I")  # struct fuse_attr
_ENTRY_NOTE: Final = struct.Struct("=QII")  # struct fuse_notify_inval_entry_out
_INODE_NOTE: Final = struct.Struct("=Qqq")  # struct fuse_notify_inval_inode_out

_NOTIFY_INVAL_INODE: Final = 2
_NOTIFY_INVAL_ENTRY: Final = 3
_EXPIRE_ONLY: Final = 1

_INIT_EXT: Final = 1 << 30
_REQUEST_TIMEOUT: Final = 1 << (42 - 32)  # of flags2
_LARGEST: Final = 1 << 17  # bytes of a request: 128 KiB of data and 4 KiB are asked for
_LONG: Final = 3600  # seconds for which an answer holds: longer than the connection lasts


def expire_entry(fuse: int, parent: int, name: bytes) -> None:
    """Let the next use of *name* in *parent* begin with a LOOKUP. Raises OSError: ENOENT, ENOTDIR, ENOTCONN.

    Takes the lock of *parent*, be it a directory or not, on Linux up to 6.18; of later ones see docs/architecture.md.
    """
    body = _ENTRY_NOTE.pack(parent, len(name), _EXPIRE_ONLY) + name + b"\0"
    _note(fuse, _NOTIFY_INVAL_ENTRY, body)


def forget_attributes(fuse: int, number: int) -> None:
    """Let the kernel ask for the attributes and the access list of this node before it uses them again.

    No lock is taken (kernel: ``fuse_reverse_inval_inode``). Raises OSError.
    """
    _note(fuse, _NOTIFY_INVAL_INODE, _INODE_NOTE.pack(number, -1, 0))


def drop_pages(fuse: int, number: int) -> None:
    """The same, and its content: waits for reads under way, whose pages are locked. Raises OSError."""
    _note(fuse, _NOTIFY_INVAL_INODE, _INODE_NOTE.pack(number, 0, 0))


def _note(fuse: int, code: int, body: bytes) -> None:
    os.write(fuse, _ANSWER.pack(_ANSWER.size + len(body), code, 0) + body)


@attrs.frozen
class Request:
    """What the kernel asks; *body* is what follows the header."""

    opcode: int
    unique: int
    node: int
    body: bytes


class Device:
    """A connection that is served by hand. Requests are taken one by one; nothing is answered by itself."""

    def __init__(self, fuse: int) -> None:
        self.fuse = fuse
        os.set_blocking(fuse, False)

    def take(self, until: float) -> Request:
        """The next request. TimeoutError if there is none *until* then (of ``time.monotonic``)."""
        poll = select.poll()
        poll.register(self.fuse, select.POLLIN)
        while (left := until - monotonic()) > 0 and poll.poll(left * 1000):
            with contextlib.suppress(BlockingIOError):  # who asked was killed meanwhile
                data = os.read(self.fuse, _LARGEST)
                _, opcode, unique, node, *_ = _REQUEST.unpack_from(data)
                return Request(opcode, unique, node, data[_REQUEST.size :])
        raise TimeoutError("the kernel did not ask in time")

    def answer(self, request: Request, body: bytes = b"") -> None:
        """Done; with what was asked for."""
        os.write(self.fuse, _ANSWER.pack(_ANSWER.size + len(body), 0, request.unique) + body)

    def refuse(self, request: Request, error: int) -> None:
        """Not done: an errno."""
        os.write(self.fuse, _ANSWER.pack(_ANSWER.size, -error, request.unique))

    def greet(self, request: Request, background: int, timeout: int) -> None:
        """Answer the INIT. *background*: how many RELEASEs may be under way.

        Where the kernel can, it ends the connection itself *timeout* seconds after a request that has no answer, or
        some 15 s after that: it does not look more often (Linux 6.18).
        """
        major, minor, readahead, _, *flags2 = _INIT_IN.unpack_from(request.body.ljust(_INIT_IN.size, b"\0"))
        extended = _REQUEST_TIMEOUT & flags2[0]
        limits = (background, background, 1 << 16, 1, 0, 0)
        flags = _INIT_EXT if extended else 0
        words = (major, min(minor, _MINOR), readahead, flags, *limits, extended, 0, timeout if extended else 0)
        self.answer(request, _INIT.pack(*words))


_MINOR: Final = 43
"""Of the protocol, 7.43: the structures above are as it has them, and as later ones have."""


def attributes(node: int) -> bytes:
    """Of a directory if *node* is the root, else of a file; struct fuse_attr."""
    mode, links = (stat.S_IFDIR | 0o700, 2) if node == ROOT else (stat.S_IFREG | 0o600, 1)
    return _ATTRIBUTES.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, mode, links, os.geteuid(), os.getegid(), 0, 4096, 0)


def entry(node: int) -> bytes:
    """The answer to a LOOKUP, struct fuse_entry_out: it is there, and *node*."""
    return struct.pack("=QQQQII", node, 0, _LONG, _LONG, 0, 0) + attributes(node)


def attributes_out(node: int) -> bytes:
    """The answer to a GETATTR, struct fuse_attr_out."""
    return struct.pack("=QII", _LONG, 0, 0) + attributes(node)


def opened(handle: int) -> bytes:
    """The answer to an OPEN, struct fuse_open_out."""
    return struct.pack("=QII", handle, 0, 0)


def released(request: Request) -> int:
    """The handle that a RELEASE is about."""
    return int(struct.unpack_from("=Q", request.body)[0])
