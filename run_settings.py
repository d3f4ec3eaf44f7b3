"""The settings of a training run, beside the agent's own: where it is kept, how often it is looked at.

As the settings of the agents, these import nothing heavy, so that a wrong flag is answered at once.
"""

from dataclasses import dataclass

from paths import check_aim_repo, check_path, check_run_name, check_tag
from settings import check_settings, parser_of, setting
from tracks import VALIDATION_TRACKS


@dataclass(frozen=True)
class RunOptions:
    """The run.

    Raises:
        SettingError: if an option is out of its range.
    """

    recipe: str | None = setting(
        None,
        "take the settings of this recipe, by its name in recipes/ or its file; flags win",
        check=check_path,
    )
    checkpoint_dir: str | None = setting(
        None, "directory for this run's checkpoints [checkpoints/<run name>]", check=check_path
    )
    run_name: str | None = setting(None, "the run's name in Aim [agent, seed and time]", check=check_run_name)
    device: str = setting("auto", "auto takes CUDA where there is one; or cpu, cuda, cuda:1")
    resume: str | None = setting(
        None,
        "go on from this checkpoint, or from the newest in this checkpoint directory",
        check=check_path,
    )
    eval_freq: int = setting(25_000, "steps between two evaluations", minimum=1)
    eval_tracks: int = setting(
        8, "validation tracks that an evaluation drives", minimum=1, maximum=len(VALIDATION_TRACKS)
    )
    checkpoint_freq: int = setting(25_000, "steps between two checkpoints", minimum=1)
    score: bool = setting(
        False,
        "at the end, score the best on the 100 unseen tracks and film it: score.json, drive.mp4 among the checkpoints",
    )
    aim_repo: str = setting(".", "directory of the Aim repository, or aim://host:port", check=check_aim_repo)
    aim: bool = setting(True, "track this run in Aim")
    tags: tuple[str, ...] = setting((), "words by which Aim finds the run", check=check_tag)
    pictures: bool = setting(True, "track pictures of every evaluation's driving in Aim")

    def __post_init__(self) -> None:
        check_settings(self)


# The options that a recipe may set too: they belong to how a training goes, not to where it is kept.
RECIPE_OPTIONS = ("eval_freq", "eval_tracks", "checkpoint_freq")

# What a checkpoint does not say of its run: a command that resumes it has to say it again.
NOT_IN_CHECKPOINTS = ("device", "score", "aim_repo", "aim", "pictures")

# What a person looks for first in --help.
MOST_USED = ("total_steps", "total_timesteps", "seed", "recipe", "run_name", "checkpoint_dir", "resume", "score", "aim")


def check_flags(description: str, config_class: type) -> None:
    """Answer --help and mistakes in a training script's flags, and return if there are none.

    A script calls it before it imports torch and Aim, which take seconds. The values are checked later.
    """
    parser_of(description, (config_class, RunOptions), MOST_USED).parse_args()
