"""Score checkpoints on unseen tracks of the unmodified CarRacing-v3, compare them, and film them.

Several checkpoints drive the same tracks and are compared track by track. The same checkpoint gives the same numbers
each time, on any number of cores.
"""

import json
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import active_children, get_context, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from tqdm import tqdm

import checkpoint
from car_racing import TRAINING_TRACK_SEEDS, Frame, ViewConfig, make_stock_env
from checkpoint import Checkpoint, CheckpointError, in_one_line
from drivers import driver_only, load_driver
from film import MAX_GIF_TRACKS, Film
from scoring import SCORING_TRACKS, Actions, Driver, Score, TrackResult, drive
from session import STOP_SIGNALS, check_writable_directory, describe_run, tell_passed_over
from settings import OneLineParser, SettingError, add_flags, check_settings, fail, given, setting

CONFIDENCE = 0.95
N_WORST = 5


@dataclass(frozen=True)
class EvaluateOptions:
    """The evaluation

    Raises:
        SettingError: if an option is missing or out of its range, or two do not go together.
    """

    checkpoint: tuple[str, ...] = setting((), "a checkpoint, or a run's directory for its newest; or several")
    episodes: int | None = setting(
        None, "how many of the 100 scoring tracks to drive [all]", minimum=1, maximum=len(SCORING_TRACKS)
    )
    tracks: tuple[int, ...] = setting(
        (), "drive these tracks instead, by their seeds", minimum=0, maximum=TRAINING_TRACK_SEEDS.start - 1
    )
    actions: Actions | None = setting(
        None, "what a stochastic policy does [as its checkpoint says]", choices=("mean", "mode", "sampled")
    )
    json: str | None = setting(None, "write every track's result to this file")
    video: str | None = setting(None, "film the first track, or each of --tracks, to this .mp4")
    gif: str | None = setting(None, "the same as a small .gif")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.checkpoint:
            raise SettingError("--checkpoint is missing; name a checkpoint or a run's directory")
        if len(set(self.tracks)) < len(self.tracks):
            raise SettingError("--tracks names a track twice; name each once")
        if self.tracks and self.episodes is not None:
            raise SettingError("--episodes and --tracks both say which tracks to drive; give one of them")
        for flag, path, ending in (
            ("--json", self.json, None),
            ("--video", self.video, ".mp4"),
            ("--gif", self.gif, ".gif"),
        ):
            if path is not None:
                _check_output(flag, Path(path), ending)
        for flag, path in (("--video", self.video), ("--gif", self.gif)):
            if path is not None and len(self.checkpoint) > 1:
                raise SettingError(f"{flag} films one checkpoint; name a single one, not {len(self.checkpoint)}")
        if self.gif is not None and len(self.filmed) > MAX_GIF_TRACKS:
            raise SettingError(
                f"--gif shows at most {MAX_GIF_TRACKS} tracks, not {len(self.filmed)}; name fewer or take --video"
            )

    @property
    def driven(self) -> Sequence[int]:
        """The seeds of the tracks to drive."""
        return self.tracks or SCORING_TRACKS[: self.episodes]

    @property
    def filmed(self) -> Sequence[int]:
        """The seeds of the tracks to film, if any are."""
        return self.tracks or SCORING_TRACKS[:1]


def _check_output(flag: str, path: Path, ending: str | None) -> None:
    if ending is not None and path.suffix != ending:
        raise SettingError(f"{flag} must name a file that ends in {ending}, not {path}")
    check_writable_directory(path.parent, flag)
    if path.exists() and not path.is_file():
        raise SettingError(f"{flag} {path} is no regular file; name another")


class _Process:
    """What a worker process keeps from track to track."""

    drivers: list[tuple[Driver, ViewConfig]]


def _start_process(packed: bytes, actions: Actions | None) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    # Started deaf to it, but it is how the parent ends this.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    # One thread and one track at a time: the same numbers on any number of cores.
    torch.set_num_threads(1)
    _Process.drivers = [load_driver(one, actions) for one in pickle.loads(packed)]


