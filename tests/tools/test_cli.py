"""The commands as people run them: output, exit codes, and what they leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from notifyfs import mounts
from notifyfs.commands import doctor
from notifyfs.commands.main import printable
from notifyfs.fuse import probe
from tests.conftest import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
README = Path(__file__).resolve().parents[2] / "README.md"
NOBODY = 65534


def run(*words: str | Path, program: str = "notifyfs", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program of the project to its end."""
    return subprocess.run(
        [BIN / program, *words],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"COLUMNS": "80"},
    )


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def tree(fuse: None) -> Iterator[Path]:
    """Make ``source`` and ``mount`` in a directory that every user may enter; unmount in the end."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        for made in ("source", "mount"):
            (directory / made).mkdir()
        (directory / "source" / "file").write_text("here\n")
        yield directory
        for each in mounts.mounted():
            if each.mountpoint.startswith(f"{name}/"):
                assert run("umount", "-l", each.mountpoint).returncode == 0


def state(mountpoint: Path) -> dict[str, object] | None:
    """Return what ``list --json`` says of *mountpoint*."""
    listed = json.loads(run("list", "--json").stdout)
    return next((each for each in listed if each["mountpoint"] == str(mountpoint)), None)


def ended(pid: int) -> bool:
    """Whether process *pid* is gone, or a zombie that init has still to fetch."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return True


# Without a mount.


