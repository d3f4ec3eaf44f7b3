"""What a benchmark found: figures with their spread, as text, and as JSON for the benchmark book.

Every benchmark ends with `tell(tables, options.json)`.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import text_table
from settings import OneLineParser

FRACTION = "%"
POINTS = "points"


@dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    Attributes:
        label: what it is.
        values: one of each round; the median counts.
        unit: of the values; `FRACTION` for fractions of 1, which are shown as per cent.
        ratios: the median over that of other figures, by their labels.
    """

    label: str
    values: list[float]
    unit: str
    ratios: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Table:
    """Figures that belong together.

    Attributes:
        title: what they are about.
        figures: in their order.
        note: what is to be said below them.
    """

    title: str
    figures: list[Figure]
    note: str = ""


def compared(
    title: str,
    unit: str,
    rounds: Mapping[str, list[float]],
    against: Mapping[str, Sequence[str]],
    note: str = "",
) -> Table:
    """A table of contenders that took turns.

    Args:
        title: of the table.
        unit: of all values.
        rounds: each contender's values. One without any was not measured and is left out.
        against: for a contender, the ones that its median is divided by.
        note: below the table.
    """
    medians = {label: statistics.median(values) for label, values in rounds.items() if values}
    figures = []
    for label, median in medians.items():
        ratios = {other: median / medians[other] for other in against.get(label, ()) if other in medians}
        figures.append(Figure(label, rounds[label], unit, ratios))
    return Table(title, figures, note)


def count(text: str) -> int:
    """A flag's value that counts something: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def benchmark_parser(doc: str | None, arguments: str = "") -> OneLineParser:
    """A parser for a benchmark's flags, with the one that all have; `arguments` are what the usage names besides."""
    parser = OneLineParser(doc or "", arguments)
    parser.add_argument("--json", type=Path, help="a file to write the figures to as well")
    return parser


def tell(tables: Sequence[Table], path: Path | None) -> None:
    """Print the tables, and write them to a file where one is named."""
    for table in tables:
        print(as_text(table), flush=True)
    if path is not None:
        path.write_text(json.dumps([asdict(table) for table in tables], indent=1) + "\n")


def from_json(saved: Sequence[Mapping[str, Any]]) -> list[Table]:
    """The tables that `tell` wrote."""
    return [Table(table["title"], [Figure(**figure) for figure in table["figures"]], table["note"]) for table in saved]


def as_text(table: Table) -> str:
    """A table for a terminal, with the ratios below it."""
    ratios = [f"{figure.label}: {ratios_of(figure)}" for figure in table.figures if figure.ratios]
    note = [table.note] if table.note else []
    return "\n".join([table.title, text_table.plain(rows(table, with_ratios=False)), *ratios, *note, ""])


def ratios_of(figure: Figure) -> str:
    """A figure against the others, in words."""
    return "; ".join(f"{ratio:.2f}x {other}" for other, ratio in figure.ratios.items())


def rows(table: Table, with_ratios: bool = True) -> list[list[str]]:
    """A table's cells with a header; the columns of spread and ratios only where there is something in them."""
    has_spread = any(len(figure.values) > 1 for figure in table.figures)
    has_ratios = with_ratios and any(figure.ratios for figure in table.figures)
    cells = [["", "median" if has_spread else "value", "from, to", "ratio"]]
    for figure in table.figures:
        unit = "" if figure.unit == FRACTION else f" {figure.unit}"
        spread = f"{shown(min(figure.values), figure.unit)}, {shown(max(figure.values), figure.unit)}"
        cells.append([figure.label, f"{shown(figure.median, figure.unit)}{unit}", spread, ratios_of(figure)])
    keeps = (True, True, has_spread, has_ratios)
    return [[cell for cell, kept in zip(line, keeps, strict=True) if kept] for line in cells]


def shown(value: float, unit: str) -> str:
    """A value as a person reads it: three significant digits, a return with one decimal, thousands apart."""
    if unit == FRACTION:
        return f"{value:.2%}"
    if unit == POINTS:
        return f"{value:.1f}"
    if abs(value) >= 100.0 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")
