"""Export a PPO checkpoint's policy as Stable-Baselines3's own .zip, for PPO.load."""

from dataclasses import dataclass
from pathlib import Path

import checkpoint
import ppo
from checkpoint import CheckpointError, in_one_line
from session import check_writable_directory
from settings import OneLineParser, SettingError, add_flags, check_settings, fail, given, setting


@dataclass(frozen=True)
class ExportOptions:
    """The export

    Raises:
        SettingError: if an option is missing or out of its range.
    """

    checkpoint: str | None = setting(None, "the checkpoint, or a run's directory for its newest")
    to: str | None = setting(None, "the file to write, ending in .zip")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.checkpoint is None:
            raise SettingError("--checkpoint is missing; name a checkpoint or a run's directory")
        if self.to is None or not self.to.endswith(".zip"):
            raise SettingError("--to must name a file that ends in .zip")


def export(options: ExportOptions) -> str:
    """Write the file, and return how to load it.

    Raises:
        SettingError, CheckpointError: if the checkpoint or the file cannot be used.
    """
    assert options.checkpoint is not None
    assert options.to is not None
    target = Path(options.to)
    loaded = checkpoint.load(Path(options.checkpoint), with_arrays=False)
    if loaded.meta.get("agent") != ppo.AGENT:
        raise SettingError(
            f"--checkpoint {options.checkpoint} holds a {loaded.meta.get('agent')} agent; name one of train_ppo.py"
        )
    check_writable_directory(target.parent, "--to")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        ppo.export_sb3(loaded, target)
    except (OSError, RuntimeError) as error:  # torch's writer answers a full disk with a RuntimeError
        raise SettingError(f"--to {target} cannot be written ({in_one_line(error)}); name another place") from None
    return f'{target}: load it with stable_baselines3.PPO.load("{target}"), this folder on Python\'s path'


def main() -> None:
    parser = OneLineParser(__doc__ or "")
    add_flags(parser, ExportOptions)
    try:
        print(export(ExportOptions(**given(ExportOptions, parser.parse_args()))))
    except (SettingError, CheckpointError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
