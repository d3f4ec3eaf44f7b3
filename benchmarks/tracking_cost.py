"""What tracking in Aim costs a training: steps a second with it and without it, in turn, in one run.

    python -m benchmarks.tracking_cost [--rounds N]

The trainings are whole ones at their defaults. Pictures of evaluations are not among it: `benchmarks.picture_cost`.
"""

from benchmarks.findings import Table, benchmark_parser, compared, count, tell
from benchmarks.short_training import steps_per_second

TRAININGS = {
    "PPO": ("train_ppo.py", 16_384, {}),
    "SAC": ("train.py", 1_000, {"--learning-starts": 300, "--replay-size": 2_000}),
}


def main() -> None:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=count, default=5, help="turns of each")
    options = parser.parse_args()
    tables: list[Table] = []
    for agent, (script, steps, flags) in TRAININGS.items():
        rates: dict[str, list[float]] = {"not tracked": [], "tracked in Aim": []}
        for _ in range(options.rounds):
            for tracks, found in zip((False, True), rates.values(), strict=True):
                found.append(steps_per_second(script, steps, flags, tracks))
        against = {"tracked in Aim": ["not tracked"]}
        tables.append(compared(f"Steps a second of a whole {agent} training", "steps/s", rates, against))
    tell(tables, options.json)


if __name__ == "__main__":
    main()
