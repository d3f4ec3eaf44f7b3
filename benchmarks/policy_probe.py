"""What the benchmarks that watch one policy on the development tracks have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import checkpoint
from benchmarks.findings import benchmark_parser, count
from car_racing import AgentView, EpisodeStatistics, ViewConfig, make_env
from policies import load_policy
from scoring import Policy
from settings import fail
from tracks import DEVELOPMENT_TRACKS


@dataclass(frozen=True)
class Probe:
    """What such a benchmark was asked for.

    Attributes:
        name: the checkpoint, as it was named.
        policy: its policy.
        view: the view that it was trained with.
        tracks: the seeds of the tracks.
        json: a file for the figures, if one is wanted.
    """

    name: str
    policy: Policy
    view: ViewConfig
    tracks: Sequence[int]
    json: Path | None


def probe_asked_for(doc: str | None, counted: str, n_tracks: int) -> Probe:
    """Read `--checkpoint` and `--<counted>` from the command line.

    Args:
        doc: the benchmark's docstring, for its help.
        counted: the flag that says how many development tracks to take.
        n_tracks: how many, if it is not given.
    """
    parser = benchmark_parser(doc)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument(f"--{counted}", type=count, default=n_tracks, dest="n_tracks")
    options = parser.parse_args()
    if options.n_tracks > len(DEVELOPMENT_TRACKS):
        fail(f"--{counted} must be at most {len(DEVELOPMENT_TRACKS)}, not {options.n_tracks}")
    torch.set_num_threads(1)
    policy, view = policy_of(options.checkpoint)
    return Probe(str(options.checkpoint), policy, view, DEVELOPMENT_TRACKS[: options.n_tracks], options.json)


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
