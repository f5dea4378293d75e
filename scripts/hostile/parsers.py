"""What reads requests, fed by a fuzzer that sees which code each input reaches (atheris).

Run as a program it is one such fuzzer: ``parsers.py TARGET`` and libFuzzer's options. It runs in the fuzzer's own
process, without a mount: a subscriber's side of the daemon, on a real directory and a real socket.
"""

# ruff: noqa: S101, S311 - it asserts; and chance that can be repeated is what is wanted

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from scripts import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS = ("records", "patterns", "requests")
LONGEST = 4096
"""Bytes of the longest input."""
NAME_MAX = 255
SLOW = 0.05
"""Seconds that the patterns of one input may take for one name: what users may watch has no slash in its names."""
_DONE = re.compile(r"^Done (\d+) runs in (\d+) second|^#\d+\s+DONE\s+cov: (\d+) ft: \d+ corp: (\d+)", re.MULTILINE)


def fuzz(target: str, runs: int, seed: int) -> str:
    """Run one target in a process of its own: what it has done, in a line.

    RuntimeError: it has failed; the input that it fails on is kept;
    `python -m scripts.hostile.parsers TARGET FILE` tries it again.
    """
    directory = tempfile.mkdtemp(prefix="notifyfs-hostile-")
    options = [f"-runs={runs}", f"-seed={seed % (1 << 32)}", f"-max_len={LONGEST}", "-timeout=20"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scripts.hostile.parsers",
            target,
            *options,
            "-rss_limit_mb=4096",
            f"-artifact_prefix={directory}/",
        ],
        env=os.environ | {"TMPDIR": directory},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    found = [group for groups in _DONE.findall(done.stderr) for group in groups if group]
    if done.returncode or len(found) < 4:  # noqa: PLR2004 - two figures each in two lines
        raise RuntimeError(f"{target}: ended with {done.returncode}, see {directory}:\n{done.stderr[-4000:]}")
    shutil.rmtree(directory)
    reached, kept, count, seconds = found
    return f"{target}: {count} inputs, {seconds} s, {reached} branches reached by {kept} kinds of input"


# In the fuzzer's process: what is fuzzed is imported where atheris can see it.
# ruff: noqa: PLC0415


def records() -> Callable[[bytes], None]:
    """``records.Parser``, in pieces, against a reading of the protocol that shares nothing with it."""
    from tests.support import wireclient as w

    from notifyfs.protocol import records

    def read(data: bytes) -> tuple[list[tuple[int, int, int, bytes]], bool]:
        found = []
        while len(data) >= w.HEADER.size:
            wd, mask, cookie, size = w.HEADER.unpack_from(data)
            if size > w.LONGEST_FIELD or size % 16:
                return found, True
            if len(data) < w.HEADER.size + size:
                break
            field, data = data[w.HEADER.size : w.HEADER.size + size], data[w.HEADER.size + size :]
            binary = wd > 0 and mask & (w.ORIGIN | w.REPLY) == w.ORIGIN
            found.append((wd, mask, cookie, field if binary else field.partition(b"\0")[0]))
        return found, False

    def one(data: bytes) -> None:
        parser, found, broken = records.Parser(), [], False
        size = data[0] % 64 + 1 if data else 1
        try:
            for start in range(0, len(data), size):
                parser.feed(data[start : start + size])
                for record in parser:
                    found.append(record)
                    again = records.Parser()
                    again.feed(bytes(record))
                    assert list(again) == [record], record
        except records.FramingError:
            broken = True
        assert (found, broken) == read(data)

    return one


def patterns() -> Callable[[bytes], None]:
    """``filters.Draft``: rules of all kinds, each a line, and then every line as a name that is judged by them."""
    from notifyfs.core.filters import Draft
    from notifyfs.protocol import records

    class Doer:
        uid = process = 7

    def one(data: bytes) -> None:
        draft, lines = Draft(7, 7), data.split(b"\n", 63)
        refused = False
        for line in lines:
            try:
                draft.add(1 << line[0] % 8 if line else 0, line[1:])
            except OSError:
                refused = True
        try:
            rules = draft.take()
        except OSError:
            assert refused, "a draft of good rules was refused"
            return
        assert not refused, "half a filter"
        for line in lines:
            name = line.replace(b"/", b"")[:NAME_MAX]
            before = time.thread_time()
            assert rules.passes(name, Doer(), is_dir=False) in (False, True)
            took = time.thread_time() - before
            assert took < SLOW, f"{took:.3f} s for one event {name!r}: all wait for that"
            assert rules.passes(line[: records.MAX_LEN - 1], Doer(), is_dir=True) in (False, True)

    return one


def requests() -> Callable[[bytes], None]:
    """The whole of ``server.Server``: each input is a connection's bytes, and each whole request in it has a reply."""
    from scripts.hostile.attack import Framing
    from scripts.hostile.serving import Served

    served = Served(Path(tempfile.mkdtemp()))

    def one(data: bytes) -> None:
        framing = Framing()
        framing.sent(data)
        assert served.cookies(data) == list(framing.cookies)
        served.check()

    return one


def mutator(seed: int) -> Callable[[bytes, int, int], bytes]:
    """Give libFuzzer requests to begin with: of random bytes few are one."""
    import atheris

    from scripts.hostile.inputs import Inputs

    chance = random.Random(seed)
    inputs = Inputs(chance, [])

    def mutate(data: bytes, longest: int, _seed: int) -> bytes:
        if chance.random() < 0.5:  # noqa: PLR2004 - every other time
            place = chance.randrange(len(data) // 16 + 1) * 16
            return (data[:place] + inputs.next().data + data[place:])[:longest]
        return bytes(atheris.Mutate(data, longest))

    return mutate


def main() -> None:
    """Run libFuzzer with the target that the first argument names; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=["notifyfs"], enable_loader_override=False):
        import notifyfs.core.filters
        import notifyfs.protocol.records
        import notifyfs.subscribers.server  # noqa: F401

        target = sys.argv.pop(1)
        one = {"records": records, "patterns": patterns, "requests": requests}[target]()
    seed = next((int(word[6:]) for word in sys.argv if word.startswith("-seed=")), 0)
    custom = {} if target == "patterns" else {"custom_mutator": mutator(seed)}
    atheris.Setup(sys.argv, one, **custom)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
