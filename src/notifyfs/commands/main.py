"""The commands: ``notifyfs`` and ``mount.notifyfs``.

Everything heavy is imported by the command that needs it: pyfuse3 alone takes a quarter of a
second, and ``notifyfs --help`` needs neither it nor trio.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import logging
import os
import re
import signal
import sys
import traceback
from typing import IO, TYPE_CHECKING, Any, Final, NoReturn

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from notifyfs.mounts.options import Options

_READY: Final = b"\0ready\0"
"""What a background daemon says before its socket's path; no failure starts with it."""

_ENDING: Final = 10.0
"""Seconds that `umount` waits for the daemon; a lazily detached one may have to wait for its users."""
_ENDING_LAZY: Final = 1.0
_ANSWERING: Final = 10.0
"""Seconds that `stats` gives the daemon for each answer."""

_HELPER_USAGE: Final = 1
_HELPER_FAILURE: Final = 32
"""mount(8), EXIT STATUS: 1 is an incorrect invocation, 32 a failed mount."""

_LAZY: Final = {"watch": "notifyfs.commands.watch"}
"""Commands that live in a module of their own, under their own name."""


class Failure(click.ClickException):
    """One line on standard error, and exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"notifyfs: {printable(self.message)}", file=file, err=True)


class Misuse(Failure):
    """The command line is at fault: exit code 2."""

    exit_code = 2


def printable(text: str) -> str:
    r"""Write *text* on one line that any terminal takes: control characters and stray bytes as ``\x0a``."""
    text = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    return os.fsencode(text).decode(errors="backslashreplace")


class _Commands(click.Group):
    """A group that imports late, and takes ``SOURCE MOUNTPOINT`` for ``mount SOURCE MOUNTPOINT``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _LAZY:
            command: click.Command = getattr(importlib.import_module(_LAZY[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # What mount.fuse3 runs for `mount -t fuse.notifyfs`: notifyfs SOURCE MOUNTPOINT -o OPTIONS
        commands = self.list_commands(ctx)
        if len(args) > 1 and not args[0].startswith("-") and not args[1].startswith("-") and args[0] not in commands:
            looks_mistyped = os.sep not in args[0] and difflib.get_close_matches(args[0], commands)
            if not looks_mistyped or os.path.isdir(args[0]):
                args = ["mount", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="notifyfs")
def main() -> None:
    """Mount a directory a second time, and hear everything that happens on that mount."""


@main.command()
@click.argument("source")
@click.argument("mountpoint")
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help="Mount options, separated by commas.")
@click.option("-f", "foreground", is_flag=True, help="Stay in the foreground.")
@click.option("-d", "debug", is_flag=True, help="Log what happens.")
def mount(source: str, mountpoint: str, options: tuple[str, ...], *, foreground: bool, debug: bool) -> None:
    """Mount SOURCE on MOUNTPOINT and print the control socket's path.

    Returns once the mount answers; its daemon goes on in the background until the mount is
    unmounted. MOUNTPOINT may be SOURCE itself, which is then reached through the mount only.

    \b
    ro noexec noatime ...     as mount(8) has them; suid and dev are off unless asked for
    allow_other, allow_root   let other users, or only root, in
    fsname=NAME               the device column of the mount table
    socket=PATH               the control socket
    uid=USER gid=GROUP        who owns it; a group named here may connect
    reach=mountpoint|socket   subscribers name what they could walk to, or (socket) whoever may
                              connect begins at MOUNTPOINT
    log=FILE                  log there instead of to syslog
    metrics=HOST:PORT         counters for Prometheus there, by HTTP
    max_queued_events=N       events that one subscriber may leave unread (16384)
    max_user_instances=N      subscribers of one user (128)
    max_user_watches=N        watches of one user (1048576)
    max_user_queued_bytes=N   memory that one user's unread events may take (67108864)
    max_read=BYTES            most bytes of one READ request
    cache=auto|always|never   trust cached attributes for a second, for a day, or not at all
    access=cached|exact|off   IN_ACCESS for reads that miss the page cache, for all, for none
    """  # noqa: D301 - \b is click's mark for a paragraph that is not to be filled
    chosen = _parse([*options, *(["debug"] if debug else [])])
    _mount(source, mountpoint, chosen, foreground=foreground)


@main.command()
@click.argument("mountpoint")
@click.option("-l", "--lazy", is_flag=True, help="Detach it now, even while it is in use.")
def umount(mountpoint: str, *, lazy: bool) -> None:
    """Unmount MOUNTPOINT and wait until its daemon has ended.

    A dead mount, whose daemon was killed, is cleared away.
    """
    from notifyfs import mounts

    try:
        found = mounts.find(mountpoint)
        if found is None:
            raise Failure(f"{mountpoint}: not a notifyfs mount; `notifyfs list` shows those that are")
        if not found.alive:
            mounts.recover(mountpoint)
            return
        with mounts.ending(found) as wait_ended:
            mounts.detach(mountpoint, lazy=lazy)
            if not wait_ended(_ENDING_LAZY if lazy else _ENDING):
                pid = f" (pid {found.pid})" if found.pid else ""
                click.echo(
                    f"notifyfs: {printable(mountpoint)}: unmounted; its daemon{pid} ends when nobody uses it any more",
                    err=True,
                )
    except mounts.MountError as error:
        raise Failure(str(error)) from None


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_(*, as_json: bool) -> None:
    """List the notifyfs mounts.

    Of other users' mounts it shows those whose mountpoint you can reach.
    """
    from notifyfs import mounts

    try:
        mounted = mounts.mounted()
    except mounts.MountError as error:
        raise Failure(str(error)) from None
    found = [
        {
            "mountpoint": each.mountpoint,
            "source": each.source,
            "socket": each.socket,
            "pid": each.pid,
            "state": "live" if each.alive else "dead",
        }
        for each in mounted
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [["MOUNTPOINT", "SOURCE", "SOCKET", "PID", "STATE"]]
    rows += [["-" if cell is None else printable(str(cell)) for cell in each.values()] for each in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@main.command()
@click.argument("path", required=False)
@click.option("--socket", metavar="SOCKET", help="Ask this control socket, and do not touch the mount.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def stats(path: str | None, socket: str | None, *, as_json: bool) -> None:
    """Show the counters of the mount that PATH is on.

    For each operation on the mount: how many requests, how many answered with an error, and how long
    they took. Half of them took less than P50, 99 of 100 less than P99; both are powers of two.
    """
    from notifyfs import client
    from notifyfs.commands.stats import fetch, lines

    if path is not None and socket is not None:
        raise Misuse(f"{path}: --socket names the mount already; leave one of them out")
    if path is None and socket is None:
        raise click.UsageError("Missing argument 'PATH'.")
    try:
        with client.Connection(socket or client.find_socket(path or ""), timeout=_ANSWERING) as connection:
            counters = fetch(connection)
    except OSError as error:
        said = f"{path or socket}: {error.strerror or error}"
        raise Failure(said if ";" in said else f"{said}; `notifyfs list` shows the mounts") from None
    click.echo(json.dumps(counters, indent=2) if as_json else "\n".join(map(printable, lines(counters))))


@main.command()
def doctor() -> None:
    """Say what this machine lacks for mounting, and how to mend it.

    Exits with 0 if it can mount, else with 1.
    """
    from notifyfs.commands import doctor as checks

    findings = checks.examine()
    for finding in findings:
        click.echo(f"{finding.verdict:<7}  {printable(finding.what)}")
        if finding.remedy:
            click.echo(f"         {printable(finding.remedy)}")
    if any(finding.verdict == "missing" for finding in findings):
        raise Failure("this machine cannot mount yet; mend what is missing above")


@click.command("mount.notifyfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source")
@click.argument("mountpoint")
@click.option("-s", "sloppy", is_flag=True, help="Tolerate unknown options.")
@click.option("-f", "fake", is_flag=True, help="Check everything, but do not mount.")
@click.option("-n", "_no_mtab", is_flag=True, help="Accepted for mount(8); there is no mtab.")
@click.option("-v", "verbose", is_flag=True, help="Print the control socket's path.")
@click.option("-t", "_fstype", metavar="TYPE", help="Accepted for mount(8).")
@click.option("-o", "options", metavar="OPTIONS", multiple=True, help="Mount options, separated by commas.")
def _helper(  # noqa: PLR0913 - mount(8) decides how many
    source: str,
    mountpoint: str,
    options: tuple[str, ...],
    _fstype: str | None,
    *,
    sloppy: bool,
    fake: bool,
    verbose: bool,
    _no_mtab: bool,
) -> None:
    """Mount SOURCE on MOUNTPOINT the way that mount(8) asks.

    It calls this for the type notifyfs in fstab when it is found as /sbin/mount.notifyfs, and for
    fuse.notifyfs when it is found as /sbin/mount.fuse.notifyfs. (A type on mount's own command line
    that begins with "no" means all the others, so there it is `mount -t fuse.notifyfs`.)
    """
    from notifyfs import mounts

    chosen = _parse(options, sloppy=sloppy)
    if not fake:
        _mount(source, mountpoint, chosen, foreground=False, quiet=not verbose)
        return
    try:
        mounts.check(source, mountpoint)
        mounts.check_files(mountpoint, chosen)
    except mounts.MountError as error:
        raise Failure(str(error)) from None


def mount_helper() -> NoReturn:
    """Run ``mount.notifyfs`` with mount(8)'s exit codes."""
    try:
        _helper.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(_HELPER_USAGE if isinstance(error, (click.UsageError, Misuse)) else _HELPER_FAILURE)
    except click.Abort:
        sys.exit(_HELPER_FAILURE)
    sys.exit(0)


def _parse(words: Iterable[str], *, sloppy: bool = False) -> Options:
    from notifyfs.mounts.options import OptionError, Options

    try:
        return Options.parse(words, sloppy=sloppy)
    except OptionError as error:
        raise Misuse(f"-o {error}") from None


def _mount(source: str, mountpoint: str, options: Options, *, foreground: bool, quiet: bool = False) -> None:
    import attrs

    if options.fsname is None:
        # As given, so that `mount -a` knows its line of fstab again; but a relative name means nothing in the table.
        options = attrs.evolve(options, fsname=source if os.path.isabs(source) else os.path.abspath(source))
    source, mountpoint = os.path.abspath(source), os.path.abspath(mountpoint)
    past = _past_the_mount(source, mountpoint)

    def ready(socket: bytes) -> None:
        if not quiet:
            click.echo(socket)
        if past:
            click.echo(f"notifyfs: {printable(past)}", err=True)

    if foreground:
        _serve(source, mountpoint, options, lambda socket: ready(os.fsencode(socket)))
        return
    reading, writing = os.pipe()
    child = os.fork()  # before trio and pyfuse3 are imported: neither survives a fork
    if child == 0:
        _background(source, mountpoint, options, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        try:
            word = pipe.read()
        except KeyboardInterrupt:
            os.kill(child, signal.SIGTERM)
            raise
    if not word:
        raise Failure(f"{mountpoint}: the daemon ended before the mount answered; `notifyfs mount -f -d` shows why")
    if not word.startswith(_READY):
        raise Failure(os.fsdecode(word))
    ready(word.removeprefix(_READY))


def _past_the_mount(source: str, mountpoint: str) -> str | None:
    """Say who will go past a mount over its own source; before it is there, for later all paths look the same."""
    from notifyfs import mounts
    from notifyfs.mounts import inside, mountinfo

    try:
        covered = mountinfo.real(mountpoint)
        return inside.warning(covered) if mountinfo.real(source) == covered else None
    except mounts.MountError as error:
        raise Failure(str(error)) from None


def _background(source: str, mountpoint: str, options: Options, writing: int) -> NoReturn:
    """Serve in a session of its own, without a terminal; the waiting parent gets one word: ready, or why not."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    # A shell that reads our caller's pipe would wait for the daemon otherwise.
    os.closerange(3, writing)
    os.closerange(writing + 1, os.sysconf("SC_OPEN_MAX"))
    waiting = [writing]

    def say(word: bytes) -> None:
        with contextlib.suppress(BrokenPipeError), open(waiting.pop(), "wb") as pipe:  # the parent may have been killed
            pipe.write(word)

    try:
        _serve(source, mountpoint, options, lambda socket: say(_READY + os.fsencode(socket)))
    except Failure as failure:
        if waiting:
            say(os.fsencode(failure.message))
        else:
            # Not by syslog(3), which waits for who does not read.
            logging.getLogger(__name__).exception("%s", printable(failure.message))
        sys.exit(failure.exit_code)
    sys.exit(0)


def _serve(source: str, mountpoint: str, options: Options, ready: Callable[[str], None]) -> None:
    try:
        from notifyfs import mounts
        from notifyfs.daemon import compose
    except ImportError as error:
        raise Failure(f"{mountpoint}: {error}; `notifyfs doctor` says what to install") from None
    try:
        compose.serve(source, mountpoint, options, ready)
    except mounts.MountError as error:
        raise Failure(str(error)) from None
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        raise Failure(
            f"{mountpoint}: internal error: {type(error).__name__}: {error}; -f -d shows where, please report it"
        ) from error


if __name__ == "__main__":
    main()
