"""Settings as flags: written once, checked once, one line for a mistake."""

import argparse
import dataclasses

import pytest

from ppo import PPOConfig
from session import RunOptions
from settings import (
    OneLineParser,
    SettingError,
    add_flags,
    as_saved,
    check_settings,
    flag_of,
    from_saved,
    given,
    setting,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Test settings"""

    size: int = setting(3, "a size in 100% of cases", minimum=1, maximum=10)
    rate: float = setting(0.5, "a rate", above=0.0)
    mode: str = setting("a", "a mode", choices=("a", "b"))
    name: str | None = setting(None, "a name", may_change=True)
    fast: bool = setting(False, "fast")
    tracked: bool = setting(True, "untracked")
    seeds: tuple[int, ...] = setting((), "seeds", minimum=0)

    def __post_init__(self):
        check_settings(self)


def parse(*argv):
    parser = OneLineParser("test")
    add_flags(parser, Config)
    return given(Config, parser.parse_args(argv))


def test_flags_become_fields_and_what_is_not_given_leaves_no_trace():
    assert parse() == {}
    assert Config(**parse()) == Config()
    argv = ["--size", "5", "--rate", "1e-3", "--mode", "b", "--name", "x", "--fast", "--no-tracked"]
    assert Config(**parse(*argv)) == Config(5, 1e-3, "b", "x", True, False)
    assert Config(**parse("--seeds", "4", "2", "--seeds", "3")).seeds == (4, 2, 3)
    with pytest.raises(SettingError, match="--seeds must be at least 0, not -1"):
        Config(seeds=(3, -1))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size", "0"], "--size must be at least 1, not 0"),
        (["--size", "11"], "--size must be at most 10, not 11"),
        (["--rate", "0"], "--rate must be above 0.0, not 0.0"),
        (["--rate", "nan"], "--rate must be a finite number, not nan"),
        (["--rate", "inf"], "--rate must be a finite number, not inf"),
        (["--mode", "c"], "--mode must be one of a, b, not c"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_flag(argv, message):
    with pytest.raises(SettingError) as error:
        Config(**parse(*argv))
    assert str(error.value) == message


@pytest.mark.parametrize("argv", [["--size", "x"], ["--unknown"], ["--size"], ["--siz", "3"]])
def test_what_cannot_be_parsed_is_one_line_and_exit_code_2(argv, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*argv)
    assert error.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_resumed_run_keeps_its_settings_but_for_what_may_change():
    saved = dataclasses.asdict(Config(size=5))
    assert from_saved(Config, saved, {}) == Config(size=5)
    assert from_saved(Config, saved, {"name": "new", "size": 5}) == Config(size=5, name="new")
    with pytest.raises(SettingError, match=r"--size \(there: 5, here: 6\), --fast \(there: False, here: True\)"):
        from_saved(Config, saved, {"size": 6, "fast": True})


def test_a_checkpoint_that_does_not_name_a_setting_is_refused_not_guessed_at():
    saved = dataclasses.asdict(Config(size=5))
    assert as_saved(Config, saved) == Config(size=5)
    del saved["rate"], saved["tracked"]
    with pytest.raises(SettingError, match=r"lack --rate, --no-tracked: another version"):
        as_saved(Config, saved)


@pytest.mark.parametrize("config_class", [PPOConfig, RunOptions])
def test_every_field_is_documented_and_every_help_can_be_printed(config_class):
    parser = argparse.ArgumentParser()
    add_flags(parser, config_class)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(config_class):
        assert flag_of(field) in text
        assert len(field.metadata["help"]) > 5


def test_batches_must_divide_what_is_collected():
    with pytest.raises(SettingError, match="--batch-size 100 does not divide --n-envs 16 x --n-steps 128 = 2048"):
        PPOConfig(batch_size=100)
