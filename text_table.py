"""Tables of text: for a terminal, and for Markdown."""

from collections.abc import Sequence


def plain(rows: Sequence[Sequence[str]], n_left: int = 1) -> str:
    """Rows in columns, the first `n_left` of them to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < n_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table of Markdown, the first one as its header."""
    header, *others = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
