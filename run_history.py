"""What a run came to on its way: its evaluations, and its score where it has one.

A training keeps its evaluations in its checkpoints, so that they stop, resume and move with the run. This module reads
them back, and the scores that `evaluate.py` wrote.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import checkpoint
from checkpoint import Checkpoint, CheckpointError
from scoring import Score, TrackResult
from settings import MAX_NUMBER

SCORE_FILE = "score.json"
# A commit without uncommitted changes.
COMMIT = re.compile(r"[0-9a-f]{40}")

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """A validation in the course of a training.

    Attributes:
        step: the step at which it was made.
        frames: frames of the game up to there.
        minutes: minutes of training up to there, evaluations too, pauses not; None where nobody counted.
        mean_return: mean return over the validation tracks.
        min_return: the worst of them.
        lap_finish_rate: fraction of them on which the lap was finished, in [0, 1].
    """

    step: int
    frames: int
    minutes: float | None
    mean_return: float
    min_return: float
    lap_finish_rate: float


@dataclass(frozen=True)
class RunHistory:
    """A run as far as a comparison needs to know it.

    Attributes:
        name: where it was found, or what it is called.
        evaluations: its validations, by step.
        n_validation_tracks: how many tracks each of them drove; None where nobody knows.
        score: its best checkpoint's results on the scoring tracks, if it was scored.
        identity: what is alike for one run that is named in two ways: its hash in Aim, or its directory or file.
    """

    name: str
    evaluations: tuple[Evaluation, ...]
    n_validation_tracks: int | None
    score: Score | None
    identity: str = ""

    @property
    def best(self) -> Evaluation | None:
        """The validation with the highest mean return."""
        return max(self.evaluations, key=lambda one: one.mean_return, default=None)

    def first_to_reach(self, mean_return: float) -> Evaluation | None:
        """The first validation of at least this mean return; None if none was so good."""
        return next((one for one in self.evaluations if one.mean_return >= mean_return), None)


def evaluations_of(meta: Mapping[str, Any]) -> tuple[Evaluation, ...]:
    """The evaluations that a checkpoint remembers; none for one of an earlier version.

    Raises:
        ValueError: if they are not as a training writes them.
    """
    plain = meta.get("evaluations", [])
    if not isinstance(plain, list):
        raise ValueError("its evaluations are no list")
    return tuple(_from_plain(Evaluation, one) for one in plain)


def from_directory(path: Path) -> RunHistory:
    """The history of the run in a checkpoint directory, or that one of its checkpoints is of.

    Raises:
        CheckpointError: if there is no run that can be read.
    """
    # A run may have no more than its best left.
    directory = path if (path / checkpoint.BEST / checkpoint.MANIFEST).is_file() else checkpoint.find_run(path)
    newest = next(iter(checkpoint.whole_steps(directory)), directory / checkpoint.BEST)
    if not (newest / checkpoint.MANIFEST).exists():
        newest = path  # a policy that stands alone
    meta = checkpoint.read_meta(newest)
    try:
        evaluations = evaluations_of(meta)
    except ValueError as error:
        raise CheckpointError(f"{newest} is no whole checkpoint ({error})") from None
    n_tracks = meta.get("eval_tracks")
    score, run_hash = score_of_best(directory), meta.get("aim_run")
    identity = run_hash if isinstance(run_hash, str) and run_hash else str(directory.resolve())
    n_tracks = n_tracks if type(n_tracks) is int else None
    return RunHistory(str(directory), evaluations, n_tracks, score, identity)


def score_of_best(directory: Path) -> Score | None:
    """The score beside a run's checkpoints, if any. One of an earlier best does not count.

    Raises:
        CheckpointError: if the file holds no scores, or the best checkpoint cannot be read.
    """
    file = directory / SCORE_FILE
    if not file.is_file():  # no pipe either, whose end may never come
        return None
    entry, score = _read_score(file)
    best = directory / checkpoint.BEST
    # Earlier versions did not say of which state a score is.
    of_state = entry.get("state_sha256")
    is_same = of_state is None or of_state == checkpoint.load(best, with_arrays=False).state_sha256
    return score if is_same and entry.get("steps") == checkpoint.read_meta(best).get("steps") else None


def readable_score(directory: Path) -> Score | None:
    """As `score_of_best`, but None where that cannot be read, either."""
    try:
        return score_of_best(directory)
    except CheckpointError:
        return None  # no file of ours


def from_score_file(path: Path) -> RunHistory:
    """The score in a file that `evaluate.py --json` wrote; of several checkpoints the first.

    Raises:
        CheckpointError: if it is no such file.
    """
    return RunHistory(str(path), (), None, _read_score(path)[1], str(path.resolve()))


def known_score(
    loaded: Checkpoint, tracks: Sequence[int], actions: str | None, provenance: Mapping[str, Any]
) -> Score | None:
    """A checkpoint's score from the file in its run's directory, if driving again would come to the same.

    Nobody knows what uncommitted changes do, so nothing is known with them.

    Args:
        loaded: the checkpoint.
        tracks: the tracks that are wanted, in order.
        actions: what the policy does.
        provenance: `process.describe_run` of whoever asks; versions, commit and processor must be the same.
    """
    file = loaded.path.parent / SCORE_FILE
    try:
        plain = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        scored_by = plain["scored_by"]
        is_same = (
            all(scored_by[key] == provenance[key] for key in ("versions", "commit"))
            and scored_by["machine"]["processor"] == provenance["machine"]["processor"]
            and COMMIT.fullmatch(provenance["commit"]) is not None
        )
        entry = next(one for one in plain["checkpoints"] if one["state_sha256"] == loaded.state_sha256)
        results = {one["track"]: _from_plain(TrackResult, one) for one in entry["tracks"]}
        is_same_policy = entry["config"] == loaded.meta.get("config") and bool(loaded.state_sha256)
        if is_same and is_same_policy and entry["actions"] == actions:
            return Score([results[track] for track in tracks])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        pass  # not one of ours, or not of these tracks
    return None


def _read_score(path: Path) -> tuple[dict[str, Any], Score]:
    """What a file of scores says of the first checkpoint in it, and its score."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))["checkpoints"][0]
        # Earlier versions called the fraction a share.
        tracks = [{"tiles_fraction": one.get("tiles_share"), **one} for one in entry["tracks"]]
        return entry, Score([_from_plain(TrackResult, one) for one in tracks])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no file of scores ({checkpoint.error_line(error)})") from None


def _from_plain(cls: type[T], plain: Any) -> T:
    """A dataclass of numbers from a file's plain values.

    Raises:
        ValueError: if something is missing, is no number, or too large.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(plain, dict) or not set(names) <= set(plain):
        raise ValueError(f"a {cls.__name__} has {', '.join(names)}")
    values = {name: plain[name] for name in names}
    for name, value in values.items():
        is_unknown = value is None and name == "minutes"
        # A comparison is false for NaN.
        if not is_unknown and not (isinstance(value, int | float) and abs(value) <= MAX_NUMBER):
            raise ValueError(f"{name} is no number, or too large")
    return cls(**values)
