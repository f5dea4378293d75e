"""``notifyfs doctor``, and a log that cannot be written."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest

from notifyfs.commands import doctor
from notifyfs.fuse import probe
from tests.tools.test_cli import BIN, run, said

if TYPE_CHECKING:
    from pathlib import Path


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
