"""What a comparison of runs says: its tables on the terminal, and as files with the curves."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import text_table
from compare_options import PICTURES, POINTS, TABLE
from comparison import Group, tables_of
from output_file import replacing

LEGEND_WIDTH = 80
LEGEND = (
    "Means over the seeds, with 95% intervals. The interval of a mean of two or three seeds is their range. The score "
    "is the mean return on the scored tracks. IQM is the mean of the middle half of the returns of all seeds on all "
    "tracks. P is how probably a seed does better on a track than one of the first setting does."
)


def text_comparison(groups: Sequence[Group]) -> str:
    """The tables, for people to read at a terminal."""
    return "\n\n".join([*map(text_table.plain, tables_of(groups)), textwrap.fill(LEGEND, LEGEND_WIDTH)])


def write_comparison(directory: Path, groups: Sequence[Group]) -> list[Path]:
    """Write the table as Markdown, and the curves as pictures and as points; the files.

    Raises:
        OSError: if a file cannot be written.
    """
    from comparison_charts import draw_curves, write_points  # matplotlib, which a table alone does not need

    parts = [*map(text_table.markdown, tables_of(groups)), LEGEND]
    with replacing(directory / TABLE) as new_path:
        new_path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    draw_curves(groups, [directory / name for name in PICTURES])
    write_points(groups, directory / POINTS)
    return [directory / name for name in (*PICTURES, POINTS, TABLE)]
