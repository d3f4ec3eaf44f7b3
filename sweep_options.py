"""What `sweep.py` can be asked for. It imports nothing heavy, so that a wrong flag is answered at once."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import check_path, check_run_name, path_from
from ppo_config import PPOConfig
from run_settings import RunOptions
from sac_config import SACConfig
from settings import (
    OneLineParser,
    SettingError,
    add_flags,
    as_flags,
    check_settings,
    explicit_flags,
    fail,
    flag_of,
    meant_by,
    parser_of,
    setting,
    shown,
)

# The settings of each training script.
SCRIPTS: dict[str, type] = {"train.py": SACConfig, "train_ppo.py": PPOConfig}
DEFAULT_RETRIES = 2
# Its trials' names begin with it.
MAX_NAME = 60
# What the sweep itself says of each trial.
SWEPT = ("seed", "run_name", "checkpoint_dir", "resume")


def check_address(text: str, flag: str) -> None:
    """Check that something is named; Ray knows the rest.

    Raises:
        SettingError: if nothing is.
    """
    if not text.strip() or not text.isprintable():
        raise SettingError(f"{flag} {shown(text)} is no address; give one like 10.0.0.1:6379, or auto")


def check_sweep_name(name: str, flag: str) -> None:
    """Check a sweep's name, which also names its directory below `--directory`.

    Raises:
        SettingError: if it cannot, or if it would lead out of there or into another sweep.
    """
    if "/" in name or name in (".", ".."):
        raise SettingError(f"{flag} {shown(name)} is no name; give one, and the place by --directory")
    check_run_name(name, flag)


@dataclass(frozen=True)
class SweepOptions:
    """The sweep.

    Raises:
        SettingError: if an option is missing or out of its range, or two do not go together.
    """

    name: str | None = setting(None, "the sweep's name, and its directory below --directory", check=check_sweep_name)
    seeds: tuple[int, ...] = setting((1,), "seeds of each setting: 1-3, or 1 2 3", minimum=0, maximum=2**32 - 1)
    grid: tuple[str, ...] = setting(
        (), "values of a setting, or recipes: learning_rate=2.5e-4,5e-4; of several, every combination"
    )
    search: int | None = setting(None, "have Optuna choose the settings of so many trials, from --space", minimum=1)
    space: str | None = setting(
        None, "file of the settings to search, and their ranges, for --search", check=check_path
    )
    resume: str | None = setting(
        None, "go on with the sweep of this name, each trial where it was", check=check_sweep_name
    )
    only: tuple[str, ...] = setting((), "of a resumed sweep, these trials alone, by name or number: for job arrays")
    plan_only: bool = setting(False, "write the plan and run nothing, for job arrays")
    directory: str = setting("sweeps", "directory of all sweeps; one that all machines reach", check=check_path)
    address: str | None = setting(
        None, "run the trials on the Ray cluster at this address; auto is the one of this machine", check=check_address
    )
    cores: int | None = setting(None, "cores for each trial [as many as leave all trials running]", minimum=1)
    at_once: int | None = setting(None, "trials at a time [as many as cores and memory allow]", minimum=1)
    retries: int = setting(DEFAULT_RETRIES, "how often a trial that failed goes on before it is given up", minimum=0)

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.name is None) == (self.resume is None):
            raise SettingError("a sweep is begun with --name or resumed with --resume; give one of them")
        says_trials = self.grid or self.seeds != (1,) or self.search is not None or self.retries != DEFAULT_RETRIES
        if self.resume is not None and says_trials:
            raise SettingError("--resume goes on with the sweep's own trials; leave out what says which they are")
        if (self.search is None) != (self.space is None):
            raise SettingError("--search says how many trials, and --space from which settings; give both or neither")
        if self.search is not None and (self.grid or len(self.seeds) > 1 or self.plan_only):
            raise SettingError(
                "--search chooses the settings of each trial as the others end, with one seed; leave out --grid, "
                "--plan-only and more seeds"
            )
        if self.only and self.resume is None:
            raise SettingError("--only takes trials of a sweep that is there; give --resume, too")
        if self.plan_only and (self.name is None or self.cores is None):
            raise SettingError("--plan-only writes the plan of a new sweep; give --name, and --cores for each trial")
        if self.name is not None and len(self.name) > MAX_NAME:
            raise SettingError(f"--name is {len(self.name)} characters long; {MAX_NAME} are the most")
        if self.address is not None and self.at_once is not None:
            raise SettingError("--at-once is for one machine; on a cluster Ray runs as many as it has cores for")
        if len(set(self.seeds)) < len(self.seeds):
            raise SettingError(f"--seeds {shown(' '.join(map(str, self.seeds)))} names a seed twice; name each once")

    @property
    def path(self) -> Path:
        """The sweep's directory."""
        return path_from(self.directory, "--directory") / (self.name or self.resume or "")


