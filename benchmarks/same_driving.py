"""One policy, the same tracks, in the fast environment and in the stock one: does it drive the same?

python -m benchmarks.same_driving --checkpoint checkpoints/<run>/best [--tracks 30]
"""

import statistics
from pathlib import Path

import torch

from benchmarks.findings import POINTS, Figure, Table, benchmark_parser, count, tell
from benchmarks.policy_probe import policy_of
from car_racing import make_env, make_stock_env
from scoring import drive
from tracks import VALIDATION_TRACKS


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tracks", type=count, default=30)
    options = parser.parse_args()
    if not 2 <= options.tracks <= len(VALIDATION_TRACKS):
        parser.error(f"--tracks must be from 2 to {len(VALIDATION_TRACKS)}, not {options.tracks}")
    torch.set_num_threads(1)
    policy, view = policy_of(options.checkpoint)
    fast, stock = make_env(view), make_stock_env(view)
    # The last validation tracks, since training chose the checkpoint by the first ones.
    differences, returns = [], []
    for track in VALIDATION_TRACKS[-options.tracks :]:
        pair = [drive(policy, env, track) for env in (fast, stock)]
        returns.append([result.episode_return for result in pair])
        differences.append(returns[-1][0] - returns[-1][1])
        print(f"track {track}: fast {returns[-1][0]:7.1f}  stock {returns[-1][1]:7.1f}  {differences[-1]:+7.1f}")
    fast_mean, stock_mean = (statistics.fmean(column) for column in zip(*returns, strict=True))
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    figures = [
        Figure("return in the fast game", [fast_mean], POINTS),
        Figure("return in the stock game", [stock_mean], POINTS),
        Figure("paired difference", [mean], POINTS),
        Figure("its standard error", [error], POINTS),
    ]
    tell([Table(f"{options.checkpoint} on {options.tracks} tracks of both games", figures)], options.json)


if __name__ == "__main__":
    main()
