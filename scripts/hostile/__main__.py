"""``python -m scripts.hostile``: see ``--help``. Exit code 1 when somebody could tell, and how."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount

T = TypeVar("T")

MEBIBYTE = 1 << 20


def clients(runs: int, seed: int) -> None:
    """Three users send *runs* inputs to a daemon on a mount."""
    from scripts.hostile import attack  # noqa: PLC0415 - `--help` needs no pytest

    began = time.monotonic()
    report = on_a_mount(lambda mount: attack.attack(mount, runs, seed, say), "allow_other")
    say(
        f"{report.inputs} inputs, {time.monotonic() - began:.0f} s, over {report.connections} connections, with "
        f"{report.descriptors} descriptors; {report.replies} replies, each as it should be"
    )
    say(
        f"meanwhile {report.round_trips} round trips of another client, the longest {report.longest * 1000:.0f} ms; "
        f"nothing left; memory grown by {report.grown / MEBIBYTE:.1f} MiB after the first tenth"
    )


def parsers(runs: int, seed: int) -> None:
    """Feed what reads requests, guided by the code that is reached."""
    from scripts.hostile.parsers import TARGETS, fuzz  # noqa: PLC0415 - as above

    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("hostile: atheris is missing: .venv/bin/pip install --editable '.[hostile]'")
    for target in TARGETS:
        say(fuzz(target, runs, seed))


def chains(runs: int, _seed: int) -> None:
    """Eight processes make 2,000 nested directories with a file in each, *runs* times."""
    from tests.support import wireclient as w  # noqa: PLC0415 - as above

    from scripts.hostile import chains  # noqa: PLC0415 - as above

    def play(mount: Mount) -> None:
        for number in range(runs):
            root = mount.root / f"{number}"
            root.mkdir()
            began, together = time.monotonic(), bool(number % 2)
            with w.Wire(mount, event_fd=number % 4 > 1) as wire:
                wire.add(w.CREATE | w.RECURSIVE, root)
                wrong = chains.wrong(wire, root, together=together)
            if wrong:
                raise AssertionError(f"run {number}: {wrong}")
            say(f"run {number + 1}: each told exactly once, {time.monotonic() - began:.1f} s")

    on_a_mount(play)


def crowd(_runs: int, _seed: int) -> None:
    """A thousand subscribers, some bad; and what one that does not read costs."""
    from tests.support import wireclient as w  # noqa: PLC0415 - as above

    from scripts.hostile import crowd  # noqa: PLC0415 - as above

    options = ("max_user_instances=1100", f"max_queued_events={crowd.QUEUED}")
    report = on_a_mount(lambda mount: crowd.play(mount, 1000, 100), *options)
    say(f"1000 subscribers, 100000 watches: {report.events} events, each where it belongs")
    for what, speed in (("alone", report.alone), ("beside them", report.beside), ("flooded", report.flooded)):
        say(f"an operation {what}: {speed.wall:.0f} us, of which the daemon runs {speed.daemon:.0f}")
    say(f"memory grown by {report.memory / MEBIBYTE:.0f} MiB; the flooding one got {report.requests} replies")
    say("one that does not read, 16384 events:")
    for length, mask, event_fd in ((15, 0, False), (15, 0, True), (255, w.ORIGIN, False), (4000, w.ORIGIN, False)):
        growth = on_a_mount(lambda mount: crowd.stall(mount, 16384, length, mask, event_fd=event_fd))  # noqa: B023 - at once
        say(
            f"  paths of {length} bytes{', with origins' * bool(mask)}{', event descriptor' * event_fd}: "
            f"{growth.full / MEBIBYTE:.1f} MiB ({growth.full / growth.events:.0f} bytes each), "
            f"{growth.beyond / MEBIBYTE:.1f} MiB for ten times as many that are lost; "
            f"{growth.filling:.0f} and {growth.losing:.0f} us each"
        )


def on_a_mount(play: Callable[[Mount], T], *options: str) -> T:
    """Do *play* on a new mount that every user can reach, and unmount."""
    from tests.conftest import Mount  # noqa: PLC0415 - as above

    base = Path(tempfile.mkdtemp(prefix="notifyfs-hostile-"))
    base.chmod(0o755)
    mount = Mount(base / "mount", options)
    try:
        outcome = play(mount)
    except BaseException:
        mount.unmount()
        raise
    mount.finish(60)
    shutil.rmtree(base)
    return outcome


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)


WORK = {"clients": (clients, 1_000_000), "parsers": (parsers, 1_000_000), "chains": (chains, 20), "crowd": (crowd, 1)}
"""What there is to do, and how often by default."""

NEIGHBOURS = "neighbours What one user does, and how long another waits meanwhile: has options of its own (--help)."


def main() -> int:
    """Do one thing for long; print what was seen."""
    if sys.argv[1:2] == ["neighbours"]:
        from scripts.hostile import neighbours  # noqa: PLC0415 - as above

        return neighbours.main(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="hostile",
        description="What clients that mean no good, and many at once, do to a daemon. All but parsers need root.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join([*(f"{name:10} {work.__doc__}" for name, (work, _) in WORK.items()), NEIGHBOURS]),
    )
    parser.add_argument("work", nargs="?", choices=WORK, default="clients", help="see below (default: clients)")
    parser.add_argument("--runs", type=int, help="inputs of clients and of each parser (1000000), trees of chains (20)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="default: a random one, printed")
    arguments = parser.parse_args()
    if os.geteuid() and arguments.work != "parsers":
        parser.error("root is needed, to mount for all users and to be them: run it by sudo")

    from scripts import hostile  # noqa: F401, PLC0415 - `--help` needs nothing

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # whoever ends it wants the mount to go
    work, usual = WORK[arguments.work]
    say(f"seed {arguments.seed}")
    try:
        work(arguments.runs or usual, arguments.seed)
    except (AssertionError, RuntimeError) as failure:
        print(f"{arguments.work}: FAILED: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
