"""Settings as flags: written once, checked once, one line for a mistake."""

import argparse
import dataclasses

import pytest

from car_racing.config import GameConfig, RulesConfig, ViewConfig
from evaluate_options import EvaluateOptions
from export_options import ExportOptions
from page_options import PageOptions
from ppo_config import PPOConfig
from run_settings import RunOptions
from sac_config import SACConfig
from settings import (
    OneLineParser,
    SettingError,
    add_flags,
    check_alike,
    check_settings,
    explicit_flags,
    flag_of,
    from_saved,
    parser_of,
    resumed,
    setting,
    with_default,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Test settings."""

    size: int = setting(3, "a size in 100% of cases", minimum=1, maximum=10)
    rate: float = setting(0.5, "a rate", above=0.0)
    mode: str = setting("a", "a mode", choices=("a", "b"))
    name: str | None = setting(None, "a name", may_change=True)
    fast: bool = setting(False, "fast")
    tracked: bool = setting(True, "tracked")
    seeds: tuple[int, ...] = setting((), "seeds", minimum=0)

    def __post_init__(self):
        check_settings(self)


def parse(*argv):
    parser = OneLineParser("test")
    add_flags(parser, Config)
    return explicit_flags(Config, parser.parse_args(argv))


def test_flags_become_fields_and_what_is_not_given_leaves_no_trace():
    assert parse() == {}
    assert Config(**parse()) == Config()
    argv = ["--size", "5", "--rate", "1e-3", "--mode", "b", "--name", "x", "--fast", "--no-tracked"]
    assert Config(**parse(*argv)) == Config(5, 1e-3, "b", "x", True, False)
    assert Config(**parse("--seeds", "4", "2", "--seeds", "3")).seeds == (4, 2, 3)
    with pytest.raises(SettingError, match="--seeds must be at least 0, not -1"):
        Config(seeds=(3, -1))


def test_whole_numbers_are_read_as_people_write_them():
    given = parse("--size", "1e1", "--seeds", "0-3", "44", "1E2", "7-7")
    assert given == {"size": 10, "seeds": (0, 1, 2, 3, 44, 100, 7)}


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--size", "2.5"], "argument --size: 2.5 is no whole number; write it like 1000000 or 1e6"),
        (["--size", "1e99999999"], "argument --size: 1e99999999 is no whole number"),
        (["--size", "nan"], "argument --size: nan is no whole number"),
        (["--size", "0-9"], "argument --size: 0-9 is no whole number"),
        (["--seeds", "9-0"], "argument --seeds: 9-0 must go from a smaller number to a larger one"),
        (["--seeds", "0-999999999999"], "argument --seeds: 0-999999999999 must go from"),
        (["--seeds", f"{'9' * 5000}-5"], "9-5 is no whole number; write it like"),
        (["--seeds", "1-x"], "argument --seeds: 1-x is no whole number"),
        (["--sized", "3"], "unrecognized arguments: --sized 3; did you mean --size? (--help lists the flags)"),
        (["--s", "3"], "unrecognized arguments: --s 3; did you mean --size?"),
        (["--wholly=1"], "unrecognized arguments: --wholly=1 (--help lists the flags)"),
        (["3"], "unrecognized arguments: 3 (--help lists the flags)"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_with_its_mend(argv, why, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(*argv)
    said = capsys.readouterr().err
    assert (exit_.value.code, said.count("\n")) == (2, 1)
    assert why in said


@pytest.mark.parametrize(
    ("config_class", "written", "meant"),
    [
        (PPOConfig, "--lr", "--learning-rate"),
        (PPOConfig, "--envs", "--n-envs"),
        (PPOConfig, "--gae", "--gae-lambda"),
        (SACConfig, "--totalsteps", "--total-steps"),
        (RunOptions, "--evalfreq", "--eval-freq"),
    ],
)
def test_abbreviations_and_parts_of_names_lead_to_the_flag(config_class, written, meant, capsys):
    parser = OneLineParser("test")
    add_flags(parser, config_class)
    with pytest.raises(SystemExit):
        parser.parse_args([written, "1"])
    assert f"did you mean {meant}?" in capsys.readouterr().err


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


@pytest.mark.parametrize("name", ["fast", "tracked"])
def test_a_boolean_has_both_flags_whatever_its_default(name):
    assert parse(f"--{name}") == {name: True}
    assert parse(f"--no-{name}") == {name: False}


def test_a_resumed_run_keeps_its_settings_but_for_what_may_change():
    saved = dataclasses.asdict(Config(size=5))
    assert resumed(Config, saved, {}) == Config(size=5)
    assert resumed(Config, saved, {"name": "new", "size": 5}) == Config(size=5, name="new")
    with pytest.raises(SettingError, match=r"--size \(there: 5, here: 6\), --fast \(there: False, here: True\)"):
        resumed(Config, saved, {"size": 6, "fast": True})


@dataclasses.dataclass(frozen=True)
class LaterConfig(Config):
    """Settings of a later version: one renamed, one added."""

    speed: float = setting(0.1, "what was called rate", formerly="rate", above=0.0)
    bonus: float = setting(2.0, "a bonus that the code did not have before", before=0.0)


def older_settings():
    return dataclasses.asdict(Config(size=5, rate=0.25))


def test_a_renamed_setting_is_found_under_its_former_name():
    assert from_saved(LaterConfig, older_settings()).speed == 0.25


def test_a_setting_that_was_added_has_the_value_that_the_older_code_had():
    assert from_saved(LaterConfig, older_settings()).bonus == 0.0
    assert resumed(LaterConfig, older_settings(), {}).bonus == 0.0
    assert LaterConfig().bonus == 2.0
    assert from_saved(LaterConfig, {**older_settings(), "speed": 0.25, "bonus": 1.0}).bonus == 1.0


def test_a_setting_whose_older_value_nobody_knows_is_refused_not_guessed_at():
    saved = older_settings()
    del saved["size"], saved["tracked"]
    with pytest.raises(SettingError, match=r"lack --size, --tracked: another version"):
        from_saved(Config, saved)


def test_a_setting_that_this_version_does_not_know_is_refused_not_dropped():
    saved = {**older_settings(), "from_the_future": 1}
    for load in (from_saved, lambda *args: resumed(*args, {})):
        with pytest.raises(SettingError, match="hold from_the_future, which this version does not know"):
            load(Config, saved)


def test_a_policy_asks_for_its_own_settings_only():
    saved = {"size": 7, "from_the_future": 1}
    assert from_saved(Config, saved, names=("size",)) == Config(size=7)


def test_what_must_be_alike_is_compared_under_todays_names():
    check_alike(LaterConfig(speed=0.25), older_settings(), ("speed", "mode"), "--start-from x")
    with pytest.raises(SettingError, match=r"--start-from x was trained with --speed 0.25; give the flags"):
        check_alike(LaterConfig(), older_settings(), ("speed", "mode"), "--start-from x")


def test_starts_that_were_drawn_one_inside_the_other_become_one_distribution():
    """The pretrained policy's 0.25 of all, 0.15 of the rest, 0.8 of what was left."""
    saved = {"second_tries": 0.25, "lost_starts": 0.15, "bend_starts": 0.8}
    names = ("retry_start_prob", "lost_start_prob", "bend_start_prob")
    config = from_saved(GameConfig, saved, names)
    probabilities = [getattr(config, name) for name in names]
    # By counting: of 10,000 episodes 2,500 are retries; 1,125 of the 7,500 others are lost; 5,100 of 6,375 are bends.
    assert probabilities == pytest.approx([0.25, 0.1125, 0.51])


@pytest.mark.parametrize(("saved", "today"), [(True, 0.5), (False, 0.0), (0.25, 0.25)])
def test_a_dead_zone_that_was_on_or_off_is_a_fraction(saved, today):
    assert from_saved(GameConfig, {"brake_dead_zone": saved}, ("brake_dead_zone",)).brake_dead_zone == today


def test_probabilities_of_starts_that_add_up_to_more_than_one_are_refused():
    with pytest.raises(SettingError, match=r"add up to 1\.3; .* give at most 1"):
        RulesConfig(lost_start_prob=0.5, bend_start_prob=0.4, retry_start_prob=0.3)


def test_a_game_is_made_of_its_view_and_its_rules():
    config = PPOConfig(action_repeat=2, mirror_prob=0.5)
    assert config.view == ViewConfig(action_repeat=2, frame_stack=2, brake_dead_zone=0.1)
    assert config.rules == RulesConfig(mirror_prob=0.5)


CONFIGS = [PPOConfig, SACConfig, RunOptions, EvaluateOptions, ExportOptions]


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_field_is_documented_and_every_help_can_be_printed(config_class):
    parser = argparse.ArgumentParser()
    add_flags(parser, config_class)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(config_class):
        assert flag_of(field.name) in text
        assert " ".join(field.metadata["help"].split()[:3]) in text


def test_a_setting_stands_in_the_group_of_the_class_that_declared_it_first():
    @dataclasses.dataclass(frozen=True)
    class Derived(Config):
        """More settings."""

        size: int = with_default(Config, "size", 7)
        depth: int = setting(1, "a depth")

    parser = argparse.ArgumentParser()
    add_flags(parser, Derived)
    groups = {group.title: [action.dest for action in group._group_actions] for group in parser._action_groups}
    assert groups["More settings"] == ["depth"]
    assert "size" in groups["Test settings"]
    assert "a size in 100% of cases [7]" in parser.format_help()


def test_batches_must_divide_what_is_collected():
    with pytest.raises(SettingError, match="--batch-size 100 does not divide --n-envs 8 x --n-steps 128 = 1024"):
        PPOConfig(batch_size=100)


NUMBERS = [
    (config_class, field.name)
    for config_class in (PPOConfig, SACConfig, RunOptions, PageOptions)
    for field in dataclasses.fields(config_class)
    if isinstance(field.default, int | float) and not isinstance(field.default, bool)
]


@pytest.mark.parametrize(("config_class", "name"), NUMBERS)
def test_a_number_beyond_any_machine_is_refused_with_its_flag(config_class, name):
    """Whole numbers with more digits than Python writes out come from recipes, where they may be hexadecimal."""
    field = next(field for field in dataclasses.fields(config_class) if field.name == name)
    values = [10**400, 16**5000] + ([1e308] if isinstance(field.default, float) else [])
    for value in values:
        with pytest.raises(SettingError, match=rf"^{flag_of(name)} must be ") as error:
            config_class(**{name: value})
        assert len(str(error.value)) < 200


def test_a_message_shows_what_was_given_in_one_short_line():
    with pytest.raises(SettingError, match=r"--size must be of type int, not 'a\\nb'") as error:
        Config(size="a\nb")
    with pytest.raises(SettingError, match=r"--mode must be one of a, b, not x{60}\.\.\.x{30}$"):
        Config(mode="x" * 10**5)
    assert "\n" not in str(error.value)


def test_help_shows_the_most_used_flags_first_and_a_short_usage():
    text = parser_of(
        "What it does.\n\n    python x.py --seed 2\n", [PPOConfig, RunOptions], ["seed", "aim"]
    ).format_help()
    usage, description = text.splitlines()[:3:2]
    assert usage.startswith("usage: ")
    assert usage.endswith(" [flags]")
    assert description == "What it does."
    assert "\n    python x.py --seed 2\n" in text
    most_used, rest = text.partition("used most:")[2].split("PPO's settings:")
    assert [line.split(",")[0].split()[0] for line in most_used.splitlines() if line.startswith("  --")] == [
        "--seed",
        "--aim",
    ]
    assert "--seed" not in rest
    assert "--learning-rate" in rest
