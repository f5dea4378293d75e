"""Where a scenario is played: its commands are done, and everybody who listens must hear what it says.

``scenario.py`` has the grammar, ``commands.py`` what is done to files; here is what is done to watches.
"""

from __future__ import annotations

import difflib
import errno
import functools
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from notifyfs.protocol import flags
from tests.support import kernel, subscriber
from tests.support.commands import Files
from tests.support.scenario import Listener, Scenario, Subscriber, mask_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Mount


class Stage(Files):
    """A scenario's directory and those who listen to it. Every public method is a command."""

    def __init__(self, base: Path, place: str, listeners: list[Listener]) -> None:
        super().__init__(base)
        self._place = place
        self._listeners = listeners
        self._more: list[Subscriber] = []

    def _play(self, commands: list[str]) -> None:
        __tracebackhide__ = True
        for line in commands:
            condition, _, rest = line.partition(": ")
            if condition in {"plain", "mount"} and condition != self._place:
                continue
            text, _, wanted = (rest if condition in {"plain", "mount"} else line).partition(" -> ")
            result = self._do(shlex.split(text))
            assert result == wanted or (not wanted and not result.isupper()), f"{line!r} gave {result or 'success'!r}"

    def _do(self, words: list[str]) -> str:
        verb, *arguments = words
        try:
            if verb == "unprivileged":
                with kernel.no_capabilities():
                    return self._do(arguments)
            result = getattr(self, verb)(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "" if result is None else str(result)

    def _all(self, ask: Callable[[Listener], Any]) -> Any:
        """Put *ask* to every listener: the one answer (or OSError) that all give."""
        answers = {}
        for listener in self._listeners:
            try:
                answers[listener.name] = ask(listener)
            except OSError as error:
                answers[listener.name] = error
        spelled = {name: getattr(answer, "errno", answer) for name, answer in answers.items()}
        assert len(set(spelled.values())) <= 1, f"different answers: {answers}"
        answer = next(iter(answers.values()), None)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def _settle(self) -> None:
        """Let the daemon hear of every close so far: RELEASE is asynchronous, but stays before later requests."""
        if self._place == "mount":
            os.statvfs(self._base)

    def _end(self) -> None:
        for another in self._more:
            another.close()
        super()._end()

    def watch(self, *words: str) -> str:
        """Watch PATH... or HANDLE... [MASK]; each gives its watch descriptor. Default mask: ALL."""
        self._settle()
        *targets, last = words
        mask = mask_of(last) if last[0].isupper() or last[0].isdigit() else flags.ALL_EVENTS
        if not (last[0].isupper() or last[0].isdigit()):
            targets.append(last)

        def add(target: str, listener: Listener) -> int:
            if target.startswith("/"):
                wd = listener.subscriber.add(os.fsencode(target[1:]), mask)
            else:
                wd = listener.subscriber.add_fd(self._handles[target], mask)
            listener.labels.setdefault(wd, target)
            return wd

        return " ".join(str(self._all(functools.partial(add, target))) for target in targets)

    def unwatch(self, word: str) -> None:
        """Remove the newest watch of a PATH, or a watch descriptor by number."""

        def remove(listener: Listener) -> None:
            wds = [wd for wd, label in listener.labels.items() if label == word]
            listener.subscriber.remove(wds[-1] if wds else int(word))

        self._all(remove)

    def drain(self) -> None:
        """Read what is queued: later events cannot merge with it."""
        self._settle()
        for listener in self._listeners:
            listener.listen()

    def pending(self) -> Any:
        """How many bytes FIONREAD says."""
        return self._all(lambda listener: listener.subscriber.pending())

    def poll(self) -> Any:
        """Whether the descriptor is readable or empty now."""
        return self._all(lambda listener: "readable" if listener.subscriber.wait(0) else "empty")

    def instance(self) -> None:
        """One more connection beside each subscriber's."""
        for listener in self._listeners:
            self._more.append(listener.subscriber.another())

    def rawread(self, size: str) -> int:
        """read(2) with a buffer of SIZE on the kernel's descriptor; only for @only kernel."""
        return len(os.read(self._instance(), int(size)))

    def rawpread(self) -> None:
        """pread(2) on it."""
        os.pread(self._instance(), 64, 0)

    def rawwrite(self) -> None:
        """write(2) on it."""
        os.write(self._instance(), b"x")

    def rawseek(self) -> int:
        """lseek(2) on it."""
        return os.lseek(self._instance(), 0, os.SEEK_SET)

    def fdinfo(self) -> str:
        """Say what /proc says of it, without the numbers of inode and device."""
        info = Path(f"/proc/self/fdinfo/{self._instance()}").read_text(encoding="ascii")
        return " ".join(
            word for word in info[info.index("inotify") :].split() if word.split(":")[0] in {"inotify", "wd", "mask"}
        )

    def _instance(self) -> int:
        (listener,) = self._listeners
        assert isinstance(listener.subscriber, kernel.Inotify)
        return listener.subscriber.fd


def play(scenario: Scenario, base: Path, place: str, subscribers: dict[str, Subscriber]) -> None:
    """Play *scenario* in the empty directory *base*; AssertionError with a diff for each that hears something else.

    The subscribers are closed.
    """
    __tracebackhide__ = True
    listeners = [Listener(name, subscriber) for name, subscriber in subscribers.items()]
    stage = Stage(base, place, listeners)
    umask = os.umask(0o022)
    try:
        stage._play(scenario.commands)  # noqa: SLF001 - public names are the language
        stage.drain()
        for listener in listeners:
            listener.listen_until(len(scenario.expected(place, listener.name)))
        stage.drain()  # nothing more may come
    finally:
        os.umask(umask)
        stage._end()  # noqa: SLF001 - as above
        for listener in listeners:
            listener.subscriber.close()
    report: list[str] = []
    for listener in listeners:
        expected = scenario.expected(place, listener.name)
        report += difflib.unified_diff(
            expected, listener.heard, "expected", f"{listener.name}, {place}", lineterm="", n=30
        )
    if report:
        pytest.fail("\n".join([f"{scenario.name}:", *report]), pytrace=False)


def play_on(mount: Mount, scenario: Scenario, name: str = "") -> None:
    """Play *scenario* in the new directory *name* of *mount* (empty: its root), watched by everybody it asks for."""
    __tracebackhide__ = True
    base = mount.root / name
    base.mkdir(exist_ok=not name)
    makers: dict[str, Callable[[], Subscriber]] = {
        "kernel": lambda: kernel.Inotify(os.fsencode(base)),
        "in-band": lambda: subscriber.Subscriber(mount.socket, name.encode()),
        "event-fd": lambda: subscriber.Subscriber(mount.socket, name.encode(), event_fd=True),
    }
    play(scenario, base, "mount", {kind: makers[kind]() for kind in scenario.subscribers})
