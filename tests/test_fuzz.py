"""Odd input of every kind, made up by hypothesis: taken, or refused in one line; no traceback, nothing created.

Odd files of scores are in `test_run_history.py` and `test_runs.py`.
"""

import contextlib
import copy
import dataclasses
import io
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import checkpoint
import compare
import comparison
import evaluate
import run_options
import runs
import text_table
from checkpoint import CheckpointError
from compare_options import CompareOptions
from evaluate_options import EvaluateOptions
from export_options import ExportOptions
from page_options import PageOptions
from policies import load_policy, recipe_of
from run_history import Evaluation
from runs_options import RunsOptions
from scoring import TrackResult
from settings import OneLineParser, SettingError, add_flags, explicit_flags, fail
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import make_plan
from tests.helpers import TOTAL, rewrite_manifest, save_ppo
from tests.soak.faults import forge_checksums
from tests.trainings import MODULES, SCRIPTS, prepared, resume

BOUNDED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
# For each of these, checkpoints are read.
MANY = settings(BOUNDED, max_examples=20)
# For each of these, a training is resumed.
SLOW = settings(BOUNDED, max_examples=6, phases=[Phase.generate])

ODD_NUMBERS = (
    "0",
    "-1",
    "1e6",
    "1e308",
    "-1e308",
    "nan",
    "inf",
    "9" * 400,
    "1_000",
    "0x10",
    "\uff11\uff12",
    "1.5",
    "true",
)
ODD_TEXTS = ("", " ", "-", "--", "a\nb", "\0", "x" * 300, "../..", "~", "/proc/self/mem", "/dev/null", "\udce4", "💥")
ADDRESSES = ("http://a.b/c", "s3://bucket/key", "aim://", "AIM://a:1", "aim://a:99999", "file:///tmp/x")
WORDS = st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS, *ADDRESSES]) | st.text(max_size=12) | st.integers().map(str)

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**60, 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "a\nb", "\0", "-1"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


@dataclass(frozen=True)
class Script:
    """A script's flags, and its reading and checking of a command line, all that comes before its work."""

    name: str
    options: tuple[type, ...]

    def check(self, argv):
        if self.name in MODULES:
            prepared(self.name, *argv)
            return
        if self.name == "sweep.py":
            given = parsed_command_line("", ["train_ppo.py", *argv])
            make_plan(SweepOptions(**given.sweep), given)
            return
        parser = OneLineParser("")
        add_flags(parser, self.options[0])
        options = self.options[0](**explicit_flags(self.options[0], parser.parse_args(argv)))
        if isinstance(options, EvaluateOptions):
            evaluate.load_checkpoints(options)

    def flags(self):
        parser = OneLineParser("")
        for options in self.options:
            add_flags(parser, options)
        return [flag for action in parser._actions for flag in action.option_strings]


ALL_SCRIPTS = (
    *(Script(name, (module.SPEC.config_class, run_options.RunOptions)) for name, module in MODULES.items()),
    Script("evaluate.py", (EvaluateOptions,)),
    Script("export.py", (ExportOptions,)),
    Script("aim_page.py", (PageOptions,)),
    Script("runs.py", (RunsOptions,)),
    Script("compare.py", (CompareOptions,)),
    Script("sweep.py", (SweepOptions,)),
)


def said_of(action):
    """What a script says of bad input, in the way its `main` does; None where it finds nothing wrong."""
    errors, output = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            action()
            return None
        except SystemExit as refusal:  # argparse's own
            code = refusal.code
        except (SettingError, CheckpointError) as error:
            with pytest.raises(SystemExit) as refusal:
                fail(str(error))
            code = refusal.value.code
    assert code == 2
    return errors.getvalue()


def is_one_line(said):
    return said.endswith("\n") and len(said.splitlines()) == 1


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty working directory and home, of a user who has a checkpoint next door; git is not asked each time."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))  # its font cache
    provenance = run_options.describe_run()
    monkeypatch.setattr(run_options, "describe_run", lambda: provenance)
    return here


