"""What the benchmarks that watch one driver on the development tracks have in common."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import checkpoint
from car_racing import AgentView, EpisodeStatistics, ViewConfig, make_env
from drivers import load_driver
from scoring import DEVELOPMENT_TRACKS, Driver
from settings import fail


def driver_and_tracks(doc: str | None, counted: str, n_tracks: int) -> tuple[Driver, ViewConfig, Sequence[int]]:
    """Read `--checkpoint` and `--<counted>` from the command line.

    Args:
        doc: the benchmark's own words, for its help.
        counted: the flag that says how many development tracks to take.
        n_tracks: how many, if it is not given.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(f"--{counted}", type=int, default=n_tracks, dest="n_tracks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        driver, view = load_driver(checkpoint.load(options.checkpoint, with_arrays=False))
    except checkpoint.CheckpointError as error:
        fail(f"--checkpoint: {error}")
    return driver, view, DEVELOPMENT_TRACKS[: options.n_tracks]


def make_agent_view(view: ViewConfig) -> AgentView:
    """The fast game as a driver sees it, whose car can be put somewhere else (`AgentView.look_anew`)."""
    env = make_env(view)
    assert isinstance(env, EpisodeStatistics)
    assert isinstance(env.env, AgentView)
    return env.env