def _leave_with_parent() -> None:
    """However the parent ends, by SIGKILL too, nothing of it stays behind."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _drive_in_process(which: int, track: int) -> TrackResult:
    return drive_stock(*_Process.drivers[which], track)


def drive_stock(
    driver: Driver, view: ViewConfig, track: int, watch: Callable[[Frame], None] | None = None
) -> TrackResult:
    """One episode of the unmodified CarRacing-v3, always the same for a driver and a track, drawn actions or not."""
    torch.manual_seed(track)
    env = make_stock_env(view, watch)
    try:
        return drive(driver, env, track)
    finally:
        env.close()


@contextmanager
def _stops_held_back() -> Iterator[None]:
    """What would stop this process is heard afterwards; a process that is started meanwhile is deaf to it."""
    # Its start, at the first process's, would let them through again.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def evaluate(loaded: Sequence[Checkpoint], tracks: Sequence[int], actions: Actions | None = None) -> list[Score]:
    """Score checkpoints on the same tracks, over all cores, with a progress bar.

    They are read already: a training may replace them meanwhile.

    Raises:
        BrokenProcessPool, OSError: if a process that drives could not be started or is gone.
    """
    which, seeds = zip(*[(i, track) for i in range(len(loaded)) for track in tracks], strict=True)
    n_processes = min(len(os.sched_getaffinity(0)), len(seeds))
    # As bytes: multiprocessing would put each tensor into a file of its own in shared memory.
    packed = pickle.dumps([driver_only(one) for one in loaded])
    with ProcessPoolExecutor(n_processes, get_context("spawn"), _start_process, (packed, actions)) as pool:
        try:
            # Ctrl-C reaches every process of the terminal; those that drive are started deaf to it, and end below. To
            # start them takes seconds, and a stop meanwhile must wait: not be lost, nor break a start in two.
            with _stops_held_back():
                # Not `map`: left early, it cancels what waits, over which the pool's own thread may fall.
                driven = [pool.submit(_drive_in_process, *job) for job in zip(which, seeds, strict=True)]
            with tqdm(driven, desc="scoring", unit="track") as bar:
                results = [one.result() for one in bar]
        except BaseException:
            for process in active_children():
                process.terminate()
            raise
    return [Score(results[first : first + len(tracks)]) for first in range(0, len(results), len(tracks))]


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Bootstrap interval of the mean (BCa: Efron, "Better Bootstrap Confidence Intervals", 1987).

    Resampled by a fixed seed. None where there is nothing to resample: fewer than two different values.
    """
    if len(set(values)) < 2:
        return None
    interval = bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)


def interval_of(score: Score) -> tuple[float, float] | None:
    """`confidence_interval` of the mean return."""
    return confidence_interval([result.episode_return for result in score.results])


@dataclass(frozen=True)
class Difference:
    """How much more a driver got than another, track by track.

    Attributes:
        mean: mean difference of the return.
        interval: its bootstrap interval, or None.
        n_better: tracks on which it got more.
    """

    mean: float
    interval: tuple[float, float] | None
    n_better: int

    @classmethod
    def between(cls, score: Score, other: Score) -> "Difference":
        """`score` less `other`, of the same tracks."""
        pairs = zip(score.results, other.results, strict=True)
        differences = [mine.episode_return - theirs.episode_return for mine, theirs in pairs]
        interval = confidence_interval(differences)
        return cls(float(np.mean(differences)), interval, sum(difference > 0.0 for difference in differences))


def summary(score: Score) -> dict[str, Any]:
    """A score's figures, by the names they have in the JSON file."""
    return {
        "n_tracks": len(score.results),
        "mean_return": score.mean,
        "mean_return_interval_95": interval_of(score),
        "std_return": score.std,
        "median_return": score.median,
        "min_return": score.minimum,
        "max_return": score.maximum,
        "lap_finish_rate": score.lap_finish_rate,
        "frames_to_finish": score.frames_to_finish,
        "tiles_missed": score.tiles_missed,
    }


def named(tracks: Sequence[int]) -> str:
    """Which tracks these are, in words."""
    if list(tracks) == list(SCORING_TRACKS):
        return f"the {len(tracks)} scoring tracks (seeds {tracks[0]} to {tracks[-1]})"
    if list(tracks) == list(SCORING_TRACKS[: len(tracks)]):
        return f"the first {len(tracks)} of the {len(SCORING_TRACKS)} scoring tracks"
    return f"{len(tracks)} chosen track{'s' if len(tracks) > 1 else ''}"


def trained(loaded: Checkpoint) -> str:
    """Whose checkpoint it is, and how long it was trained."""
    agent, steps, frames = (loaded.meta.get(name) for name in ("agent", "steps", "frames"))
    is_known = isinstance(steps, int) and isinstance(frames, int)
    return f"{agent}, {steps:,} steps, {frames:,} frames" if is_known else f"{agent}"


def worst_tracks(score: Score) -> str:
    """The worst tracks, their seeds first."""
    worst = sorted(score.results, key=lambda result: result.episode_return)[:N_WORST]
    return ", ".join(f"{result.track} ({result.episode_return:.0f}, {result.tiles_missed} missed)" for result in worst)


def report(loaded: Checkpoint, score: Score) -> str:
    """A single score for people to read."""
    frames = score.frames_to_finish
    spread = f"{score.mean:.1f} ± {score.std:.1f} (mean ± standard deviation)"
    lines = [
        f"{loaded.path} ({trained(loaded)}) on {named([result.track for result in score.results])} of CarRacing-v3",
        f"  return            {spread}, {CONFIDENCE:.0%} interval of the mean {_interval(interval_of(score))}",
        f"  median            {score.median:.1f}",
        f"  worst, best       {score.minimum:.1f}, {score.maximum:.1f}",
        f"  laps finished     {score.lap_finish_rate:.0%}",
        f"  frames to finish  {'no lap was finished' if frames is None else f'{frames:.0f} on average'}",
        f"  tiles missed      {score.tiles_missed:.1f} a track",
        f"  worst tracks      {worst_tracks(score)}",
    ]
    return "\n".join(lines)