@pytest.mark.parametrize("script", ALL_SCRIPTS, ids=lambda script: script.name)
def test_odd_flags(script, place, monkeypatch):
    save_ppo(place.parent, "driver")
    known = [*ODD_TEXTS, "../driver", "../driver/manifest.json", "quick"]
    argument = st.sampled_from([flag for flag in script.flags() if flag not in ("-h", "--help")])
    monkeypatch.setattr(sys, "argv", [script.name])

    @BOUNDED
    @given(st.lists(st.tuples(argument, WORDS | st.sampled_from(known)), min_size=1, max_size=4), st.booleans())
    def check(pairs, is_joined):
        argv = [f"{flag}={value}" for flag, value in pairs] if is_joined else [word for pair in pairs for word in pair]
        said = said_of(lambda: script.check(argv))
        assert said is None or is_one_line(said), said
        assert not list(place.iterdir())

    check()


@pytest.mark.parametrize("script", SCRIPTS)
def test_odd_recipes(script, place, monkeypatch):
    names = [*script_settings(script), "agent", "stages", "steps", "eval_freq", "nonsense"]
    agents = st.sampled_from([MODULES[script].SPEC.name, "dqn", 3, ""])
    tables = st.dictionaries(st.sampled_from(names), toml_values(), max_size=4)
    monkeypatch.setattr(sys, "argv", [script])
    recipe = place.parent / "odd.toml"

    @BOUNDED
    @given(tables, st.lists(tables, max_size=2), agents, st.binary(max_size=4), st.integers(0, 20))
    def check(table, stages, agent, noise, at):
        content = {**table, "agent": agent}
        if stages:
            content["stages"] = stages
        text = tomli_w.dumps(content).encode()
        recipe.write_bytes(text[:at] + noise + text[at:] if len(noise) > 2 else text)
        said = said_of(lambda: prepared(script, "--recipe", recipe))
        assert said is None or is_one_line(said), said
        assert not list(place.iterdir())

    check()


def script_settings(script):
    return list(MODULES[script].SPEC.config_class.__dataclass_fields__)


def toml_values():
    """What TOML can say: no null, no integers beyond 64 bits, no surrogates."""
    leaves = (
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats()
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        | st.dates()
    )
    return leaves | st.lists(leaves, max_size=2) | st.dictionaries(st.sampled_from(["a", "steps"]), leaves, max_size=2)


@st.composite
def changes(draw):
    """Where in a nested value something is to change (numbers to be taken modulo the sizes), and to what."""
    return draw(st.lists(st.integers(0, 50), min_size=1, max_size=5)), draw(VALUES), draw(st.booleans())


def changed(value, path, new, is_removed):
    """A nested value with one place of it replaced or removed."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    key = sorted(value, key=str)[path[0] % len(value)] if isinstance(value, dict) else path[0] % len(value)
    copied = copy.copy(value)
    if is_removed and (len(path) == 1 or not isinstance(value[key], dict | list)):
        del copied[key]
    else:
        copied[key] = changed(value[key], path[1:], new, is_removed)
    return copied


@pytest.mark.parametrize("script", SCRIPTS)
def test_odd_manifests(script, whole_run, place, monkeypatch):
    """A stranger's manifest, whose checksum fits: read as a policy, resumed and exported."""
    newest = checkpoint.load(whole_run(script)[0] / "checkpoints" / "small").path
    odd = place.parent / newest.name
    shutil.copytree(newest, odd)
    manifest = (odd / checkpoint.MANIFEST).read_text()
    monkeypatch.setattr(sys, "argv", [script])

    @MANY
    @given(changes())
    def check(change):
        (odd / checkpoint.MANIFEST).write_text(manifest)
        meta = json.loads(manifest)["meta"]
        meta = changed(meta, *change)
        assume(is_json(meta))
        rewrite_manifest(odd, lambda plain: plain.update(meta=meta))
        loaded = checkpoint.load(odd)
        for read in (
            lambda: prepared(script, "--resume", odd, TOTAL[script], 10_000),
            lambda: load_policy(loaded),
            lambda: recipe_of(loaded),
        ):
            said = said_of(read)
            assert said is None or is_one_line(said), said
        assert not list(place.iterdir())

    check()


