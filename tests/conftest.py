"""Shared by the tests: no display, and the way back out of an Aim repository."""

import json
import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import aim
import pytest
from aim.sdk.index_manager import RepoIndexManager

import checkpoint

# What SB3's PPO logs of every update, by the names that this project gives them.
UPDATE_METRICS = (
    "policy_loss",
    "value_loss",
    "entropy_loss",
    "clip_fraction",
    "explained_variance",
    "approx_kl",
    "learning_rate",
    "n_updates",
    "clip_range",
    "loss",
)


def read_metrics(run):
    """{(name, subset): {step: value}} of a run, without Aim's own system metrics."""
    series = {}
    for metric in run.metrics():
        if not metric.name.startswith("__system__"):
            steps, (values, _, _) = metric.data.items_list()
            series[metric.name, metric.context.to_dict().get("subset")] = dict(zip(steps, values, strict=True))
    return series


def read_closed(repo_path, run_hash):
    """The run from the files alone, as Aim's page would read them."""
    repo = aim.Repo.from_path(str(repo_path))
    RepoIndexManager.get_index_manager(repo).index(run_hash)
    repo.container_pool.clear()
    run = repo.get_run(run_hash)
    assert run is not None, "the run cannot be found in its repository"
    return run


def rewrite_manifest(path, change):
    """Change a manifest as a stranger could: with a checksum that fits."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest.pop("sha256")
    change(manifest)
    (path / "manifest.json").write_text(json.dumps({**manifest, "sha256": checkpoint._sha256_of(manifest)}))


@pytest.fixture
def show(capsys):
    """Print a figure that belongs in the test's log, whether the test passes or not."""

    def say(figure):
        with capsys.disabled():
            print(f"\n{figure}")

    return say
