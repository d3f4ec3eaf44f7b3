"""What settings are worth: their seeds on the development tracks, against those of the first.

python -m benchmarks.development_scores sweeps/quick sweeps/no_mirror [--tracks 200]

Each argument is a directory of runs, such as a sweep. The best checkpoint of each run drives the development tracks in
the fast game. What it came to stays beside it in development.json, and is not driven again. A lost track is one with
a return below 800.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import checkpoint
import text_table
from benchmarks.policy_probe import policy_of
from car_racing import make_env
from comparison import Estimate, mean_over_seeds, over_seeds
from output_file import replacing
from scoring import Score, TrackResult, drive
from settings import fail
from tracks import DEVELOPMENT_TRACKS

RESULTS_FILE = "development.json"
LOST = 800.0


@dataclass(frozen=True)
class Setting:
    """The seeds of one setting.

    Attributes:
        label: the name of its directory.
        scores: each seed's, on the same tracks.
    """

    label: str
    scores: Sequence[Score]

    @property
    def means(self) -> np.ndarray:
        """float64 (n_seeds,), each seed's mean return."""
        return np.array([score.mean for score in self.scores])

    @property
    def lost(self) -> list[float]:
        """Fraction of the tracks that each seed lost."""
        return [float(np.mean([one.episode_return < LOST for one in score.results])) for score in self.scores]

    def better_than(self, other: "Setting") -> Estimate:
        """The difference between the mean returns. The seeds of two settings have nothing in common."""
        mine, theirs = self.means, other.means
        return over_seeds(lambda a, b: float(mine[a].mean() - theirs[b].mean()), len(mine), len(theirs))


def runs_in(directory: Path) -> list[Path]:
    """The runs in a directory that have a best checkpoint."""
    runs = [path for path in sorted(directory.iterdir()) if (path / checkpoint.BEST / checkpoint.MANIFEST).is_file()]
    return runs or fail(f"{directory} holds no run with a best checkpoint")


def driven(run: Path, n_tracks: int) -> Score:
    """A run's best checkpoint on the first development tracks, driven now or before."""
    best = run / checkpoint.BEST
    state = checkpoint.load(best, with_arrays=False).state_sha256
    file = run / RESULTS_FILE
    if file.exists():
        before = json.loads(file.read_text())
        if before["state_sha256"] == state and len(before["tracks"]) == n_tracks:
            return Score([TrackResult(**one) for one in before["tracks"]])
    torch.set_num_threads(1)
    policy, view = policy_of(best)
    env = make_env(view)
    score = Score([drive(policy, env, track) for track in DEVELOPMENT_TRACKS[:n_tracks]])
    env.close()
    with replacing(file) as new_path:
        new_path.write_text(json.dumps({"state_sha256": state, "tracks": [asdict(one) for one in score.results]}))
    return score


def rows_of(settings: Sequence[Setting]) -> list[list[str]]:
    """A table with a row for each setting."""
    rows = [["", "seeds", "mean return", "difference", "laps", "lost", "frames", "worst"]]
    for setting in settings:
        difference = "" if setting is settings[0] else setting.better_than(settings[0]).shown(lambda d: f"{d:+.1f}")
        laps = mean_over_seeds([score.lap_finish_rate for score in setting.scores])
        frames = [one.frames for score in setting.scores for one in score.results if one.lap_finished]
        worst = min(score.minimum for score in setting.scores)
        in_percent = "{:.1%}".format
        rows.append([
            setting.label,
            str(len(setting.scores)),
            str(mean_over_seeds(setting.means.tolist())),
            difference,
            laps.shown(in_percent),
            mean_over_seeds(setting.lost).shown(in_percent),
            f"{np.mean(frames):.0f}" if frames else "-",
            f"{worst:.0f}",
        ])  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIRECTORY", help="the runs of one setting")
    parser.add_argument("--tracks", type=int, default=200, help="how many development tracks to drive")
    options = parser.parse_args()
    if not 1 <= options.tracks <= len(DEVELOPMENT_TRACKS):
        fail(f"--tracks must be from 1 to {len(DEVELOPMENT_TRACKS)}, not {options.tracks}")
    if missing := [str(path) for path in options.directories if not path.is_dir()]:
        fail(f"{missing[0]} is no directory")
    runs = {directory: runs_in(directory) for directory in options.directories}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        scores = pool.map(partial(driven, n_tracks=options.tracks), [run for each in runs.values() for run in each])
        settings = [Setting(path.name, [next(scores) for _ in each]) for path, each in runs.items()]
    print(text_table.markdown(rows_of(settings)))


if __name__ == "__main__":
    main()
