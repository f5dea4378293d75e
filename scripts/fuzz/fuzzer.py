"""The loop: sessions on mounts, the count of what was compared, and the findings."""

# ruff: noqa: S311 - chance that can be repeated is what is wanted

from __future__ import annotations

import random
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import attrs
from tests.conftest import Mount

from notifyfs.protocol import flags
from scripts.fuzz.allowed import ROWS
from scripts.fuzz.generate import Generator, mask
from scripts.fuzz.profile import Profile, freely
from scripts.fuzz.session import HASTE, Difference, Ended, Session
from scripts.fuzz.shrink import shrink, simplify
from scripts.fuzz.steps import LISTENING, Step, together
from scripts.fuzz.worker import Hung, Worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

SESSIONS_A_MOUNT = 40
REMOVING = 0.5
"""How often a session ends by removing all that it has made."""

SHRUNK_OF_A_KIND = 2
"""How many failures that differ in the same bits are made small; the rest are only counted."""

_MASKS = re.compile(r"^([-+])wd\d+ (\S+)", re.MULTILINE)

SHRINKING = 30.0
"""Seconds that one failure may take to be made small."""


class Finding(NamedTuple):
    """One unexplained difference."""

    seed: str
    options: tuple[str, ...]
    what: str
    scenario: str


@attrs.define
class Totals:
    """What was done."""

    operations: int = 0
    watches: int = 0
    compared: int = 0
    sessions: int = 0
    seconds: float = 0.0
    allowed: Counter[str] = attrs.field(factory=Counter)
    findings: list[Finding] = attrs.field(factory=list)

    def __str__(self) -> str:
        known = ", ".join(f"{row.id} {self.allowed[row.id]}" for row in ROWS)
        return (
            f"{self.operations} operations in {self.sessions} sessions, {self.seconds:.0f} s, {self.watches} watches, "
            f"{self.compared} events compared; differences: known {known}; unexplained {len(self.findings)}"
        )