def is_json(value):
    """Whether a value can stand in a manifest at all: text in it has no surrogates."""
    try:
        json.dumps(value).encode()
    except (UnicodeEncodeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("script", SCRIPTS)
def test_odd_states(script, whole_run, place, monkeypatch):
    """A stranger's state, whose checksum fits: the training goes on with it, or says in one line that it cannot."""
    newest = checkpoint.load(whole_run(script)[0] / "checkpoints" / "small").path
    state = checkpoint.load(newest).state
    monkeypatch.setattr(sys, "argv", [script])

    @SLOW
    @given(changes())
    def check(change):
        run = Path(place.parent, "run")
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(newest, run / newest.name)
        file = next((run / newest.name).glob("state-*.pt"))
        try:
            torch.save(changed(state, *change), file)
        except (OverflowError, UnicodeEncodeError, RuntimeError):
            assume(False)
        forge_checksums(run / newest.name)
        said = said_of(
            lambda: resume(script, run, "--no-aim", "--checkpoint-freq", 10_000, TOTAL[script], goal(script))
        )
        assert said is None or is_one_line(said.split("\n", said.count("\n") - 1)[-1]), said

    check()


def goal(script):
    """One update more than the shared run has made."""
    return {"train.py": 121, "train_ppo.py": 128}[script]


HEADERS = st.sampled_from(
    [
        b"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (10**30,), }",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"9" * 300 + b",), }",
        b"{'descr': [('a', '<f8')], 'fortran_order': True, 'shape': (), }",
        b"__import__('os').mkdir('executed')",
        b"(" * 2000,
    ]
)


def test_odd_arrays(whole_run, place):
    """A stranger's replay pictures, whose checksum fits: mapped, or refused in one line; never unpickled."""
    newest = checkpoint.load(whole_run("train.py")[0] / "checkpoints" / "small").path
    odd = place.parent / newest.name
    shutil.copytree(newest, odd)
    (file,) = odd.glob("*.npy")
    whole = file.read_bytes()

    @BOUNDED
    @given(HEADERS | st.binary(max_size=80), st.booleans(), st.integers(0, len(whole)))
    def check(header, is_header, end):
        stream = io.BytesIO()
        stream.write(np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header + whole[-100:])
        file.write_bytes(stream.getvalue() if is_header else whole[:end] + header)
        forge_checksums(odd)
        said = said_of(lambda: checkpoint.load(odd))
        assert said is None or is_one_line(said), said
        assert not list(place.iterdir())

    check()


NUMBERS = st.none() | st.integers(-3, 2**70) | st.floats()


def numbers_of(cls):
    """Lists of what a file might say that the dataclass holds."""
    return st.lists(st.fixed_dictionaries({field.name: NUMBERS for field in dataclasses.fields(cls)}), max_size=2)


EVALUATIONS = numbers_of(Evaluation) | VALUES
SCORED = st.fixed_dictionaries({"tracks": numbers_of(TrackResult) | VALUES, "steps": VALUES})
SCORES = st.fixed_dictionaries({"checkpoints": st.lists(SCORED, max_size=2)}) | VALUES


def test_odd_scores_and_manifests_are_listed_and_compared(place):
    """A line for each run, and a comparison or a line why there is none, whatever a stranger's files say."""
    run = place / "run"
    step = checkpoint.save_step(run, 1, {"agent": "ppo"}, {})

    @BOUNDED
    @given(score=SCORES, agent=VALUES, steps=VALUES, best=VALUES, evaluations=EVALUATIONS)
    def lists(score, agent, steps, best, evaluations):
        (run / "score.json").write_text(json.dumps(score))
        odd = {"agent": agent, "steps": steps, "best": best, "evaluations": evaluations}
        rewrite_manifest(step, lambda manifest: manifest["meta"].update(odd))
        said = said_of(lambda: comparison.tables_of(compare.groups_of([str(run)], compare.Finder(place))))
        assert said is None or is_one_line(said), said
        (found,) = runs.find_runs(place)
        text = text_table.plain([runs.HEADER, runs.row_of(found)])
        assert len(text.splitlines()) == 2
        assert all(char.isprintable() for char in text.replace("\n", ""))

    lists()
    (run / "score.json").write_text("[" * 100_000)
    assert runs.row_of(*runs.find_runs(place))[4:6] == ("-", "-")
