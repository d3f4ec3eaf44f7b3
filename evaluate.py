"""Score checkpoints on unseen tracks of the unmodified CarRacing-v3.

    python evaluate.py checkpoints/mine/best
    python evaluate.py pretrained/ppo_beta pretrained/sac_light --tracks 0-9
    python evaluate.py pretrained/ppo_beta --report out

Several checkpoints drive the same tracks and are compared track by track. The
same checkpoint gives the same numbers each time, on any number of cores.
"""

import startup

if __name__ == "__main__":
    startup.begin()  # before the other imports, which open files and may fail

from evaluate_options import EvaluateOptions, parsed_flags

if __name__ == "__main__":
    parsed_flags(__doc__ or "")  # a mistake is answered before the imports below, which take seconds

import re
import sys
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import checkpoint
from aim_writer import AimTracker, chart_name, holds_run, leave
from checkpoint import Checkpoint, CheckpointError, error_line
from driving_pictures import record
from film import SMALL, new_film
from paths import path_from
from policies import load_policy
from process import tell_passed_over
from score_report import summary, text_report, write_json
from scoring import Actions, Score, drive_stock, stock_env
from scoring_pool import score_checkpoints
from settings import SettingError, fail
from startup import complain, stdout_failure, unwinding_on_stop
from tracks import SCORING_TRACKS

# What of a score is a metric in Aim, besides all of it as parameters.
SCORE_METRICS = ("mean_return", "median_return", "min_return", "lap_finish_rate", "frames_to_finish")
# As Aim makes them. A checkpoint may be a stranger's, and a hash becomes part of a path.
RUN_HASH = re.compile(r"[0-9a-f]{24}")


def make_films(paths: Sequence[Path], loaded: Checkpoint, actions: Actions | None, tracks: Sequence[int]) -> None:
    """Film the tracks one after the other. The episodes are the same as when the tracks are scored.

    Raises:
        OSError: if a film cannot be written.
    """
    torch.set_num_threads(1)  # as in the scoring, for the same numbers
    policy, view = load_policy(loaded, actions)
    with ExitStack() as stack:
        films = [stack.enter_context(new_film(path)) for path in paths]

        def add_to_all(frame: NDArray[np.uint8]) -> None:
            for add_frame in films:
                add_frame(frame)

        for track in tqdm(tracks, desc="filming", unit="track"):
            drive_stock(policy, view, track, add_to_all)


def make_report(path: Path, options: EvaluateOptions, loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> None:
    """Write the page about the scores, with three laps of the first checkpoint.

    Raises:
        OSError: if it cannot be written.
    """
    from html_report import ShownLap, tracks_to_show, write_report

    torch.set_num_threads(1)  # as in the scoring, for the same numbers
    policy, view = load_policy(loaded[0], options.actions)
    laps = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".") as directory:
        for track, title in tqdm(tracks_to_show(scores[0]).items(), desc="filming", unit="track"):
            film = Path(directory) / f"{track}.mp4"
            # Driven once more, as when it was scored.
            with new_film(film, SMALL) as add_frame, stock_env(view, track, add_frame) as env:
                trajectory = record(policy, env, track, keeps_pictures=False)
            laps.append(ShownLap(title, trajectory, film.read_bytes()))
    write_report(path, loaded, scores, laps)


def publish(options: EvaluateOptions, loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> None:
    """Print the scores, write the files that the options name, and add the scores to their runs in Aim.

    Raises:
        OSError: if a file cannot be written.
    """
    json_path = None if options.json is None else path_from(options.json, "--json")
    try:
        if json_path is not None:
            write_json(json_path, loaded, scores, options.actions)
    finally:
        print(text_report(loaded, scores), flush=True)
    if json_path is not None:
        print(f"Written: {json_path}", flush=True)
    # Before what takes longer and may fail.
    if options.aim and options.actions is None and list(options.tracks_to_score) == list(SCORING_TRACKS):
        for one, score in zip(loaded, scores, strict=True):
            add_to_aim(path_from(options.aim_repo, "--aim-repo"), one, score)
    named = (("--video", options.video), ("--gif", options.gif))
    films = [path_from(path, flag) for flag, path in named if path is not None]
    if films:
        make_films(films, loaded[0], options.actions, options.tracks_to_film)
        for path in films:
            print(f"Written: {path}", flush=True)
    if options.report_path is not None:
        make_report(options.report_path, options, loaded, scores)
        print(f"Written: {options.report_path}", flush=True)


def add_to_aim(repo: Path, loaded: Checkpoint, score: Score) -> None:
    """Add a score to the run that the checkpoint is of, as parameters and as metrics at its step."""
    run_hash, step = loaded.meta.get("aim_run"), loaded.meta.get("steps")
    if not (isinstance(run_hash, str) and RUN_HASH.fullmatch(run_hash) and type(step) is int):
        return
    if not holds_run(repo, run_hash):
        return
    figures = summary(score)
    with AimTracker(repo, "", {"score": {**figures, "at_step": step}}, run_hash, is_addition=True) as tracker:
        for name in SCORE_METRICS:
            if figures[name] is not None:
                tracker.track(figures[name], chart_name(name), step, context={"subset": "score"})
        if tracker.run_hash is not None:
            print(f"In Aim:  run {run_hash} in {repo}", flush=True)


def load_checkpoints(options: EvaluateOptions) -> list[Checkpoint]:
    """Read the checkpoints, and make sure that each holds a policy that can drive.

    Raises:
        CheckpointError: if one cannot be read or holds no policy.
        SettingError: if one has no such actions.
    """
    loaded = [checkpoint.load(path_from(path, "--checkpoint"), with_arrays=False) for path in options.checkpoint]
    for one in loaded:
        tell_passed_over(one)
        load_policy(one, options.actions)
    return loaded


def run() -> None:
    """The whole script, except for what a signal does."""
    try:
        options = EvaluateOptions(**parsed_flags(__doc__ or ""))
        loaded = load_checkpoints(options)
    except (SettingError, CheckpointError) as error:
        fail(str(error))
    try:
        scores = score_checkpoints(loaded, options.tracks_to_score, options.actions)
    except BrokenProcessPool as error:
        what = f"a worker process could not be started or has died ({error_line(error)})"
        complain(f"{what}; leave it more memory, or use one core: taskset -c 0 python evaluate.py ...")
        sys.exit(1)
    try:
        publish(options, loaded, scores)
    except OSError as error:
        fail(f"{error.filename or 'a file'} could not be written ({error_line(error)}); name another place")
    failure = stdout_failure()
    if failure is not None and options.json is None:
        complain(f"the scores could not be printed ({error_line(failure)}); name a file for them: --json score.json")
        sys.exit(1)


def main() -> None:
    code: Any = 0
    try:
        # Unfinished files are removed and the worker processes ended on the way out.
        with unwinding_on_stop():
            run()
    except SystemExit as end:
        code = end.code
    if code or AimTracker.has_failed:
        leave(code)


if __name__ == "__main__":
    main()
