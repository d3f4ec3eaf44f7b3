"""The space of a search, as a user writes it."""

import re

import pytest

from settings import SettingError
from sweep_search import distributions_of
from sweep_space import Search, ends_of, read_space

SPACE = """
learning_rate = { low = 1e-4, high = 1e-3, log = true }
n_epochs = { low = 2, high = 8, step = 2 }
use_gaussian = { choices = [true, false] }
"""


def test_ranges_and_choices(tmp_path):
    (tmp_path / "space.toml").write_text(SPACE)
    space = read_space(tmp_path / "space.toml", "train_ppo.py")
    assert list(space) == ["learning_rate", "n_epochs", "use_gaussian"]
    assert [tuple(ends_of(one)) for one in space.values()] == [(1e-4, 1e-3), (2, 8), (True, False)]


def test_a_number_has_all_values_between_whole_ends(tmp_path):
    (tmp_path / "space.toml").write_text("gamma = { low = 0, high = 1 }\n")
    distribution = distributions_of(Search(1, read_space(tmp_path / "space.toml", "train_ppo.py"), 1))["gamma"]
    assert (distribution.low, distribution.high, distribution.step) == (0.0, 1.0, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no setting"),
        ("x", "is no TOML"),
        ("lerning_rate = { low = 1, high = 2 }", "did you mean learning_rate?"),
        ("seed = { low = 1, high = 2 }", "give --seeds"),
        ("gamma = 0.9", "gamma has no range"),
        ("gamma = {}", "gamma has no range"),
        ("gamma = { low = 0.9 }", "gamma needs low and high"),
        ('gamma = { low = "0.9", high = 1 }', "gamma needs low and high"),
        ("gamma = { low = 0.9, high = 0.8 }", "give a low below high"),
        ("gamma = { low = 0.9, high = 0.99, steps = 1 }", "gamma has steps, which is none of low, high, log and step"),
        ("gamma = { low = 0.0, high = 0.99, log = true }", "low 0.0 on a logarithmic scale; give one above 0"),
        ("gamma = { low = 0.1, high = 0.99, log = true, step = 0.1 }", "give none beside log = true"),
        ("gamma = { low = 0.1, high = 0.99, log = 1 }", "gamma has log = 1; give true or false"),
        ("gamma = { low = nan, high = 0.99 }", "give a low below high"),
        ("gamma = { low = 0.9, high = inf }", "give a low below high"),
        ("gamma = { low = 0.9, high = 0.99, step = 0 }", "gamma has step 0 from low 0.9 to high 0.99; give one"),
        ("gamma = { low = 0.9, high = 0.99, step = inf }", "gamma has step inf"),
        ("gamma = { low = 0.9, high = 0.99, step = 1e-30 }", "gamma has step 1e-30"),
        ("gamma = { low = 0.9, high = 0.99, step = 1 }", "gamma has step 1 from"),
        ("n_epochs = { low = 1, high = 4, step = 0.5 }", "n_epochs is a whole number"),
        ("use_gaussian = { low = 0, high = 1 }", "use_gaussian is on or off; write { choices = [true, false] }"),
        ("gamma = { choices = [] }", "gamma needs a list of choices, and nothing beside it"),
        ("gamma = { choices = [0.9, [1]] }", "gamma needs a list of choices, and nothing beside it"),
    ],
)
def test_what_is_no_space_is_one_line(tmp_path, text, words):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(SettingError, match=f"^--space .*space.toml.*{re.escape(words)}"):
        read_space(tmp_path / "space.toml", "train_ppo.py")
    with pytest.raises(SettingError, match="cannot be read"):
        read_space(tmp_path / "nowhere.toml", "train_ppo.py")
