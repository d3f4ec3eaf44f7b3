"""The benchmark book and what its benchmarks compute; nothing is timed here."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

import checkpoint
from benchmarks import (
    ageing,
    book,
    development_scores,
    footprint,
    hairpin_laps,
    lap_pace,
    sac_update,
    scoring_cost,
    training_speed,
    worker_scaling,
)
from benchmarks.book import QUESTIONS, Answer, Question
from benchmarks.findings import (
    FRACTION,
    Figure,
    Table,
    as_text,
    benchmark_parser,
    compared,
    count,
    from_json,
    rows,
    shown,
    tell,
)
from benchmarks.policy_probe import policy_of
from benchmarks.short_training import ROOT
from car_racing import game_of, make_env
from car_racing.hairpins import closest_legs
from car_racing.track import track_of_seed
from recipe import read
from run_history import Evaluation
from sac_config import SACConfig
from sac_drq import make_replay
from scoring import Score, TrackResult
from tests.helpers import SMALL_PPO, save_ppo

# What has no question of its own; `development_scores` needs trainings that take hours.
HELPERS = {"__init__", "book", "development_scores", "findings", "policy_probe", "short_training"}
RESULT = TrackResult(5000, 900.0, 700, 300, 0, 1.0, True)
MACHINE = {"processor": "A processor", "cores": 2, "gpu": "none"}


def test_every_benchmark_is_in_the_book():
    modules = {path.stem for path in Path(book.__file__).parent.glob("*.py")}
    assert {question.module for question in QUESTIONS} == modules - HELPERS
    assert len({question.words for question in QUESTIONS}) == len(QUESTIONS)


def test_a_benchmarks_wrong_flag_is_one_line(capsys):
    parser = benchmark_parser("A benchmark.")
    parser.add_argument("--rounds", type=count, default=3)
    for wrong, named in (["--rounds", "0"], "at least 1, not 0"), (["--round", "3"], "did you mean --rounds?"):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args(wrong)
        assert ended.value.code == 2
        line = capsys.readouterr().err
        assert named in line
        assert line.count("\n") == 1


def test_contenders_are_compared_by_their_medians():
    rounds = {"slow": [2.0, 1.0, 90.0], "fast": [8.0, 7.0, 10.0], "not installed": []}
    table = compared("Speed", "frames/s", rounds, {"fast": ["slow", "not installed"]})
    assert [figure.label for figure in table.figures] == ["slow", "fast"]
    assert table.figures[1].ratios == {"slow": 4.0}
    assert rows(table) == [
        ["", "median", "from, to", "ratio"],
        ["slow", "2 frames/s", "1, 90", ""],
        ["fast", "8 frames/s", "7, 10", "4.00x slow"],
    ]
    assert "fast: 4.00x slow" in as_text(table).splitlines()


def test_columns_with_nothing_in_them_are_left_out():
    table = Table("Cost", [Figure("saving", [0.25], "s"), Figure("of the time", [0.001], FRACTION)])
    assert rows(table) == [["", "value"], ["saving", "0.250 s"], ["of the time", "0.10%"]]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12345.6, "frames/s", "12,346"),
        (3.004, "s", "3.00"),
        (7, "tiles", "7"),
        (0.5, "%", "50.00%"),
        (-0.04, "MB", "-0.0400"),
    ],
)
def test_values_have_the_digits_that_count(value, unit, text):
    assert shown(value, unit) == text


def test_figures_come_back_from_their_file(tmp_path, capsys):
    tables = [Table("Speed", [Figure("ours", [1.0, 2.0], "frames/s", {"stock": 3.0})], "A note."), Table("None", [])]
    tell(tables, tmp_path / "figures.json")
    assert from_json(json.loads((tmp_path / "figures.json").read_text())) == tables
    assert "A note." in capsys.readouterr().out


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A book in a directory of its own, with two questions: one that is answered, and one that fails."""
    answers = (
        "import json, sys; path = sys.argv[sys.argv.index('--json') + 1]; figure = {'label': 'ours', 'values': [2.0], "
        "'unit': 's', 'ratios': {}}; json.dump([{'title': 'Time', 'figures': [figure], 'note': ''}], open(path, 'w'))"
    )
    fails = "import sys; sys.exit('the reason')"
    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "ANSWERS", tmp_path / "benchmarks.json")
    monkeypatch.setattr(book, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(book, "QUESTIONS", (Question("good", "How long?"), Question("bad", "How often?")))
    code = {"good": answers, "bad": fails}
    monkeypatch.setattr(Question, "command", property(lambda self: f'python -c "{code[self.module]}"'))
    monkeypatch.setattr(book.psutil, "cpu_percent", lambda interval: 45.0)
    return tmp_path


def asked(monkeypatch, *words):
    """The exit code of the book."""
    monkeypatch.setattr(sys, "argv", ["book.py", *words])
    with pytest.raises(SystemExit) as ended:
        book.main()
    return ended.value.code


def test_a_question_that_fails_is_named_and_the_others_are_answered(desk, monkeypatch, capsys):
    assert asked(monkeypatch) == 1
    said = capsys.readouterr().err
    assert "bad failed: the reason" in said
    assert "other work takes 45% of this machine" in said
    page = (desk / "benchmarks.md").read_text()
    assert page.index("## How long?") < page.index("| ours | 2 s |") < page.index("It failed: `the reason`")


def test_answers_stay_where_only_some_questions_are_asked(desk, monkeypatch):
    asked(monkeypatch)
    before = book.read_answers()
    assert asked(monkeypatch, "good") == 0
    after = book.read_answers()
    assert list(after) == ["good", "bad"]
    assert after["bad"] == before["bad"]


def test_a_failure_does_not_take_the_figures_that_were_there(desk, monkeypatch):
    asked(monkeypatch, "good")
    before = book.read_answers()
    monkeypatch.setattr(Question, "command", property(lambda self: "python -c 1/0"))
    assert asked(monkeypatch, "good") == 1
    assert book.read_answers() == before


def test_an_unknown_question_is_named(desk, monkeypatch, capsys):
    assert asked(monkeypatch, "god") == 2
    assert "QUESTION god is not known; give some of good, bad" in capsys.readouterr().err
    assert not (desk / "benchmarks.json").exists()


def test_the_page_says_where_an_answer_is_from():
    answer = Answer(
        "env_speed", "python -m benchmarks.env_speed", 12.3, 0.0, "0123456789 with uncommitted changes", MACHINE, []
    )
    page = book.page({"env_speed": answer})
    assert "Commit 0123456 with uncommitted changes; 2 cores of A processor, no GPU; 12 seconds." in page
    assert page.count("\n## ") == 1


def evaluations(minutes):
    """An evaluation each 100 steps, after so many minutes."""
    return [Evaluation(100 * number, 400 * number, at, 0.0, 0.0, 0.0) for number, at in enumerate(minutes, 1)]


def test_a_training_that_slows_down_shows_it_by_quarters():
    minutes = [0.5, 1.5, 2.5, 4.5, 6.5, 8.5, 10.5, 15.5, 20.5]  # 100 steps a minute at first, then 50, 50 and 20
    table = ageing.by_quarters("a run", evaluations(minutes))
    assert [round(60 * figure.median, 6) for figure in table.figures] == [100, 50, 50, 20]
    assert [figure.ratios.get("quarter 1") for figure in table.figures[1:]] == pytest.approx([0.5, 0.5, 0.2])


def test_a_run_without_times_has_no_age(capsys):
    with pytest.raises(SystemExit) as ended:
        ageing.by_quarters("a run", evaluations([None] * 9))
    assert ended.value.code == 2
    assert "a run: it has 0 evaluations with their time; name a run with more than 4" in capsys.readouterr().err


def test_a_model_without_a_limit_names_none():
    assert "at most" not in worker_scaling.model_in_words(8, 100.0, 1, 250.0)


def test_the_model_of_more_cores_is_amdahls():
    # A step takes 6 ms, 4 of them in the environments; two processes take 4 ms.
    words = worker_scaling.model_in_words(8, 1 / 0.006, 1, 1 / 0.004)
    assert "stepping environments takes 67% of one process's time" in words
    assert "4 cores: 2.00x" in words
    assert "16 cores: 2.40x; 64 cores: 2.40x" in words, "eight environments fill eight processes"
    assert "at most 3.00x" in words


@pytest.mark.parametrize("name", footprint.names())
def test_memory_is_that_of_the_recipe_with_a_full_replay_buffer(name):
    recipe = read(name)
    script, *words = footprint.command_of(recipe)
    assert words[:2] == ["--recipe", name]
    flags = dict(zip(words[::2], words[1::2], strict=True))
    if recipe.agent == "sac":
        full = recipe.settings.get("replay_size", 30_000)
        assert (script, int(flags["--learning-starts"])) == ("train.py", full)
        assert full < int(flags["--eval-freq"]) < int(flags["--checkpoint-freq"]) < int(flags["--total-steps"])
    else:
        assert script == "train_ppo.py"
        assert int(flags["--eval-freq"]) < int(flags["--total-timesteps"])


def test_evaluations_that_lie_unevenly_have_no_quarters(capsys):
    steps = [100, 200, 300, 400, 10_000]
    with pytest.raises(SystemExit):
        ageing.by_quarters("a run", [Evaluation(step, step, step / 100, 0.0, 0.0, 0.0) for step in steps])
    assert "a run: its evaluations lie too unevenly" in capsys.readouterr().err


@pytest.mark.parametrize("frame_stack", [2, 4])
def test_the_memory_of_a_replay_buffer_is_what_it_takes(frame_stack):
    config = SACConfig(frame_stack=frame_stack)
    naive, ours = sac_update.replay_memory(config).figures
    assert ours.median == pytest.approx(make_replay(config, torch.device("cpu")).nbytes / 1e6, rel=0.02)
    assert naive.median == 2 * frame_stack * 30_000 * 84 * 84 / 1e6


def test_rl_zoos_training_is_that_of_its_recipe():
    model = training_speed.zoo_model(DummyVecEnv)
    assert model.observation_space.shape == (2, 64, 64)
    assert (model.n_envs, model.batch_size, model.n_epochs, model.use_sde) == (8, 128, 10, True)
    game = model.env.venv.venv.envs[0].unwrapped
    model.env.reset()
    before = game.t
    model.env.step([model.action_space.sample()] * 8)
    assert game.t - before == pytest.approx(2 / 50), "two frames a decision"
    model.env.close()


def score_of(*returns, laps):
    missed = [0 if n < laps else 3 for n in range(len(returns))]
    return Score([
        TrackResult(5000 + n, one, 700, 300 - off, off, (300 - off) / 300, off == 0)
        for n, (one, off) in enumerate(zip(returns, missed, strict=True))
    ])  # fmt: skip


def test_settings_are_compared_over_their_seeds():
    base = development_scores.Setting("base", [score_of(900.0, 920.0, laps=2), score_of(890.0, 910.0, laps=2)])
    worse = development_scores.Setting("worse", [score_of(700.0, 900.0, laps=1)])
    assert development_scores.rows_of([base, worse])[1:] == [
        ["base", "2", "905.0 [900.0, 910.0]", "", "100.0%", "0.0%", "700", "890"],
        ["worse", "1", "800.0", "-105.0 [-110.0, -100.0]", "50.0%", "50.0%", "700", "700"],
    ]


def test_runs_drive_the_development_tracks_and_a_file_stands_for_them(tmp_path, monkeypatch):
    path = save_ppo(tmp_path / "sweep" / "s1", "best")
    (tmp_path / "sweep" / "left").mkdir()
    (run,) = development_scores.runs_in(tmp_path / "sweep")
    monkeypatch.setattr(development_scores, "drive", lambda policy, env, track: replace(RESULT, track=track))
    one = development_scores.driven(run, 2)
    assert [result.track for result in one.score.results] == [5000, 5001]
    assert (one.setting, one.origin["seed"]) == ("sweep", SMALL_PPO.seed)
    assert one.origin["state_sha256"] == checkpoint.load(path).state_sha256
    other = development_scores.Run("other", one.origin, score_of(700.0, 920.5, laps=1))
    file = tmp_path / "scores.json"
    development_scores.write_json(file, [one, other, one])
    assert development_scores.read_json(file) == [one, other, one]
    settings = development_scores.by_setting([one, other, one])
    assert [(setting.label, len(setting.scores)) for setting in settings] == [("sweep", 2), ("other", 1)]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "is no file of development scores"),
        ("[]", "is no file of development scores"),
        ('{"columns": ["track"], "runs": []}', "other columns"),
    ],
)
def test_another_file_is_no_development_scores(content, named, tmp_path, capsys):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit) as ended:
        development_scores.read_json(tmp_path / "other.json")
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert named in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("name", ["quick", "sac", "best_recipe", "best_recipe_s1"])
def test_the_result_files_of_development_tracks_can_be_read(name):
    runs = development_scores.read_json(ROOT / "results" / f"{name}_development.json")
    for run in runs:
        for result in run.score.results:
            # CarRacing's own reward: 1000 points over all tiles, and 0.1 less a frame.
            points = 1000.0 * result.tiles_fraction - 0.1 * result.frames
            assert result.episode_return in (
                pytest.approx(points, abs=0.2),
                pytest.approx(points - 100.0, abs=0.2),
            ), "100 points less for a car that left the playing field"


