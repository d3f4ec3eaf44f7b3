"""The command line of a sweep: its own flags, the script's, and the settings that it varies."""

import pytest

from settings import SettingError
from sweep_options import SweepOptions, parsed_command_line


def parsed(*argv):
    return parsed_command_line("", list(argv))


def test_flags_go_to_the_sweep_and_to_the_script():
    given = parsed(
        "train_ppo.py", "--recipe", "quick", "--seeds", "1-3", "--name", "lr", "--total-timesteps", "1e6", "--no-aim"
    )  # fmt: skip
    assert given.script == "train_ppo.py"
    assert SweepOptions(**given.sweep) == SweepOptions(name="lr", seeds=(1, 2, 3))
    assert given.settings == {"total_timesteps": 1_000_000}
    assert given.options == {"recipe": "quick", "aim": False}


def test_a_grid_has_values_of_the_settings_kinds():
    given = parsed(
        "train.py", "--name", "x", "--grid", "learning-rate=2.5e-4,5e-4", "hidden_dim=256", "flip=true,false",
        "--grid", "recipe=sac_cpu,drq",
    )  # fmt: skip
    assert given.grid == {
        "learning_rate": (2.5e-4, 5e-4),
        "hidden_dim": (256,),
        "flip": (True, False),
        "recipe": ("sac_cpu", "drq"),
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no script is named; name it first: sweep.py train.py or train_ppo.py"),
        (["--name", "x"], "no script is named"),
        (["evaluate.py", "--name", "x"], "evaluate.py is no script that can be swept"),
        (["train.py", "--name", "x", "--lerning-rate", "1"], "did you mean --learning-rate?"),
        (["train.py", "--name", "x", "--seed", "1"], "--seed is given to each trial by the sweep"),
        (["train.py", "--name", "x", "--checkpoint-dir", "d"], "--checkpoint-dir is given to each trial"),
        (["train.py", "--name", "x", "--grid", "tau"], "--grid tau is not of the form NAME=VALUE,VALUE"),
        (["train.py", "--name", "x", "--grid", "tau=0.1,,0.2"], "is not of the form"),
        (["train.py", "--name", "x", "--grid", "tau=0.1,0.10"], "names a value twice"),
        (["train.py", "--name", "x", "--grid", "tau=0.1", "tau=0.2"], "tau is given twice"),
        (["train.py", "--name", "x", "--tau", "0.1", "--grid", "tau=0.2"], "tau is given twice"),
        (["train.py", "--name", "x", "--grid", "tua=0.2"], "did you mean tau?"),
        (["train.py", "--name", "x", "--grid", "no_flip=true"], "there is no setting no_flip"),
        (["train.py", "--name", "x", "--grid", "help=true"], "there is no setting help"),
        (["train.py", "--name", "x", "--grid", "score=true,false"], "there is no setting score"),
        (["train.py", "--name", "x", "--grid", "flip=yes"], "give true or false"),
        (["train.py", "--resume", "x"], "leave out train.py and its flags"),
        (["train.py", "--name", "x", "--grid", "tau=fast"], "--tau: invalid float value: 'fast'"),
        (["train.py", "--name", "x", "--grid", "seed=1,2"], "--seeds says which seeds"),
        (["--resume", "x", "--tau", "0.1"], "a resumed sweep keeps its trials' flags"),
    ],
)
def test_mistakes_are_one_line(argv, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        parsed(*argv)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give one of them"),
        ({"name": "a", "resume": "a"}, "give one of them"),
        ({"resume": "a", "seeds": (1, 2)}, "leave out what says which they are"),
        ({"resume": "a", "retries": 9}, "leave out what says which they are"),
        ({"name": "a", "plan_only": True}, "--cores for each trial"),
        ({"name": "a" * 61}, "60 are the most"),
        ({"name": "a", "search": 3}, "give both or neither"),
        ({"name": "a", "search": 3, "space": "s", "seeds": (1, 2)}, "--search chooses"),
        ({"name": "a", "only": ("s1",)}, "give --resume, too"),
        ({"name": "a", "seeds": (1, 1)}, "names a seed twice"),
        ({"name": "../a"}, "is no name; give one, and the place by --directory"),
        ({"name": ".."}, "is no name; give one, and the place by --directory"),
        ({"name": "a/b"}, "is no name; give one, and the place by --directory"),
        ({"resume": "a/b"}, "is no name"),
        ({"name": "a", "retries": -1}, "--retries"),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(SettingError, match=words):
        SweepOptions(**options)