@pytest.mark.parametrize("program", ["notifyfs", "mount.notifyfs"])
def test_help_imports_neither_pyfuse3_nor_trio(program: str) -> None:
    probe = f"""
import sys
from notifyfs.commands import main as cli
sys.argv = [{program!r}, "--help"]
try:
    {"cli.main()" if program == "notifyfs" else "cli.mount_helper()"}
except SystemExit as end:
    assert end.code == 0
print(sorted({{"pyfuse3", "trio"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert done.stdout.endswith("\n[]\n")


BLOCKS = re.findall(
    r"^```console\n\$ ([a-z.]+)((?: [a-z]+)?) --help\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("program", "command", "shown"), BLOCKS, ids=[f"{block[0]}{block[1]}" for block in BLOCKS])
def test_the_readme_shows_the_current_help(program: str, command: str, shown: str) -> None:
    assert run(*command.split(), "--help", program=program).stdout == shown


def test_the_readme_shows_the_help_of_every_command() -> None:
    listed = re.search(r"^Commands:\n(.*)", run("--help").stdout, re.MULTILINE | re.DOTALL)
    assert listed
    commands = {line.split()[0] for line in listed[1].splitlines()}
    assert commands == {"doctor", "list", "mount", "stats", "umount", "watch"}
    assert {(program, command.strip()) for program, command, _ in BLOCKS} == {
        ("notifyfs", ""),
        ("mount.notifyfs", ""),
        *(("notifyfs", command) for command in commands),
    }


def test_the_version_is_the_installed_one() -> None:
    code, out, _ = said(run("--version"))
    assert code == 0
    assert re.fullmatch(r"notifyfs, version \d+\.\d+\.\d+\n", out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mount"], "Missing argument 'SOURCE'"),
        (["mount", "/"], "Missing argument 'MOUNTPOINT'"),
        (["mount", "/a", "/b", "/c"], "unexpected extra argument (/c)"),
        (["umount"], "Missing argument 'MOUNTPOINT'"),
        (["stats"], "Missing argument 'PATH'"),
        (["list", "--jsn"], "No such option"),
        (["mout", "/a"], "No such command 'mout'"),
        (["mount", "-o", "cache=often", "/a", "/b"], "notifyfs: -o cache=often: no such choice; it is one of"),
    ],
)
def test_a_wrong_command_line_exits_with_2(words: list[str], message: str) -> None:
    code, out, err = said(run(*words))
    assert (code, out) == (2, "")
    assert message in err


def test_a_failure_is_one_line_and_exits_with_1(tmp_path: Path) -> None:
    nowhere = tmp_path / "no\nwhere"
    shown = f"{tmp_path}/no\\x0awhere"
    mountpoint = tmp_path / "mount"
    mountpoint.mkdir()
    assert said(run("umount", mountpoint)) == (
        1,
        "",
        f"notifyfs: {mountpoint}: not a notifyfs mount; `notifyfs list` shows those that are\n",
    )
    for flags in ([], ["-f"]):
        assert said(run("mount", *flags, nowhere, mountpoint)) == (
            1,
            "",
            f"notifyfs: {shown}: the source: No such file or directory; create it: mkdir -p {shown}\n",
        )
    code, out, err = said(run("stats", tmp_path))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"notifyfs: {tmp_path}: not on a notifyfs mount; ")


def test_names_are_shown_on_one_line_that_any_terminal_takes() -> None:
    assert printable("a\tb\x1b[1m\x7f") == "a\\x09b\\x1b[1m\\x7f"
    assert printable(os.fsdecode(b"\xff\xc3\xbc")) == "\\xffü"


# With one.


def test_a_mount_returns_with_its_socket_and_goes_on_in_the_background(tree: Path) -> None:
    mountpoint = tree / "mount"
    code, out, err = said(run("mount", "source", "mount", cwd=tree))
    assert (code, err) == (0, "")
    assert out.endswith("/socket\n")
    found = state(mountpoint)
    assert found is not None
    pid = found.pop("pid")
    assert found == {
        "mountpoint": str(mountpoint),
        "source": str(tree / "source"),
        "socket": out.strip(),
        "state": "live",
    }
    assert isinstance(pid, int)
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.readlink(f"/proc/{pid}/fd/{standard}") for standard in range(3)} == {"/dev/null"}
    assert (mountpoint / "file").read_text() == "here\n"

    assert said(run("umount", mountpoint)) == (0, "", "")
    assert state(mountpoint) is None
    assert not os.path.exists(out.strip())
    assert ended(pid)


def test_a_daemon_keeps_no_descriptor_of_its_caller(tree: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe:
        subprocess.run(
            [BIN / "notifyfs", "mount", tree / "source", tree / "mount"], pass_fds=[writing], check=True, timeout=40
        )
        os.close(writing)
        assert pipe.read() == b""  # a writer left over would keep us here


def test_the_list_is_a_table(tree: Path) -> None:
    socket = run("mount", tree / "source", tree / "mount").stdout.strip()
    heading, *rows = run("list").stdout.splitlines()
    assert heading.split() == ["MOUNTPOINT", "SOURCE", "SOCKET", "PID", "STATE"]
    found = state(tree / "mount")
    assert found is not None
    wanted = [str(tree / "mount"), str(tree / "source"), socket, str(found["pid"]), "live"]
    assert wanted in [row.split() for row in rows]


def test_statistics_are_those_of_the_mount_that_a_path_is_on(tree: Path) -> None:
    run("mount", tree / "source", tree / "mount")
    before = json.loads(run("stats", "--json", tree / "mount" / "file").stdout)
    with (tree / "mount" / "file").open():
        opened = json.loads(run("stats", "--json", tree / "mount").stdout)
    assert opened["open_files"] == before["open_files"] + 1
    assert opened["instances"] == 1
    lines = run("stats", tree / "mount").stdout.splitlines()
    simple = [line.partition(": ")[0] for line in lines[: lines.index("")]]  # tests/test_statistics.py has the rest
    assert simple == [name for name, value in before.items() if isinstance(value, int)]


def test_the_mounting_user_s_words_reach_the_kernel(tree: Path) -> None:
    code, _, err = said(run("mount", "-o", "ro,noatime", "-o", "fsname=a\\,b", tree / "source", tree / "mount"))
    assert (code, err) == (0, "")
    line = next(
        line for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines() if f" {tree}/mount " in line
    )
    assert "fuse.notifyfs a,b" in line
    assert {"ro", "noatime"} <= set(line.split()[5].split(","))
    with pytest.raises(OSError, match="Read-only file system"):
        (tree / "mount" / "new").touch()


def test_a_second_mount_is_refused_and_the_first_one_stays(tree: Path) -> None:
    run("mount", tree / "source", tree / "mount")
    assert said(run("mount", tree / "source", tree / "mount")) == (
        1,
        "",
        f"notifyfs: {tree}/mount: already a notifyfs mount of {tree}/source; unmount it with `notifyfs umount` first\n",
    )
    assert (tree / "mount" / "file").read_text() == "here\n"


def test_of_several_at_once_one_mounts(tree: Path) -> None:
    command = [BIN / "notifyfs", "mount", tree / "source", tree / "mount"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    for process in started:
        process.communicate(timeout=40)
    assert sorted(process.returncode for process in started) == [0, 1, 1, 1]
    assert run("umount", tree / "mount").returncode == 0
    assert state(tree / "mount") is None


def test_a_source_may_be_mounted_over_itself(tree: Path) -> None:
    source = tree / "source"
    assert run("mount", source, source).returncode == 0
    assert (source / "file").read_text() == "here\n"
    assert run("umount", source).returncode == 0
    assert state(source) is None
    assert (source / "file").read_text() == "here\n"


def test_a_mount_in_use_is_unmounted_only_lazily_and_gives_up_its_name(tree: Path) -> None:
    mountpoint = tree / "mount"
    first = run("mount", tree / "source", mountpoint).stdout
    old = state(mountpoint)
    assert old is not None
    with (mountpoint / "file").open() as file:
        code, out, err = said(run("umount", mountpoint))
        assert (code, out) == (1, "")
        assert err.startswith(f"notifyfs: {mountpoint}: in use; `fuser -vm {mountpoint}` says by whom")
        code, out, err = said(run("umount", "-l", mountpoint))
        assert (code, out) == (0, "")
        assert err == (
            f"notifyfs: {mountpoint}: unmounted; its daemon (pid {old['pid']}) ends when nobody uses it any more\n"
        )
        assert said(run("mount", tree / "source", mountpoint)) == (0, first, "")
        assert file.read() == "here\n"
    pid = old["pid"]
    assert isinstance(pid, int)
    wait_until(lambda: ended(pid), what="the old daemon's end")
    # The old daemon's end has cost the new mount nothing.
    new = state(mountpoint)
    assert new is not None
    assert new["state"] == "live"
    assert run("stats", mountpoint).returncode == 0


def test_a_dead_mount_is_listed_diagnosed_and_cleared_away(tree: Path) -> None:
    mountpoint = tree / "mount"
    socket = run("mount", tree / "source", mountpoint).stdout.strip()
    found = state(mountpoint)
    assert found is not None
    assert isinstance(found["pid"], int)
    os.kill(found["pid"], signal.SIGKILL)
    wait_until(lambda: (now := state(mountpoint)) and now["state"] == "dead")
    assert (dead := state(mountpoint)) is not None
    assert dead["pid"] is None
    assert f"{mountpoint}: a dead mount, its daemon is gone" in run("doctor").stdout
    assert "the mount's daemon is gone" in run("stats", mountpoint).stderr
    assert said(run("umount", mountpoint)) == (0, "", "")
    assert state(mountpoint) is None
    assert not os.path.exists(socket)


def test_a_mount_in_the_foreground_prints_its_socket_and_ends_with_a_signal(tree: Path) -> None:
    command = [BIN / "notifyfs", "mount", "-f", tree / "source", tree / "mount"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        socket = process.stdout.readline().strip()
        found = state(tree / "mount")
        assert found is not None
        assert (found["pid"], found["socket"]) == (process.pid, socket)
        process.terminate()
        _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert state(tree / "mount") is None
    assert not os.path.exists(socket)


def test_allow_root_keeps_other_users_out(tree: Path) -> None:
    assert run("mount", "-o", "allow_root", tree / "source", tree / "mount").returncode == 0
    done = subprocess.run(["ls", tree / "mount"], user=NOBODY, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr
    assert os.listdir(tree / "mount") == ["file"]


def test_allow_other_lets_them_in(tree: Path) -> None:
    assert run("mount", "-o", "allow_other", tree / "source", tree / "mount").returncode == 0
    done = subprocess.run(["ls", tree / "mount"], user=NOBODY, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "file\n"


# As mount(8) calls.


def test_without_a_command_two_paths_are_mounted(tree: Path) -> None:
    code, out, err = said(run(tree / "source", tree / "mount", "-o", "rw,noatime,nofail,x-any"))
    assert (code, err) == (0, "")
    assert out.endswith("/socket\n")
    assert (tree / "mount" / "file").read_text() == "here\n"


def test_mount_8_mounts_by_its_type(tree: Path) -> None:
    # mount.fuse3 looks in the system's directories only, so the program is shown there to this namespace.
    script = """
        mount --bind "$1" /usr/local/bin &&
        mount -t fuse.notifyfs "$2" "$3" -o noexec,nofail,x-any,allow_other >/dev/null &&
        cat "$3/file" &&
        findmnt --noheadings --output SOURCE,FSTYPE "$3" &&
        umount "$3"
    """
    command = ["unshare", "--mount", "sh", "-c", script, "sh", BIN, tree / "source", tree / "mount"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["here", str(tree / "source"), "fuse.notifyfs"]


def test_the_helper_mounts_quietly_and_tolerates_what_it_is_told_to(tree: Path) -> None:
    words = (tree / "source", tree / "mount", "-sn", "-t", "fuse.notifyfs", "-o", "rw,noexec,unheard_of")
    assert said(run(*words, program="mount.notifyfs")) == (0, "", "")
    assert (tree / "mount" / "file").read_text() == "here\n"


def test_the_helper_can_tell_the_socket(tree: Path) -> None:
    code, out, _ = said(run(tree / "source", tree / "mount", "-v", program="mount.notifyfs"))
    assert (code, out) == (0, f"{mounts.socket_path(str(tree / 'mount'))}\n")


def test_the_helper_s_exit_codes_are_those_of_mount_8(tree: Path) -> None:
    nowhere = tree / "nowhere"
    code, out, err = said(run(tree / "source", tree / "mount", "-o", "unheard_of", program="mount.notifyfs"))
    assert (code, out) == (1, "")
    assert err.startswith("notifyfs: -o unheard_of: unknown option; ")
    assert run(tree / "source", program="mount.notifyfs").returncode == 1
    for flags in ("-n", "-f"):
        code, out, err = said(run(nowhere, tree / "mount", flags, program="mount.notifyfs"))
        assert (code, out) == (32, "")
        assert err.startswith(f"notifyfs: {nowhere}: the source: No such file or directory")


def test_a_fake_mount_checks_and_does_not_mount(tree: Path) -> None:
    assert said(run(tree / "source", tree / "mount", "-f", program="mount.notifyfs")) == (0, "", "")
    assert state(tree / "mount") is None


# The doctor.


@pytest.mark.usefixtures("fuse")
def test_the_doctor_finds_nothing_missing_where_mounting_works() -> None:
    code, out, err = said(run("doctor"))
    assert (code, err) == (0, "")
    verdicts = [line.split()[0] for line in out.splitlines() if not line.startswith(" ")]
    assert set(verdicts) <= {"ok", "note"}
    for looked_at in (
        "pyfuse3",
        "trio",
        "attrs",
        "click",
        "libfuse3",
        "/dev/fuse",
        "the kernel's FUSE",
        "RLIMIT_NOFILE",
        "max_user_watches",
    ):
        assert looked_at in out


def test_the_doctor_says_what_is_missing_and_how_to_mend_it(tmp_path: Path) -> None:
    # A namespace of its own, in which nothing is mounted on /dev but an empty directory.
    (tmp_path / "empty").mkdir()
    script = 'mount --bind "$1" /dev && exec "$2" doctor'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", tmp_path / "empty", BIN / "notifyfs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40)
    assert done.returncode == 1
    assert re.search(r"^missing +/dev/fuse: does not exist\n +as root: modprobe fuse; ", done.stdout, re.MULTILINE)
    assert done.stderr == "notifyfs: this machine cannot mount yet; mend what is missing above\n"


def kernel_findings(kernel: probe.Kernel, monkeypatch: pytest.MonkeyPatch) -> list[doctor.Finding]:
    monkeypatch.setattr(probe, "attempt", lambda: kernel)
    return [finding for finding in doctor.examine() if finding.what.startswith("the kernel's FUSE")]


def test_the_doctor_says_each_thing_that_the_kernel_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [field.name for field in attrs.fields(probe.Kernel)]
    for number, fact in enumerate(facts):
        kernel = probe.Kernel(**{each: each != fact for each in facts})
        found = kernel_findings(kernel, monkeypatch)
        assert [finding.verdict for finding in found] == ["ok"] * number + ["note"] + ["ok"] * (len(facts) - number - 1)
        assert found[number].remedy == "see Kernels in docs/operating.md"


def test_a_kernel_that_cannot_be_tried_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt() -> probe.Kernel:
        raise PermissionError(1, "Operation not permitted", "fuse")

    monkeypatch.setattr(probe, "attempt", attempt)
    (found,) = (finding for finding in doctor.examine() if finding.what.startswith("the kernel's FUSE"))
    assert found.verdict == "note"
    assert "Operation not permitted" in found.what


def test_a_log_that_cannot_be_written_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    for name in ("source", "mount"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "notifyfs.commands.main",
            "mount",
            "-o",
            "log=/nonexistent/x",
            tmp_path / "source",
            tmp_path / "mount",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "notifyfs: /nonexistent/x: the log: No such file or directory; choose another with -o log=FILE\n"
    )
