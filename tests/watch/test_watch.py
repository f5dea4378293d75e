"""``notifyfs watch`` prints what inotifywait prints.

The judge is Debian 12's inotifywait (package inotify-tools 3.22): it watches a plain directory, ours
one on a mount, the same is done in both, and output, messages and exit codes must be equal.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import Mount, wait_until
from tests.support.watcher import ESTABLISHED, INOTIFYWAIT, OURS, Program

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def judge() -> None:
    """Find the real inotifywait, of the version that is followed; in CI its absence is a failure."""
    found = shutil.which("inotifywait")
    version = subprocess.run([found, "-h"], check=False, capture_output=True).stdout if found else b"none at all"
    if not version.startswith(b"inotifywait 3.22"):
        message = f"inotifywait 3.22 is needed as the judge (apt install inotify-tools): {version[:30]!r}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def places(judge: None, shared: Callable[..., Mount], tmp_path: Path) -> list[tuple[tuple[str, ...], Path]]:
    """Pair each program with a directory of this test's own: inotifywait with a plain one, ours with one on a mount."""
    plain = tmp_path / "plain"
    plain.mkdir()
    mounted = shared().root / tmp_path.name
    mounted.mkdir()
    return [(INOTIFYWAIT, plain), (OURS, mounted)]


def transcript(  # noqa: PLR0913, PLR0917 - what a case consists of
    command: tuple[str, ...],
    place: Path,
    arguments: tuple[str, ...],
    operations: Callable[[Path], object],
    last: bytes,
    stdin: bytes | None = None,
) -> tuple[int, bytes, bytes]:
    """Return what *command* prints until *last* is in its output, or until it ends."""
    program = Program(command, place, *arguments, stdin=stdin)
    program.established()
    operations(place)
    program.until(lambda: last in program.out)
    code, out, err = program.end(signal.SIGTERM if program.process.poll() is None else None)
    return code, without_numbers(out), err


def without_numbers(out: bytes) -> bytes:
    """Replace the cookies, ``<hexadecimal>``, by their numbers from 1."""
    cookies: dict[bytes, bytes] = {}
    return re.sub(
        rb"<([0-9a-f]{2,8}|[1-9a-f])>",
        lambda found: cookies.setdefault(found[0], b"<cookie %d>" % (len(cookies) + 1)),
        out,
    )


def prepare(place: Path) -> None:
    for directory in ("d/s/x", "e"):
        (place / directory).mkdir(parents=True)
    for file in ("d/f", "d/s/n", "d/s/x/n"):
        (place / file).touch()
    (place / "l").symlink_to("d")
    (place / "nowhere").symlink_to("missing")
    (place / "list").write_bytes(b"d\n\n@x\n@\n")


def end(place: Path) -> None:
    os.mknod(place / "d/end")  # a directory would be opened by inotifywait -r, a file that is opened tells more


