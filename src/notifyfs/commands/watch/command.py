"""The command line of ``notifyfs watch``: inotifywait's options, and some of our own."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import syslog
from typing import TYPE_CHECKING, Any, NoReturn

import click

from notifyfs.commands.watch import background, filtering
from notifyfs.commands.watch.inotifywait import Translator
from notifyfs.commands.watch.losses import Losses
from notifyfs.commands.watch.run import FAILED, Output, Run
from notifyfs.commands.watch.targets import Watcher, WatchError, open_target, read_lists, sort_out, without_covered
from notifyfs.commands.watch.wishes import Complaint, Wishes
from notifyfs.protocol.flags import DONT_FOLLOW, Q_OVERFLOW, X_ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from notifyfs.client import Filter
    from notifyfs.commands.watch.targets import Target


class _Command(click.Command):
    """A command whose misuse ends with 1: here 2 says that the time is up."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse; every complaint becomes a Complaint."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise Complaint(f"{ctx.command_path}: {error.format_message()}") from None


class _Voice:
    """Where complaints and progress go: standard error, or syslog."""

    def __init__(self, *, to_syslog: bool) -> None:
        self._to_syslog = to_syslog
        if to_syslog:
            syslog.openlog("notifyfs", syslog.LOG_PID | syslog.LOG_CONS | syslog.LOG_NDELAY, syslog.LOG_DAEMON)

    def say(self, text: str) -> None:
        if self._to_syslog:
            syslog.syslog(syslog.LOG_INFO, text)
        else:
            click.echo(os.fsencode(text), err=True)


