"""What became of a call, in Python's words: its reply, or an OSError with a remedy."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from notifyfs.client.filters import Rule
    from notifyfs.protocol.records import Record
    from notifyfs.protocol.session import Call, Session

_REMEDIES: Final = {
    errno.EMFILE: "too many instances; raise the mount's option max_user_instances",
    errno.ENOSPC: (
        "too many watches (raise the mount's option max_user_watches) or, except for root, recursive ones"
        " or rules in filters"
    ),
}


def reply_to(call: Call, session: Session, where: str, path: bytes = b"", rules: Sequence[Rule] = ()) -> Record:
    """Return the reply to *call*, which is over.

    OSError: the daemon refuses *path* or one of the *rules*; ECONNRESET, the mount has ended; EPROTO, who answers at
    *where* is no daemon of ours.
    """
    if call.reply is not None and not call.errno:
        return call.reply
    if call.refused is not None:
        raise rules[call.refused].refused(call.errno)
    if call.errno == errno.ECONNRESET:
        raise OSError(errno.ECONNRESET, "the mount has ended", where)
    if session.flaw is not None:
        raise broken(session, where)
    raise OSError(call.errno, _REMEDIES.get(call.errno) or os.strerror(call.errno), path or None)


def no_more_events(session: Session, where: str) -> Exception:
    """Make the error for who reads on when the *session* has ended: EOFError, or OSError as above."""
    if session.flaw is not None:
        return broken(session, where)
    return EOFError(f"{where}: the mount has ended")


def broken(session: Session, where: str) -> OSError:
    """Make the error for a *session* with a flaw."""
    return OSError(errno.EPROTO, f"not a notifyfs control socket ({session.flaw})", where)
