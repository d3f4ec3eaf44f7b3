"""Runs as an Aim repository holds them, read from its files without touching them.

Aim's own queries see only runs that its page has indexed, and an index made beside an open page ends the page's own
indexing for good. So nothing is indexed here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import aim
from aim.sdk.repo import ContainerConfig

from aim_writer import RUN_HASH, chart_name
from checkpoint import CheckpointError, error_line
from run_history import Evaluation, RunHistory
from startup import complain

# Aim's own metrics of the machine.
SYSTEM_PREFIX = "__system__"


@dataclass(frozen=True)
class Metric:
    """A metric of a run.

    Attributes:
        name: its name.
        subset: the context that it was tracked in; empty for none.
        points: (step, value), by step.
    """

    name: str
    subset: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TrackedRun:
    """A run in Aim.

    Attributes:
        name: its name.
        run_hash: its hash.
        params: its parameters.
        metrics: its metrics, without those of the machine.
    """

    name: str
    run_hash: str
    params: Mapping[str, Any]
    metrics: tuple[Metric, ...]

    def points(self, name: str, subset: str) -> dict[int, float]:
        """A metric's values by step; empty for one that was not tracked.

        Earlier versions had no number in front. A run of theirs that was resumed has points under both names.
        """
        return {
            step: value
            for known in (name, chart_name(name))
            for metric in self.metrics
            if (metric.name, metric.subset) == (known, subset)
            for step, value in metric.points
        }

    def history(self) -> RunHistory:
        """The run's evaluations. Its score's single tracks are not in Aim."""
        means, worst = self.points("mean_return", "eval"), self.points("min_return", "eval")
        laps, minutes = self.points("lap_finish_rate", "eval"), self.points("minutes", "time")
        action_repeat = self._count("hparams", "action_repeat") or 1
        frames = self.points("frames", "time")
        evaluations = [
            Evaluation(
                step=step,
                # Between two stages the frames of a step change, so what was tracked at the step goes first.
                frames=int(frames.get(step, step * action_repeat)),
                minutes=minutes.get(step),
                mean_return=mean,
                min_return=worst[step],
                lap_finish_rate=laps[step],
            )
            for step, mean in sorted(means.items())
            if step in worst and step in laps
        ]
        n_tracks = self._count("run", "eval_tracks")
        return RunHistory(self.name, tuple(evaluations), n_tracks, None, self.run_hash)

    def _count(self, group: str, name: str) -> int | None:
        """A whole number among the parameters, which may be anybody's; None where there is none."""
        values = self.params.get(group)
        count = values.get(name) if isinstance(values, Mapping) else None
        return count if type(count) is int else None


def read_runs(repo_path: Path) -> Iterator[TrackedRun]:
    """All runs of a repository, those in progress too; none where there is no repository.

    Raises:
        CheckpointError: if the repository as a whole cannot be read.
    """
    if not (repo_path / ".aim" / "meta").is_dir():
        return
    try:
        repo = aim.Repo.from_path(str(repo_path))
        hashes = sorted(run_hash for run_hash in repo.list_all_runs() if RUN_HASH.fullmatch(run_hash))
    except Exception as error:  # Aim raises what its files provoke
        raise CheckpointError(f"the Aim repository of {repo_path} cannot be read ({error_line(error)})") from None
    for run_hash in hashes:
        try:
            yield _read_run(repo, run_hash)
        except Exception as error:  # Aim and RocksDB each raise their own
            complain(f"the run {run_hash} in Aim cannot be read ({error_line(error)}); it is left out")


def _read_run(repo: aim.Repo, run_hash: str) -> TrackedRun:
    # A run's own file in the place of the index of all: it has the same layout.
    repo.container_pool.clear()
    chunk = repo.request_container("meta", run_hash, read_only=True)
    repo.container_pool[ContainerConfig("meta", None, True)] = chunk
    run = aim.Run(run_hash, repo=repo, read_only=True)
    return TrackedRun(run.name or "", run_hash, run.get(..., {}), tuple(_metrics(run)))


def _metrics(run: aim.Run) -> Iterator[Metric]:
    for metric in run.metrics():
        if metric.name.startswith(SYSTEM_PREFIX):
            continue
        context: Any = metric.context.to_dict()
        steps, (values, _, _) = metric.data.items_list()
        # Other writers than ours may have tracked numbers that are not finite.
        points = sorted((int(step), float(value)) for step, value in zip(steps, values, strict=True) if isfinite(value))
        yield Metric(metric.name, str(context.get("subset", "")), tuple(points))
