"""Score a checkpoint on unseen tracks of the unmodified CarRacing-v3."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

import checkpoint
import ppo
from car_racing import ViewConfig, make_stock_env
from checkpoint import Checkpoint, CheckpointError
from scoring import SCORING_TRACKS, Driver, Score, TrackResult, drive
from settings import OneLineParser, SettingError, add_flags, check_settings, fail, given, setting

# Each agent's way from a checkpoint to a driver and the view it drives with.
LOADERS: dict[str, Callable[[Checkpoint, torch.device], tuple[Driver, ViewConfig]]] = {ppo.AGENT: ppo.load_driver}


@dataclass(frozen=True)
class EvaluateOptions:
    """The evaluation

    Raises:
        SettingError: if an option is missing or out of its range.
    """

    checkpoint: str | None = setting(None, "the checkpoint, or a run's directory for its newest")
    episodes: int = setting(20, "unseen tracks to drive, one episode each", minimum=1, maximum=len(SCORING_TRACKS))

    def __post_init__(self) -> None:
        check_settings(self)
        if self.checkpoint is None:
            raise SettingError("--checkpoint is missing; name a checkpoint or a run's directory")


def load_driver(path: Path) -> tuple[Driver, ViewConfig]:
    """The driver that a checkpoint of any of this project's agents holds.

    Raises:
        CheckpointError: if there is none.
    """
    loaded = checkpoint.load(path)
    agent = loaded.meta.get("agent")
    if agent not in LOADERS:
        raise CheckpointError(f"{loaded.path} holds an unknown agent ({agent}); known are {', '.join(LOADERS)}")
    return LOADERS[agent](loaded, torch.device("cpu"))


def drive_stock(path: Path, track: int) -> TrackResult:
    """One track in a worker process. One thread and one track at a time: the same numbers on any number of cores."""
    torch.set_num_threads(1)
    driver, view = load_driver(path)
    env = make_stock_env(view)
    try:
        return drive(driver, env, track)
    finally:
        env.close()


def evaluate(path: Path, n_tracks: int) -> Score:
    """Score a checkpoint on the first `n_tracks` scoring tracks, over all cores, with a progress bar."""
    tracks = SCORING_TRACKS[:n_tracks]
    n_workers = min(len(os.sched_getaffinity(0)), n_tracks)
    with ProcessPoolExecutor(n_workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(drive_stock, [path] * n_tracks, tracks)
        return Score(list(tqdm(results, total=n_tracks, unit="track")))


def report(path: Path, result: Score) -> str:
    """A score for people to read."""
    frames = result.frames_to_finish
    lines = [
        f"{path}: {len(result.results)} unseen tracks of CarRacing-v3 (seeds {result.results[0].track} to "
        f"{result.results[-1].track})",
        f"  return            {result.mean:.1f} ± {result.std:.1f} (mean ± standard deviation)",
        f"  worst             {result.minimum:.1f}",
        f"  laps finished     {result.lap_finish_rate:.0%}",
        f"  frames to finish  {'no lap was finished' if frames is None else f'{frames:.0f} on average'}",
        f"  tiles visited     {result.tiles_share:.1%}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = OneLineParser(__doc__ or "")
    add_flags(parser, EvaluateOptions)
    try:
        options = EvaluateOptions(**given(EvaluateOptions, parser.parse_args()))
        assert options.checkpoint is not None
        path = checkpoint.find(Path(options.checkpoint))
        load_driver(path)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    print(report(path, evaluate(path, options.episodes)))


if __name__ == "__main__":
    main()
