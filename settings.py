"""Settings written once: a documented dataclass field is also a command-line flag, its help and its check."""

import argparse
import dataclasses
import inspect
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

ConfigT = TypeVar("ConfigT")


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
    may_change: bool = False,
) -> Any:
    """A dataclass field that `add_flags` can turn into a flag.

    Args:
        default: its default.
        help: what it is, with its unit, for the reader of the class and of `--help` alike.
        minimum: the smallest value allowed.
        above: a value that it must exceed.
        maximum: the largest value allowed.
        choices: the values allowed.
        may_change: whether a resumed run may be given another value.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "choices": choices,
        "may_change": may_change,
    }
    return dataclasses.field(default=default, metadata=metadata)


def with_default(base: type, name: str, default: Any) -> Any:
    """The setting `name` of the config dataclass `base`, for a class that derives from it and has another default."""
    (inherited,) = (field for field in dataclasses.fields(base) if field.name == name)
    return dataclasses.field(default=default, metadata=inherited.metadata)


def check_settings(config: Any) -> None:
    """Check every field of a config dataclass against what its `setting` allows.

    Raises:
        SettingError: for the first that does not fit.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        for single in value if _is_tuple(hints[field.name]) else (value,):
            _check_value(single, flag_of(field), _scalar_type(hints[field.name]), field.metadata)


def _check_value(value: Any, flag: str, wanted: type, limits: Mapping[str, Any]) -> None:
    # A float may be written as a whole number; otherwise the type is the type (and True is no number).
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise SettingError(f"{flag} must be of type {wanted.__name__}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingError(f"{flag} must be a finite number, not {value}")
    if limits["minimum"] is not None and value < limits["minimum"]:
        raise SettingError(f"{flag} must be at least {limits['minimum']}, not {value}")
    if limits["above"] is not None and value <= limits["above"]:
        raise SettingError(f"{flag} must be above {limits['above']}, not {value}")
    if limits["maximum"] is not None and value > limits["maximum"]:
        raise SettingError(f"{flag} must be at most {limits['maximum']}, not {value}")
    if limits["choices"] is not None and value not in limits["choices"]:
        raise SettingError(f"{flag} must be one of {', '.join(limits['choices'])}, not {value}")


def flag_of(field: "dataclasses.Field[Any]") -> str:
    """The flag of a field: `n_envs` is `--n-envs`; a switch that is on by default is turned off by `--no-<name>`."""
    name = field.name.replace("_", "-")
    return f"--no-{name}" if field.default is True else f"--{name}"


def add_flags(parser: argparse.ArgumentParser, config_class: type) -> None:
    """Give `parser` one flag for each field of a config dataclass. One of type `tuple[T, ...]` takes several values.

    A class and those that it derives from each have a group of their own, under their docstring's first line.
    A flag that is not given leaves no trace in the parsed namespace, so a resumed run can tell the user's wishes from
    defaults.
    """
    hints = typing.get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    for owner in filter(dataclasses.is_dataclass, config_class.__mro__):
        group = parser.add_argument_group((owner.__doc__ or "").strip().splitlines()[0].rstrip("."))
        for name in filter(fields.__contains__, inspect.get_annotations(owner)):
            _add_flag(group, fields.pop(name), hints[name])


def _add_flag(group: "argparse._ArgumentGroup", field: "dataclasses.Field[Any]", hint: Any) -> None:
    flag, text = flag_of(field), field.metadata["help"].replace("%", "%%")
    if isinstance(field.default, bool):
        action = "store_false" if field.default else "store_true"
        group.add_argument(flag, dest=field.name, action=action, default=argparse.SUPPRESS, help=text)
        return
    if field.metadata["choices"]:
        text += f" ({' or '.join(field.metadata['choices'])})"
    if field.default not in (None, ()):
        text += f" [{field.default}]"
    is_tuple = _is_tuple(hint)
    group.add_argument(
        flag,
        dest=field.name,
        action="extend" if is_tuple else "store",
        nargs="+" if is_tuple else None,
        type=_scalar_type(hint),
        default=argparse.SUPPRESS,
        metavar=_scalar_type(hint).__name__.upper(),
        help=text,
    )


def given(config_class: type, namespace: argparse.Namespace) -> dict[str, Any]:
    """The fields of a config dataclass whose flags stood on the command line, with their values."""
    names = {field.name for field in dataclasses.fields(config_class)}
    values = {name: value for name, value in vars(namespace).items() if name in names}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_complete(config_class: type, saved: dict[str, Any]) -> None:
    """Make sure that a checkpoint says what every setting of its training was.

    The default of a setting that came later says nothing of it: a driver might see another picture than it learnt from.

    Raises:
        SettingError: if it does not.
    """
    missing = [flag_of(field) for field in dataclasses.fields(config_class) if field.name not in saved]
    if missing:
        raise SettingError(
            f"its settings lack {', '.join(missing)}: another version of this project saved it; use that version"
        )


def as_saved(config_class: type[ConfigT], saved: dict[str, Any]) -> ConfigT:
    """The config that a checkpoint was made with.

    Raises:
        SettingError: if a setting is not in it, or out of its range.
        TypeError: if there is one too many.
    """
    check_complete(config_class, saved)
    return config_class(**saved)


def from_saved(config_class: type[ConfigT], saved: dict[str, Any], wishes: dict[str, Any]) -> ConfigT:
    """The config that a checkpoint was made with, with what the user wishes otherwise now.

    Raises:
        SettingError: if a wish contradicts the checkpoint in a setting that may not change.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    contradictions = [
        f"{flag_of(fields[name])} (there: {saved[name]}, here: {value})"
        for name, value in wishes.items()
        if name in saved and value != saved[name] and not fields[name].metadata["may_change"]
    ]
    if contradictions:
        raise SettingError(
            f"--resume goes on with the checkpoint's settings; leave out what contradicts them: "
            f"{', '.join(contradictions)}"
        )
    return config_class(**{**{name: value for name, value in saved.items() if name in fields}, **wishes})


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2, without the usage in front."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (--help lists the flags)")


def fail(message: str) -> NoReturn:
    """Say what is wrong with the user's input in one line on stderr, and exit with code 2."""
    print(f"{sys.argv[0].rpartition('/')[2]}: {message}", file=sys.stderr)
    raise SystemExit(2)


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _scalar_type(hint: Any) -> type:
    if _is_tuple(hint):
        return typing.get_args(hint)[0]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(_scalar_type(arg) for arg in typing.get_args(hint) if arg is not types.NoneType)
    if typing.get_origin(hint) is typing.Literal:
        return str
    return hint
