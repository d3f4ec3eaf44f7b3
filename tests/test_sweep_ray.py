"""A sweep on a Ray cluster of two nodes on this machine: a node that is lost changes nothing of what comes out."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import checkpoint
import sweep_trial
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import load_plan, make_plan, save_plan
from sweep_trial import read_result
from tests.helpers import finish, start
from tests.stand_ins import stand_in
from tests.test_sweep import TRIAL_FLAGS, assert_as_alone, wait_until

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
import sweep_ray

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two nodes need two cores"),
]

STORE_BYTES = 80_000_000
NODE = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "memory": 4_000_000_000}


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES})
    yield made
    made.shutdown()


def is_training(name):
    """Whether a process of this machine trains the run of this name."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(word.endswith(f"/sweeps/two/{name}") for word in command):
            return True
    return False


def test_a_lost_node_changes_nothing(cluster, tmp_path, monkeypatch):
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    sweep = start(
        "sweep.py", "train_ppo.py", *TRIAL_FLAGS, "--name", "two", "--seeds", "1-2", "--cores", "1",
        "--address", cluster.address, cwd=tmp_path,
    )  # fmt: skip
    directories = [tmp_path / "sweeps" / "two" / f"s{seed}" for seed in (1, 2)]
    wait_until(lambda: all(map(checkpoint.whole_steps, directories)), sweep)
    assert is_training("s1") or is_training("s2")
    for node in nodes:
        cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**NODE)
    code, stdout, stderr = finish(sweep, timeout=300)
    assert code == 0, stderr
    assert "Ray with 2 cores on 3 nodes, each trial with 1 core" in stdout
    for seed, directory in enumerate(directories, 1):
        assert read_result(directory).state == "finished"
        assert_as_alone(tmp_path, seed, monkeypatch)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Make a sweep of one trial, whose script is a stand-in; its directory and the trial, as Ray is given it."""
    monkeypatch.chdir(tmp_path)

    def plan(code, *flags):
        monkeypatch.setattr(sweep_trial, "HERE", stand_in(tmp_path, code))
        given = parsed_command_line("", ["train_ppo.py", "--name", "x", *flags])
        options = SweepOptions(**given.sweep)
        save_plan(make_plan(options, given), options.path)
        (trial,) = load_plan(options.path).trials
        return options.path, sweep_ray.TaskedTrial(trial, options.path / trial.name)

    return plan


@pytest.mark.parametrize("state", ["pruned", "stopped"])
def test_a_task_ends_its_trial_as_it_is_asked_to(state, planned):
    waits = "import signal; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(138)); tell(10, [1.0]); time.sleep(120)"
    directory, tasked = planned(waits)
    with ThreadPoolExecutor() as pool:
        task = pool.submit(sweep_ray._run_one, directory, tasked.trial, 1)
        while not tasked.progress.look():
            time.sleep(0.05)
        tasked.stop(state)
        assert task.result(60)["state"] == state
    assert not (tasked.directory / sweep_ray.STOP_FILE).exists(), "it would stop the trial that goes on"


def test_a_task_leaves_why_its_trial_failed_and_went_on(planned):
    directory, tasked = planned("sys.exit('there is a hole in it')", "--retries", "2")
    assert tasked.new_failures() == []
    assert sweep_ray._run_one(directory, tasked.trial, 1)["state"] == "failed"
    assert tasked.new_failures() == [
        f"s1: failed ({n} of at most 3 times) and goes on: there is a hole in it" for n in (1, 2)
    ]
    assert tasked.new_failures() == []


def test_an_address_without_a_cluster_is_one_line(tmp_path):
    flags = ["train.py", "--name", "x", "--address", "127.0.0.1:1"]
    code, stdout, stderr = finish(start("sweep.py", *flags, cwd=tmp_path))
    assert (code, stdout) == (2, "")
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in stderr
    assert not list(tmp_path.iterdir())
