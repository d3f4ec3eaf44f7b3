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
    for name, one in content.items():
        if name not in known:
            raise SettingError(
                f"{where}: there is no setting {shown(name)}; {meant_by(name, known, f'--help of {script}')}"
            )
        is_whole = type(fields[name].default) is int
        if isinstance(one, dict) and is_whole and any(type(value) is float for value in one.values()):
            raise SettingError(f"{where}: {name} is a whole number, so its low, high and step must be, too")
    check_space(content, where)
    return content


def check_space(content: Any, where: str) -> None:
    """Check the form of a space.

    Raises:
        SettingError: if an entry has no range, or there is none.
    """
    for name, one in content.items():
        if not (isinstance(one, dict) and (_is_range(one) or _is_choice(one))):
            raise SettingError(f"{where}: {name} needs low and high (and log = true or a step), or choices")
    if not content:
        raise SettingError(f"{where} names no setting; write one like learning_rate = {{ low = 1e-4, high = 1e-3 }}")


def ends_of(one: Mapping[str, Any]) -> Sequence[Any]:
    """The choices of a setting, or the two ends of its range."""
    choices: Sequence[Any] = one["choices"] if "choices" in one else (one["low"], one["high"])
    return choices


def _is_choice(one: Mapping[str, Any]) -> bool:
    choices = one.get("choices")
    is_plain = isinstance(choices, list) and all(isinstance(value, bool | int | float | str) for value in choices)
    return set(one) == {"choices"} and is_plain and bool(choices)


def _is_range(one: Mapping[str, Any]) -> bool:
    numbers = [one[key] for key in ("low", "high", "step") if key in one]
    if not {"low", "high"} <= set(one) <= RANGE_KEYS or not all(type(number) in (int, float) for number in numbers):
        return False
    is_log, step = one.get("log", False), one.get("step")
    fits_log = is_log is False or (is_log is True and step is None and one["low"] > 0)
    return fits_log and -MAX_NUMBER <= one["low"] < one["high"] <= MAX_NUMBER and (step is None or step > 0)
