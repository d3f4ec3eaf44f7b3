"""A sweep's plan: which trials there are, and with which flags each is trained. It is a file in the sweep's directory.

sweeps/<name>/sweep.json           the plan
sweeps/<name>/<trial>/             a trial: the directory of its training, its log, and `trial.json`, how it ended
sweeps/<name>/table.md, curves.*   what came out
"""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import recipe as recipes
from output_file import replacing
from paths import path_from
from process import describe_run
from run_settings import RECIPE_OPTIONS, RunOptions
from settings import SettingError, as_flags, shown
from startup import one_line
from sweep_options import SCRIPTS, CommandLine, SweepOptions
from sweep_space import Search, check_space, ends_of, read_space

# The agent of each script, and its setting that says how many steps to train for.
AGENTS = {"train.py": ("sac", "total_steps"), "train_ppo.py": ("ppo", "total_timesteps")}
PLAN_FILE = "sweep.json"
FORMAT_VERSION = 1
NO_NAME = re.compile(r"[^\w.+-]+")
# A trial's name is that of its directory, and a part of its run's name.
MAX_STEM = 80


@dataclass(frozen=True)
class Trial:
    """One training of the sweep.

    Attributes:
        name: its name, and that of its directory.
        label: its setting in words, alike for all its seeds.
        varied: the settings that the sweep varies, by name.
        seed: its seed.
    """

    name: str
    label: str
    varied: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Plan:
    """All trials of a sweep.

    Attributes:
        name: the sweep's name.
        script: the training script.
        settings: the agent's settings that all trials have, by name; those that are not named are the defaults.
        options: the options of the run that all trials have, by name.
        trials: the trials, in the order in which they start.
        retries: how often a trial that failed goes on before it is given up.
        cores: cores for each trial. It keeps their number when it is resumed: sums over more threads round differently.
        begun_in: the directory that the sweep was begun in, from which relative paths of its trials lead.
        search: how many trials a search makes, and from which space; None for a sweep whose trials are all known.
    """

    name: str
    script: str
    settings: dict[str, Any]
    options: dict[str, Any]
    trials: tuple[Trial, ...]
    retries: int
    cores: int | None
    begun_in: str
    search: Search | None = None

    @property
    def is_scored(self) -> bool:
        """Whether the best checkpoint of each trial is scored on the scoring tracks at the end."""
        return bool(self.options.get("score", False))

    @property
    def takes_gpu(self) -> bool:
        """Whether its trials learn on a GPU where there is one."""
        return str(self.options.get("device", "auto")) != "cpu"

    @property
    def examples(self) -> tuple[Trial, ...]:
        """Its trials; of a search, one for each end of a range and each choice."""
        if self.search is None:
            return self.trials
        ends = {name: ends_of(one) for name, one in self.search.space.items()}
        first = {name: values[0] for name, values in ends.items()}
        varied = [first, *({**first, name: value} for name, values in ends.items() for value in values[1:])]
        return tuple(trial_of(one, "end", self.search.seed) for one in varied)

    def config_of(self, trial: Trial) -> Any:
        """A trial's settings; of a recipe with stages, those that hold in all of them.

        Raises:
            SettingError: if one is out of its range, two do not go together, or there is no such recipe.
        """
        names = SCRIPTS[self.script].__dataclass_fields__  # type: ignore[attr-defined]
        of_recipe = self._recipe_settings(self.options_of(trial).get("recipe"))
        given = {**of_recipe, **self.settings, **trial.varied, "seed": trial.seed}
        return SCRIPTS[self.script](**{name: value for name, value in given.items() if name in names})

    def _recipe_settings(self, name_or_path: str | None) -> dict[str, Any]:
        """A recipe's settings that hold in all its stages.

        Raises:
            SettingError: if there is no such recipe, it is another agent's, or it names what is no setting.
        """
        if name_or_path is None:
            return {}
        recipe, (agent, total) = recipes.read(name_or_path), AGENTS[self.script]
        names = SCRIPTS[self.script].__dataclass_fields__  # type: ignore[attr-defined]
        recipes.check_for(recipe, agent, self.script, [*names, *RECIPE_OPTIONS], total)
        return _fields(recipe.settings)

    def options_of(self, trial: Trial) -> dict[str, Any]:
        """The options of a trial's run that the sweep does not choose itself."""
        names = RunOptions.__dataclass_fields__
        given = {**self.options, **trial.varied, "tags": (*self.options.get("tags", ()), self.name)}
        return {name: value for name, value in given.items() if name in names and name != "score"}

    def new_flags(self, trial: Trial, directory: Path) -> list[str]:
        """The flags with which a trial begins in a directory.

        The score is no part of it: it is driven afterwards, so that a trial that was killed does not train again.
        """
        config_class = SCRIPTS[self.script]
        return [
            *as_flags(config_class, {**self.settings, **trial.varied, "seed": trial.seed}),
            *as_flags(RunOptions, self.options_of(trial)),
            f"--run-name={self.name}_{trial.name}",
            f"--checkpoint-dir={directory}",
        ]

    def resuming_flags(self, trial: Trial, directory: Path) -> list[str]:
        """The flags with which a trial goes on in its directory."""
        # The recipe is in the checkpoint.
        options = {name: value for name, value in self.options_of(trial).items() if name != "recipe"}
        return [*as_flags(RunOptions, options), f"--resume={directory}"]


