"""Shifted and mirrored observations against np.pad and against the game's own mirror image."""

import numpy as np
import pytest
import torch

from augmentation import half_mirrored, mirrored, random_shift
from car_racing import FastCarRacing, ViewConfig
from car_racing.view import AgentView
from replay_buffer import Batch


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_random_shift_is_padding_with_the_edge_and_cropping(pad, dtype):
    """Every offset there is. Channels of different contents show that they move together."""
    offsets = torch.cartesian_prod(torch.arange(2 * pad + 1), torch.arange(2 * pad + 1))
    obs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (len(offsets), 3, 5, 7))).to(dtype)
    shifted = random_shift(obs, offsets, pad)
    assert (shifted.shape, shifted.dtype) == (obs.shape, dtype)
    for picture, (row, column), result in zip(obs.numpy(), offsets.tolist(), shifted.numpy(), strict=True):
        padded = np.pad(picture, ((0, 0), (pad, pad), (pad, pad)), mode="edge")
        np.testing.assert_array_equal(result, padded[:, row : row + 5, column : column + 7])


def test_an_offset_of_pad_is_no_shift():
    obs = torch.randint(0, 256, (4, 2, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(random_shift(obs, torch.full((4, 2), 3), 3), obs)
    assert torch.equal(random_shift(obs, torch.zeros((4, 2), dtype=torch.int64), 0), obs)


def test_random_shift_leaves_what_it_is_given():
    obs = torch.randint(0, 256, (4, 2, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = obs.clone()
    random_shift(obs, torch.zeros((4, 2), dtype=torch.int64), 2).zero_()
    assert torch.equal(obs, given)


def driven_both_ways(view, n_steps):
    """The same drive in the game and in its mirror image: pairs of observations and of rewards."""
    envs = [AgentView(FastCarRacing(grayscale=view.grayscale), view) for _ in range(2)]
    obs = [env.reset(seed=1_000_001, options={"mirrored": i == 1})[0] for i, env in enumerate(envs)]
    rng, steer = np.random.default_rng(0), 0.0
    for _ in range(n_steps):
        steer = float(np.clip(steer + 0.3 * rng.normal(), -1.0, 1.0))
        actions = [np.array([side * steer, 0.6, -0.5], np.float32) for side in (1.0, -1.0)]
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        obs = [step[0] for step in steps]
        yield obs, [step[1] for step in steps]


@pytest.mark.parametrize("grayscale", [True, False])
def test_a_mirrored_observation_is_that_of_the_mirrored_game(grayscale):
    is_turning = []
    for (plain, of_mirrored_game), rewards in driven_both_ways(ViewConfig(grayscale=grayscale), 120):
        assert rewards[0] == pytest.approx(rewards[1], abs=1e-3)
        image = mirrored(torch.from_numpy(plain)).numpy().astype(int)
        apart = np.abs(image - of_mirrored_game)
        assert apart[:, 74:].max() <= 16  # the strip, but for a bar that ends between two pixels
        assert apart[:, 74:].mean() < 0.3
        # The grass's squares lie elsewhere in the mirror image; they differ by few levels of grey.
        assert (apart[:, :74] > 48).mean() < 0.005
        is_turning.append(np.abs(plain[:, 74:].astype(int) - of_mirrored_game[:, 74:]).max() > 40)
    assert np.mean(is_turning) > 0.5, "the bars must have been seen to turn"


def test_twice_mirrored_is_as_before():
    obs = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mirrored(mirrored(obs)), obs)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_half_of_a_batch_is_mirrored_with_its_steering(n):
    generator = torch.Generator().manual_seed(0)
    obs, next_obs = (torch.randint(0, 256, (n, 2, 84, 84), dtype=torch.uint8, generator=generator) for _ in range(2))
    numbers = [torch.rand((n, k), generator=generator) for k in (3, 1, 1)]
    batch = Batch(obs=obs, actions=numbers[0], rewards=numbers[1], next_obs=next_obs, discounts=numbers[2])
    before = [part.clone() for part in batch]
    result = half_mirrored(batch)
    assert all(torch.equal(part, old) for part, old in zip(batch, before, strict=True)), "the batch itself is left"
    half = n // 2
    for part, old in ((result.obs, obs), (result.next_obs, next_obs)):
        assert torch.equal(part[:half], mirrored(old[:half]))
        assert torch.equal(part[half:], old[half:])
    assert torch.equal(result.actions[:half], batch.actions[:half] * torch.tensor([-1.0, 1.0, 1.0]))
    assert torch.equal(result.actions[half:], batch.actions[half:])
    assert torch.equal(result.rewards, batch.rewards)
    assert torch.equal(result.discounts, batch.discounts)
