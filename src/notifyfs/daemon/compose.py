"""Composition root: build the rooms, mount, serve, unmount."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import stat
from typing import TYPE_CHECKING, Final

import attrs
import pyfuse3
import trio

from notifyfs import mounts
from notifyfs.daemon import logs
from notifyfs.daemon.takeover import taken
from notifyfs.fuse import probe
from notifyfs.fuse.handlers import MOST_TASKS, Operations
from notifyfs.fuse.liveness import Patience, may_hang
from notifyfs.fuse.notify import Notify
from notifyfs.fuse.readloop import Turns
from notifyfs.fuse.visibility import Deaths, Settling
from notifyfs.mounts import mountinfo
from notifyfs.observe.statistics import Counted, Statistics
from notifyfs.passthrough.source import Backing
from notifyfs.subscribers.resolve import Resolver
from notifyfs.subscribers.rights import Way
from notifyfs.subscribers.server import Bell, Limits, Server
from notifyfs.system import identity
from notifyfs.system.callers import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notifyfs.mounts.options import Options
    from notifyfs.observe.prometheus import Exporter

log = logging.getLogger(__name__)

_MOST_KEPT: Final = 4096  # descriptors kept for reuse, where the limit allows
_GRACE: Final = 2.0  # seconds that requests under way have after SIGTERM
_DETACHING: Final = 10.0  # seconds that fusermount3 has then
# What a daemon of root's keeps of its capabilities (capabilities(7)).
_KEPT: Final = {
    0: "CHOWN: chown for those who may",
    1: "DAC_OVERRIDE: the kernel has checked the caller already",
    2: "DAC_READ_SEARCH: the same",
    3: "FOWNER: chmod, utimes, O_NOATIME for those who may",
    4: "FSETID: setuid and setgid stay where they do for the caller",
    6: "SETGID: acting as the caller or a subscriber",
    7: "SETUID: the same",
    12: "NET_ADMIN: a large buffer for an event descriptor (SO_SNDBUFFORCE)",
    19: "SYS_PTRACE: which name a descriptor was opened by (/proc/TID/fd of others)",
    21: "SYS_ADMIN: umount, trusted attributes",
    24: "SYS_RESOURCE: root's reserved blocks and quotas",
    27: "MKNOD: devices for those who may",
    31: "SETFCAP: file capabilities for those who may",
    33: "MAC_ADMIN: security labels for those who may",
}
_SIGALRM_SECONDS: Final = 0.1
_SWEEPING: Final = 0.001


def serve(source: str, mountpoint: str, options: Options, ready: Callable[[str], None]) -> None:
    """Mount *source* on *mountpoint* and serve until it is unmounted, or SIGINT, SIGTERM or SIGHUP comes.

    Main thread only: it installs signal handlers and changes the process's umask. *ready* is called
    with the control socket's path once the mount answers. MountError: nothing is mounted.
    """
    limit = _raise_descriptor_limit()
    source, mountpoint = mountinfo.real(source), mountinfo.real(mountpoint)
    with contextlib.ExitStack() as stack:
        mounts.recover(mountpoint)
        mounts.check(source, mountpoint)
        mounts.check_files(mountpoint, options)
        logs.configure(options)
        path = options.socket or mounts.socket_path(mountpoint)
        # Opened before the mount: it may cover this very directory.
        backing = Backing(_opened(source), max(64, min(_MOST_KEPT, limit // 4)))
        stack.callback(backing.close)
        above = _opened(os.path.dirname(mountpoint))
        stack.callback(os.close, above)
        way = Way(above)
        listener, made = stack.enter_context(_listening(path, options))
        exporter = stack.enter_context(_exporting(options.metrics))
        kernel = probe.examine()
        hangs = may_hang(backing.fd(backing.inodes.root))
        fuse = mounts.attach(mountpoint, source if options.fsname is None else options.fsname, options)
        stack.callback(_close, fuse)
        device = _device(mountpoint)
        stack.callback(_detach, mountpoint, device)
        guard = None if device is None else stack.enter_context(mounts.guarded(device))
        mounts.register(mountpoint, source, path, os.getpid())
        stack.callback(mounts.unregister, mountpoint)
        # Its operations name their modes and the callers' umasks themselves.
        os.umask(0)
        daemon = _Daemon(backing, source, mountpoint, path, options, kernel)
        daemon.guard = guard
        if options.reach == "mountpoint":
            daemon.server.reaches = way.refusal
        if hangs:
            daemon.be_patient()
        pyfuse3.init(daemon.operations, f"/dev/fd/{fuse}", {"allow_root"} if options.allow_root else set())
        stack.callback(pyfuse3.close, unmount=False)
        if os.geteuid() == 0:
            identity.keep_capabilities(_KEPT)  # of this thread, and those that it will start
        daemon.settling.notes = Notify(fuse, waits=kernel.waits_for_lock, expires=kernel.expire_only)
        turns = pyfuse3.trio = Turns(fuse, daemon.idle)  # type: ignore[attr-defined]
        daemon.settling.busy = turns.busy
        if exporter is not None:
            exporter.start(daemon.statistics, mountpoint, source)
        trio.run(daemon.run, listener, made, lambda: ready(path))


class _Daemon:
    """The rooms of one mount, put together."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it is composed of
        self, backing: Backing, source: str, mountpoint: str, path: str, options: Options, kernel: probe.Kernel
    ) -> None:
        line = mountinfo.top(mountpoint, mountinfo.read())
        if line is None:
            raise mounts.MountError(f"{mountpoint}: unmounted before it could be served; mount it again")
        limits = Limits(
            max_queued_events=options.max_queued_events,
            max_user_instances=options.max_user_instances,
            max_user_watches=options.max_user_watches,
        )
        watches = Counted(
            backing.inodes,
            owner=os.geteuid(),
            max_user_instances=limits.max_user_instances,
            max_user_watches=limits.max_user_watches,
        )
        self.mountpoint = mountpoint
        self._kernel = kernel
        self._path = path
        self.device = line.device
        self.backing = backing
        self.watches = watches
        self.guard: mounts.Guard | None = None
        self._heard = 0
        self.settling = Settling()
        self.deaths = Deaths(watches)
        self.operations = Operations(
            backing,
            watches,
            self.settling,
            self.deaths,
            socket=os.fsencode(path),
            cache=options.cache,
            access=options.access,
            acl=os.geteuid() == 0,
            noatime=options.noatime and os.geteuid() == 0,
            others=options.allow_other or options.allow_root,
        )
        self.statistics = Statistics(watches, self._held)
        major, _, minor = line.device.partition(":")
        self.server = Server(
            watches,
            Resolver(backing, os.fsencode(mountpoint), (int(major), int(minor))),
            limits,
            settled=self.settling.wait,
            decided=self.deaths.wait,
            about={
                "version": 1,
                "mountpoint": mountpoint,
                "source": source,
                "pid": os.getpid(),
                "kernel": attrs.asdict(kernel),
            },
            statistics=self.statistics,
        )

    def be_patient(self) -> None:
        """The source is on a file system that may hang: hold up only those who ask for it."""
        patience = Patience(self.backing.fd(self.backing.inodes.root))
        self.operations.source_answers = self.server.source_answers = patience.wait

    def idle(self) -> bool:
        """All requests that were there are answered: ask the kernel about them; whether there are events to send."""
        self.settling.begin()
        heard, self._heard = self._heard, self.watches.sequence
        return heard != self._heard or self.settling.waiting

    def _held(self) -> dict[str, int]:
        return {
            "inodes": len(self.backing.inodes),
            "open_files": len(self.operations.handles),
            "descriptors": self.backing.descriptors,
        }

    async def run(self, listener: socket.socket, made: os.stat_result, ready: Callable[[], None]) -> None:
        """Serve both sides until the mount is gone; *made* is what the socket's path leads to."""
        # Within trio's run: a signal after it would find trio's wakeup socket closed.
        with _never_frozen():
            await self._serve(listener, made, ready)

    async def _serve(self, listener: socket.socket, made: os.stat_result, ready: Callable[[], None]) -> None:
        async with trio.open_nursery() as servers:
            servers.start_soon(self.server.accept, listener)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_on_signal, nursery.cancel_scope)
                nursery.start_soon(self.deaths.keep)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._give_way, made)
                nursery.start_soon(self._tell_ready, ready)
                nursery.start_soon(self._heed_guard)
                await pyfuse3.main(max_tasks=MOST_TASKS)
                nursery.cancel_scope.cancel()
            await self._end_subscribers()
            servers.cancel_scope.cancel()

    async def _end_subscribers(self) -> None:
        self.watches.give_up(self.watches.undecided)
        self.watches.unmount(Caller(os.getpid(), os.geteuid(), os.getegid()))
        await self.server.finish()

    async def _give_way(self, made: os.stat_result) -> None:
        """Once a later daemon has the socket: end those who are here, for the mount that they mean is the later one."""
        await taken(self._path, made)
        log.warning("%s: a later daemon has this socket now; the subscribers of this one are ended", self._path)
        self.server.take_no_more()
        await self._end_subscribers()

    async def _sweep(self) -> None:
        removed = Bell()
        self.backing.freeing = removed.ring
        while True:
            await removed.wait_rung()
            await trio.sleep(_SWEEPING)  # the events of the removal go first
            self.backing.sweep()

    async def _heed_guard(self) -> None:
        while self.guard is not None:
            await trio.lowlevel.wait_readable(self.guard.news)
            if not self.guard.look():
                return

    async def _tell_ready(self, ready: Callable[[], None]) -> None:
        # From a thread: the answer comes from this very loop.
        await trio.to_thread.run_sync(os.stat, self.mountpoint, abandon_on_cancel=True)
        reason = await trio.to_thread.run_sync(mounts.raise_background, self.device, abandon_on_cancel=True)
        if reason is not None:
            log.warning("a close may be told after later operations when many come at once: %s", reason)
            self._kernel = attrs.evolve(self._kernel, release_in_order=False)
            self.server.about["kernel"] = attrs.asdict(self._kernel)
        ready()

    async def _end_on_signal(self, serving: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                log.info("ending on %s", signal.Signals(number).name)
                # In a thread: fusermount3 may take its time.
                with trio.move_on_after(_DETACHING):
                    await trio.to_thread.run_sync(_detach, self.mountpoint, self.device, abandon_on_cancel=True)
                pyfuse3.terminate()
                await trio.sleep(_GRACE)
                serving.cancel()  # a request under way does not come to an end


def _opened(directory: str) -> int:
    try:
        return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise mounts.MountError(f"{directory}: {error.strerror}; name a directory that you may enter") from error


@contextlib.contextmanager
def _listening(path: str, options: Options) -> Iterator[tuple[socket.socket, os.stat_result]]:
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
        raise mounts.MountError(
            f"{path}: the control socket: {error.strerror}; choose another with -o socket=PATH"
        ) from error
    made = os.lstat(path)
    try:
        yield listener, made
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(made, os.lstat(path)):  # a later mount's, after a lazy unmount, is not ours
                os.unlink(path)


@contextlib.contextmanager
def _exporting(address: tuple[str, int] | None) -> Iterator[Exporter | None]:
    """Hold the *address* for metrics, if one is wanted. Before the mount, which must fail where it cannot be had."""
    if address is None:
        yield None
        return
    named = "metrics={}:{}".format(f"[{address[0]}]" if ":" in address[0] else address[0], address[1])
    try:
        from notifyfs.observe.prometheus import Exporter  # noqa: PLC0415 - an extra, which most mounts do without

        exporter = Exporter(address)
    except ImportError as error:
        raise mounts.MountError(f"{named}: {error}; install it: pip install 'notifyfs[metrics]'") from error
    except OSError as error:
        raise mounts.MountError(
            f"{named}: {error.strerror}; choose another address with -o metrics=HOST:PORT"
        ) from error
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


def _close(fuse: int) -> None:
    with contextlib.suppress(OSError):  # pyfuse3 may have closed it
        os.close(fuse)


def _device(mountpoint: str) -> str | None:
    line = mountinfo.top(mountpoint, mountinfo.read())
    return line.device if line is not None and line.fstype == mountinfo.NOTIFYFS else None


def _detach(mountpoint: str, device: str | None) -> None:
    """Unmount our own mount, if it is still there: not what somebody has mounted on top or after it."""
    if _device(mountpoint) == device:
        with contextlib.suppress(mounts.MountError):  # unmounted meanwhile
            mounts.detach(mountpoint, lazy=True)


@contextlib.contextmanager
def _never_frozen() -> Iterator[None]:
    """Interrupt blocking reads of /dev/fuse ten times a second.

    pyfuse3 reads it blocking, GIL held, once it is readable; when the caller was killed in between,
    the read sleeps until the next request (measured: 21 of 150 times). A signal makes it return.
    """
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, _SIGALRM_SECONDS, _SIGALRM_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise_descriptor_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
