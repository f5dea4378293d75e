"""What ``notifyfs watch`` has and inotifywait does not: JSON, origins, filters, sockets, several mounts."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from notifyfs import Connection
from notifyfs.commands.watch.losses import Losses
from notifyfs.protocol import flags
from tests.support.watcher import ENVIRONMENT, ESTABLISHED, OURS, Program
from tests.watch.test_watch import end, place, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Mount

__all__ = ["place"]


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
