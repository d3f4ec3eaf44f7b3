"""Export what drives: as a small checkpoint for evaluate.py, or as Stable-Baselines3's own .zip for PPO.load."""

from dataclasses import dataclass
from pathlib import Path

import checkpoint
import ppo
from checkpoint import Checkpoint, CheckpointError, in_one_line
from drivers import driver_only
from session import check_writable_directory, tell_passed_over
from settings import OneLineParser, SettingError, add_flags, check_settings, fail, given, setting


@dataclass(frozen=True)
class ExportOptions:
    """The export

    Raises:
        SettingError: if an option is missing or out of its range.
    """

    checkpoint: str | None = setting(None, "the checkpoint, or a run's directory for its newest")
    to: str | None = setting(None, "a file that ends in .zip, for PPO.load, or a directory, for evaluate.py")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.checkpoint is None:
            raise SettingError("--checkpoint is missing; name a checkpoint or a run's directory")
        if self.to is None:
            raise SettingError("--to is missing; name a file that ends in .zip, or a directory")


def export(options: ExportOptions) -> str:
    """Write the file or directory, and return how to use it.

    Raises:
        SettingError, CheckpointError: if the checkpoint or the target cannot be used.
    """
    assert options.checkpoint is not None
    assert options.to is not None
    target = Path(options.to)
    loaded = checkpoint.load(Path(options.checkpoint), with_arrays=False)
    tell_passed_over(loaded)
    check_writable_directory(target.parent, "--to")
    try:
        return _export_zip(loaded, target) if target.suffix == ".zip" else _export_driver(loaded, target)
    except (OSError, RuntimeError) as error:  # torch's writer answers a full disk with a RuntimeError
        raise SettingError(f"--to {target} cannot be written ({in_one_line(error)}); name another place") from None


def _export_zip(loaded: Checkpoint, target: Path) -> str:
    if loaded.meta.get("agent") != ppo.AGENT:
        raise SettingError(
            f"--checkpoint {loaded.path} holds a {loaded.meta.get('agent')} agent, --to a .zip needs PPO"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    ppo.export_sb3(loaded, target)
    return f'{target}: load it with stable_baselines3.PPO.load("{target}"), this folder on Python\'s path'


def _export_driver(loaded: Checkpoint, target: Path) -> str:
    if target.exists():
        raise SettingError(f"--to {target} is there already; name another directory")
    # The Aim run is the training's, whose checkpoint this no longer is.
    checkpoint.save(target.parent, target.name, {**loaded.meta, "aim_run": None}, driver_only(loaded).state)
    return f"{target}: score it with python evaluate.py --checkpoint {target}"


def main() -> None:
    parser = OneLineParser(__doc__ or "")
    add_flags(parser, ExportOptions)
    try:
        print(export(ExportOptions(**given(ExportOptions, parser.parse_args()))))
    except (SettingError, CheckpointError) as error:
        fail(str(error))


if __name__ == "__main__":
    main()
