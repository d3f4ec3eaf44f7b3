"""What `runs.py` can be asked for. It imports nothing heavy, so that a wrong flag is answered at once."""

import sys
from dataclasses import dataclass
from typing import Any

from paths import check_path
from settings import OneLineParser, SettingError, add_flags, check_settings, explicit_flags, setting


@dataclass(frozen=True)
class RunsOptions:
    """The list.

    Raises:
        SettingError: if an option is out of its range, or two do not go together.
    """

    directory: str = setting("checkpoints", "directory below which the runs are", check=check_path)
    prune: bool = setting(False, "remove all but the best and the newest checkpoints of every run, after asking")
    keep: int = setting(1, "how many of the newest --prune leaves", minimum=1)
    yes: bool = setting(False, "remove without asking")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.yes and not self.prune:
            raise SettingError("--yes answers what --prune asks; give both or neither")
        if self.prune and not self.yes and not sys.stdin.isatty():
            raise SettingError("--prune asks first, and there is no terminal to answer in; add --yes")


def parsed_flags(description: str) -> dict[str, Any]:
    """What stands on the command line, by the options' names; a mistake in it ends the process."""
    parser = OneLineParser(description)
    add_flags(parser, RunsOptions)
    return explicit_flags(RunsOptions, parser.parse_args())
