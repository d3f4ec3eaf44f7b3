"""Settings as flags, and as what a checkpoint remembers of them.

A setting is declared once, as a field of a config dataclass (`car_racing.settings.setting`). Here that field becomes a
command-line flag with its help and its check, and is read back from checkpoints, older ones included.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import inspect
import re
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NoReturn, TypeVar

from car_racing.settings import (
    MAX_NUMBER,
    UNKNOWN,
    SettingError,
    check_settings,
    flag_of,
    is_tuple,
    scalar_type,
    setting,
    shown,
    with_default,
)
from startup import complain

__all__ = ["MAX_NUMBER", "SettingError", "check_settings", "flag_of", "setting", "shown", "with_default"]

ConfigT = TypeVar("ConfigT")

# Numbers that a range such as 0-9 may stand for.
RANGE = re.compile(r"([0-9]{1,13})-([0-9]{1,13})")
MAX_RANGE = 100_000


def add_flags(
    parser: argparse.ArgumentParser,
    config_class: type,
    places: "Mapping[str, argparse._ArgumentGroup] | None" = None,
) -> None:
    """Give `parser` one flag for each field of a config dataclass. One of type `tuple[T, ...]` takes several values.

    A field stands in its group of `places`, by its name, or else in that of the class that first declared it, under
    that class's docstring's first line. A flag that is not given leaves no trace in the parsed namespace, so explicit
    flags can be told from defaults.
    """
    hints = typing.get_type_hints(config_class)
    lineage = [owner for owner in config_class.__mro__ if dataclasses.is_dataclass(owner)]
    first_owner = {name: owner for owner in lineage for name in inspect.get_annotations(owner)}
    fields = dataclasses.fields(config_class)
    for owner in lineage:
        own = [field for field in fields if first_owner[field.name] is owner]
        if own:
            group = parser.add_argument_group((owner.__doc__ or "").strip().splitlines()[0].rstrip("."))
            for field in own:
                _add_flag((places or {}).get(field.name, group), field, hints[field.name])


def parser_of(description: str, config_classes: Iterable[type], most_used: Collection[str] = ()) -> "OneLineParser":
    """A parser with the flags of these config dataclasses, the most used of them in front."""
    parser = OneLineParser(description)
    places = dict.fromkeys(most_used, parser.add_argument_group("used most"))
    for config_class in config_classes:
        add_flags(parser, config_class, places)
    return parser


def _add_flag(group: "argparse._ArgumentGroup", field: "dataclasses.Field[Any]", hint: Any) -> None:
    flag, text = flag_of(field.name), field.metadata["help"].replace("%", "%%")
    if isinstance(field.default, bool):
        text += f" [{'on' if field.default else 'off'}]"
        action = argparse.BooleanOptionalAction
        group.add_argument(flag, dest=field.name, action=action, default=argparse.SUPPRESS, help=text)
        return
    if field.metadata["choices"]:
        text += f" ({' or '.join(field.metadata['choices'])})"
    if field.default not in (None, ()):
        default = field.default if isinstance(field.default, tuple) else (field.default,)
        text += f" [{' '.join(map(str, default))}]"
    wanted = scalar_type(hint)
    group.add_argument(
        flag,
        dest=field.name,
        action="extend" if is_tuple(hint) else "store",
        nargs="+" if is_tuple(hint) else None,
        type=wanted if wanted is not int else _whole_numbers if is_tuple(hint) else _whole_number,
        default=argparse.SUPPRESS,
        metavar=wanted.__name__.upper(),
        help=text,
    )


def _whole_number(text: str) -> int:
    """A whole number as people write it, 1e6 too."""
    with contextlib.suppress(ValueError):
        return int(text)
    try:
        number = Decimal(text)
        if number == number.to_integral_value() and abs(number) <= MAX_NUMBER:
            return int(number)
    except (ArithmeticError, ValueError):
        pass
    raise argparse.ArgumentTypeError(f"{shown(text)} is no whole number; write it like 1000000 or 1e6")


def _whole_numbers(text: str) -> range:
    """A whole number, or all from one to another: 0-9."""
    match = RANGE.fullmatch(text)
    if match is None:
        number = _whole_number(text)
        return range(number, number + 1)
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + MAX_RANGE:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} must go from a smaller number to a larger one, over at most {MAX_RANGE:,}"
        )
    return range(first, last + 1)


def explicit_flags(config_class: type, namespace: argparse.Namespace) -> dict[str, Any]:
    """The fields of a config dataclass whose flags stood on the command line, with their values."""
    names = {field.name for field in dataclasses.fields(config_class)}
    values = {name: value for name, value in vars(namespace).items() if name in names}
    return {name: tuple(_flat(value)) if isinstance(value, list) else value for name, value in values.items()}


def as_flags(config_class: type, values: Mapping[str, Any]) -> list[str]:
    """A command line's words for these fields of a config dataclass: what `explicit_flags` reads back."""
    words = []
    for field in dataclasses.fields(config_class):
        if field.name not in values or values[field.name] is None:
            continue
        value, flag = values[field.name], flag_of(field.name)
        if isinstance(field.default, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [f"{flag}={one}" for one in value]
        else:
            words.append(f"{flag}={value}")
    return words


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, range) else (value,)


