"""The space of a search, as a user writes it."""

import pytest

from settings import SettingError
from sweep_space import ends_of, read_space

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no setting"),
        ("x", "is no TOML"),
        ("lerning_rate = { low = 1, high = 2 }", "did you mean learning_rate?"),
        ("seed = { low = 1, high = 2 }", "there is no setting seed"),
        ("gamma = 0.9", "gamma needs low and high"),
        ("gamma = { low = 0.9 }", "gamma needs low and high"),
        ("gamma = { low = 0.9, high = 0.8 }", "gamma needs low and high"),
        ("gamma = { low = 0.9, high = 0.99, steps = 1 }", "gamma needs low and high"),
        ("gamma = { low = 0.0, high = 0.99, log = true }", "gamma needs low and high"),
        ("gamma = { low = 0.1, high = 0.99, log = true, step = 0.1 }", "gamma needs low and high"),
        ("gamma = { low = nan, high = 0.99 }", "gamma needs low and high"),
        ("gamma = { low = 0.9, high = inf }", "gamma needs low and high"),
        ("gamma = { low = 0.9, high = 0.99, step = 0 }", "gamma needs low and high"),
        ("n_epochs = { low = 1, high = 4, step = 0.5 }", "n_epochs is a whole number"),
        ("gamma = { choices = [] }", "gamma needs low and high"),
        ("gamma = { choices = [0.9, [1]] }", "gamma needs low and high"),
    ],
)
def test_what_is_no_space_is_one_line(tmp_path, text, words):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(SettingError, match=words.replace("?", r"\?")):
        read_space(tmp_path / "space.toml", "train_ppo.py")
    with pytest.raises(SettingError, match="cannot be read"):
        read_space(tmp_path / "nowhere.toml", "train_ppo.py")