class Fuzzer:
    """Mounts, processes and totals. A context manager."""

    def __init__(self, seed: int, processes: int, say: Callable[[str], None]) -> None:
        self.seed = seed
        self.processes = processes
        self.totals = Totals()
        self._say = say
        self._workers: list[Worker] = []
        self._mounts: dict[tuple[str, ...], tuple[Mount, int]] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="notifyfs-fuzz-"))
        self._bases = 0
        self._kinds: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        try:
            for options in list(self._mounts):
                self._unmount(options)
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, *, operations: int, seconds: float, keep_going: bool, only: int | None = None) -> Totals:
        """Run sessions until one of the limits is reached, or a difference is found and not *keep_going*."""
        began = time.monotonic()
        number = only or 0
        while self.totals.operations < operations and (self.totals.seconds < seconds):
            self._one(number)
            self.totals.seconds = time.monotonic() - began
            if only is not None or (self.totals.findings and not keep_going):
                break
            number += 1
        return self.totals

    def _one(self, number: int) -> None:
        seed = f"{self.seed}.{number}"
        chance = random.Random(seed)
        profile = Profile.choose(chance, self.processes)
        steps: list[Step] = []
        session = self._session(profile)
        try:
            if profile.free:
                self._play_freely(chance, session, profile)
            else:
                self._play(chance, session, profile, steps)
        except Ended:
            pass
        except (Difference, Hung, EOFError, TimeoutError, AssertionError) as error:
            self._say(f"session {seed} ({' '.join(profile.options) or 'no options'}): {error}")
            self._count(session, len(steps))
            self._close(session)
            self.totals.findings.append(self._made_small(seed, profile, steps, error))
            if isinstance(error, Hung | EOFError | TimeoutError):
                self._start_again()
            return
        self._count(session, len(steps))
        self._close(session)
        try:
            self._mounts[profile.options][0].check()
        except AssertionError as error:
            self._say(f"session {seed}: {error}")
            self.totals.findings.append(Finding(seed, profile.options, str(error), "\n".join(session.transcript)))
            self._start_again()

    def _count(self, session: Session, steps: int) -> None:
        self.totals.operations += steps
        self.totals.sessions += 1
        self.totals.watches += session.watches
        self.totals.compared += session.compared
        self.totals.allowed += session.allowed

    # One session

    @staticmethod
    def _play(chance: random.Random, session: Session, profile: Profile, steps: list[Step]) -> None:
        generator = Generator(chance, session, profile)

        def do(step: Step) -> None:
            steps.append(step)
            session.do(step)
            if chance.random() < profile.drains:
                steps.append(drain := Step(("drain",), instance=chance.randrange(profile.instances)))
                session.do(drain)

        for instance in range(profile.instances):
            do(Step(("watch", "/", mask(chance, oneshot=False)), instance=instance))
        for _ in range(profile.length):
            do(generator.step())
        for step in generator.letting_go():
            do(step)
        session.finish()
        if chance.random() < REMOVING:
            for step in generator.removing():
                do(step)
            session.finish()

    def _play_freely(self, chance: random.Random, session: Session, profile: Profile) -> None:
        scripts = []
        for process in range(profile.processes):
            root = f"/p{process}"
            script = freely(chance, process, profile.length * 4)
            for step in [Step(("mkdir", path), process) for path in (root, f"{root}/d", f"{root}/e")]:
                session.do(step)
            for path in (root, f"{root}/d", f"{root}/e"):
                session.do(Step(("watch", path, flags.spell(flags.ALL_EVENTS)), instance=process))
            scripts.append(script)
        session.read_all()
        for process, script in enumerate(scripts):
            self._workers[process].send([step.words for step in script])
        for process, script in enumerate(scripts):
            results = self._workers[process].answer()
            self.totals.operations += len(script)
            session.transcript += [f"{step} -> {result}" for step, result in zip(script, results, strict=True)]
        session.read_all()

    def _session(self, profile: Profile) -> Session:
        while len(self._workers) < profile.processes:
            self._workers.append(Worker())
        self._bases += 1
        mount = self._mounted(profile.options)
        exact = "access=exact" in profile.options
        return Session(mount, self._workers, f"s{self._bases}/t", instances=profile.instances, exact=exact)

    def _close(self, session: Session) -> None:
        session.close()
        for worker in self._workers:
            try:
                worker.begin(Path("/"))
            except (Hung, OSError):
                self._start_again()
                break

    # A failure

    def _made_small(self, seed: str, profile: Profile, steps: list[Step], error: BaseException) -> Finding:
        what = str(error)
        kind = f"{type(error).__name__} {sorted(set(_MASKS.findall(what)))}"
        self._kinds[kind] += 1
        if not isinstance(error, Difference) or profile.free or self._kinds[kind] > SHRUNK_OF_A_KIND:
            return Finding(seed, profile.options, what, "\n".join(map(str, steps)))

        def fails(trial: list[Step]) -> bool:
            return self._replay(trial, profile) is not None

        if not fails(steps):
            return Finding(seed, profile.options, what + "\n(not again when replayed)", "\n".join(map(str, steps)))
        plainer = [step for step in steps if step.verb not in LISTENING or step.instance == error.instance]
        for trial in (plainer, together(plainer)):
            if fails(trial):
                steps = trial
        steps = simplify(shrink(steps, fails, SHRINKING), fails, SHRINKING / 3)
        session, failure = self._replay(steps, profile) or (None, error)
        if session is None:
            return Finding(seed, profile.options, what + "\n(not again, made small)", "\n".join(map(str, steps)))
        return Finding(seed, profile.options, str(failure), text_of(session, seed, profile))

    def _replay(self, steps: list[Step], profile: Profile) -> tuple[Session, BaseException] | None:
        """Play *steps* again: what fails, and the session; None when nothing does."""
        session = self._session(profile)
        session.grace = HASTE
        try:
            for step in steps:
                session.do(step)
            session.finish()
        except Ended:
            return None
        except (Difference, AssertionError) as error:
            for voices in session.voices:  # the rest of what the kernel said
                voices[0].read()
            return session, error
        finally:
            self._close(session)
        return None

    def replay(self, steps: list[Step], options: tuple[str, ...]) -> str:
        """Play steps from a file: the difference, or nothing."""
        count = max((step.process for step in steps), default=0) + 1
        instances = max((step.instance for step in steps), default=0) + 1
        profile = Profile(options, count, instances, 0, references=False, pages=False, links=True, free=False, length=0)
        failed = self._replay(steps, profile)
        return str(failed[1]) if failed else ""

    # Mounts

    def _mounted(self, options: tuple[str, ...]) -> Mount:
        mount, used = self._mounts.get(options, (None, 0))
        if mount is not None and used >= SESSIONS_A_MOUNT:
            self._unmount(options)
            mount = None
        if mount is None:
            mount, used = Mount(Path(tempfile.mkdtemp(dir=self._directory)), options), 0
        self._mounts[options] = mount, used + 1
        return mount

    def _unmount(self, options: tuple[str, ...]) -> None:
        try:
            self._mounts.pop(options)[0].finish()
        except AssertionError as error:
            self._say(f"unmounting: {error}")
            self.totals.findings.append(Finding("-", options, str(error), ""))

    def _start_again(self) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        for options in list(self._mounts):
            self._unmount(options)


def text_of(session: Session, seed: str, profile: Profile) -> str:
    """Write a session as a scenario file; what is expected is what the kernel said."""
    lines = [f"# Found by the fuzzer, session {seed}."]
    if profile.options:
        lines.append(f"@options {' '.join(profile.options)}")
    lines += session.transcript
    while lines[-1] == "drain":
        lines.pop()
    for instance, (kernel, *_) in enumerate(session.voices):
        lines.append("---" if not instance else f"# instance {instance}")
        for event in kernel.heard:
            words = [session.labels[instance].get(event.wd, f"wd{event.wd}"), flags.spell(event.mask)]
            words += [event.name.decode(errors="backslashreplace")] * bool(event.name)
            words += [f"cookie={event.cookie}"] * bool(event.cookie)
            lines.append(" ".join(words))
    return "\n".join(lines) + "\n"
