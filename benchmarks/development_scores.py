"""What settings are worth: their seeds on the development tracks, against those of the first.

python -m benchmarks.development_scores sweeps/quick sweeps/no_mirror [--tracks 200] [--json FILE]
python -m benchmarks.development_scores results/quick_development.json sweeps/another

Each argument is a directory of runs, such as a sweep, or a file that `--json` wrote. The best checkpoint of each run in
a directory drives the development tracks in the fast game. What a file holds is not driven again. A lost track is one
with a return below 800.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import checkpoint
import text_table
from benchmarks.findings import benchmark_parser
from car_racing import make_env
from comparison import Estimate, mean_over_seeds, over_seeds
from output_file import replacing
from policies import load_policy
from process import mistakes_in_one_line
from scoring import Score, TrackResult, drive
from settings import fail
from tracks import DEVELOPMENT_TRACKS

LOST = 800.0
COLUMNS = ("track", "episode_return", "frames", "tiles", "tiles_missed")


@dataclass(frozen=True)
class Run:
    """A run's best checkpoint on the development tracks.

    Attributes:
        setting: the name of the directory that the run lies in.
        origin: what it is: the command and commit of its training, its seed, its step and its checksum.
        score: its results, a track each.
    """

    setting: str
    origin: dict[str, Any]
    score: Score


@dataclass(frozen=True)
class Setting:
    """The seeds of one setting.

    Attributes:
        label: its name.
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


def driven(path: Path, n_tracks: int) -> Run:
    """Drive the first development tracks with a run's best checkpoint."""
    loaded = checkpoint.load(path / checkpoint.BEST, with_arrays=False)
    torch.set_num_threads(1)
    policy, view = load_policy(loaded)
    env = make_env(view)
    score = Score([drive(policy, env, track) for track in DEVELOPMENT_TRACKS[:n_tracks]])
    env.close()
    origin = {
        "command": loaded.meta.get("command"),
        "commit": loaded.meta.get("commit"),
        "seed": loaded.meta.get("config", {}).get("seed"),
        "step": loaded.meta.get("steps"),
        "state_sha256": loaded.state_sha256,
    }
    return Run(path.parent.name, origin, score)


def write_json(path: Path, runs: Sequence[Run]) -> None:
    """Write every track of every run, a line each run."""
    lines = []
    for run in runs:
        results = [[getattr(one, name) for name in COLUMNS] for one in run.score.results]
        lines.append(json.dumps({"setting": run.setting, **run.origin, "results": results}))
    tracks = [one.track for one in runs[0].score.results]
    about = f"development tracks {tracks[0]} to {tracks[-1]} of the fast game, best checkpoint by validation"
    head = f'{{\n"tracks": {json.dumps(about)},\n"columns": {json.dumps(COLUMNS)},\n"runs": [\n'
    with replacing(path) as new_path:
        new_path.write_text(head + ",\n".join(lines) + "\n]\n}\n", encoding="utf-8")


def read_json(path: Path) -> list[Run]:
    """The runs in a file that `write_json` wrote; ends the benchmark if it is none."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if tuple(saved["columns"]) != COLUMNS:
            raise ValueError("other columns")
        return [_run_of(entry) for entry in saved["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path} is no file of development scores ({error}); name one that --json wrote")


def _run_of(entry: dict[str, Any]) -> Run:
    results = []
    for track, episode_return, frames, tiles, tiles_missed in entry["results"]:
        fraction = tiles / (tiles + tiles_missed)
        results.append(TrackResult(track, episode_return, frames, tiles, tiles_missed, fraction, tiles_missed == 0))
    origin = {name: value for name, value in entry.items() if name not in ("setting", "results")}
    return Run(entry["setting"], origin, Score(results))


def by_setting(runs: Sequence[Run]) -> list[Setting]:
    """The settings of the runs, in the order in which they are met first."""
    labels = dict.fromkeys(run.setting for run in runs)
    return [Setting(label, [run.score for run in runs if run.setting == label]) for label in labels]


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


def options_from_command_line() -> argparse.Namespace:
    parser = benchmark_parser(__doc__, "SOURCE ... ")
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="a directory of runs, or such a file")
    parser.add_argument("--tracks", type=int, default=200, help="how many development tracks to drive")
    options = parser.parse_args()
    if not 1 <= options.tracks <= len(DEVELOPMENT_TRACKS):
        fail(f"--tracks must be from 1 to {len(DEVELOPMENT_TRACKS)}, not {options.tracks}")
    if missing := [str(path) for path in options.sources if not path.exists()]:
        fail(f"{missing[0]} does not exist; name a directory of runs, or a file that --json wrote")
    return options


def main() -> None:
    options = options_from_command_line()
    to_drive = {source: runs_in(source) for source in options.sources if source.is_dir()}
    saved = {source: read_json(source) for source in options.sources if not source.is_dir()}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        scores = pool.map(partial(driven, n_tracks=options.tracks), [run for each in to_drive.values() for run in each])
        new = {source: [next(scores) for _ in each] for source, each in to_drive.items()}
    runs = [run for source in options.sources for run in (saved | new)[source]]
    if len({tuple(one.track for one in run.score.results) for run in runs}) > 1:
        fail("the files and directories are on different tracks; drive as many with --tracks")
    if options.json is not None:
        write_json(options.json, runs)
    print(text_table.markdown(rows_of(by_setting(runs))))


if __name__ == "__main__":
    with mistakes_in_one_line():
        main()
