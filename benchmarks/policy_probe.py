"""What the benchmarks that watch one policy on the development tracks have in common."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import checkpoint
from car_racing import AgentView, EpisodeStatistics, ViewConfig, make_env
from policies import load_policy
from scoring import Policy
from settings import fail
from tracks import DEVELOPMENT_TRACKS


def policy_and_tracks(doc: str | None, counted: str, n_tracks: int) -> tuple[Policy, ViewConfig, Sequence[int]]:
    """Read `--checkpoint` and `--<counted>` from the command line.

    Args:
        doc: the benchmark's docstring, for its help.
        counted: the flag that says how many development tracks to take.
        n_tracks: how many, if it is not given.

    Returns:
        The policy, the view that it was trained with, and the tracks' seeds.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(f"--{counted}", type=int, default=n_tracks, dest="n_tracks")
    options = parser.parse_args()
    if not 1 <= options.n_tracks <= len(DEVELOPMENT_TRACKS):
        fail(f"--{counted} must be from 1 to {len(DEVELOPMENT_TRACKS)}, not {options.n_tracks}")
    torch.set_num_threads(1)
    policy, view = policy_of(options.checkpoint)
    return policy, view, DEVELOPMENT_TRACKS[: options.n_tracks]


def policy_of(path: Path) -> tuple[Policy, ViewConfig]:
    """The policy at `--checkpoint`, and the view that it was trained with; ends the benchmark if there is none."""
    try:
        return load_policy(checkpoint.load(path, with_arrays=False))
    except checkpoint.CheckpointError as error:
        fail(f"--checkpoint: {error}")


def make_agent_view(view: ViewConfig) -> AgentView:
    """The fast game as a policy sees it. After the car was moved, `refresh_observation` shows it where it is."""
    env = make_env(view)
    assert isinstance(env, EpisodeStatistics)
    assert isinstance(env.env, AgentView)
    return env.env
