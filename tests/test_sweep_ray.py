"""A sweep on a Ray cluster of two nodes on this machine: a node that is lost changes nothing of what comes out."""

import os

import psutil
import pytest

import checkpoint
from sweep_trial import read_result
from tests.helpers import finish, start
from tests.test_sweep import TRIAL_FLAGS, assert_as_alone, wait_until

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
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


def test_an_address_without_a_cluster_is_one_line(tmp_path):
    flags = ["train.py", "--name", "x", "--address", "127.0.0.1:1"]
    code, stdout, stderr = finish(start("sweep.py", *flags, cwd=tmp_path))
    assert (code, stdout) == (2, "")
    assert "--address 127.0.0.1:1: no Ray cluster answers there" in stderr
    assert not list(tmp_path.iterdir())
