"""Draw learning curves of runs tracked in Aim: the validation return and the laps finished, over frames.

    python -m benchmarks.learning_curves --runs NAME=LABEL ... --to results/curves.png [--repo DIR]

NAME is a run's name in Aim. Runs with the same LABEL are seeds of one setting: they share a colour, and each is a line.
The points go into a .json file of the same name beside the picture.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aim
import matplotlib
from aim.sdk.index_manager import RepoIndexManager

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from output_file import replacing

PANELS = {"mean_return": "validation return", "lap_finish_rate": "laps finished"}


def curves_of(run: aim.Run) -> dict[str, list[list[float]]]:
    """Points (frames, value) of a run's evaluations, by metric."""
    action_repeat = run["hparams"]["action_repeat"]
    curves: dict[str, list[list[float]]] = {name: [] for name in PANELS}
    for metric in run.metrics():
        context: Any = metric.context.to_dict()
        if metric.name in PANELS and context.get("subset") == "eval":
            steps, (values, _, _) = metric.data.items_list()
            curves[metric.name] = [
                [step * action_repeat, value] for step, value in sorted(zip(steps, values, strict=True))
            ]
    return curves


def read_runs(repo_path: str) -> list[aim.Run]:
    """All runs of a repository, from their files: a run that Aim's page has not shown yet is in no index."""
    repo = aim.Repo.from_path(repo_path)
    hashes = repo.list_all_runs()
    for run_hash in hashes:
        RepoIndexManager.get_index_manager(repo).index(run_hash)
    repo.container_pool.clear()
    return [run for run in map(repo.get_run, hashes) if run is not None]


def longest(runs: Sequence[aim.Run], name: str) -> dict[str, list[list[float]]] | None:
    """The curves of the run of this name with the most evaluations; None without any."""
    curves = [curves_of(run) for run in runs if run.name == name]
    best = max(curves, key=lambda curve: len(curve["mean_return"]), default=None)
    return best if best is not None and best["mean_return"] else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=LABEL")
    parser.add_argument("--to", type=Path, required=True, help="the .png to write")
    parser.add_argument("--repo", default=".", help="directory of the Aim repository")
    options = parser.parse_args()
    for run in options.runs:
        if "=" not in run:
            parser.error(f"--runs: {run} has no label; write {run}=LABEL")
    labels = dict(run.split("=", 1) for run in options.runs)
    if len(labels) < len(options.runs):
        parser.error("--runs names a run twice; name each once")
    runs = read_runs(options.repo)
    points: dict[str, Any] = {}
    for name, label in labels.items():
        curves = longest(runs, name)
        if curves is None:
            parser.error(f"--runs: no run {name} in {options.repo} has an evaluation; name one that has")
        points[name] = {"label": label, **curves}

    colours = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(labels.values()))}
    figure, axes = plt.subplots(1, len(PANELS), figsize=(11, 4), layout="constrained")
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        for curve in points.values():
            frames, values = zip(*curve[metric], strict=True)
            axis.plot([count / 1e6 for count in frames], values, color=colours[curve["label"]], linewidth=1.4)
        axis.set(xlabel="million frames", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(handles=[plt.Line2D([], [], color=colour, label=label) for label, colour in colours.items()])
    with replacing(options.to) as new_path:
        figure.savefig(new_path, dpi=110)
    with replacing(options.to.with_suffix(".json")) as new_path:
        new_path.write_text(json.dumps(points) + "\n")


if __name__ == "__main__":
    main()