def a_road(*turned):
    """A track whose heading changes by so much from each tile to the next."""
    headings = np.cumsum([0.0, *turned])
    return [(0.0, heading, 0.0, 0.0) for heading in headings]


def test_a_place_is_as_sharp_as_the_sharpest_bend_ahead():
    road = a_road(*[0.0] * 99, *[0.15] * 12, *[0.0] * 89)  # 1.8 radians from tile 99 to tile 111
    places = lap_pace.places_of(road)
    straight, sharp = 0, len(lap_pace.PLACES) - 1
    assert list(places[: lap_pace.TILES_FROM_REST]) == [-1] * lap_pace.TILES_FROM_REST
    assert places[60] == straight
    assert (places[90:105] == sharp).all()
    assert places[120] == straight
    assert 0 < places[79] < sharp, "the bend's beginning comes into view"


def test_lost_time_is_what_a_car_at_top_speed_would_not_have_taken():
    # Two straight tiles in a step of 4 frames are 87.5 units a second; then one sharp tile a step, with the brake.
    lap = lap_pace.Lap(
        tiles=np.array([30, 32, 34, 35, 36]),
        speeds=np.array([87.5, 87.5, 43.75, 43.75]),
        pedals=np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.2], [0.0, 0.4]], np.float32),
        places=np.array([0, 0, 4, 4]),
        is_finished=True,
    )
    lost, speed, gas, brake = lap_pace.tables_of([lap, lap], 4, "a policy")
    values = {figure.label: figure.median for figure in lost.figures}
    assert values == pytest.approx({"straight": 8 - 4 * 1.75, "sharp bend": 8 - 2 * 1.75, "in all": 16 - 6 * 1.75})
    assert [figure.median for figure in speed.figures] == [87.5, 43.75]
    assert [figure.median for figure in gas.figures] == [0.75, 0.0]
    assert [figure.median for figure in brake.figures] == pytest.approx([0.0, 0.3])


