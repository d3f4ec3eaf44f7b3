"""Score a checkpoint on unseen tracks of the unmodified CarRacing-v3."""

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

import checkpoint
import ppo
import sac_drq
from car_racing import ViewConfig, make_stock_env
from checkpoint import Checkpoint, CheckpointError
from scoring import SCORING_TRACKS, Driver, Score, TrackResult, drive
from settings import OneLineParser, SettingError, add_flags, check_settings, fail, given, setting

# Each agent's way from a checkpoint to a driver and the view it drives with.
LOADERS: dict[str, Callable[[Checkpoint, torch.device], tuple[Driver, ViewConfig]]] = {
    ppo.AGENT: ppo.load_driver,
    sac_drq.AGENT: sac_drq.load_driver,
}


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


def load_driver(loaded: Checkpoint) -> tuple[Driver, ViewConfig]:
    """The driver that a checkpoint of any of this project's agents holds.

    Raises:
        CheckpointError: if there is none in it.
    """
    agent = loaded.meta.get("agent")
    if not isinstance(agent, str) or agent not in LOADERS:
        raise CheckpointError(f"{loaded.path} holds an unknown agent ({agent!r}); known are {', '.join(LOADERS)}")
    return LOADERS[agent](loaded, torch.device("cpu"))


class _Process:
    """What a worker process keeps from track to track."""

    driver: Driver
    view: ViewConfig


def _start_process(loaded: Checkpoint) -> None:
    # Ctrl-C reaches every process of the terminal; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread and one track at a time: the same numbers on any number of cores.
    torch.set_num_threads(1)
    _Process.driver, _Process.view = load_driver(loaded)


def _drive_stock(track: int) -> TrackResult:
    env = make_stock_env(_Process.view)
    try:
        return drive(_Process.driver, env, track)
    finally:
        env.close()


def evaluate(loaded: Checkpoint, n_tracks: int) -> Score:
    """Score a checkpoint on the first `n_tracks` scoring tracks, over all cores, with a progress bar.

    It is read once, here: a training may replace it meanwhile.
    """
    tracks = SCORING_TRACKS[:n_tracks]
    n_processes = min(len(os.sched_getaffinity(0)), n_tracks)
    with ProcessPoolExecutor(n_processes, get_context("spawn"), _start_process, (loaded,)) as pool:
        try:
            return Score(list(tqdm(pool.map(_drive_stock, tracks), total=n_tracks, unit="track")))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise


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
        loaded = checkpoint.load(Path(options.checkpoint), with_arrays=False)
        load_driver(loaded)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    try:
        print(report(loaded.path, evaluate(loaded, options.episodes)))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
