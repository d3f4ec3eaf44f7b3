"""The job scripts for SLURM, with stand-ins for its commands that run everything on this machine."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from sweep_trial import read_result
from tests.helpers import ROOT, finish, start
from tests.test_sweep import TRIAL_FLAGS

# Runs a script once for each number of --array, as jobs of their own, or once without one.
SBATCH = """#!/bin/bash
while [[ $1 == --* ]]; do
  [[ $1 == --array=* ]] && array="${1#--array=}"
  shift
done
if [ -z "${array:-}" ]; then exec bash "$@"; fi
code=0
for number in $(seq "${array%-*}" "${array#*-}"); do SLURM_ARRAY_TASK_ID="$number" bash "$@" & done
for job in $(jobs -p); do wait "$job" || code=$?; done
exit "$code"
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo 127.0.0.1
"""


@pytest.fixture
def environment(tmp_path):
    """The environment of a login node."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (bin_directory / name).write_text(text)
        (bin_directory / name).chmod(0o755)
    return {**os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}", "PYTHON": sys.executable}


def sbatch(environment, *args):
    command = ["sbatch", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def test_a_job_array_runs_a_trial_in_each_job(tmp_path, environment):
    directory = tmp_path / "sweeps"
    flags = [
        *TRIAL_FLAGS,
        "--no-aim",
        "--name",
        "many",
        "--seeds",
        "1-2",
        "--directory",
        directory,
        "--plan-only",
        "--cores",
        "1",
    ]
    code, stdout, stderr = finish(start("sweep.py", "train_ppo.py", *flags, "--plan-only", cwd=ROOT))
    assert (code, stderr) == (0, "")
    written, how = stdout.splitlines()
    assert written == f"Written: {directory}/many/sweep.json, 2 trials"
    assert how.startswith("Run each trial, by its number from 1: ")
    assert how.endswith(f"sweep.py --resume many --directory {directory} --only NUMBER")
    done = sbatch(environment, "--array=1-2", "docs/slurm/array.sh", "many", directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1 of 1 chosen trials are finished.") == 2
    assert [read_result(directory / "many" / f"s{seed}").state for seed in (1, 2)] == ["finished", "finished"]
    code, stdout, stderr = finish(start("sweep.py", "--resume", "many", "--directory", directory, cwd=ROOT))
    assert code == 0, stderr
    assert "Best of many: " in stdout


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (requirements-ray.txt)")
def test_a_ray_cluster_over_an_allocation(tmp_path, environment):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    allocation = {"SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
    environment = {**environment, **allocation, "RAY_PORT": str(port)}
    flags = ["train_ppo.py", *TRIAL_FLAGS, "--no-aim", "--name", "many", "--directory", tmp_path / "sweeps"]
    done = sbatch(environment, "--nodes=2", "docs/slurm/ray.sh", *flags, "--cores", "1")
    assert done.returncode == 0, done.stderr
    assert "Ray with " in done.stdout
    assert read_result(tmp_path / "sweeps" / "many" / "s1").state == "finished"


@pytest.mark.parametrize("script", sorted((ROOT / "docs" / "slurm").glob("*.sh")), ids=lambda path: path.name)
def test_the_job_scripts_are_valid_bash(script: Path):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert os.access(script, os.X_OK)
