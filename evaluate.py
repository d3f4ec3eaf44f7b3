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

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import checkpoint
from aim_score import add_film, add_score, is_in_aim
from aim_writer import AimTracker, leave
from checkpoint import Checkpoint, CheckpointError, error_line
from driving_pictures import record
from film import MAX_GIF_TRACKS, SMALL, SMALL_GIF, new_film
from panel import drive_filmed
from paths import path_from
from policies import load_density, load_policy
from process import describe_run, tell_passed_over
from progress_bar import counted
from run_history import SCORE_FILE, known_score
from score_report import text_report, write_json
from scoring import Actions, NotFiniteError, Score, drive
from scoring_pool import score_checkpoints
from settings import SettingError, fail
from startup import complain, stdout_failure, unwinding_on_stop
from tracks import SCORING_TRACKS


def make_films(options: EvaluateOptions, loaded: Checkpoint, repo: Path | None) -> None:
    """Make the films that the options name, and add one to the checkpoint's run in the Aim repository, if any.

    Raises:
        OSError: if a film cannot be written.
    """
    named = (("--video", options.video), ("--gif", options.gif))
    video = None if options.video is None else path_from(options.video, "--video")
    films: dict[Path, str | None] = {path_from(path, flag): None for flag, path in named if path is not None}
    if not films:
        return
    # The GIF for Aim is written beside the film, so a disk that is full is noticed once, for both.
    with TemporaryDirectory(dir=_directory_for(next(iter(films))), prefix=".") as directory:
        gif = Path(directory) / "lap.gif"
        # A GIF of many tracks would not fit in memory.
        is_for_aim = repo is not None and video is not None and len(options.tracks_to_film) <= MAX_GIF_TRACKS
        film_tracks({**films, gif: SMALL_GIF} if is_for_aim else films, loaded, options.actions, options.tracks_to_film)
        for path in films:
            print(f"Written: {path}", flush=True)
        if is_for_aim and repo is not None and video is not None:
            add_film(repo, loaded, video, gif)


def _directory_for(path: Path) -> Path:
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    return path.absolute().parent


def film_tracks(
    paths: Mapping[Path, str | None], loaded: Checkpoint, actions: Actions | None, tracks: Sequence[int]
) -> None:
    """Film the tracks one after the other. The episodes are the same as when the tracks are scored.

    Args:
        paths: the films, and of which kind each is (see `film.new_film`).
        loaded: the policy.
        actions: what it does.
        tracks: the tracks' seeds.

    Raises:
        OSError: if a film cannot be written.
    """
    torch.set_num_threads(1)  # as in the scoring, for the same numbers
    policy, view = load_policy(loaded, actions)
    density = load_density(loaded)
    with ExitStack() as stack:
        films = [stack.enter_context(new_film(path, kind)) for path, kind in paths.items()]

        def add_to_all(frame: NDArray[np.uint8]) -> None:
            for add_frame in films:
                add_frame(frame)

        filmed = (drive_filmed(policy, density, view, track, add_to_all, drive) for track in tracks)
        for _ in counted(filmed, "filming", len(tracks)):
            pass


def make_report(path: Path, options: EvaluateOptions, loaded: Sequence[Checkpoint], scores: Sequence[Score]) -> None:
    """Write the page about the scores, with three laps of the first checkpoint.

    Raises:
        OSError: if it cannot be written.
    """
    from html_report import ShownLap, tracks_to_show, write_report

    torch.set_num_threads(1)  # as in the scoring, for the same numbers
    policy, view = load_policy(loaded[0], options.actions)
    density = load_density(loaded[0])
    record_line = partial(record, keeps_pictures=False)
    tracks = tracks_to_show(scores[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".") as directory:

        def shown_lap(track: int, title: str) -> ShownLap:
            film = Path(directory) / f"{track}.mp4"
            # Driven once more, as when it was scored.
            with new_film(film, SMALL) as add_frame:
                trajectory = drive_filmed(policy, density, view, track, add_frame, record_line)
            return ShownLap(title, trajectory, film.read_bytes())

        laps = list(counted(starmap(shown_lap, tracks.items()), "filming", len(tracks)))
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
    tracked: list[tuple[Checkpoint, Score]] = []
    repo = path_from(options.aim_repo, "--aim-repo")
    if options.aim and options.actions is None and list(options.tracks_to_score) == list(SCORING_TRACKS):
        tracked = [pair for pair in zip(loaded, scores, strict=True) if is_in_aim(repo, pair[0])]
        for one, score in tracked:
            add_score(repo, one, score)
    make_films(options, loaded[0], repo if tracked else None)
    if options.report_path is not None:
        make_report(options.report_path, options, loaded, scores)
        print(f"Written: {options.report_path}", flush=True)


def scores_of(options: EvaluateOptions, loaded: Sequence[Checkpoint]) -> list[Score]:
    """Drive, but for a report take the scores that are known already."""
    tracks = options.tracks_to_score
    if options.report is None:
        return score_checkpoints(loaded, tracks, options.actions)
    provenance = describe_run()
    known = [known_score(one, tracks, options.actions, provenance) for one in loaded]
    for one, score in zip(loaded, known, strict=True):
        if score is not None:
            print(f"Taken:   the score of {one.path} from {SCORE_FILE} beside it", flush=True)
    to_drive = [one for one, score in zip(loaded, known, strict=True) if score is None]
    driven = iter(score_checkpoints(to_drive, tracks, options.actions) if to_drive else ())
    return [next(driven) if score is None else score for score in known]


def show_window(options: EvaluateOptions, loaded: Checkpoint) -> None:
    """Play the checkpoint's policy in a window until the user closes it."""
    from watch import KEYS, Watcher  # pygame's window, which a score does not need

    torch.set_num_threads(1)  # as in the scoring, for the same numbers
    policy, view = load_policy(loaded, options.actions)
    try:
        watcher = Watcher(policy, load_density(loaded), view, options.tracks_to_score)
    except SettingError as error:
        fail(str(error))
    print(KEYS, flush=True)
    watcher.run()


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
    if options.watch:
        show_window(options, loaded[0])
        return
    try:
        scores = scores_of(options, loaded)
    except NotFiniteError as error:
        fail(f"--checkpoint: {error}; name another")
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
