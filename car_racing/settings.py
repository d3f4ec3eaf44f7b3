"""Documented settings: a dataclass field that knows its help, its range, and what older checkpoints had in its place.

This module only declares and checks, and imports nothing but the standard library. Flags, recipes and checkpoints are
made of the fields elsewhere.
"""

import dataclasses
import math
import types
import typing
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

ConfigT = TypeVar("ConfigT")

# Marks a setting for which no value of older checkpoints is known; None is a value like any other.
UNKNOWN = object()
# A number beyond this, either way, is a mistake on any machine.
MAX_NUMBER = 10**12
# Characters of a value that a message shows.
MAX_SHOWN = 120


class SettingError(ValueError):
    """A setting that cannot work. The message is one line that names the flag, what is wrong and the mend."""


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: Sequence[str] | None = None,
    check: Callable[[str, str], object] | None = None,
    may_change: bool = False,
    before: Any = UNKNOWN,
    formerly: str | None = None,
) -> Any:
    """A documented dataclass field.

    Args:
        default: its default.
        help: one positive sentence: what it is, with its unit, or what happens when it is on.
        minimum: the smallest value allowed.
        above: a value that it must exceed.
        maximum: the largest value allowed. No number may be beyond `MAX_NUMBER`, or below its negative.
        choices: the values allowed.
        check: for a text: given the value and its flag, raises SettingError if it cannot be used.
        may_change: whether a resumed run may be given another value.
        before: for a setting that was added later: the value that reproduces what the code did before it was added.
            Checkpoints that lack the setting are resumed with it.
        formerly: the name under which older checkpoints have it.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
        "check": check,
        "may_change": may_change,
        "before": before,
        "formerly": formerly,
    }
    return dataclasses.field(default=default, metadata=metadata)


def with_default(base: type, name: str, default: Any) -> Any:
    """The setting `name` of the config dataclass `base`, for a class that derives from it and has another default."""
    (inherited,) = (field for field in dataclasses.fields(base) if field.name == name)
    return dataclasses.field(default=default, metadata=inherited.metadata)


def narrowed(config: Any, base: type[ConfigT]) -> ConfigT:
    """The part of a config that belongs to a dataclass which its class derives from."""
    names = [field.name for field in dataclasses.fields(base)]  # type: ignore[arg-type]
    return base(**{name: getattr(config, name) for name in names})


def flag_of(name: str) -> str:
    """The flag of a field: `n_envs` is `--n-envs`."""
    return f"--{name.replace('_', '-')}"


def check_settings(config: Any) -> None:
    """Check every field of a config dataclass against what its `setting` allows.

    Raises:
        SettingError: for the first that does not fit.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None and is_optional(hints[field.name]):
            continue
        for single in value if is_tuple(hints[field.name]) else (value,):
            _check_value(single, flag_of(field.name), scalar_type(hints[field.name]), field.metadata)


def is_tuple(hint: Any) -> bool:
    """Whether a field of this type takes several values."""
    return typing.get_origin(hint) is tuple


def is_optional(hint: Any) -> bool:
    """Whether a field of this type may be None."""
    return types.NoneType in typing.get_args(hint)


def scalar_type(hint: Any) -> type:
    """The type of a single value: int of `int | None` and of `tuple[int, ...]`, str of a Literal."""
    if is_tuple(hint):
        return typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(scalar_type(arg) for arg in typing.get_args(hint) if arg is not types.NoneType)
    if typing.get_origin(hint) is typing.Literal:
        return str
    return hint


def _check_value(value: Any, flag: str, wanted: type, limits: Mapping[str, Any]) -> None:
    # A float may be written as a whole number; otherwise the type is the type (and True is no number).
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise SettingError(f"{flag} must be of type {wanted.__name__}, not {shown(_written(value))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{flag} must be a finite number, not {value}")
    if isinstance(value, int | float) and abs(value) > MAX_NUMBER:
        raise SettingError(f"{flag} must be at most {MAX_NUMBER:,} in size, not {shown(value)}")
    if limits["minimum"] is not None and value < limits["minimum"]:
        raise SettingError(f"{flag} must be at least {limits['minimum']}, not {shown(value)}")
    if limits["above"] is not None and value <= limits["above"]:
        raise SettingError(f"{flag} must be above {limits['above']}, not {shown(value)}")
    if limits["maximum"] is not None and value > limits["maximum"]:
        raise SettingError(f"{flag} must be at most {limits['maximum']}, not {shown(value)}")
    if limits["choices"] is not None and value not in limits["choices"]:
        raise SettingError(f"{flag} must be one of {', '.join(limits['choices'])}, not {shown(value)}")
    if limits["check"] is not None:
        limits["check"](value, flag)


def _in_one_line(text: str) -> str:
    """A text with each line break and other control character in it as a blank."""
    return "".join(" " if is_control(character) else character for character in text)


def is_control(character: str) -> bool:
    """Whether a character is a control character, or separates lines or paragraphs."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def shown(value: Any) -> str:
    """What a user gave, for a message: in one line, and shortened in its middle."""
    line = _in_one_line(value if isinstance(value, str) else _written(value))
    return line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN // 2]}...{line[-MAX_SHOWN // 4 :]}"


def _written(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # Python writes out no number of more than some thousands of digits
        return "a number of thousands of digits"
