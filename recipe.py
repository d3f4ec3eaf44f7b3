"""Recipes: the settings of a training as a small TOML file, in one or several stages.

    agent = "ppo"               # which script it is for
    learning_rate = 5e-4        # settings are named as their flags are, with underscores
    eval_freq = 50_000          # so are the intervals of a run

    [[stages]]                  # optional: one table for each stage, which changes some of the settings
    steps = 1_000_000

    [[stages]]
    steps = 500_000
    learning_rate = 2.5e-4

A stage begins with the networks of the stage before it. This module reads and writes recipes and knows their form; what
the settings mean is checked where a config is made of them.
"""

import dataclasses
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from checkpoint import Checkpoint, CheckpointError
from output_file import replacing
from paths import path_from
from settings import MAX_NUMBER, SettingError, meant_by, saved_settings
from startup import one_line

RECIPES = Path(__file__).with_name("recipes")
SUFFIX = ".toml"
AGENT = "agent"
STAGES = "stages"
STEPS = "steps"


@dataclass(frozen=True)
class Recipe:
    """A training's settings.

    Attributes:
        name: what the user calls it.
        agent: the agent that it trains.
        settings: those that hold in every stage, by field name.
        stages: what each stage changes, `steps` among it; empty for a training without stages.
    """

    name: str
    agent: str
    settings: dict[str, Any]
    stages: tuple[dict[str, Any], ...] = ()

    def as_plain(self) -> dict[str, Any]:
        """The recipe as plain values, for checkpoints and Aim."""
        return {**dataclasses.asdict(self), STAGES: list(self.stages)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Recipe":
        """The recipe of `as_plain`.

        Raises:
            KeyError, TypeError, ValueError: if it is none.
        """
        return cls(plain["name"], plain["agent"], dict(plain["settings"]), tuple(plain[STAGES]))


def read(name_or_path: str) -> Recipe:
    """The recipe of a file, or the one of this name in `recipes/`.

    Raises:
        SettingError: if it cannot be found or read, or its form is wrong.
    """
    path = _find(name_or_path)
    return _parsed(path.stem, path, read_toml(path, "--recipe"))


def read_toml(path: Path, flag: str) -> dict[str, Any]:
    """What a TOML file says.

    Raises:
        SettingError: if it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # what cannot be read to its end
            raise SettingError(f"{flag} {path} is no regular file; name a {SUFFIX} file")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except SettingError:
        raise
    except OSError as error:
        raise SettingError(f"{flag} {path} cannot be read ({error.strerror}); name another") from None
    except UnicodeDecodeError as error:
        raise SettingError(f"{flag} {path} cannot be read ({_first_line(error)}); name another") from None
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:  # ValueError: a number of too many digits
        raise SettingError(f"{flag} {path} is no TOML ({_first_line(error)}); mend it there") from None


def check_for(recipe: Recipe, agent: str, script: str, known: Collection[str], total: str) -> None:
    """Check that a recipe is one for a script's agent, and names nothing but settings.

    Args:
        recipe: the recipe.
        agent: the agent.
        script: its training script.
        known: the settings that a recipe may name.
        total: the setting that says how many steps to train for, which stages say in its place.

    Raises:
        SettingError: if it is another agent's, or for the first key that is no setting, with the one that may be meant.
    """
    if recipe.agent != agent:
        raise SettingError(f"--recipe {recipe.name} is for a {recipe.agent!r} agent, not for {script}")
    stage_keys = [key for stage in recipe.stages for key in stage if key != STEPS]
    for key in (*recipe.settings, *stage_keys):
        if key not in known:
            raise SettingError(f"--recipe {recipe.name}: there is no setting {key!r}; {meant_by(key, known)}")
    if recipe.stages and total in (*recipe.settings, *stage_keys):
        raise SettingError(f"--recipe {recipe.name}: its stages say how many steps there are; leave {total} out")


def from_checkpoint(loaded: Checkpoint, config_class: type, total: str) -> Recipe:
    """The settings of the run that a checkpoint belongs to, all of them, as a recipe.

    Args:
        loaded: the checkpoint.
        config_class: the dataclass of its agent's settings.
        total: the setting that says how many steps to train for.

    Raises:
        CheckpointError: if the checkpoint does not say what its run's settings were.
    """
    meta = loaded.meta
    try:
        configs = [saved_settings(config_class, saved) for saved in meta.get(STAGES, [meta["config"]])]
        first = configs[0]
        name, agent, intervals = str(meta["run_name"]), str(meta[AGENT]), dict(meta.get("intervals", {}))
    except (SettingError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{loaded.path} does not hold its run's settings ({_first_line(error)})") from None
    if len(configs) == 1:
        return Recipe(name, agent, {**first, **intervals})
    common = {key for key in first if key != total and all(config[key] == first[key] for config in configs)}
    stages = tuple(
        {STEPS: config[total], **{key: config[key] for key in config if key != total and key not in common}}
        for config in configs
    )
    return Recipe(name, agent, {**{key: first[key] for key in first if key in common}, **intervals}, stages)


def write(recipe: Recipe, path: Path, comments: Mapping[str, str] | None = None) -> None:
    """Write a recipe to a file, each setting under a comment that says what it is.

    Args:
        recipe: the recipe.
        path: the file.
        comments: what each setting is, by its name.

    Raises:
        OSError: if the file cannot be written.
    """
    with replacing(path) as new_path:
        new_path.write_text(text_of(recipe, comments or {}), encoding="utf-8")


def text_of(recipe: Recipe, comments: Mapping[str, str]) -> str:
    """A recipe as TOML."""
    parts = [f"# Settings of the run {one_line(recipe.name)}.\n", tomli_w.dumps({AGENT: recipe.agent})]
    parts += _commented(recipe.settings, comments)
    for stage in recipe.stages:
        parts += [f"\n[[{STAGES}]]\n", *_commented(stage, comments)]
    return "".join(parts)


def _commented(settings: Mapping[str, Any], comments: Mapping[str, str]) -> list[str]:
    lines = []
    for key, value in settings.items():
        if value is not None:  # TOML has no None; a setting that is left out has its default
            comment = f"# {comments[key]}\n" if key in comments else ""
            lines.append(comment + tomli_w.dumps({key: list(value) if isinstance(value, tuple) else value}))
    return lines


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith(SUFFIX) or "/" in name_or_path:
        return path_from(name_or_path, "--recipe")
    path = RECIPES / f"{name_or_path}{SUFFIX}"
    if not path.is_file():
        names = ", ".join(sorted(other.stem for other in RECIPES.glob(f"*{SUFFIX}")))
        raise SettingError(f"--recipe {name_or_path}: there is no such recipe; take one of {names}, or a {SUFFIX} file")
    return path


def _parsed(name: str, path: Path, content: dict[str, Any]) -> Recipe:
    agent, stages = content.pop(AGENT, None), content.pop(STAGES, [])
    if not isinstance(agent, str):
        raise SettingError(f'--recipe {path} does not say which agent it is for; add a line such as {AGENT} = "ppo"')
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise SettingError(f"--recipe {path}: write each stage as a table [[{STAGES}]]")
    for number, stage in enumerate(stages, 1):
        if type(stage.get(STEPS)) is not int or not 1 <= stage[STEPS] <= MAX_NUMBER:
            raise SettingError(
                f"--recipe {path}: stage {number} needs {STEPS}, a whole number from 1 to {MAX_NUMBER:,}"
            )
    return Recipe(name, agent, content, tuple(stages))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
