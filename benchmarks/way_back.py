"""How often, and how soon, a policy whose car has lost the road finds it again.

python -m benchmarks.way_back --checkpoint checkpoints/<run>/best [--starts 300]

Training's lost starts (`car_racing.starts`), but on the development tracks, and with the actions of scoring. A
good policy loses the road on one lap in a hundred, too seldom to see in its score whether it would come back.
"""

import numpy as np

from benchmarks.findings import FRACTION, Figure, Table, tell
from benchmarks.policy_probe import make_agent_view, probe_asked_for
from car_racing import AgentView, game_of, tiles_visited
from car_racing.starts import find_placement, put_car
from scoring import Policy

WITHIN_FRAMES = (100, 200, 300, 500)


def frames_until_back(policy: Policy, env: AgentView, track: int) -> float:
    """Frames until a lost car touches a tile that it had not touched before; infinite if it is not back in time."""
    env.reset(seed=track)
    game = game_of(env)
    place = find_placement("lost", game.track, np.random.default_rng(track))
    assert place is not None  # Only a bend or a hairpin may be missing on a track.
    put_car(game, place)
    obs = env.refresh_observation()
    n_tiles, frames = tiles_visited(env), 0
    while frames < WITHIN_FRAMES[-1]:
        obs, _, terminated, truncated, info = env.step(policy(obs))
        frames += info["frames"]
        if tiles_visited(env) > n_tiles:
            return frames
        if terminated or truncated:
            break
    return np.inf


def main() -> None:
    probe = probe_asked_for(__doc__, "starts", 300)
    env = make_agent_view(probe.view)
    frames = np.array([frames_until_back(probe.policy, env, track) for track in probe.tracks])
    figures = [
        Figure(f"back within {limit} frames", [float(np.mean(frames <= limit))], FRACTION) for limit in WITHIN_FRAMES
    ]
    tell([Table(f"Of {len(frames)} starts beside the road, {probe.name}", figures)], probe.json)


if __name__ == "__main__":
    main()