def make_plan(options: SweepOptions, given: CommandLine) -> Plan:
    """The plan of a new sweep.

    Raises:
        SettingError: if the settings of a trial are wrong.
    """
    assert options.name is not None
    assert given.script is not None
    plan = Plan(
        name=options.name,
        script=given.script,
        settings=given.settings,
        options=_with_whole_path(given.options),
        trials=() if options.space is not None else tuple(_combinations(options, given)),
        retries=options.retries,
        cores=options.cores,
        begun_in=str(Path.cwd()),
        search=_search(options, given),
    )
    try:
        _check(plan)
    except SettingError as error:
        raise error if options.space is None else SettingError(f"--space {options.space}: {error}") from None
    return plan


def _combinations(options: SweepOptions, given: CommandLine) -> Iterator[Trial]:
    """Every combination of the varied settings with every seed."""
    names: set[str] = set()
    for values in itertools.product(*given.grid.values()):
        varied = dict(zip(given.grid, values, strict=True))
        label = ", ".join(f"{name}={value}" for name, value in varied.items()) or str(options.name)
        stem = "_".join(f"{name}-{value}" for name, value in varied.items())
        for seed in options.seeds:
            seeded = NO_NAME.sub("-", f"{stem[:MAX_STEM]}_s{seed}".lstrip("_"))
            # Two settings may come to the same name, such as recipes of the same name in two folders.
            name = next(name for name in _with_numbers(seeded) if name not in names)
            names.add(name)
            yield Trial(name, label, _with_whole_path(varied), seed)


def _with_whole_path(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with a recipe's file under its whole path: a sweep may be resumed from another directory."""
    if "recipe" not in values or not Path(values["recipe"]).is_file():
        return dict(values)
    return {**values, "recipe": str(Path(values["recipe"]).resolve())}


def _with_numbers(name: str) -> Iterator[str]:
    """The name itself, then with a number behind it."""
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(2))


def _search(options: SweepOptions, given: CommandLine) -> Search | None:
    if options.search is None or options.space is None or given.script is None:
        return None
    path = path_from(options.space, "--space")
    space = read_space(path, given.script)
    for name in space:
        if name in given.settings:
            raise SettingError(f"--space {path}: {name} is on the command line too; give it once")
    return Search(options.search, space, options.seeds[0])


def _check(plan: Plan) -> None:
    """Check the settings of all trials.

    Raises:
        SettingError: if those of one are wrong.
    """
    for trial in plan.examples:
        start_from = plan.config_of(trial).start_from
        # Not `Path.exists`, which raises where a directory may not be entered.
        if start_from is not None and not os.path.exists(path_from(start_from, "--start-from")):  # noqa: PTH110
            raise SettingError(f"--start-from {shown(start_from)}: there is no such checkpoint; name another")
        RunOptions(**plan.options_of(trial))


