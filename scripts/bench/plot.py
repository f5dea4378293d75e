"""The picture: each peer's time as a multiple of the plain directory's, on a logarithmic scale, as SVG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET  # written only: nothing is parsed

from scripts.bench.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.bench.measuring import Results, Spread

COLOURS: Final = {
    "notifyfs": "#c2185b",
    "notifyfs-always": "#f48fb1",
    "bindfs": "#1565c0",
    "bindfs-tuned": "#90caf9",
    "passthrough": "#757575",
    "loggedfs": "#ef6c00",
}
"""Only these are drawn; the first on top."""

GROUPS: Final = ("real", "micro")
LARGE, SMALL = 5, 3.5
LEFT, WIDTH, RIGHT = 210, 920, 30
TOP, ROW, BOTTOM = 66, 19, 20
TITLE: Final = "Time as a multiple of the plain directory's: median and quartiles"


class Scale:
    """Where a ratio is drawn, between the least and the most of all that is drawn."""

    def __init__(self, least: float, most: float) -> None:
        self._first, self._last = math.log10(least), math.log10(most)

    def __call__(self, ratio: float) -> str:
        """The place on the x axis."""
        share = (math.log10(ratio) - self._first) / (self._last - self._first)
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

    def marks(self) -> Iterator[float]:
        """The powers of ten."""
        return (10.0**power for power in range(math.ceil(self._first), math.floor(self._last) + 1))


def draw(results: Results) -> str:
    """An SVG document."""
    rows: list[tuple[str, dict[str, Spread]] | None] = []
    for group in GROUPS:
        for work in results.values.get(group, {}):
            ratios = {name: results.ratio(group, work, name, "plain") for name in COLOURS}
            rows.append((work, {name: ratio for name, ratio in ratios.items() if ratio is not None}))
        rows.append(None)
    every = [ratio for row in rows if row for ratio in row[1].values()]
    scale = Scale(min([0.5, *(ratio.low for ratio in every)]), max([10.0, *(ratio.high for ratio in every)]))
    height = TOP + len(rows) * ROW + BOTTOM
    picture = ET.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {height}", width=f"{WIDTH}", height=f"{height}"
    )
    ET.SubElement(picture, "style").text = "text { font: 12px system-ui, sans-serif; fill: #222 }"
    ET.SubElement(picture, "rect", width=f"{WIDTH}", height=f"{height}", fill="#fff")
    _text(picture, TITLE, 12, 20)
    _legend(picture)
    for mark in scale.marks():
        colour = "#555" if mark == 1 else "#ddd"
        _line(picture, scale(mark), f"{TOP - 6}", scale(mark), f"{height - BOTTOM}", colour)
        _text(picture, f"{mark:g}", float(scale(mark)), TOP - 10, "middle")
    for number, row in enumerate(rows):
        if row is not None:
            _row(picture, *row, TOP + number * ROW + ROW / 2, scale)
    ET.indent(picture)
    return ET.tostring(picture, encoding="unicode") + "\n"


def _legend(picture: ET.Element) -> None:
    place = 12.0
    for name, colour in COLOURS.items():
        ET.SubElement(picture, "circle", cx=f"{place + 5}", cy="38", r=_radius(name), fill=colour)
        _text(picture, PEERS[name].label, place + 15, 42)
        place += 35 + 6.8 * len(PEERS[name].label)


def _row(picture: ET.Element, work: str, ratios: dict[str, Spread], middle: float, scale: Scale) -> None:
    _text(picture, work, LEFT - 10, middle + 4, "end")
    at = f"{middle:.1f}"
    _line(picture, f"{LEFT}", at, f"{WIDTH - RIGHT}", at, "#eee")
    for name in reversed(COLOURS):
        if name in ratios:
            ratio, colour = ratios[name], COLOURS[name]
            _line(picture, scale(ratio.low), at, scale(ratio.high), at, colour)
            dot = ET.SubElement(picture, "circle", cx=scale(ratio.median), cy=at, r=_radius(name), fill=colour)
            ET.SubElement(dot, "title").text = f"{PEERS[name].label}, {work}: {ratio.median:.2f}"


def _radius(name: str) -> str:
    return f"{LARGE if name in {'notifyfs', 'bindfs'} else SMALL}"


def _line(picture: ET.Element, x1: str, y1: str, x2: str, y2: str, colour: str) -> None:  # noqa: PLR0913, PLR0917 - SVG's
    ET.SubElement(picture, "line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "stroke": colour, "stroke-width": "1.5"})


def _text(picture: ET.Element, text: str, x: float, y: float, anchor: str = "start") -> None:
    ET.SubElement(picture, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}).text = text
