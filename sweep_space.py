"""The space of a search: a small TOML file with the range of each setting, or its choices.

learning_rate = { low = 1e-4, high = 1e-3, log = true }
n_epochs = { low = 2, high = 8, step = 2 }
use_gaussian = { choices = [true, false] }
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe import read_toml
from settings import MAX_NUMBER, SettingError, meant_by, shown
from sweep_options import SCRIPTS

RANGE_KEYS = {"low", "high", "log", "step"}
MAX_STEPS = 10_000
FORM = "write { low = 1e-4, high = 1e-3 }, with log = true or a step if you like, or { choices = [1, 2] }"


@dataclass(frozen=True)
class Search:
    """What a search chooses from.

    Attributes:
        n_trials: how many trials it makes.
        space: the range of each setting, or its choices, as the file of `--space` has them.
        seed: the seed of every trial.
    """

    n_trials: int
    space: dict[str, dict[str, Any]]
    seed: int


def read_space(path: Path, script: str) -> dict[str, dict[str, Any]]:
    """The space of a file, for a training script.

    Raises:
        SettingError: if the file cannot be read, or one entry is no setting or has no range.
    """
    content, where = read_toml(path, "--space"), f"--space {path}"
    fields = SCRIPTS[script].__dataclass_fields__  # type: ignore[attr-defined]
    known = [name for name in fields if name != "seed"]
    if "seed" in content:
        raise SettingError(f"{where}: the seed is the same for all trials of a search; leave it out, and give --seeds")
    check_space(content, where)
    for name, one in content.items():
        if name not in known:
            raise SettingError(
                f"{where}: there is no setting {shown(name)}; {meant_by(name, known, f'--help of {script}')}"
            )
        kind = type(fields[name].default)
        if kind is bool and "choices" not in one:
            raise SettingError(f"{where}: {name} is on or off; write {{ choices = [true, false] }}")
        if kind is int and any(type(value) is float for value in one.values()):
            raise SettingError(f"{where}: {name} is a whole number, so its low, high and step must be, too")
        if kind is float:  # where both ends are whole numbers, too
            content[name] = {key: float(value) if type(value) is int else value for key, value in one.items()}
    return content


def check_space(content: Any, where: str) -> None:
    """Check the form of a space.

    Raises:
        SettingError: if an entry has no range, or there is none.
    """
    for name, one in content.items():
        mistake = _mistake_in(one)
        if mistake is not None:
            raise SettingError(f"{where}: {name} {mistake}")
    if not content:
        raise SettingError(f"{where} names no setting; write one like learning_rate = {{ low = 1e-4, high = 1e-3 }}")


def ends_of(one: Mapping[str, Any]) -> Sequence[Any]:
    """The choices of a setting, or the two ends of its range."""
    choices: Sequence[Any] = one["choices"] if "choices" in one else (one["low"], one["high"])
    return choices


def _mistake_in(one: Any) -> str | None:
    """What is wrong with the form of a setting's range or choices, and the mend; None if nothing is."""
    if not isinstance(one, dict) or not one:
        return f"has no range; {FORM}"
    if "choices" in one:
        choices = one["choices"]
        is_plain = isinstance(choices, list) and all(isinstance(value, bool | int | float | str) for value in choices)
        return (
            None
            if set(one) == {"choices"} and is_plain and choices
            else f"needs a list of choices, and nothing beside it; {FORM}"
        )
    for key in one:
        if key not in RANGE_KEYS:
            return f"has {shown(key)}, which is none of low, high, log and step; {FORM}"
    return _mistake_in_range(one)


def _mistake_in_range(one: Mapping[str, Any]) -> str | None:
    numbers = [one.get(key) for key in ("low", "high", *(["step"] if "step" in one else []))]
    if not all(type(number) in (int, float) for number in numbers):
        return f"needs low and high, and they are numbers; {FORM}"
    low, high, step, is_log = one["low"], one["high"], one.get("step"), one.get("log", False)
    if not -MAX_NUMBER <= low < high <= MAX_NUMBER:
        return f"has no range from low {low} to high {high}; give a low below high, both between ±{MAX_NUMBER:g}"
    if type(is_log) is not bool:
        return f"has log = {shown(str(is_log))}; give true or false"
    if is_log and low <= 0:
        return f"has low {low} on a logarithmic scale; give one above 0"
    if step is not None and is_log:
        return f"has step {step}; give none beside log = true"
    if step is not None and not (high - low) / MAX_STEPS <= step <= high - low:
        return f"has step {step} from low {low} to high {high}; give one that is at most their distance, and not tiny"
    return None
