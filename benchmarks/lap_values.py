"""How PPO's critic values the places of a lap, up to its end.

python -m benchmarks.lap_values --checkpoint checkpoints/<run>/best [--tracks 24]

Trained with --bootstrap-lap-end, one place should be worth about as much as another. A value that falls towards the
lap's end says that the critic takes the end for a loss, which the policy then puts off by driving slowly. Values are in
the training's units: rewards divided by the standard deviation of the return.
"""

from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

import checkpoint
from benchmarks.findings import Figure, Table, benchmark_parser, count, tell
from car_racing import ViewConfig, make_env
from policies import load_policy
from ppo import load_networks
from settings import fail
from tracks import DEVELOPMENT_TRACKS


def values_of_a_lap(networks: ActorCriticPolicy, view: ViewConfig, track: int) -> list[float] | None:
    """The critic's value of every observation of a lap driven by the deterministic action; None if not finished."""
    env = make_env(view)
    obs, _ = env.reset(seed=track)
    values: list[float] = []
    while True:
        with torch.no_grad():
            values.append(float(networks.predict_values(networks.obs_to_tensor(obs)[0])))
        action, _ = networks.predict(obs, deterministic=True)
        obs, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return values if info["episode"]["lap_finished"] else None


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tracks", type=count, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        loaded = checkpoint.load(options.checkpoint, with_arrays=False)
        networks, (_, view) = load_networks(loaded), load_policy(loaded)
    except checkpoint.CheckpointError as error:
        fail(f"--checkpoint: {error}")
    laps = [values_of_a_lap(networks, view, track) for track in DEVELOPMENT_TRACKS[: options.tracks]]
    finished = [lap for lap in laps if lap is not None]
    if not finished:
        fail(f"--checkpoint {options.checkpoint}: its policy finished no lap of {options.tracks}; give a better one")
    tenths = np.mean([[np.mean(tenth) for tenth in np.array_split(lap, 10)] for lap in finished], axis=0)
    figures = [Figure(f"tenth {i} of the lap", [float(value)], "") for i, value in enumerate(tenths, 1)]
    figures.append(Figure("at the last step", [float(np.mean([lap[-1] for lap in finished]))], ""))
    title = f"Mean value, {len(finished)} laps finished of {len(laps)}, {options.checkpoint}"
    tell([Table(title, figures)], options.json)


if __name__ == "__main__":
    main()
