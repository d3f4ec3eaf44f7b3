"""What `export.py` can be asked for. It imports nothing heavy, so that a wrong flag is answered at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import check_path, path_from
from settings import OneLineParser, SettingError, add_flags, check_settings, explicit_flags, setting, shown

# Of the files that can be written; a directory has none.
ENDINGS = (".zip", ".onnx", ".pt", ".toml", "")
TARGETS = "a file that ends in .zip, .onnx, .pt or .toml, or a directory, without an ending"


@dataclass(frozen=True)
class ExportOptions:
    """The export.

    Raises:
        SettingError: if an option is missing, or the target is of no known kind.
    """

    checkpoint: str | None = setting(None, "the checkpoint, or a run's directory for its newest", check=check_path)
    to: str | None = setting(
        None,
        "a .zip for PPO.load, an .onnx or .pt (TorchScript) of the deterministic action, a .toml for a recipe of its "
        "settings, or a directory for evaluate.py",
        check=check_path,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.checkpoint is None:
            raise SettingError("no checkpoint is named; name one or a run's directory")
        if self.to is None:
            raise SettingError(f"--to is missing; name {TARGETS}")
        if self.ending not in ENDINGS:
            raise SettingError(f"--to {self.to}: there is no export to {self.ending}; name {TARGETS}")

    @property
    def target(self) -> Path:
        """The file or directory to write."""
        assert self.to is not None
        return path_from(self.to, "--to")

    @property
    def ending(self) -> str:
        """The target's ending, with its dot, in lower case; empty for a directory, whose name may be like `v1.5`."""
        suffix = self.target.suffix.lower()
        return suffix if suffix[1:2].isalpha() else ""


def parsed_flags(description: str) -> dict[str, Any]:
    """What stands on the command line, by the options' names; a mistake in it ends the process.

    The checkpoint needs no flag before it.
    """
    parser = OneLineParser(description, "CHECKPOINT --to TARGET ")
    parser.add_argument("path", nargs="?", metavar="CHECKPOINT", help="as --checkpoint")
    add_flags(parser, ExportOptions)
    parsed = parser.parse_args()
    given = explicit_flags(ExportOptions, parsed)
    if parsed.path is not None and "checkpoint" in given:
        parser.error(f"--checkpoint and {shown(parsed.path)} both name a checkpoint; name one")
    return {"checkpoint": parsed.path, **given}
