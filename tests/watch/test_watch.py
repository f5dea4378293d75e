"""``notifyfs watch`` prints what inotifywait prints.

The judge is Debian 12's inotifywait (package inotify-tools 3.22): it watches a plain directory, ours
one on a mount, the same is done in both, and output, messages and exit codes must be equal.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from notifyfs import Connection
from notifyfs.commands.watch import lines
from notifyfs.commands.watch.inotifywait import Translator, Watched
from notifyfs.commands.watch.losses import Losses
from notifyfs.commands.watch.patterns import Pattern
from notifyfs.protocol import flags
from notifyfs.protocol.records import Origin, Record
from tests.conftest import Mount, wait_until
from tests.support.watcher import ENVIRONMENT, ESTABLISHED, INOTIFYWAIT, OURS, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


@pytest.fixture
def watching(place: Path) -> Iterator[Callable[..., Program]]:
    """Make a function that starts ``notifyfs watch`` there."""
    programs = []

    def start(*arguments: str | bytes, where: Path = place) -> Program:
        programs.append(Program(OURS, where, *arguments))
        programs[-1].established()
        return programs[-1]

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.end(signal.SIGKILL)


def test_json_is_an_object_a_line(watching: Callable[..., Program], place: Path, shared: Callable[..., Mount]) -> None:
    program = watching("-mr", "--json", "-e", "create,move,attrib", "d")
    before = time.time_ns()
    (place / "d/s/é").mkdir()
    os.mkdir(os.fsencode(place) + b"/d/\xff")
    (place / "d/s/n").rename(place / "d/m")
    end(place)
    program.until(lambda: b'"end"' in program.out)
    events = [json.loads(line) for line in program.out.splitlines()]
    assert events[2]["cookie"] == events[3]["cookie"] > 0
    for event in events:
        assert before < event.pop("ts") < time.time_ns()
        assert event.pop("cookie") == 0 or event["events"][0].startswith("MOVED")
    always = {"v": 1, "mount": str(shared().root), "wd": 1}
    made = always | {"events": ["CREATE", "ISDIR"], "mask": flags.CREATE | flags.ISDIR}
    file = always | {"events": ["CREATE"], "mask": flags.CREATE}
    assert events == [
        made | {"path": "d/s/é", "dir": "d/s/", "name": "é"},
        made | {"path": "d/�", "dir": "d/", "name": "�", "path_b64": base64.b64encode(b"d/\xff").decode()},
        always | {"events": ["MOVED_FROM"], "mask": flags.MOVED_FROM, "path": "d/s/n", "dir": "d/s/", "name": "n"},
        always | {"events": ["MOVED_TO"], "mask": flags.MOVED_TO, "path": "d/m", "dir": "d/", "name": "m"},
        file | {"path": "d/end", "dir": "d/", "name": "end"},
    ]


def test_json_tells_the_origin(watching: Callable[..., Program], place: Path) -> None:
    program = watching("--json", "--origin", "--max-events", "2", "d")
    maker = subprocess.Popen(["mkdir", place / "d/made", place / "d/too"])
    assert program.end(None)[0] == maker.wait() == 0
    first, second = (json.loads(line) for line in program.out.splitlines())
    assert [first[key] for key in ("name", "pid", "uid", "gid", "comm")] == ["made", maker.pid, 0, 0, "mkdir"]
    assert (second["name"], second["seq"]) == ("too", first["seq"] + 1)
    assert abs(time.time_ns() - first["ts"]) < 60_000_000_000


def test_formats_tell_the_origin(watching: Callable[..., Program], place: Path) -> None:
    program = watching("--origin", "--format", "%f %{pid} %{uid} %{gid} %{comm} %{nothing}", "d")
    maker = subprocess.Popen(["mkdir", place / "d/made"])
    maker.wait()
    assert program.end(None)[:2] == (0, b"made %d 0 0 mkdir %%{nothing}\n" % maker.pid)


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["-0"], b"d/ CREATE end\0"),
        (["-0", "--format", "%f"], b"end\0"),
        (["-0", "-c"], b"d/,CREATE,end\0"),
        (["--max-events", "1"], b"d/ CREATE end\n"),
    ],
    ids=str,
)
def test_lines_may_end_with_nul(
    watching: Callable[..., Program], place: Path, arguments: list[str], printed: bytes
) -> None:
    program = watching(*arguments, "d")
    end(place)
    assert program.end(None)[:2] == (0, printed)


def test_filters_may_be_repeated_and_combined(watching: Callable[..., Program], place: Path) -> None:
    program = watching(
        "-m",
        "-e",
        "create",
        "--exclude",
        "a$",
        "--exclude",
        "^d/b",
        "--excludei",
        "C",
        "--include",
        "^d/.$",
        "--include",
        "end",
        "d",
    )
    for name in ("a", "b", "c", "x", "xx", "end"):
        (place / "d" / name).mkdir()
    program.until(lambda: b"end" in program.out)
    assert program.out == b"d/ CREATE,ISDIR x\nd/ CREATE,ISDIR end\n"


@pytest.mark.parametrize(
    ("operands", "printed"),
    [
        (["-m", "d", "d/f", "l"], b"d/ ATTRIB f\nd/f ATTRIB \nd/ CREATE end\n"),
        (["-m", "/d"], b"/d/ ATTRIB f\n/d/ CREATE end\n"),
        (["-m", "l"], b"l ATTRIB f\nl CREATE end\n"),
        (["-mr", "l", "d/f"], b"l/ ATTRIB f\nd/f ATTRIB \nl/ CREATE end\n"),
        (["-mr", "."], b"./d/ ATTRIB f\n./d/ CREATE end\n"),
    ],
    ids=str,
)
def test_with_a_socket_paths_are_below_the_mounts_root(
    mount: Mount, tmp_path: Path, operands: list[str], printed: bytes
) -> None:
    prepare(mount.root)
    program = Program(OURS, tmp_path, "--socket", mount.socket, "-e", "attrib,create", *operands)
    program.established()
    (mount.root / "d/f").chmod(0o600)
    end(mount.root)
    program.until(lambda: b"end" in program.out)
    assert program.end() == (-signal.SIGTERM, printed, program.err)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["PLAIN"], "Couldn't watch PLAIN: not on a notifyfs mount; make one with `notifyfs mount SOURCE MOUNTPOINT`"),
        (
            ["d", "PLAIN"],
            "Couldn't watch PLAIN: not on a notifyfs mount; make one with `notifyfs mount SOURCE MOUNTPOINT`",
        ),
        (
            ["--socket", "PLAIN/s", "x"],
            "Couldn't watch x: cannot reach the mount's daemon: No such file or directory; `notifyfs list`",
        ),
    ],
)
def test_what_is_on_no_mount_is_named_with_the_remedy(
    place: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    plain = str(tmp_path)
    code, out, err = Program(OURS, place, *(word.replace("PLAIN", plain) for word in arguments)).end(None)
    said = err.decode().removeprefix("Setting up watches.\n")
    assert (code, out) == (1, b"")
    assert said.startswith(complaint.replace("PLAIN", plain))
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--bogus", "d"], "--bogus"),
        (["-z", "d"], "-z"),
        (["-e"], "Option '-e' requires an argument."),
        (["--max-events", "0", "d"], "Invalid value for '--max-events'"),
        (["--json", "-c", "d"], "-c and --json cannot both be specified."),
        (["--json", "--format", "x", "d"], "--json and --format cannot both be specified."),
        (["--format", "%{uid}", "d"], "%{uid} is in --format string, but --origin was not specified."),
    ],
    ids=str,
)
def test_misuse_is_one_line_and_not_the_exit_code_of_a_timeout(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    code, out, err = Program(OURS, tmp_path, *arguments).end(None)
    assert (code, out, err.count(b"\n")) == (1, b"", 1)
    assert complaint in err.decode()


def test_help_names_every_option(tmp_path: Path) -> None:
    code, out, err = Program(OURS, tmp_path, "-h").end(None)
    assert (code, err) == (0, b"")
    for (
        option
    ) in b"-m -d -o -s -P -r -q -c -t -e --fromfile --excludei --includei --timefmt --json -0 --origin".split():
        assert option in out


def test_paths_on_several_mounts_are_watched_together(mounted: Callable[..., Mount], tmp_path: Path) -> None:
    roots = [mounted().root, mounted().root]
    for root in roots:
        prepare(root)
    program = Program(OURS, tmp_path, "-m", "-e", "create", *(str(root / "d") for root in roots))
    program.established()
    for root in roots:
        end(root)
    program.until(lambda: program.out.count(b"end") == 2)
    assert set(program.out.decode().splitlines()) == {f"{root}/d/ CREATE end" for root in roots}
    program.end()


@pytest.mark.parametrize(
    ("arguments", "printed", "said"),
    [
        (["-m"], b"", "the mount has ended"),
        (["-m", "-e", "unmount"], b"d/ UNMOUNT,ISDIR \n", "the mount has ended"),
        ([], b"", ""),
    ],
    ids=str,
)
def test_the_end_of_the_mount_ends_it_with_1(
    mount: Mount, tmp_path: Path, arguments: list[str], printed: bytes, said: str
) -> None:
    (mount.root / "d").mkdir()
    program = Program(OURS, tmp_path, *arguments, str(mount.root / "d"))
    program.established()
    mount.unmount()
    code, out, err = program.end(None)
    assert (code, out.replace(os.fsencode(mount.root) + b"/", b"")) == (1, printed)
    assert said in err.decode().removeprefix("Setting up watches.\nWatches established.\n")


def lose(mount: Mount, program: Program) -> None:
    """Make *program* lose events: it stands still while more happens than may wait for it."""
    os.kill(program.process.pid, signal.SIGSTOP)
    with Connection(mount.socket) as other:  # its replies say how far the daemon has got
        for number in range(250):
            (mount.root / "d" / str(number)).mkdir()
            (mount.root / "d" / str(number)).rmdir()
        other.sync()
    os.kill(program.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("form", [[], ["--json"]], ids=str)
def test_lost_events_are_not_lost_in_silence(mounted: Callable[..., Mount], tmp_path: Path, form: list[str]) -> None:
    mount = mounted(max_queued_events=5)
    (mount.root / "d").mkdir()
    program = Program(OURS, mount.root, "-m", *form, "d")
    program.established()
    lose(mount, program)
    program.until(lambda: b"lost" in program.err and (not form or b'"Q_OVERFLOW"' in program.out))
    program.end()
    assert b"max_queued_events" in program.err
    assert (b"Q_OVERFLOW" in program.out) == bool(form)


@pytest.mark.parametrize("how", ["INT", "TERM", "HUP", "closed pipe", "umount"])
def test_many_losses_are_a_line_and_a_count(mounted: Callable[..., Mount], tmp_path: Path, how: str) -> None:
    mount = mounted(max_queued_events=5)
    (mount.root / "d").mkdir()
    program = Program(OURS, tmp_path, "-m", "--json", str(mount.root / "d"))
    program.established()
    began = time.monotonic()
    for times in range(1, 6):
        lose(mount, program)
        program.until(lambda: program.out.count(b"Q_OVERFLOW") >= times)  # noqa: B023 - called here and now
    end(mount.root)
    program.until(lambda: b'"end"' in program.out)

    if how == "umount":
        mount.unmount()
    elif how == "closed pipe":
        assert program.process.stdout is not None
        program.process.stdout.close()
        program.process.stdout = open(os.devnull, "rb")  # noqa: SIM115 - `end` closes it
        (mount.root / "d/more").mkdir()
    signals = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}
    code, out, err = program.end(signals.get(how))

    assert code == {"umount": 1, "closed pipe": -signal.SIGPIPE}.get(how) or -signals[how]
    first, *_, last = [line for line in err.decode().splitlines() if "events were lost" in line]
    assert first.endswith("the mount's option max_queued_events says how many may wait")
    assert last.endswith(f" more times, {out.count(b'Q_OVERFLOW')} in all")
    assert err.count(b"events were lost") <= 2 + (time.monotonic() - began) // 10


def test_losses_that_go_on_are_told_a_line_at_a_time() -> None:
    said: list[str] = []
    losses = Losses(said.append, quiet=3600)
    assert losses.until is None
    for _ in range(984):
        losses.add()
    assert len(said) == 1
    assert losses.until is not None
    assert 3500 < losses.until - time.monotonic() <= 3600

    losses.say()
    losses.say()
    assert said[1:] == ["notifyfs watch: events were lost again: 983 more times, 984 in all"]
    assert losses.until is None


def test_an_output_that_cannot_be_written_ends_it_with_a_line(place: Path) -> None:
    with open("/dev/full", "wb") as full:
        watcher = subprocess.Popen(
            [*OURS, "-m", "d"], cwd=place, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, bufsize=0
        )
    assert watcher.stderr is not None
    with watcher.stderr as said:
        assert [said.readline(), said.readline()] == [b"Setting up watches.\n", ESTABLISHED]
        end(place)
        assert watcher.wait(10) == 1
        assert said.read() == b"notifyfs watch: cannot write the events: No space left on device\n"


# The parts


@pytest.mark.parametrize("word", sorted(lines.WORDS))
def test_every_event_word_is_inotifywaits(judge: None, tmp_path: Path, word: str) -> None:
    code = Program(INOTIFYWAIT, tmp_path, "-e", f"{word},bogus", ".").end(None)
    known = Program(INOTIFYWAIT, tmp_path, "-e", word, "missing").end(None)
    assert code[2].startswith(f"'{word},bogus' is not a valid event!".encode())
    assert known[2].startswith(b"Setting up watches.")
    assert lines.event_mask(word.upper()) == lines.WORDS[word]


def told(translator: Translator, *records: Record) -> list[tuple[bytes, bytes, str]]:
    return [(event.watched, event.name, lines.spell(event.mask).decode()) for event in translator.translate(records)]


def test_a_directory_that_leaves_the_tree_is_told_when_the_next_record_decides() -> None:
    translator = Translator("/m", flags.ALL_EVENTS, lambda _: True, twice=True)
    translator.watches[1] = Watched(b"d/", recursive=True)
    left = Record(1, flags.MOVED_FROM | flags.ISDIR, 7, b"s/t")
    assert told(translator, left) == [(b"d/s/", b"t", "MOVED_FROM,ISDIR")]
    assert translator.pending
    assert told(translator, Record(1, flags.MOVED_TO | flags.ISDIR, 8, b"u")) == [
        (b"d/s/t/", b"", "MOVE_SELF"),
        (b"d/", b"u", "MOVED_TO,ISDIR"),
    ]
    assert not translator.pending
    assert told(translator, left, Record(1, flags.MOVED_TO | flags.ISDIR, 7, b"u")) == [
        (b"d/s/", b"t", "MOVED_FROM,ISDIR"),
        (b"d/", b"u", "MOVED_TO,ISDIR"),
        (b"d/u/", b"", "MOVE_SELF"),
    ]
    told(translator, left)
    assert [event.watched for event in translator.flush()] == [b"d/s/t/"]
    assert not translator.pending


def test_what_was_requested_only_to_make_another_event_of_it_is_not_told() -> None:
    translator = Translator("/m", flags.DELETE_SELF, lambda _: True, twice=True)
    translator.watches[1] = Watched(b"d/", recursive=True)
    assert translator.mask(recursive=True) == flags.DELETE_SELF | flags.DELETE
    assert translator.mask(recursive=False) == flags.DELETE_SELF
    assert told(translator, Record(1, flags.DELETE, 0, b"f")) == []
    assert told(translator, Record(1, flags.DELETE | flags.ISDIR, 0, b"s")) == [(b"d/s/", b"", "DELETE_SELF")]
    assert told(translator, Record(-1, flags.Q_OVERFLOW)) == [(b"", b"", "Q_OVERFLOW")]


def test_an_origin_belongs_to_the_record_after_it() -> None:
    translator = Translator("/m", flags.CREATE, lambda _: True, twice=False)
    translator.watches[1] = Watched(b"d/")
    origin = Origin(5, 6, 7, 8, 9, 0, b"sh")
    records = [
        Record(1, flags.CREATE | flags.X_ORIGIN, 0, bytes(origin)),
        Record(1, flags.CREATE, 0, b"f"),
        Record(1, flags.IGNORED),
    ]
    (first,) = translator.translate(records[:2])
    (second,) = translator.translate(records[2:])
    assert (first.name, first.origin, second.origin) == (b"f", origin, None)


@pytest.mark.parametrize("text", ["(", "[", "a{2", "[z-a]"])
def test_a_bad_pattern_is_a_valueerror_with_the_librarys_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"Unmatched|Invalid"):
        Pattern(text.encode())
