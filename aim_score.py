"""A score and its film, added to the run in Aim that the scored checkpoint is of."""

from pathlib import Path
from typing import Any

from aim_writer import RUN_HASH, AimTracker, Picture, chart_name, holds_run
from checkpoint import Checkpoint
from score_report import summary
from scoring import Score

# What of a score is a metric, besides all of it as parameters.
SCORE_METRICS = ("mean_return", "median_return", "min_return", "lap_finish_rate", "frames_to_finish")


def is_in_aim(repo: Path, loaded: Checkpoint) -> bool:
    """Whether the run that a checkpoint is of is in this repository."""
    run_hash, step = loaded.meta.get("aim_run"), loaded.meta.get("steps")
    is_known = isinstance(run_hash, str) and RUN_HASH.fullmatch(run_hash) is not None and type(step) is int
    return is_known and holds_run(repo, str(run_hash))


def add_score(repo: Path, loaded: Checkpoint, score: Score) -> None:
    """Add a score, as parameters and as metrics at the checkpoint's step, to its run, which is in Aim."""
    figures, step = summary(score), loaded.meta["steps"]
    with _addition_to(repo, loaded, {"score": {**figures, "at_step": step}}) as tracker:
        for name in SCORE_METRICS:
            if figures[name] is not None:
                tracker.track(figures[name], chart_name(name), step, context={"subset": "score"})
        if tracker.run_hash is not None:
            print(f"In Aim:  run {tracker.run_hash} in {repo}", flush=True)


def add_film(repo: Path, loaded: Checkpoint, film: Path, gif: Path) -> None:
    """Add a film as an artifact, and the same lap as a GIF among the pictures, to the checkpoint's run in Aim."""
    with _addition_to(repo, loaded, {}) as tracker:
        picture = Picture(gif.read_bytes(), film.name)
        tracker.track(picture, "driving", loaded.meta["steps"], context={"subset": "score"})
        tracker.keep_file(film)


def _addition_to(repo: Path, loaded: Checkpoint, params: dict[str, Any]) -> AimTracker:
    return AimTracker(repo, "", params, loaded.meta["aim_run"], is_addition=True)
