"""What the command line of ``notifyfs watch`` asks for, checked as inotifywait checks it, and with its complaints."""

from __future__ import annotations

import errno
import os
import re
from typing import IO, TYPE_CHECKING, Any, Final

import attrs
import click

from notifyfs.client import Filter
from notifyfs.commands.watch import filtering, lines
from notifyfs.commands.watch.patterns import Pattern
from notifyfs.protocol.flags import ALL_EVENTS
from notifyfs.protocol.records import Origin

if TYPE_CHECKING:
    from collections.abc import Callable

_LONG_MAX: Final = 2**63 - 1


class Complaint(click.ClickException):
    """In inotifywait's words, on standard error; exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it as it is."""
        click.echo(os.fsencode(self.message), file=file, err=True)


@attrs.frozen(kw_only=True)
class Wishes:
    """The command line, as click hands it over."""

    paths: tuple[str, ...]
    monitor: bool
    daemon: bool
    outfile: tuple[str, ...]
    syslog: bool
    no_dereference: bool
    recursive: bool
    quiet: int
    csv: bool
    json: bool
    null: bool
    origin: bool
    timeout: str
    event: tuple[str, ...]
    fromfile: tuple[str, ...]
    exclude: tuple[str, ...]
    excludei: tuple[str, ...]
    include: tuple[str, ...]
    includei: tuple[str, ...]
    gitignore: bool
    exclude_from: tuple[str, ...]
    glob: tuple[str, ...]
    pid: tuple[int, ...]
    not_pid: tuple[int, ...]
    user: tuple[str, ...]
    not_user: tuple[str, ...]
    ignore_self: bool
    settle: str | None
    format: str | None
    timefmt: str | None
    no_newline: bool
    max_events: int | None
    socket: str | None

    def events(self) -> int:
        """Return the events asked for; every one if none is named. Complaint: an unknown word."""
        mask = 0
        for text in self.event:
            try:
                mask |= lines.event_mask(text)
            except KeyError:
                raise Complaint(
                    f"'{text}' is not a valid event!  Run with the '--help' option to see a list of events."
                ) from None
        return mask or ALL_EVENTS

    def seconds(self) -> int | None:
        """Return the timeout, read as strtol(3) would; None for none. Complaint: it is not a number."""
        text = self.timeout
        if not text:
            raise Complaint("The provided value is not a valid timeout value.\nPlease specify a long int value.")
        if not re.fullmatch(r"[ \t\n\v\f\r]*[+-]?[0-9]+", text):
            raise Complaint(f"'{text}' is not a valid timeout value.\nPlease specify a long int value.")
        seconds = int(text)
        if not -_LONG_MAX - 1 <= seconds <= _LONG_MAX:
            raise Complaint(f"Something went wrong with the timeout value you provided.\n{os.strerror(errno.ERANGE)}")
        return seconds if seconds > 0 else None

    def settling(self) -> float | None:
        """Return the seconds of ``--settle``; None without it. Complaint: it is no time."""
        try:
            return None if self.settle is None else filtering.seconds(self.settle)
        except ValueError as error:
            raise Complaint(str(error)) from None

    def check(self) -> None:
        """Refuse what does not go together. Complaint, in the order of inotifywait's own checks."""
        form = os.fsencode(self.format or "")
        given = {"-c": self.csv, "--json": self.json, "--format": self.format is not None}
        first, *others = [name for name, is_given in given.items() if is_given] or [""]
        wrong = {
            "Multiple --fromfile options given.": len(self.fromfile) > 1,
            "Multiple --outfile options given.": len(self.outfile) > 1,
            f"{first} and {''.join(others[:1])} cannot both be specified.": bool(others),
            "--no-newline cannot be specified without --format.": self.no_newline and self.format is None,
            "--timefmt cannot be specified without --format.": self.timefmt is not None and self.format is None,
            "%T is in --format string, but --timefmt was not specified.": b"%T" in form and self.timefmt is None,
            "-o must be specified with -d.": self.daemon and not self.outfile,
            "--gitignore and --socket cannot both be specified: the files cannot be read; use --exclude-from.": (
                self.gitignore and self.socket is not None
            ),
            "%{to} is in --format string, but --settle was not specified.": lines.TO in form and self.settle is None,
            **{
                f"{name} is in --format string, but --origin was not specified.": not self.origin
                for name in lines.named_origins(form)
            },
        }
        for complaint, applies in wrong.items():
            if applies:
                raise Complaint(complaint)

    def rules(self) -> Filter:
        """Make the filter that every watch has in the daemon. Complaint: a file or a name that is not there."""
        chosen = Filter(pids=self.pid, not_pids=self.not_pid, ignore_self=self.ignore_self)
        try:
            for path in self.exclude_from:
                chosen += Filter.from_file(path)
            chosen += filtering.of_globs(self.glob)
            users, not_users = (map(filtering.user_id, names) for names in (self.user, self.not_user))
            return chosen + Filter(uids=users, not_uids=not_users)
        except OSError as error:
            raise Complaint(f"Couldn't open {path}: {error.strerror}") from None
        except ValueError as error:
            raise Complaint(str(error)) from None

    def filter(self) -> Callable[[bytes], bool]:
        """Make the function that says whether a path passes the expressions. Complaint: a bad one."""
        excluded = _patterns("exclude", self.exclude, self.excludei)
        included = _patterns("include", self.include, self.includei)

        def passes(path: bytes) -> bool:
            if any(pattern.matches(path) for pattern in excluded):
                return False
            return not included or any(pattern.matches(path) for pattern in included)

        return passes

    def line(self) -> Callable[[lines.Report], bytes]:
        """Make the function that prints an event, its end included. Complaint: a format that prints nothing."""
        end = b"\0" if self.null else b"\n"
        if self.quiet > 1:
            return lambda _: b""
        if self.json:
            return lambda event: lines.as_json(event) + end
        if self.csv:
            return lambda event: lines.csv(event) + end
        if self.format is None:
            return lambda event: lines.plain(event) + end
        # The end belongs to the format: a line that its %T drops has none.
        rendered = lines.template(os.fsencode(self.format) + (b"" if self.no_newline else end), self.timefmt)
        nameless = lines.Report(b"", b"", ALL_EVENTS, 0, 0, Origin(0, 0, 0, 0, 0, 0, b"-"), "")
        if self.timefmt != "" and not rendered(nameless):
            raise Complaint("Something is wrong with your format string.")
        return rendered


def _patterns(name: str, exact: tuple[str, ...], any_case: tuple[str, ...]) -> list[Pattern]:
    try:
        return [
            *(Pattern(os.fsencode(text)) for text in exact),
            *(Pattern(os.fsencode(text), ignore_case=True) for text in any_case),
        ]
    except ValueError:
        raise Complaint(f"Error in `{name}' regular expression.") from None