def comparison(loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> str:
    """Several scores on the same tracks as a table, each compared with the first."""
    width = max(len(str(one.path)) for one in loaded)
    header = (
        f"{'':{width}}  {'return':>15}  {'95% interval':>15}  {'median':>6}  {'worst':>6}  {'best':>6}  {'laps':>4}  "
        f"{'frames':>6}"
    )
    lines = [f"{named([result.track for result in scores[0].results])} of CarRacing-v3", f"{header}  missed"]
    for one, score in zip(loaded, scores, strict=True):
        frames = score.frames_to_finish
        lines.append(
            f"{one.path!s:{width}}  {f'{score.mean:.1f} ± {score.std:.1f}':>15}  {_interval(interval_of(score)):>15}  "
            f"{score.median:6.1f}  {score.minimum:6.1f}  {score.maximum:6.1f}  {score.lap_finish_rate:4.0%}  "
            f"{'-' if frames is None else f'{frames:.0f}':>6}  {score.tiles_missed:6.1f}"
        )
    lines.append("worst tracks")
    lines += [f"{one.path!s:{width}}  {worst_tracks(score)}" for one, score in zip(loaded, scores, strict=True)]
    lines.append(f"paired differences of the return to {loaded[0].path}")
    for one, score in zip(loaded[1:], scores[1:], strict=True):
        difference = Difference.between(score, scores[0])
        lines.append(
            f"{one.path!s:{width}}  {difference.mean:+.1f} (95% interval {_interval(difference.interval)}), "
            f"better on {difference.n_better} of {len(score.results)} tracks"
        )
    return "\n".join(lines)


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"


def write_json(path: Path, loaded: Sequence[Checkpoint], scores: Sequence[Score], actions: Actions | None) -> None:
    """Write all that is needed to check a score or to make it again.

    Raises:
        OSError: if it cannot be written.
    """
    scored = [
        {
            "checkpoint": str(one.path),
            "agent": one.meta.get("agent"),
            "steps": one.meta.get("steps"),
            "frames": one.meta.get("frames"),
            "config": one.meta.get("config"),
            "trained_by": {name: one.meta.get(name) for name in ("command", "commit", "machine", "versions")},
            "actions": actions,
            "summary": summary(score),
            "difference_to_the_first": None if i == 0 else asdict(Difference.between(score, scores[0])),
            "tracks": [asdict(result) for result in score.results],
        }
        for i, (one, score) in enumerate(zip(loaded, scores, strict=True))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        unfinished.write_text(json.dumps({"scored_by": describe_run(), "checkpoints": scored}, indent=1) + "\n")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def make_films(paths: Sequence[Path], loaded: Checkpoint, actions: Actions | None, tracks: Sequence[int]) -> None:
    """Film the tracks one after the other; what is seen is what was scored.

    Raises:
        OSError: if a film cannot be written.
    """
    torch.set_num_threads(1)
    driver, view = load_driver(loaded, actions)
    with ExitStack() as stack:
        films = [stack.enter_context(Film(path)) for path in paths]

        def watch(frame: Frame) -> None:
            for film in films:
                film.add(frame)

        for track in tqdm(tracks, desc="filming", unit="track"):
            drive_stock(driver, view, track, watch)


def publish(options: EvaluateOptions, loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> None:
    """Print the scores, and write and film what was asked for.

    Raises:
        OSError: if a file cannot be written.
    """
    try:
        if options.json is not None:
            write_json(Path(options.json), loaded, scores, options.actions)
    finally:
        print(report(loaded[0], scores[0]) if len(loaded) == 1 else comparison(loaded, scores), flush=True)
    films = [Path(path) for path in (options.video, options.gif) if path is not None]
    if films:
        make_films(films, loaded[0], options.actions, options.filmed)
    for path in (options.json, *films):
        if path is not None:
            print(f"Written: {path}", flush=True)


def run() -> None:
    """The whole script but for what a signal does."""
    parser = OneLineParser(__doc__ or "")
    add_flags(parser, EvaluateOptions)
    try:
        options = EvaluateOptions(**given(EvaluateOptions, parser.parse_args()))
        loaded = [checkpoint.load(Path(path), with_arrays=False) for path in options.checkpoint]
        for one in loaded:
            tell_passed_over(one)
            load_driver(one, options.actions)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    try:
        scores = evaluate(loaded, options.driven, options.actions)
    except (BrokenProcessPool, OSError) as error:
        what = f"a process that drives could not be started or is gone ({in_one_line(error)})"
        print(f"evaluate.py: {what}; leave it more memory, or fewer cores: taskset -c 0", file=sys.stderr)
        sys.exit(1)
    try:
        publish(options, loaded, scores)
    except OSError as error:
        fail(f"{error.filename or 'a file'} could not be written ({in_one_line(error)}); name another place")


def main() -> None:
    # What is half done is put away on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
