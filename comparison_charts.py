"""Learning curves of several settings in one picture: validation return and laps, over frames and over minutes."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from comparison import Axis, Group, Quantity, curve_of, points_of
from output_file import replacing

# Where good drivers differ; beside it the whole range is drawn.
NEAR_THE_TOP = (850.0, 950.0)
# Wong's colours, which the colour-blind can tell apart (Nature Methods 8, 441, 2011).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CHART_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 9, "text.parse_math": False}
X_LABELS: dict[Axis, str] = {"frames": "frames", "minutes": "minutes of training"}
PANELS: tuple[tuple[str, Quantity, tuple[float, float] | None], ...] = (
    ("validation return", "mean_return", None),
    ("validation return, near the top", "mean_return", NEAR_THE_TOP),
    ("laps finished", "lap_finish_rate", (-0.03, 1.03)),
)
COLUMNS = ("label", "run", "step", "frames", "minutes", "mean_return", "min_return", "lap_finish_rate")

# Each has a colour of its own.
MAX_SETTINGS = len(COLOURS)
# Characters of the legend below a panel, and those that the line before a label takes.
LEGEND_WIDTH = 60
LINE_WIDTH = 9


def draw_curves(groups: Sequence[Group], paths: Sequence[Path]) -> None:
    """Draw the curves of each group: each seed thin, their mean thick, the interval of the mean as a band.

    Args:
        groups: what to draw, the first `MAX_SETTINGS` of them; one without evaluations is left out.
        paths: the picture's files, of any kinds that matplotlib writes.

    Raises:
        OSError: if a file cannot be written.
    """
    axes: tuple[Axis, ...] = ("frames", "minutes")
    groups, n_left_out = groups[:MAX_SETTINGS], max(len(groups) - MAX_SETTINGS, 0)
    panels = [panel for panel in PANELS if panel[2] is not NEAR_THE_TOP or _is_any_near_the_top(groups)]
    # The user's own settings of matplotlib have no say.
    with style.context(["default", CHART_STYLE]), warnings.catch_warnings():
        # A label in letters that matplotlib's font lacks; they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure = Figure(figsize=(4.4 * len(panels), 7), layout="constrained")
        grid = figure.subplots(len(axes), len(panels))
        for row, axis in zip(grid, axes, strict=True):
            for panel, (title, quantity, limits) in zip(row, panels, strict=True):
                for group, colour in _coloured(groups):
                    _draw(panel, group, colour, axis, quantity)
                panel.set(title=title, xlabel=X_LABELS[axis])
                panel.xaxis.set_major_formatter(EngFormatter(sep="") if axis == "frames" else "{x:g}")
                # Returns that are all alike would else be told by an offset that stands in the title.
                panel.ticklabel_format(axis="y", useOffset=False)
                panel.grid(alpha=0.3)
                if limits is not None:
                    panel.set_ylim(limits)
        handles = [Line2D([], [], color=colour) for _, colour in _coloured(groups)]
        # Given by hand: matplotlib would leave out a label that begins with _.
        labels = [_label(group) for group in groups]
        if n_left_out:
            handles, labels = [*handles, Line2D([], [], color="none")], [*labels, f"{n_left_out} more, not drawn"]
        n_columns = LEGEND_WIDTH * len(panels) // (LINE_WIDTH + max(map(len, labels)))
        n_columns = max(min(n_columns, len(labels), 4), 1)
        figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False)
        for path in paths:
            with replacing(path) as new_path:
                metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
                figure.savefig(new_path, format=path.suffix.removeprefix("."), dpi=130, metadata=metadata)


def _is_any_near_the_top(groups: Sequence[Group]) -> bool:
    return any(run.first_to_reach(NEAR_THE_TOP[0]) is not None for group in groups for run in group.runs)


def _coloured(groups: Sequence[Group]) -> list[tuple[Group, str]]:
    return [(group, COLOURS[i % len(COLOURS)]) for i, group in enumerate(groups)]


def _label(group: Group) -> str:
    return f"{group.label} ({len(group.runs)} seeds)" if len(group.runs) > 1 else group.label


def _draw(panel: Axes, group: Group, colour: str, axis: Axis, quantity: Quantity) -> None:
    if len(group.runs) > 1:
        for run in group.runs:
            panel.plot(*points_of(run, axis, quantity), color=colour, alpha=0.3, linewidth=0.7)
    curve = curve_of(group, axis, quantity)
    if curve is not None:
        panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        # A single evaluation is a line without length.
        marker = "." if len(curve.x) == 1 else ""
        panel.plot(curve.x, curve.mean, color=colour, linewidth=1.8, marker=marker)


def write_points(groups: Sequence[Group], path: Path) -> None:
    """Write every evaluation of every run to a CSV file.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as new_path, new_path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for group in groups:
            for run in group.runs:
                for one in run.evaluations:
                    writer.writerow([group.label, run.name, *(getattr(one, column) for column in COLUMNS[2:])])
