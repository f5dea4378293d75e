"""Composition root: build the rooms, mount, serve, unmount."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from notifyfs import mounts
from notifyfs.core.accounts import Limits
from notifyfs.core.changes import Change, Changes
from notifyfs.core.watches import Watches
from notifyfs.daemon import garbage, logs
from notifyfs.daemon.lifecycle import Daemon, Place, detach, device_of
from notifyfs.daemon.listen import exporting, listening
from notifyfs.fuse import binding, probe
from notifyfs.fuse.deaths import InDoubt
from notifyfs.fuse.handlers import TIMEOUTS, Handlers, Passthrough
from notifyfs.fuse.liveness import Liveness
from notifyfs.fuse.notify import Notify
from notifyfs.fuse.pages import Pages
from notifyfs.fuse.readloop import Readiness
from notifyfs.fuse.visibility import Visibility
from notifyfs.mounts import mountinfo
from notifyfs.observe.statistics import Statistics
from notifyfs.passthrough.attributes import Attributes
from notifyfs.passthrough.attribution import Attribution
from notifyfs.passthrough.files import Files
from notifyfs.passthrough.judgement import Judgement, access_list
from notifyfs.passthrough.listing import Listings
from notifyfs.passthrough.names import Names
from notifyfs.passthrough.pace import Pace
from notifyfs.passthrough.permission import Permission
from notifyfs.passthrough.source import Source
from notifyfs.subscribers.capabilities import Capabilities
from notifyfs.subscribers.delivery import Bell
from notifyfs.subscribers.judging import Judges
from notifyfs.subscribers.resolve import Resolver
from notifyfs.subscribers.rights import Way
from notifyfs.subscribers.server import Server
from notifyfs.system import identity
from notifyfs.system.callers import Caller
from notifyfs.system.remote import may_hang

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from notifyfs.core.entries import Inode
    from notifyfs.mounts.options import Options

log = logging.getLogger(__name__)

_MOST_KEPT: Final = 4096  # descriptors kept for reuse, where the limit allows
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
        place = Place(source, mountpoint, options.socket or mounts.socket_path(mountpoint))
        removed = Bell()
        # Both are opened before the mount: it may cover this very directory.
        tree = Source(_opened(source), max(64, min(_MOST_KEPT, limit // 4)), removed.ring)
        stack.callback(tree.close)
        above = _opened(os.path.dirname(mountpoint))
        stack.callback(os.close, above)
        way = Way(above, may_hang)
        listener = stack.enter_context(listening(place.socket, options))
        exporter = stack.enter_context(exporting(options.metrics))
        probed = probe.examine()
        hangs = may_hang(tree.fd(tree.inodes.root))
        fuse, guard = stack.enter_context(_mounted(place, options))
        # Its operations name their modes and the callers' umasks themselves.
        os.umask(0)
        if os.geteuid() == 0:
            identity.keep_capabilities(_KEPT)  # of this thread, and those that it will start
        kernel = KernelSide(tree, fuse, place, options, probed, hangs=hangs)
        capabilities = _capabilities(kernel, place, options, way)
        daemon = Daemon(place, kernel, Server(capabilities), guard, removed)
        stack.enter_context(binding.session(kernel.handlers, fuse, daemon.loop, allow_root=options.allow_root))
        if exporter is not None:
            exporter.start(capabilities.statistics, mountpoint, source)
        garbage.keep_short()
        trio.run(daemon.run, *listener, lambda: ready(place.socket))


@contextlib.contextmanager
def _mounted(place: Place, options: Options) -> Iterator[tuple[int, mounts.Guard | None]]:
    """Mount: the FUSE device, and who ends its connection should this process be killed."""
    fsname = place.source if options.fsname is None else options.fsname
    with contextlib.ExitStack() as stack:
        fuse = mounts.attach(place.mountpoint, fsname, options)
        stack.callback(_close, fuse)
        device = device_of(place.mountpoint)
        stack.callback(detach, place.mountpoint, device)
        guard = None if device is None else stack.enter_context(mounts.guarded(device))
        mounts.register(place.mountpoint, place.source, place.socket, os.getpid())
        stack.callback(mounts.unregister, place.mountpoint)
        yield fuse, guard


class KernelSide:
    """The rooms that answer the kernel."""

    def __init__(  # noqa: PLR0913 - all that they are built from
        self, source: Source, fuse: int, place: Place, options: Options, probed: probe.Kernel, *, hangs: bool
    ) -> None:
        root = os.geteuid() == 0
        self.source = source
        self.readiness = Readiness(fuse)
        self.facts = attrs.asdict(probed)
        self.notify = Notify(fuse, waits=probed.waits_for_lock, expires=probed.expire_only)
        self.visibility = Visibility(self.notify.ask, self.notify.relieve, self.readiness.busy)
        self.source_answers = Liveness(source.fd(source.inodes.root)).wait if hangs else None
        self.changes = Changes()
        self.watches = Watches(
            source.inodes,
            self.changes,
            doubt=InDoubt,
            hide=self.visibility.hide,
            failed=_failed,
            owner=os.geteuid(),
            limits=Limits(**{field.name: getattr(options, field.name) for field in attrs.fields(Limits)}),
        )
        self.changes.attach(self.watches)
        self.passthrough = _passthrough(source, self.watches, self.notify, options)
        self.pages = Pages(self.notify, self.passthrough.files, self.watches)
        self.handlers = Handlers(
            self.passthrough,
            self.changes,
            self.watches,
            socket=os.fsencode(place.socket),
            cache=options.cache,
            acl=root,
            source_answers=self.source_answers,
            turn=self.readiness.turn,
        )

    def held(self) -> dict[str, int]:
        """What is kept for the kernel."""
        return {
            "inodes": len(self.source.inodes),
            "open_files": len(self.passthrough.files.handles),
            "descriptors": self.source.descriptors,
        }


def _passthrough(source: Source, watches: Watches, notify: Notify, options: Options) -> Passthrough:
    root = os.geteuid() == 0
    forget = notify.forget_attributes

    def list_of(inode: Inode) -> bytes:
        return access_list(source.fd(inode))

    judgement = Judgement(forget, list_of if root else None, doubts=root)
    pace = Pace()
    permission = Permission(source, judgement, pace, judges=options.allow_other or options.allow_root)
    attribution = Attribution(watches, notify.expire, TIMEOUTS[options.cache])
    files = Files(
        source,
        permission,
        attribution,
        watches,
        forget=forget,
        access=options.access,
        caches=TIMEOUTS[options.cache] > 0,
        noatime=options.noatime and root,
        most=resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2,
    )
    return Passthrough(
        source=source,
        judgement=judgement,
        names=Names(source, permission, attribution),
        attributes=Attributes(source, permission, judgement, attribution, files),
        files=files,
        pace=pace,
        listings=Listings(source),
    )


def _capabilities(kernel: KernelSide, place: Place, options: Options, way: Way) -> Capabilities:
    """What subscribers are given."""
    major, _, minor = place.device().partition(":")
    daemon = Caller(os.getpid(), os.geteuid(), os.getegid())

    def died(inode: Inode) -> None:
        kernel.changes.tell(Change("die", inode.entry, daemon, dies=True))

    optional: dict[str, Any] = {}
    if kernel.source_answers is not None:
        optional["source_answers"] = kernel.source_answers
    if options.reach == "mountpoint":
        optional["reaches"] = way.refusal
    return Capabilities(
        watches=kernel.watches,
        resolver=Resolver(
            kernel.source,
            os.fsencode(place.mountpoint),
            (int(major), int(minor)),
            died,
            judges=kernel.source_answers is None,
        ),
        statistics=Statistics(kernel.watches, kernel.changes, kernel.held),
        about={
            "version": 1,
            "mountpoint": place.mountpoint,
            "source": place.source,
            "pid": os.getpid(),
            "kernel": kernel.facts,
        },
        attend=kernel.pages.attend,
        judge=Judges(kernel.source).of,
        pressed=kernel.readiness.pressed,
        **optional,
    )


def _failed(what: str, error: Exception) -> None:
    if isinstance(error, MemoryError):
        log.warning("%s: out of memory; all subscribers are told of an overflow", what)
    else:
        log.error("%s failed; all subscribers are told of an overflow", what, exc_info=error)


def _opened(directory: str) -> int:
    try:
        return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise mounts.MountError(f"{directory}: {error.strerror}; name a directory that you may enter") from error


def _close(fuse: int) -> None:
    with contextlib.suppress(OSError):  # pyfuse3 may have closed it
        os.close(fuse)


def _raise_descriptor_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20