def test_a_lap_is_followed_along_the_road():
    policy, view = policy_of(ROOT / "pretrained" / "ppo_beta")
    env = make_env(view)
    lap = lap_pace.drive_lap(policy, env, 5000)
    n_tiles = len(game_of(env).track)
    assert lap.is_finished
    assert lap.tiles[0] == 0
    assert np.abs(np.diff(lap.tiles)).max() <= 3, "at top speed a step of two frames is 4 units, a tile 3.5"
    assert (np.diff(lap.tiles) >= 0).mean() > 0.99
    assert 0.97 * n_tiles < lap.tiles[-1] <= n_tiles
    assert lap.speeds[0] == 0.0
    assert 90.0 < lap.speeds.max() < 100.5
    assert lap.pedals.min() >= 0.0
    assert (lap.pedals.max(axis=0) > [0.8, 0.2]).all()
    assert lap.pedals.max() <= 1.0
    assert len(lap.tiles) == len(lap.speeds) + 1 == len(lap.pedals) + 1 == len(lap.places) + 1


def test_hairpin_laps_are_on_the_tracks_whose_legs_lie_closest(monkeypatch):
    monkeypatch.setattr(hairpin_laps, "SEEDS", range(5840, 5850))
    tracks = hairpin_laps.closest_tracks(3)
    assert tracks[0] == (pytest.approx(21.46, abs=0.01), 5843)
    assert [distance for distance, _ in tracks] == sorted(distance for distance, _ in tracks)
    assert len(tracks) == 3
    others = [closest_legs(track_of_seed(seed, is_mirrored=False))[0] for seed in range(5840, 5850)]
    assert sorted(others)[:3] == [distance for distance, _ in tracks]


def test_the_parts_of_a_scoring_are_fractions_of_the_whole():
    table = scoring_cost.parts_of(ROOT / "pretrained" / "ppo_beta", 5)
    parts = [figure.median for figure in table.figures]
    assert sum(parts) == pytest.approx(1.0)
    assert min(parts) > 0.0


@pytest.mark.parametrize("flag", ["--steps", "--rounds"])
def test_a_scoring_of_no_steps_or_rounds_is_refused(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scoring_cost", flag, "0"])
    with pytest.raises(SystemExit) as exit_:
        scoring_cost.main()
    assert exit_.value.code == 2
    assert f"{flag}: must be at least 1, not 0" in capsys.readouterr().err
