"""The package car_racing by itself: what importing it costs, and how it works where nothing else of this project is."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_python(program, cwd, package_parent):
    """Run a program in a new interpreter in which the package can be found in one place alone; returns its output."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(package_parent)!r})\n{program}"],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "SDL_VIDEODRIVER": "dummy"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def alone(tmp_path):
    """A directory that holds a copy of the package and nothing else."""
    parent = tmp_path / "alone"
    shutil.copytree(ROOT / "car_racing", parent / "car_racing", ignore=shutil.ignore_patterns("__pycache__"))
    return parent


STEP_THE_VIEW = """
import gymnasium
env = gymnasium.make("car_racing:FastCarRacingView-v3", frame_stack=2)
obs, info = env.reset(seed=7)
obs, reward, *_ = env.step(env.action_space.sample())
print(obs.shape, sys.modules["car_racing"].__file__)
"""


def test_importing_the_package_imports_neither_torch_nor_sb3(tmp_path):
    program = """
import car_racing, car_racing.worker
print(sorted(name for name in sys.modules if name.partition(".")[0] in {"torch", "stable_baselines3", "aim"}))
"""
    assert run_python(program, tmp_path, ROOT) == "[]\n"


def test_both_environments_are_registered_by_the_import(tmp_path):
    program = """
import gymnasium
for name in ("FastCarRacing-v3", "FastCarRacingView-v3"):
    print(gymnasium.make(f"car_racing:{name}").reset(seed=1)[0].shape)
"""
    assert run_python(program, tmp_path, ROOT) == "(84, 84)\n(4, 84, 84)\n"


def test_the_package_alone_works_from_any_directory(alone, tmp_path):
    assert run_python(STEP_THE_VIEW, tmp_path, alone) == f"(2, 84, 84) {alone}/car_racing/__init__.py\n"


def test_nothing_in_the_current_directory_stands_in_for_a_module_of_a_worker(alone, tmp_path):
    for module in ("random", "numpy", "mmap", "car_racing"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('the current directory is on the path')")
    program = """
import numpy as np
from car_racing.vec_env import make_vec_env
env = make_vec_env(2, n_workers=1)
env.seed(0)
env.reset()
print(env.step(np.zeros((2, 3), np.float32))[0].shape)
env.close()
"""
    assert run_python(program, tmp_path, alone) == "(2, 4, 84, 84)\n"


def test_the_package_imports_nothing_of_this_project_but_itself():
    beside = {path.stem for path in ROOT.glob("*.py")} | {"references", "tests", "benchmarks"}
    for path in (ROOT / "car_racing").glob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
        assert beside.isdisjoint(imported), path.name


def test_it_is_installed_with_the_versions_that_this_project_is_tested_with():
    pinned = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"}
    project = PYPROJECT["project"]
    assert set(project["dependencies"]) | set(project["optional-dependencies"]["sb3"]) <= pinned


@pytest.mark.skipif(
    not importlib.util.find_spec("setuptools"), reason="builds without a network, so by setuptools here"
)
def test_its_wheel_holds_the_package_alone_and_works(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "pyproject.toml", source)
    for directory in ("car_racing", "references", "tests"):
        shutil.copytree(ROOT / directory, source / directory, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "out", source],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        modules = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "installed")
    assert modules == {f"car_racing/{path.name}" for path in (ROOT / "car_racing").glob("*.py")}
    assert "(2, 84, 84)" in run_python(STEP_THE_VIEW, source, tmp_path / "installed")
