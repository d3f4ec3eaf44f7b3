"""What `evaluate.py` can be asked for. It imports nothing heavy, so that a wrong flag is answered at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from car_racing import TRAINING_TRACK_SEEDS
from film import MAX_GIF_TRACKS, SMALL, check_ffmpeg
from output_file import check_charts, check_output_file
from paths import check_path, path_from
from settings import OneLineParser, SettingError, add_flags, check_settings, explicit_flags, setting
from tracks import SCORING_TRACKS

REPORT_FILE = "index.html"


@dataclass(frozen=True)
class EvaluateOptions:
    """The evaluation.

    Raises:
        SettingError: if an option is missing or out of its range, or two do not go together.
    """

    checkpoint: tuple[str, ...] = setting(
        (), "a checkpoint, or a run's directory for its newest; or several", check=check_path
    )
    episodes: int | None = setting(
        None, "how many of the 100 scoring tracks to drive [all]", minimum=1, maximum=len(SCORING_TRACKS)
    )
    tracks: tuple[int, ...] = setting(
        (), "drive these tracks instead, by their seeds: 3 44 90-99", minimum=0, maximum=TRAINING_TRACK_SEEDS.start - 1
    )
    actions: Literal["mean", "mode", "sampled"] | None = setting(
        None, "what a stochastic policy does [as its checkpoint says]", choices=("mean", "mode", "sampled")
    )
    json: str | None = setting(None, "write every track's result to this file", check=check_path)
    video: str | None = setting(None, "film the first track, or each of --tracks, to this .mp4", check=check_path)
    gif: str | None = setting(None, "the same as a small .gif", check=check_path)
    report: str | None = setting(
        None,
        "write a page with charts, maps and films of the score to index.html in this directory",
        check=check_path,
    )
    watch: bool = setting(False, "play the policy in a window instead, at the game's speed; keys are in docs/watch.md")
    aim: bool = setting(True, "add the score over all scoring tracks to the run in Aim that the checkpoint is of")
    aim_repo: str = setting(".", "directory of the Aim repository", check=check_path)

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.checkpoint:
            raise SettingError("no checkpoint is named; name one or a run's directory: evaluate.py checkpoints/<run>")
        if len(set(self.tracks)) < len(self.tracks):
            raise SettingError("--tracks names a track twice; name each once")
        if self.tracks and self.episodes is not None:
            raise SettingError("--episodes and --tracks both say which tracks to drive; give one of them")
        if self.watch:
            self._check_watch()
        self._check_outputs()

    def _check_watch(self) -> None:
        """A window shows one policy, and nothing is scored."""
        for flag, value in (
            ("--json", self.json),
            ("--video", self.video),
            ("--gif", self.gif),
            ("--report", self.report),
        ):
            if value is not None:
                raise SettingError(f"--watch scores nothing, so there is nothing for {flag}; give one of them")
        if len(self.checkpoint) > 1:
            raise SettingError(f"--watch plays one checkpoint; name a single one, not {len(self.checkpoint)}")

    def _check_outputs(self) -> None:
        self._check_names_differ()
        if self.json is not None:
            check_output_file(path_from(self.json, "--json"), "--json")
        for flag, path, suffix in (("--video", self.video, ".mp4"), ("--gif", self.gif, ".gif")):
            if path is None:
                continue
            if path_from(path, flag).suffix != suffix:
                raise SettingError(f"{flag} must name a file that ends in {suffix}, not {path}")
            check_output_file(path_from(path, flag), flag)
            check_ffmpeg(suffix, flag)
            if len(self.checkpoint) > 1:
                raise SettingError(f"{flag} films one checkpoint; name a single one, not {len(self.checkpoint)}")
        report = self.report_path
        if report is not None:
            check_output_file(report, "--report")
            check_ffmpeg(SMALL, "--report")
            check_charts("html_report", "--report")
        if self.gif is not None and len(self.tracks_to_film) > MAX_GIF_TRACKS:
            raise SettingError(
                f"--gif shows at most {MAX_GIF_TRACKS} tracks, not {len(self.tracks_to_film)}; name fewer or take "
                "--video"
            )

    def _check_names_differ(self) -> None:
        """The page's directory is a name of its own, too. A film and a GIF differ by their endings."""
        taken: dict[Path, str] = {}
        if self.report_path is not None:
            taken = dict.fromkeys((self.report_path.absolute(), self.report_path.parent.absolute()), "--report")
        for flag, text in (("--json", self.json), ("--video", self.video), ("--gif", self.gif)):
            if text is None:
                continue
            path = path_from(text, flag).absolute()
            if path in taken:
                first, second = sorted((flag, taken[path]), key=["--json", "--video", "--gif", "--report"].index)
                raise SettingError(f"{first} and {second} name one file, {text}; give each its own")
            taken[path] = flag

    @property
    def report_path(self) -> Path | None:
        """The page to write, if one is wanted."""
        return None if self.report is None else path_from(self.report, "--report") / REPORT_FILE

    @property
    def tracks_to_score(self) -> Sequence[int]:
        """The seeds of the tracks to score."""
        return self.tracks or SCORING_TRACKS[: self.episodes]

    @property
    def tracks_to_film(self) -> Sequence[int]:
        """The seeds of the tracks to film, if a film is wanted."""
        return self.tracks or SCORING_TRACKS[:1]


def parsed_flags(description: str) -> dict[str, Any]:
    """What stands on the command line, by the options' names; a mistake in it ends the process.

    Checkpoints need no flag before them.
    """
    parser = OneLineParser(description, "CHECKPOINT ... ")
    parser.add_argument("paths", nargs="*", metavar="CHECKPOINT", help="as --checkpoint")
    add_flags(parser, EvaluateOptions)
    parsed = parser.parse_args()
    given = explicit_flags(EvaluateOptions, parsed)
    if parsed.paths and "checkpoint" in given:
        parser.error("checkpoints are named with --checkpoint and without it; name all in one way")
    return {"checkpoint": tuple(parsed.paths), **given}