def trial_of(varied: dict[str, Any], name: str, seed: int) -> Trial:
    """The trial of a search with these settings."""
    shown_as = (f"{key}={value:.4g}" if type(value) is float else f"{key}={value}" for key, value in varied.items())
    # With its name: two trials whose settings look alike are not seeds of one.
    return Trial(name, f"{name}: {', '.join(shown_as)}", varied, seed)


def save_plan(plan: Plan, directory: Path) -> None:
    """Write the plan to a sweep's directory.

    Raises:
        SettingError: if there is a sweep already, or the directory cannot be written to.
    """
    try:
        if (directory / PLAN_FILE).exists():
            raise SettingError(
                f"--name {shown(plan.name)}: {directory} holds a sweep; go on with it (--resume) or name another"
            )
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, {"format_version": FORMAT_VERSION, **asdict(plan), "begun_by": describe_run()})
    except OSError as error:
        raise SettingError(f"--directory: {directory} cannot be written to ({error.strerror}); name another") from None


def add_trial(directory: Path, trial: Trial) -> None:
    """Add a trial that a search has made to the plan of its directory.

    Raises:
        OSError: if the file cannot be written.
    """
    plain = json.loads((directory / PLAN_FILE).read_text(encoding="utf-8"))
    plain["trials"].append(asdict(trial))
    _write(directory, plain)


def _write(directory: Path, plain: Mapping[str, Any]) -> None:
    with replacing(directory / PLAN_FILE) as new_path:
        new_path.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def load_plan(directory: Path) -> Plan:
    """Read the plan of a sweep's directory.

    Raises:
        SettingError: if there is none, or it cannot be read.
    """
    file = directory / PLAN_FILE
    if not file.is_file():
        raise SettingError(f"--resume: there is no sweep in {directory}; begin one with --name")
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        if plain["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its version is {shown(plain['format_version'])}, not {FORMAT_VERSION}")
        trials = tuple(_trial_from(one) for one in plain["trials"])
        settings, options = _fields(plain["settings"]), _fields(plain["options"])
        search = None if plain["search"] is None else _search_from(plain["search"])
        if plain["script"] not in SCRIPTS:
            raise ValueError(f"{shown(plain['script'])} is no script that can be swept")
        name, begun_in, cores = str(plain["name"]), str(plain["begun_in"]), plain["cores"]
        if cores is not None and (type(cores) is not int or cores < 1):
            raise ValueError(f"{shown(cores)} is no number of cores")
        plan = Plan(name, plain["script"], settings, options, trials, int(plain["retries"]), cores, begun_in, search)
        if len({trial.name for trial in trials}) < len(trials):
            raise ValueError("two trials have one name")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise SettingError(f"--resume: {file} is no plan of a sweep ({type(error).__name__}: {error})") from None
    return plan


def _trial_from(plain: Mapping[str, Any]) -> Trial:
    name = str(plain["name"])
    if NO_NAME.search(name) or name in ("", ".", ".."):  # it names a directory
        raise ValueError(f"{shown(name)} is no name of a trial")
    return Trial(name, one_line(str(plain["label"])), _fields(plain["varied"]), int(plain["seed"]))


def _search_from(plain: Mapping[str, Any]) -> Search:
    check_space(plain["space"], "its space")
    return Search(int(plain["n_trials"]), plain["space"], int(plain["seed"]))


def _fields(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Values as fields have them: JSON has arrays where they have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}


def chosen_trials(plan: Plan, only: Sequence[str]) -> tuple[Trial, ...]:
    """The trials of these names or numbers, the first of which is 1; all where none is named.

    Raises:
        SettingError: for the first that there is not.
    """
    by_name = {trial.name: trial for trial in plan.trials}
    by_number = {str(number): trial for number, trial in enumerate(plan.trials, 1)}
    for name in only:
        if name not in by_name and name not in by_number:
            raise SettingError(
                f"--only {shown(name)}: there is no such trial; name one of {', '.join(by_name)}, "
                f"or its number from 1 to {len(plan.trials)}"
            )
    if only and plan.search is not None:
        raise SettingError("--only takes trials of a sweep whose trials are all known, and this is a search")
    chosen = dict.fromkeys((by_name.get(name) or by_number[name]).name for name in only)
    return tuple(by_name[name] for name in chosen) or plan.trials