def saved_settings(config_class: type, saved: dict[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """A checkpoint's settings under today's names.

    A setting that was renamed is found under its former name. One that was added later has the value that reproduces
    what the code did before (`setting(..., before=)`).

    Args:
        config_class: the dataclass of the settings. Its `upgrade` classmethod, if any, is given `saved` first.
        saved: what the checkpoint says.
        names: the settings that are wanted; None for all of them, and then there may be no others in `saved`.

    Raises:
        SettingError: if one that is wanted is missing and nothing says what it was, or if one is unknown here.
    """
    saved = getattr(config_class, "upgrade", dict)(saved)
    values, missing, known = {}, [], set()
    for field in dataclasses.fields(config_class):
        former, before = field.metadata["formerly"], field.metadata["before"]
        known |= {field.name, former}
        if names is not None and field.name not in names:
            continue
        if field.name in saved:
            values[field.name] = saved[field.name]
        elif former in saved:
            values[field.name] = saved[former]
        elif before is not UNKNOWN:
            values[field.name] = before
        else:
            missing.append(flag_of(field.name))
    if missing:
        raise SettingError(
            f"its settings lack {', '.join(missing)}: another version of this project saved it; use that version"
        )
    unknown = sorted(set(saved) - known)
    if names is None and unknown:
        raise SettingError(
            f"its settings hold {', '.join(unknown)}, which this version does not know; use the version that saved it"
        )
    return values


def from_saved(config_class: type[ConfigT], saved: dict[str, Any], names: Collection[str] | None = None) -> ConfigT:
    """The config that a checkpoint was made with; with `names`, those settings of it and the defaults of the others.

    Raises:
        SettingError: as `saved_settings`, or if a setting is out of its range.
    """
    return config_class(**saved_settings(config_class, saved, names))


def resumed(config_class: type[ConfigT], saved: dict[str, Any], overrides: dict[str, Any]) -> ConfigT:
    """The config that a checkpoint was made with, with what the user wants otherwise now.

    Raises:
        SettingError: if an override contradicts the checkpoint in a setting that may not change.
    """
    values = saved_settings(config_class, saved)
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    contradictions = [
        f"{flag_of(name)} (there: {values[name]}, here: {value})"
        for name, value in overrides.items()
        if value != values[name] and not fields[name].metadata["may_change"]
    ]
    if contradictions:
        raise SettingError(
            f"--resume goes on with the checkpoint's settings; leave out what contradicts them: "
            f"{', '.join(contradictions)}"
        )
    return config_class(**{**values, **overrides})


def check_alike(config: Any, saved: dict[str, Any], names: Collection[str], whose: str) -> None:
    """Check that a config has the settings `names` as a checkpoint has them.

    Args:
        config: of this training.
        saved: what the checkpoint says.
        names: the settings to compare.
        whose: the flag and the checkpoint, for the message.

    Raises:
        SettingError: if some differ, with the flags that would make them alike.
    """
    theirs = saved_settings(type(config), saved, names)
    others = [f"{flag_of(name)} {value}" for name, value in theirs.items() if value != getattr(config, name)]
    if others:
        raise SettingError(f"{whose} was trained with {', '.join(others)}; give the flags for the same")


def meant_by(name: str, known: Iterable[str], whose: str = "--help") -> str:
    """What to do about a name that is no setting: take the one that may be meant, or look at `whose` list."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"{whose} lists the settings"


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit code 2, without the usage in front."""

    def __init__(self, description: str, arguments: str = "") -> None:
        """A parser without flags yet.

        Args:
            description: a script's docstring, shown as it is.
            arguments: what the usage names besides flags.
        """
        # Wide enough that a short help stands beside `--x, --no-x`.
        formatter = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=40)
        # All flags in the usage would be twenty lines.
        usage = f"%(prog)s {arguments}[flags]"
        super().__init__(usage=usage, description=description, allow_abbrev=False, formatter_class=formatter)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        # Intermixed: words without a flag may stand anywhere.
        parsed, unknown = self.parse_known_intermixed_args(args, namespace)
        if unknown:
            flags = [flag.partition("=")[0] for flag in unknown if flag.startswith("--")]
            meant = [near for flag in flags if (near := self._nearest_flag(flag)) is not None]
            question = f"; did you mean {' and '.join(meant)}?" if meant else ""
            self.error(f"unrecognized arguments: {shown(' '.join(unknown))}{question}")
        return parsed

    def _nearest_flag(self, flag: str) -> str | None:
        """The flag that another spelling, an abbreviation (--lr) or a part of its name (--steps) may stand for."""
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for near in difflib.get_close_matches(flag, known, n=1, cutoff=0.75):
            return near
        name = flag.removeprefix("--")
        words = {other: other.removeprefix("--").split("-") for other in known}
        by_initials = (other for other in known if name == "".join(word[:1] for word in words[other]))
        by_part = (other for other in known if name in words[other])
        return next(by_initials, None) or next(by_part, None)

    def error(self, message: str) -> NoReturn:
        fail(f"{message} (--help lists the flags)")


def fail(message: str) -> NoReturn:
    """Say what is wrong with the user's input in one line on stderr, and exit with code 2."""
    complain(message)
    raise SystemExit(2)
