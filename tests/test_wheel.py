"""The package car_racing as it is installed: its wheel holds nothing else, and works where nothing else is."""

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


STEP_THE_VIEW = """
import gymnasium
env = gymnasium.make("car_racing:FastCarRacingView-v3", frame_stack=2)
obs, info = env.reset(seed=7)
obs, reward, *_ = env.step(env.action_space.sample())
print(obs.shape, sys.modules["car_racing"].__file__)
"""


def test_the_package_imports_nothing_of_this_project_but_itself():
    beside = {path.stem for path in ROOT.glob("*.py")} | {"references", "tests", "benchmarks"}
    for path in (ROOT / "car_racing").glob("*.py"):
        imported = re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE)
        assert beside.isdisjoint(imported), path.name


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