def write(path: Path) -> None:
    """Write without truncating: two MODIFY in a row are one or two, as the reader's speed has it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"x")
    os.close(descriptor)


def usual(place: Path) -> None:
    """Do something of everything, in d and below."""
    write(place / "d/a b")
    (place / "d/f").rename(place / 'd/g"h')
    (place / 'd/g"h').chmod(0o600)
    os.mknod(os.fsencode(place) + b"/d/\xff,\n")
    os.utime(place / "d/s/n")
    os.close(os.open(place / "d/s", os.O_RDONLY))
    (place / "d/s").chmod(0o711)
    (place / "d/a b").rename(place / "e/ab")
    os.utime(place / "d/s")
    (place / "e/ab").rename(place / "d/s/ab")
    (place / "d/s/ab").unlink()
    end(place)


def of_a_tree(place: Path) -> None:
    """Rename and remove directories that were there at the start."""
    (place / "d/s").rename(place / "d/t")
    (place / "d/t/x/n").chmod(0o600)
    (place / "d/t/x/n").unlink()
    (place / "d/t/x").rename(place / "d/y")
    os.utime(place / "d/y")
    (place / "d/y").rmdir()
    (place / "d/t").rename(place / "e/t")
    (place / "d").chmod(0o700)
    (place / "d/last").touch()


def of_directories(place: Path) -> None:
    (place / "d/a").mkdir()
    (place / "d/a").rename(place / "d/b")
    (place / "d/b").chmod(0o700)
    (place / "d/b").rmdir()
    end(place)


def of_a_file(place: Path) -> None:
    write(place / "d/f")
    (place / "d/f").rename(place / "d/g")
    (place / "d/g").unlink()


FORMATS = "%w|%f|%e|%_e|%:e|%%|%z|<%c>|%0|%n|%5e|%xx|%{e|%é|%"

SAME = {
    "default": (["-m", "d"], usual, b"end\n"),
    "directories": (["-m", "d"], of_directories, b"end\n"),
    "slash": (["-m", "d/"], usual, b"end\n"),
    "slashes": (["-m", "d//"], usual, b"end\n"),
    "dot": (["-m", "./d", "."], usual, b"end\n"),
    "file": (["-m", "d/f"], of_a_file, b"DELETE_SELF"),
    "file and directory": (["-m", "d/f", "d"], lambda place: (of_a_file(place), end(place)), b"end\n"),
    "twice the same": (["-m", "d", "./d"], usual, b"end\n"),
    "link": (["-m", "l"], usual, b"end\n"),
    "link itself": (
        ["-mP", "nowhere", "d"],
        lambda place: (os.utime(place / "nowhere", follow_symlinks=False), end(place)),
        b"end\n",
    ),
    "link, whole tree": (["-mr", "l"], usual, b"end\n"),
    "link itself, whole tree": (["-mrP", "l"], usual, b"end\n"),
    "csv": (["-mc", "d", "d/f"], usual, b"end\n"),
    "format": (["-m", "--format", FORMATS, "d"], usual, b"|end|"),
    "time": (["-m", "--format", "%T%w%f %%%T", "--timefmt", "%%Y-é-%n", "d"], usual, b"end"),
    "empty time": (["-m", "--format", "%T%w%f", "--timefmt", "", "d", "--exclude", "zz"], of_a_file, b""),
    "no newline": (["-m", "--no-newline", "--format", "%e %w%f;", "d"], usual, b"end;"),
    "some events": (["-m", "-e", "create,MOVE", "-e", "close_write", "d"], usual, b"end\n"),
    "no event named": (["-m", "-e", "", "-e", "open,", "d"], usual, b"end\n"),
    "isdir is an event": (["-m", "-e", "isdir,delete", "-e", "create", "d"], usual, b"end\n"),
    "ignored is an event": (["-m", "-e", "ignored", "d/f"], of_a_file, b"IGNORED"),
    "oneshot is an event": (["-m", "-e", "oneshot,create,ignored", "d"], usual, b"IGNORED"),
    "exclude": (["-m", "--exclude", "[[:space:]]|^d/f", "d"], usual, b"end\n"),
    "exclude in any case": (["-m", "--excludei", "A B|D/F", "d"], usual, b"end\n"),
    "exclude bytes": (["-m", "--exclude", "^d/[^a-z]{3}$", "d"], usual, b"end\n"),
    "include": (["-m", "--include", "(f|d)$", "d"], usual, b"end\n"),
    "include in any case": (["-m", "--includei", "(F|D)$", "d"], usual, b"end\n"),
    "whole tree": (["-mr", "d"], usual, b"end\n"),
    "whole tree, csv": (["-mrc", "d/"], usual, b"end\n"),
    "whole tree, its directories": (["-mr", "d"], of_a_tree, b"CLOSE last\n"),
    "whole tree, deaths and moves of directories": (
        ["-mr", "-e", "delete_self,move_self,close_write", "d"],
        of_a_tree,
        b"CLOSE last\n",
    ),
    "whole tree, a file": (["-mr", "d/f"], of_a_file, b"DELETE_SELF"),
    "trees that meet": (
        ["-mr", "-e", "attrib", "d/s", "d/s/x", "d/s"],
        lambda place: os.utime(place / "d/s/x/n"),
        b"ATTRIB n",
    ),
    "two trees": (["-mr", "d", "e"], usual, b"end\n"),
    "excluded directory": (["-mr", "d", "@d/s"], usual, b"end\n"),
    "excluded directory, slash": (["-mr", "d/", "@d/s/", "@"], usual, b"end\n"),
    "excluded otherwise spelled": (["-mr", "./d", "@d/s"], usual, b"end\n"),
    "excluded operand": (
        ["-mr", "-e", "attrib,create", "d", "d/s", "@d/s", "@d"],
        lambda place: (os.utime(place / "d/s/n"), end(place)),
        b"end\n",
    ),
    "excluded tree and filter": (["-mr", "d", "--exclude", "/s/", "@d/s/x"], usual, b"end\n"),
    "list": (["-m", "--fromfile", "list", "e"], usual, b"end\n"),
    "missing list": (["-m", "--fromfile", "missing", "d"], usual, b"end\n"),
    "once": (["d"], usual, b"x"),
    "once, csv": (["-c", "d/f"], of_a_file, b"x"),
    "once, wanted": (["-e", "delete_self", "d/f"], of_a_file, b"x"),
    "once, unwanted": (["-e", "create", "d/f"], of_a_file, b"x"),
    "once, whole tree": (["-r", "-e", "attrib,create", "d"], usual, b"x"),
    "time is up": (["-t", "1", "d", "--exclude", "d"], lambda _: None, b"x"),
    "time is up after events": (["-m", "-t", " +1", "d"], usual, b"x"),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_is_printed(places: list[tuple[tuple[str, ...], Path]], case: str) -> None:
    arguments, operations, last = SAME[case]
    results = []
    for command, place in places:
        prepare(place)
        results.append(transcript(command, place, tuple(arguments), operations, last))
    expected, ours = results
    assert ours == expected


def test_a_list_may_come_from_standard_input(places: list[tuple[tuple[str, ...], Path]]) -> None:
    results = []
    for command, place in places:
        prepare(place)
        results.append(transcript(command, place, ("-m", "--fromfile", "-"), usual, b"end\n", stdin=b"@x\nd\n"))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["@d"],
        ["missing"],
        ["d/f/"],
        ["-r", "missing"],
        ["-rP", "nowhere"],
        ["-q", "missing"],
        ["-qq", "missing", "d"],
        ["-s", "missing"],
        ["d/n\udcff"],
        ["--fromfile", "missing"],
        ["-e", "bogus", "d"],
        ["-e", "create,bogus", "d"],
        ["-e", " create", "d"],
        ["-e", "mask_add", "d"],
        ["-t", "abc", "d"],
        ["-t", "", "d"],
        ["-t", "1.5", "d"],
        ["-t", "1 ", "d"],
        ["-t", "1_0", "d"],
        ["-t", "99999999999999999999", "d"],
        ["-t", "-9223372036854775809", "d"],
        ["--exclude", "(", "d"],
        ["--excludei", "[", "d"],
        ["--include", "(", "d"],
        ["--includei", "[z-a]", "d"],
        ["--fromfile", "a", "--fromfile", "b", "d"],
        ["-o", "a", "-o", "b", "d"],
        ["-o", "missing/x", "d"],
        ["-c", "--format", "x", "d"],
        ["-dc", "--format", "x", "d"],
        ["--no-newline", "d"],
        ["--timefmt", "%s", "d"],
        ["--format", "%T", "d"],
        ["--format", "%%T", "d"],
        ["--format", "%w%f", "--no-newline", "d"],
        ["--format", "", "--no-newline", "d"],
        ["-d", "d"],
        ["-d", "-o", "missing", "d"],
    ],
    ids=" ".join,
)
def test_the_same_complaints_are_made(places: list[tuple[tuple[str, ...], Path]], arguments: list[str]) -> None:
    results = []
    for command, place in places:
        prepare(place)
        results.append(Program(command, place, *arguments).end(None))
    expected, ours = results
    assert ours == expected
    assert ours[0] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_without_a_word(places: list[tuple[tuple[str, ...], Path]], number: int) -> None:
    results = []
    for command, place in places:
        prepare(place)
        program = Program(command, place, "-m", "d")
        program.established()
        results.append(program.end(number))
    assert results[0] == results[1] == (-number, b"", b"Setting up watches.\n" + ESTABLISHED)


def test_a_closed_pipe_ends_it_without_a_word(places: list[tuple[tuple[str, ...], Path]]) -> None:
    results = []
    for command, place in places:
        prepare(place)
        program = Program(command, place, "-m", "d")
        program.established()
        assert program.process.stdout is not None
        program.process.stdout.close()
        (place / "d/a").mkdir()
        results.append((program.process.wait(10), program.process.stderr.read() if program.process.stderr else b""))
        assert program.process.stderr is not None
        program.process.stderr.close()
    assert results[0] == results[1] == (-signal.SIGPIPE, b"")


def test_twice_quiet_says_nothing_but_the_exit_code(places: list[tuple[tuple[str, ...], Path]]) -> None:
    for command, place in places:
        prepare(place)
        program = Program(command, place, "-qq", "d")
        wait_until(lambda: os.utime(place / "d/f") or program.process.poll() is not None)  # noqa: B023 - called at once
        assert program.end(None) == (0, b"", b"")


def test_once_quiet_prints_events_only(places: list[tuple[tuple[str, ...], Path]]) -> None:
    for command, place in places:
        prepare(place)
        program = Program(command, place, "-q", "d")
        wait_until(lambda: os.utime(place / "d/f") or program.process.poll() is not None)  # noqa: B023 - called at once
        assert program.end(None) == (0, b"d/ ATTRIB f\n", b"")


def test_the_output_file_is_appended_to(places: list[tuple[tuple[str, ...], Path]]) -> None:
    written = []
    for command, place in places:
        prepare(place)
        (place / "out").write_text("before\n")
        program = Program(command, place, "-m", "-o", "out", "d")
        program.established()
        usual(place)
        wait_until(lambda: b"end\n" in (place / "out").read_bytes())  # noqa: B023 - called at once
        assert program.end() == (-signal.SIGTERM, b"", b"Setting up watches.\n" + ESTABLISHED)
        written.append((place / "out").read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(b"before\n")


def running(words: list[str]) -> list[int]:
    """Find the processes whose command line ends with *words*."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().split(b"\0")[:-1] if entry.name.isdigit() else []
        except OSError:
            continue
        if line[-len(words) :] == [os.fsencode(word) for word in words]:
            found.append(int(entry.name))
    return found


def test_in_the_background_it_goes_on(places: list[tuple[tuple[str, ...], Path]], tmp_path: Path) -> None:
    for number, (command, place) in enumerate(places):
        prepare(place)
        out = tmp_path / f"out{number}"
        out.touch()
        words = ["-d", "-o", str(out), str(place / "d")]
        assert Program(command, place, *words).end(None) == (0, b"", b"")
        (pid,) = running(words)
        try:
            wait_until(lambda: os.utime(place / "d/f") or out.read_bytes())  # noqa: B023 - called at once
            assert out.read_bytes().splitlines()[0] == os.fsencode(place / "d") + b"/ ATTRIB f"
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            assert os.getsid(pid) != os.getsid(0)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not running(words))  # noqa: B023 - called at once


# What inotifywait does not have.


@pytest.fixture
def place(shared: Callable[..., Mount], tmp_path: Path) -> Path:
    """Make a directory of this test's own on a mount, with things in it."""
    directory = shared().root / tmp_path.name
    directory.mkdir()
    prepare(directory)
    return directory