@dataclass(frozen=True)
class CommandLine:
    """What stands on the command line.

    Attributes:
        sweep: the sweep's own options.
        script: the training script; None where a sweep is resumed.
        settings: settings of the agent for all trials, by name.
        options: options of the run for all trials, by name.
        grid: the values of each setting that is varied, by name.
    """

    sweep: dict[str, Any]
    script: str | None
    settings: dict[str, Any]
    options: dict[str, Any]
    grid: dict[str, tuple[Any, ...]]


def parsed_command_line(description: str, argv: list[str]) -> CommandLine:
    """Read the command line; a mistake in it ends the process.

    The script stands first. What is no flag of the sweep is one of the script's, for all trials.
    """
    script = argv[0] if argv and not argv[0].startswith("-") else None
    parser = OneLineParser(description, "SCRIPT ")
    add_flags(parser, SweepOptions)
    known, others = parser.parse_known_args(argv if script is None else argv[1:])
    sweep = explicit_flags(SweepOptions, known)
    if script is None:
        if "resume" not in sweep:
            fail(f"no script is named; name it first: sweep.py {' or '.join(SCRIPTS)} [flags]")
        if others:
            parser.error(f"unrecognized arguments: {shown(' '.join(others))}; a resumed sweep keeps its trials' flags")
        return CommandLine(sweep, None, {}, {}, {})
    if "resume" in sweep:
        fail(f"--resume goes on with the sweep's own script; leave out {shown(script)} and its flags")
    if script not in SCRIPTS:
        fail(f"{shown(script)} is no script that can be swept; name {' or '.join(SCRIPTS)}")
    scripts_parser = parser_of("", (SCRIPTS[script], RunOptions))
    given = scripts_parser.parse_args(others)
    settings, options = explicit_flags(SCRIPTS[script], given), explicit_flags(RunOptions, given)
    for name in SWEPT:
        if name in {**settings, **options}:
            fail(f"{flag_of(name)} is given to each trial by the sweep; leave it out, and give --seeds and --name")
    grid = {}
    for entry in sweep.get("grid", ()):
        name, values = _varied(script, entry)
        if name in grid or name in settings or name in options:
            fail(f"--grid {shown(entry)}: {name} is given twice; give it once")
        grid[name] = values
    return CommandLine(sweep, script, settings, options, grid)


def _varied(script: str, entry: str) -> tuple[str, tuple[Any, ...]]:
    """The name and the values of NAME=VALUE,VALUE; a mistake in it ends the process."""
    name, equals, text = entry.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if not equals or not name or not all(text.split(",")):
        fail(f"--grid {shown(entry)} is not of the form NAME=VALUE,VALUE; write it like learning_rate=2.5e-4,5e-4")
    if name in SWEPT:
        instead = "--seeds says which seeds" if name == "seed" else "leave it out"
        fail(f"--grid {shown(entry)}: {name} is given to each trial by the sweep; {instead}")
    if name == "recipe":
        values: list[Any] = text.split(",")
    else:
        values = [_value_of(SCRIPTS[script], name, value) for value in text.split(",")]
    if len(set(values)) < len(values):
        fail(f"--grid {shown(entry)} names a value twice; name each once")
    return name, tuple(values)


def _value_of(config_class: type, name: str, text: str) -> Any:
    """A setting's value, as its flag would be read; a mistake in it ends the process."""
    names = [field.name for field in dataclasses.fields(config_class)]
    if name not in names:
        fail(f"--grid: there is no setting {shown(name)}; {meant_by(name, names, '--help of the script')}")
    is_switch = isinstance(config_class.__dataclass_fields__[name].default, bool)  # type: ignore[attr-defined]
    if is_switch and text not in ("true", "false"):
        fail(f"--grid {name}={shown(text)}: it is on or off; give true or false")
    words = as_flags(config_class, {name: text == "true" if is_switch else text})
    return explicit_flags(config_class, parser_of("", (config_class,)).parse_args(words))[name]
