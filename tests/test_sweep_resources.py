"""How a machine is divided among the trials of a sweep."""

import os
from types import SimpleNamespace

import psutil
import pytest
import torch

import core_leases
import sweep_resources
from settings import SettingError
from sweep_options import SweepOptions, parsed_command_line
from sweep_plan import make_plan
from sweep_resources import share_machine

GIGABYTE = 10**9


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """A function from cores, free memory, GPUs and a command line to what each trial at a time has."""

    monkeypatch.setattr(core_leases.tempfile, "gettempdir", lambda: str(tmp_path))  # whatever else runs here

    def share(n_cores, memory, *argv, n_gpus=0):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n_cores)))
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
        monkeypatch.setattr(sweep_resources, "memory_limit", lambda: 10**15)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
        given = parsed_command_line("", [*argv, "--name", "x"])
        options = SweepOptions(**given.sweep)
        plan = make_plan(options, given)
        return share_machine(plan, len(plan.trials), options)

    return share


@pytest.mark.parametrize(
    ("n_cores", "argv", "cores"),
    [
        (2, ["train_ppo.py", "--seeds", "1-6"], [(0,), (1,)]),
        (16, ["train_ppo.py", "--seeds", "1-3"], [tuple(range(5)), tuple(range(5, 10)), tuple(range(10, 15))]),
        (16, ["train_ppo.py", "--n-envs", "2"], [(0, 1)]),
        (16, ["train_ppo.py"], [tuple(range(8))]),
        (40, ["train_ppo.py", "--recipe", "quick"], [tuple(range(32))]),
        (3, ["train.py"], [(0,)]),
        (3, ["train.py", "--seeds", "1-9"], [(0,), (1,), (2,)]),
        (8, ["train.py", "--seeds", "1-9", "--at-once", "2"], [(0,), (1,)]),
        (8, ["train.py", "--seeds", "1-9", "--cores", "3"], [(0, 1, 2), (3, 4, 5)]),
    ],
)
def test_no_two_trials_share_a_core(shared, n_cores, argv, cores):
    with shared(n_cores, 100 * GIGABYTE, *argv).leased() as shares:
        assert [share.cores for share in shares] == cores


def test_a_second_sweep_takes_the_cores_that_the_first_leaves(shared):
    argv = ("train.py", "--seeds", "1-2")
    with shared(3, 100 * GIGABYTE, *argv).leased(), shared(3, 100 * GIGABYTE, *argv).leased() as second:
        assert [share.cores for share in second] == [(2,), (0,)], "the last one has to share"


def test_no_more_trials_start_than_memory_allows(shared):
    plenty = shared(16, 100 * GIGABYTE, "train.py", "--seeds", "1-16")
    assert plenty.n_slots == 16
    assert shared(16, 3 * plenty.memory + 1, "train.py", "--seeds", "1-16").n_slots == 3
    assert shared(16, 1, "train.py", "--seeds", "1-16").n_slots == 1


def test_memory_follows_the_settings(shared):
    small, large = (shared(2, GIGABYTE, "train.py", "--grid", f"replay_size=9000,{size}") for size in (10_000, 100_000))
    assert large.memory - small.memory == pytest.approx(90_000 * 84 * 84, rel=0.01)


def test_gpus_are_dealt_out_in_turn(shared, monkeypatch):
    argv = ("train.py", "--seeds", "1-5")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with shared(8, 100 * GIGABYTE, *argv, n_gpus=2).leased() as shares:
        assert [share.gpu for share in shares] == ["0", "1", "0", "1", "0"]
        assert shares[1].environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "on 2 GPUs" in str(shared(8, 100 * GIGABYTE, *argv, n_gpus=2))
    assert "GPU" not in str(shared(8, 100 * GIGABYTE, *argv, "--device", "cpu", n_gpus=2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with shared(8, 100 * GIGABYTE, *argv, n_gpus=2).leased() as shares:
        assert [share.gpu for share in shares] == ["3", "5", "3", "5", "3"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["--cores", "5"], "--cores 5: this machine has 4"), (["--cores", "2", "--at-once", "3"], "--at-once 3 times")],
)
def test_more_than_there_is_is_refused(shared, argv, words):
    with pytest.raises(SettingError, match=words):
        shared(4, 100 * GIGABYTE, "train.py", "--seeds", "1-9", *argv)
