"""What `compare.py` can be asked for. It imports nothing heavy, so that a wrong flag is answered at once."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from output_file import check_charts, check_output_file
from paths import check_path, path_from
from settings import OneLineParser, SettingError, add_flags, check_settings, setting

TABLE, PICTURES, POINTS = "table.md", ("curves.png", "curves.svg"), "curves.csv"


@dataclass(frozen=True)
class CompareOptions:
    """The comparison.

    Raises:
        SettingError: if an option is out of its range, or two do not go together.
    """

    to: str | None = setting(
        None, f"directory to write {', '.join(PICTURES)}, {POINTS} and {TABLE} to, or an export", check=check_path
    )
    export: str | None = setting(
        None, "write all metrics of these runs out of Aim, and compare nothing", choices=("csv", "tensorboard")
    )
    aim_repo: str = setting(".", "directory of the Aim repository", check=check_path)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.export is not None and self.to is None:
            raise SettingError("--export needs a directory to write to; add --to DIR")
        if self.directory is not None:
            for name in (*PICTURES, POINTS, TABLE):
                check_output_file(self.directory / name, "--to")
            if self.export is None:
                check_charts("comparison_charts", "--to")

    @property
    def directory(self) -> Path | None:
        """Where files go, if anywhere."""
        return None if self.to is None else path_from(self.to, "--to")


def parsed_command_line(description: str) -> argparse.Namespace:
    """What stands on the command line; a mistake in it ends the process."""
    parser = OneLineParser(description, "RUN[=LABEL] ... ")
    parser.add_argument("runs", nargs="*", metavar="RUN[=LABEL]", help="a run, or several by a pattern in quotes")
    add_flags(parser, CompareOptions)
    parsed: argparse.Namespace = parser.parse_args()
    return parsed