@click.command(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", metavar="PATH...", nargs=-1, type=click.Path())
@click.option("-m", "--monitor", is_flag=True, help="Go on after the first event.")
@click.option("-d", "--daemon", is_flag=True, help="Go on in the background; needs -o. Implies -m and -s.")
@click.option("-o", "--outfile", metavar="FILE", multiple=True, help="Append the events to FILE.")
@click.option("-s", "--syslog", is_flag=True, help="Send messages to syslog instead of standard error.")
@click.option("-P", "--no-dereference", is_flag=True, help="Watch symbolic links themselves.")
@click.option("-r", "--recursive", is_flag=True, help="Watch directories with everything below them.")
@click.option("-q", "--quiet", count=True, help="Print events only; twice: not even those.")
@click.option("-e", "--event", metavar="EVENT[,EVENT...]", multiple=True, help="Only these events (see above).")
@click.option("-t", "--timeout", metavar="SECONDS", default="0", help="End with 2 after so long without an event.")
@click.option("--exclude", metavar="REGEX", multiple=True, help="Leave out paths that match. May be repeated.")
@click.option("--excludei", metavar="REGEX", multiple=True, help="The same, upper or lower case.")
@click.option("--include", metavar="REGEX", multiple=True, help="Only paths that match. May be repeated.")
@click.option("--includei", metavar="REGEX", multiple=True, help="The same, upper or lower case.")
@click.option("--gitignore", is_flag=True, help="Leave out what the .gitignore files of each PATH say, and .git.")
@click.option("--exclude-from", metavar="FILE", multiple=True, help="Leave out what this gitignore file says.")
@click.option("--glob", metavar="PATTERN", multiple=True, help="Only what this line of gitignore matches; !: not that.")
@click.option("--pid", metavar="PID", multiple=True, type=click.IntRange(min=1), help="Only what these processes do.")
@click.option("--not-pid", metavar="PID", multiple=True, type=click.IntRange(min=1), help="Nothing that these do.")
@click.option("--user", "--uid", metavar="USER", multiple=True, help="Only what these users do; name or number.")
@click.option("--not-user", "--not-uid", metavar="USER", multiple=True, help="Nothing that these do.")
@click.option("--ignore-self", is_flag=True, help="Nothing that this program does, as to a -o FILE on the mount.")
@click.option("--fromfile", metavar="FILE", multiple=True, help="Read more PATHs from FILE, one a line; - is stdin.")
@click.option("-c", "--csv", is_flag=True, help="Print comma-separated values.")
@click.option("--json", is_flag=True, help="Print a JSON object a line.")
@click.option("--format", metavar="FORMAT", help="Print as FORMAT says (see above).")
@click.option("--timefmt", metavar="FORMAT", help="What %T prints, as for strftime(3).")
@click.option("--no-newline", is_flag=True, help="End what FORMAT prints with nothing.")
@click.option("-0", "--null", is_flag=True, help="End lines with NUL instead of newline.")
@click.option("--settle", metavar="DURATION", help="Print in batches, after so long without an event (see above).")
@click.option("--max-events", metavar="N", type=click.IntRange(min=1), help="End after N events. Implies -m.")
@click.option("--origin", is_flag=True, help="Also tell who did it, in --json and %{pid} etc.")
@click.option("--socket", metavar="SOCKET", help="Use this control socket; PATHs are below its mount's root.")
def watch(**given: Any) -> NoReturn:
    """Print what happens to each PATH on a notifyfs mount, as inotifywait would.

    A line is WATCHED EVENTS FILE, as in `d/ CLOSE_WRITE,CLOSE a`. @PATH leaves a directory out of -r.

    \b
    Events    access modify attrib close_write close_nowrite close open
              moved_from moved_to move move_self create delete delete_self
              unmount
    FORMAT    %w watched path  %f file in it  %e events  %Xe events with X
              between them  %T time  %c cookie in hexadecimal  %0 NUL
              %n newline  %% percent sign
              %{pid} %{uid} %{gid} %{comm} %{seq} %{ts} with --origin
              %{to} new path of a rename, with --settle
    PATTERN   a line of gitignore(5), relative to each watched PATH; what it
              leaves out is not even sent. --exclude-from beats --gitignore
    DURATION  100ms, 1s or 0.5. A batch has each event once and a rename in
              one piece: `d/ MOVED_FROM,MOVED_TO a -> d/b`
    Exit code 0 an event came, 1 an error or an event not asked for,
              2 the time is up
    """  # noqa: D301 - \b is click's mark for a paragraph that is not to be filled
    _end_by_signals()
    sys.exit(run(Wishes(**given)))


def run(wishes: Wishes) -> int:
    """Do what the command line says; the exit code. Complaint: the line for the user."""
    events, seconds = wishes.events(), wishes.seconds()
    wishes.check()
    passes, line = wishes.filter(), wishes.line()
    settle, rules = wishes.settling(), wishes.rules()
    stderr = _Voice(to_syslog=False)
    paths, excluded = sort_out([*read_lists(wishes.fromfile, stderr.say), *map(os.fsencode, wishes.paths)])
    if not paths:
        raise Complaint("No files specified to watch!")
    output = _open_output(wishes)
    parent = background.begin() if wishes.daemon else None
    voice = _Voice(to_syslog=wishes.syslog or wishes.daemon)
    say = voice.say if not wishes.quiet else lambda _: None

    say("Setting up watches." + "  Beware: since -r was given, this may take a while!" * wishes.recursive)
    watcher = _watcher(wishes, events, passes, excluded, rules)
    try:
        _establish(watcher, paths, excluded, wishes)
    except WatchError as error:
        voice.say(str(error))
        if wishes.daemon and not wishes.syslog:
            stderr.say(str(error))
        return FAILED
    if parent is not None:
        background.go_on(parent, output.descriptor)
    say("Watches established.")
    losses = Losses(voice.say)
    printing = Run(
        watcher.connections.values(),
        woken=_with_last_words(losses.say),
        line=line,
        asked=events | (Q_OVERFLOW if wishes.json else 0),
        limit=wishes.max_events or (None if wishes.monitor or wishes.daemon else 0),
        timeout=seconds,
        settle=settle,
        complain=voice.say,
        losses=losses,
    )
    return _finish(printing, output, voice)


def _finish(printing: Run, output: Output, voice: _Voice) -> int:
    try:
        return printing.run(output)
    except OSError as error:
        voice.say(f"notifyfs watch: {error.strerror}")
        return FAILED


def _watcher(
    wishes: Wishes, events: int, passes: Callable[[bytes], bool], excluded: list[bytes], rules: Filter
) -> Watcher:
    more = (X_ORIGIN if wishes.origin else 0) | (DONT_FOLLOW if wishes.no_dereference else 0)
    twice = not wishes.json and wishes.settle is None

    def translator(mount: str) -> Translator:
        return Translator(mount, events, passes, twice=twice)

    return Watcher(translator, more, excluded, functools.partial(_chosen, rules, wishes))


def _chosen(rules: Filter, wishes: Wishes, target: Target | None) -> Filter | None:
    if wishes.gitignore and target is not None:
        return filtering.of_tree(target.descriptor, target.shown, recursive=target.recursive) + rules
    return rules if rules.rules else None


def _open_output(wishes: Wishes) -> Output:
    path = wishes.outfile[0] if wishes.outfile else None
    if path is not None and wishes.daemon and not os.path.exists(path):
        raise Complaint(f"{os.strerror(errno.ENOENT)}: {path}")  # inotifywait makes it only without -d
    try:
        return Output(path)
    except OSError:
        raise Complaint(f"Failed to open output file {path}") from None


def _establish(watcher: Watcher, paths: list[bytes], excluded: list[bytes], wishes: Wishes) -> None:
    """Watch *paths* in their order. WatchError: the first that cannot be."""
    if wishes.socket is not None:
        for path in paths:
            watcher.add_by_name(wishes.socket, path, recursive=wishes.recursive)
        return
    targets = []
    failure = None
    for path in paths:
        try:
            targets.append(open_target(path, recursive=wishes.recursive, follow=not wishes.no_dereference))
        except OSError as error:
            failure = WatchError(path, error)
            break
    for target in without_covered(targets, excluded):
        watcher.add(target)
    if failure is not None:
        raise failure


def _end_by_signals() -> None:
    """Let SIGINT and a closed pipe end the process without a word, as they end inotifywait."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _with_last_words(say: Callable[[], None]) -> int:
    """Let *say* speak before a signal ends the process: who stops a slow reader wants to know what it has lost.

    To be waited for: a descriptor, since a signal that comes just before poll(2) would be heard only after it.
    """
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # first: the next one ends it even if nobody reads what is said
        say()
        signal.raise_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return woken
