"""Where the daemon is reached: the control socket, and the address for metrics."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

from notifyfs.mounts.mountinfo import MountError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from notifyfs.mounts.options import Options
    from notifyfs.observe.prometheus import Exporter


@contextlib.contextmanager
def listening(path: str, options: Options) -> Iterator[tuple[socket.socket, os.stat_result]]:
    """Listen on the control socket at *path*, and say what is there now; a dead daemon's is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path)
        # Before listen(2) nobody can connect, so the mode can be set in time.
        listener.bind(path)
        if options.uid is not None or options.gid is not None:
            os.chown(path, -1 if options.uid is None else options.uid, -1 if options.gid is None else options.gid)
        os.chmod(path, 0o666 if options.allow_other else 0o600 if options.gid is None else 0o660)
        listener.listen(128)
        listener.setblocking(False)  # noqa: FBT003 - socket's own signature
    except OSError as error:
        listener.close()
        raise MountError(f"{path}: the control socket: {error.strerror}; choose another with -o socket=PATH") from error
    made = os.lstat(path)
    try:
        yield listener, made
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(made, os.lstat(path)):  # a later mount's, after a lazy unmount, is not ours
                os.unlink(path)


@contextlib.contextmanager
def exporting(address: tuple[str, int] | None) -> Iterator[Exporter | None]:
    """Hold the *address* for metrics, if one is wanted. Before the mount, which must fail where it cannot be had."""
    if address is None:
        yield None
        return
    named = "metrics={}:{}".format(f"[{address[0]}]" if ":" in address[0] else address[0], address[1])
    try:
        from notifyfs.observe.prometheus import Exporter  # noqa: PLC0415 - an extra, which most mounts do without

        exporter = Exporter(address)
    except ImportError as error:
        raise MountError(f"{named}: {error}; install it: pip install 'notifyfs[metrics]'") from error
    except OSError as error:
        raise MountError(f"{named}: {error.strerror}; choose another address with -o metrics=HOST:PORT") from error
    try:
        yield exporter
    finally:
        exporter.stop()


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind(2) refuses with EADDRINUSE: no file of somebody's is removed
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
