"""What the documents say: their tables, code spans and fenced blocks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SPAN = re.compile(r"`([^`\n]+)`")


def text(page: str) -> str:
    return (DOCS / page).read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks in *language*."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL)


def rows(page: str, section: str) -> list[list[str]]:
    """The cells of each table row in a section, titles left out."""
    _, found, rest = text(page).partition(f"# {section}\n")
    assert found, f"{page} has no section {section!r}"
    lines = re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    titles = {number for number, row in enumerate(table[1:]) if set(row[0]) == {"-"}}
    kept = [row for number, row in enumerate(table) if number not in titles and set(row[0]) != {"-"}]
    assert kept, f"{page} has no table in {section!r}"
    return kept


def spans(cell: str) -> list[str]:
    return SPAN.findall(cell)


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0].replace(",", ""))
