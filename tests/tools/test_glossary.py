"""The words of docs/architecture.md are the code's: each names one thing that is there, and no thing lacks one."""

from __future__ import annotations

import ast
import importlib
import re
import tokenize
from pathlib import Path

import pytest

from tests.support.documents import rows, spans

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "notifyfs"
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
WORDS = {row[0]: spans(row[2]) for row in rows("architecture.md", "Words")}

PLAIN = {
    "one of many parts of what has a word": {
        *("client.filters.Rule", "core.gitignore.Line", "core.gitignore.Lines", "core.inodes.Inodes", "core.rules.To"),
        *("core.watches.Watches", "observe.statistics.OpenInstance", "protocol.session.Outgoing"),
        *("subscribers.judging.Judges", "subscribers.requests.Reply", "subscribers.server.Server"),
        *("fuse.readloop.Lock", "fuse.readloop.Readiness"),
        *("fuse.readloop.Workers", "fuse.device.Request", "fuse.device.Device", "fuse.deaths.InDoubt"),
        *("fuse.probe.Kernel", "mounts.throwaway.Throwaway"),
    },
    "the functions of one folder, by subject": {
        *("passthrough.attributes.Attributes", "passthrough.files.Files", "passthrough.names.Names"),
        "passthrough.listing.Listings",
        *("subscribers.descriptors.Descriptors", "subscribers.resolve.Resolver"),
    },
    "what such a function takes or gives": {
        *("passthrough.attributes.Wanted", "passthrough.handles.Opened", "passthrough.handles.Written"),
        *("subscribers.requests.Delivery", "core.accounts.Limits"),
    },
    "an outlet": {"subscribers.delivery.Packets", "subscribers.delivery.Stream"},
    "what puts others together": {
        *(
            "daemon.compose.KernelSide",
            "daemon.lifecycle.Daemon",
            "daemon.lifecycle.Place",
            "fuse.handlers.Passthrough",
        ),
    },
    "tells what was counted": {
        *("observe.prometheus.Exporter", "observe.statistics.Books", "observe.statistics.Statistics"),
    },
    "the shape that a function asks for": {"client.batches.Event", "client.waiting.File", "fuse.answers.Answering"},
    "what a program that was written for inotify_simple expects": {"client.inotify.INotify"},
    "bytes to records": {"protocol.records.Parser"},
    "an exception": {
        *("commands.main.Failure", "commands.main.Misuse", "commands.watch.targets.WatchError"),
        *("commands.watch.wishes.Complaint", "mounts.mountinfo.MountError", "mounts.options.OptionError"),
        "protocol.records.FramingError",
    },
    "a step of one command or client, known to nobody else": {
        *("client.batches.Rename", "client.waiting.Waiting", "commands.doctor.Finding", "mounts.options.Options"),
        *("commands.watch.inotifywait.Translator", "commands.watch.inotifywait.Watched"),
        *("commands.watch.losses.Losses", "commands.watch.patterns.Pattern", "commands.watch.run.Output"),
        *("commands.watch.run.Run", "commands.watch.targets.Target", "commands.watch.targets.Watcher"),
        "commands.watch.wishes.Wishes",
    },
}
"""Classes without a word of their own, and why."""

TWICE = {
    "Event": "what a batch asks of an event is what every event has",
    "Rename": "of a batch, both events of one; of a change, what it adds",
}
"""A name that two classes have, and why."""


def public_classes() -> list[str]:
    return [
        f"{module}.{node.name}"
        for module, path in MODULES.items()
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def find(place: str) -> object:
    """What *place* names: a module of the package, and attributes of it. AttributeError: it is not there."""
    parts = place.split(".")
    count = max(number for number in range(1, len(parts)) if ".".join(parts[:number]) in MODULES)
    found: object = importlib.import_module(".".join(["notifyfs", *parts[:count]]))
    for name in parts[count:]:
        found = getattr(found, name)
    return found


def test_no_word_has_two_rows_and_no_place_two_words() -> None:
    words = [row[0] for row in rows("architecture.md", "Words")]
    places = [place for places in WORDS.values() for place in places]
    assert len(set(words)) == len(words)
    assert len(set(places)) == len(places) == len(words), "one place for each"


@pytest.mark.parametrize("word", WORDS)
def test_every_word_names_what_is_there(word: str) -> None:
    (place,) = WORDS[word]
    find(place)


def test_every_public_class_has_a_word_or_a_reason() -> None:
    named = {place for places in WORDS.values() for place in places}
    plain = [name for names in PLAIN.values() for name in names]
    assert len(set(plain)) == len(plain)
    assert not named & set(plain)
    assert {name for name in public_classes() if name not in named} == set(plain)


def test_no_name_is_that_of_two_classes() -> None:
    names = [name.rpartition(".")[2] for name in public_classes()]
    assert {name for name in names if names.count(name) > 1} == set(TWICE)


# What was measured

SAYS_WHERE = re.compile(r"measured( on Linux \d+\.\d+| with [A-Za-z]+ \d+\.\d+|: [A-Z]\d+\b)")
SCENARIOS = {path.name.partition("-")[0] for path in (PACKAGE.parents[1] / "tests" / "scenarios").glob("*.txt")}


def prose(path: Path) -> list[str]:
    """Each comment and each string of a module, on one line."""
    with tokenize.open(path) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    texts = [token.string for token in tokens if token.type == tokenize.STRING]
    joined = ""
    for before, comment in zip([None, *comments], comments, strict=False):
        follows = before is not None and before.start[0] == comment.start[0] - 1
        joined += (" " if follows else "\n") + comment.string.lstrip("# ")
    return [" ".join(text.split()) for text in [*joined.split("\n"), *texts]]


@pytest.mark.parametrize("module", MODULES)
def test_what_was_measured_says_on_which_kernel_or_in_which_scenario(module: str) -> None:
    for text in prose(MODULES[module]):
        for found in re.finditer(r"\bmeasured\b", text):
            said = SAYS_WHERE.match(text, found.start())
            assert said, text[max(0, found.start() - 60) : found.end() + 30]
            row = said[1].removeprefix(": ")
            assert not said[1].startswith(":") or row in SCENARIOS, row
