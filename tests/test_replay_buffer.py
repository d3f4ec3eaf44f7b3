"""The replay buffer against a naive one that stores whole observations, and its saved states, older ones included."""

import numpy as np
import pytest
import torch

from replay_buffer import ReplayBuffer
from tests.replay_streams import ACTION_DIM, feed, random_stream, saved_and_loaded

CPU = torch.device("cpu")
# A discount of which float32 holds every power exactly.
GAMMA = 0.5


class NaiveBuffer:
    """The newest transitions, each with both of its stacks in full, in the order of the ring.

    Every episode is kept as a whole; that of a step is complete `n_step` steps later, or where its episode ends.
    """

    def __init__(self, capacity, n_step=1):
        self.capacity = capacity
        self.n_step = n_step
        self.transitions = []
        self.n_added = 0
        self.n_stored = 0
        self.episode = []
        self.n_stored_of_episode = 0

    def start_episode(self, obs):
        self.store(len(self.episode), terminated=False)
        self.obs = obs.copy()
        self.episode = []
        self.n_stored_of_episode = 0

    def add(self, action, reward, next_obs, terminated):
        self.episode.append((self.obs, action.copy(), reward, next_obs.copy()))
        self.n_added += 1
        self.obs = next_obs.copy()
        n_steps = len(self.episode)
        self.store(n_steps if terminated else n_steps - self.n_step + 1, terminated)

    def store(self, end, terminated):
        """Every transition of the episode up to its `end`-th that is not stored yet."""
        while self.n_stored_of_episode < end:
            first = self.n_stored_of_episode
            steps = self.episode[first : first + self.n_step]
            rewards = sum(GAMMA**k * step[2] for k, step in enumerate(steps))
            reaches_the_end = first + self.n_step >= len(self.episode)
            discount = 0.0 if terminated and reaches_the_end else GAMMA ** len(steps)
            transition = (*steps[0][:2], rewards, steps[-1][3], discount)
            position = self.n_stored % self.capacity
            self.transitions[position : position + 1] = [transition]
            self.n_stored += 1
            self.n_stored_of_episode += 1


def small_buffer(capacity, frame_stack, channels, size=(5, 6), n_step=1):
    obs_shape = (frame_stack * channels, *size)
    return ReplayBuffer(capacity, obs_shape, frame_stack, ACTION_DIM, n_step, GAMMA, CPU, CPU)


def assert_holds_the_same(buffer, naive):
    assert buffer.size == len(naive.transitions)
    if buffer.size == 0:
        return
    batch = buffer.gather(torch.arange(buffer.size))
    assert [field.dtype for field in batch] == [torch.uint8, torch.float32, torch.float32, torch.uint8, torch.float32]
    obs, actions, rewards, next_obs, discounts = (np.array(column) for column in zip(*naive.transitions, strict=True))
    np.testing.assert_array_equal(batch.obs, obs)
    np.testing.assert_array_equal(batch.actions, actions)
    np.testing.assert_array_equal(batch.rewards, rewards[:, None].astype(np.float32))
    np.testing.assert_array_equal(batch.next_obs, next_obs)
    np.testing.assert_array_equal(batch.discounts, discounts[:, None])


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frame_stack", [1, 2, 3, 4])
@pytest.mark.parametrize("capacity", [1, 2, 7, 50])
def test_the_replay_buffer_equals_a_naive_one(capacity, frame_stack, channels, n_step):
    for seed in range(6):
        rng = np.random.default_rng([seed, capacity, frame_stack, channels])
        stream = random_stream(rng, frame_stack, channels)
        buffer = small_buffer(capacity, frame_stack, channels, n_step=n_step)
        naive = NaiveBuffer(capacity, n_step)
        while naive.n_added < 5 * capacity + 30:
            feed(stream, int(rng.integers(1, 2 + capacity // 3)), buffer, naive)
            assert_holds_the_same(buffer, naive)


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("capacity", [1, 7, 50])
def test_saved_and_loaded_replay_buffer_goes_on_the_same(capacity, n_step):
    """From before the first wrap to long after it; in some streams the ring of frames has grown by then."""
    has_grown = False
    for seed in range(20):
        rng = np.random.default_rng([seed, capacity])
        stream = random_stream(rng, 3, 1)
        buffer, fresh = (small_buffer(capacity, 3, 1, n_step=n_step) for _ in range(2))
        naive = NaiveBuffer(capacity, n_step)
        n_bytes = buffer.nbytes
        feed(stream, int(rng.integers(1, 4 * capacity + 2)), buffer, naive)
        has_grown |= buffer.nbytes > n_bytes
        fresh.load_state_dict(saved_and_loaded(buffer.state_dict()))
        assert_holds_the_same(fresh, naive)
        for _ in range(8):
            feed(stream, int(rng.integers(1, capacity + 2)), buffer, naive, fresh)
            assert_holds_the_same(buffer, naive)
            assert_holds_the_same(fresh, naive)
    assert has_grown, "the ring should grow in some stream for this test to say something"


@pytest.mark.parametrize("n_step", [1, 3])
def test_a_loaded_replay_buffer_shares_no_memory_with_the_saved_one(n_step):
    stream = random_stream(np.random.default_rng(0), 2, 1)
    buffer, other = (small_buffer(7, 2, 1, n_step=n_step) for _ in range(2))
    naive = NaiveBuffer(7, n_step)
    feed(stream, 10, buffer, naive)
    other.load_state_dict(buffer.state_dict())
    feed(stream, 20, buffer)
    assert_holds_the_same(other, naive)


@pytest.mark.parametrize("n_adds", [13, 57])
def test_samples_are_drawn_evenly_from_what_is_live(n_adds):
    """Chi-square over 20 or 13 transitions: 99.99 % of even draws are below 3 times the degrees of freedom."""
    buffer = small_buffer(20, 2, 1)
    obs = np.zeros((2, 5, 6), np.uint8)
    buffer.start_episode(obs)
    for number in range(n_adds):
        buffer.add(np.zeros(ACTION_DIM, np.float32), float(number), obs, False)
    rewards = buffer.sample(20_000, torch.Generator().manual_seed(0)).rewards[:, 0]
    live = range(max(0, n_adds - 20), n_adds)
    counts = np.array([(rewards == number).sum() for number in live])
    assert counts.sum() == 20_000, "a draw from what was never stored or is overwritten"
    expected = 20_000 / len(live)
    assert ((counts - expected) ** 2 / expected).sum() < 3 * (len(live) - 1)


def test_samples_come_from_the_generator_given():
    buffer = small_buffer(50, 2, 1)
    feed(random_stream(np.random.default_rng(0), 2, 1), 50, buffer)
    first, second = (buffer.sample(16, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    generator = torch.Generator().manual_seed(5)
    batches = [buffer.sample(16, generator).actions for _ in range(2)]
    assert torch.equal(batches[0], first.actions)
    assert not torch.equal(*batches)


def test_an_empty_replay_buffer_has_nothing_to_sample():
    buffer = small_buffer(5, 2, 1)
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1, torch.Generator())
    buffer.start_episode(np.zeros((2, 5, 6), np.uint8))
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1, torch.Generator())


def test_a_replay_buffer_of_another_capacity_is_refused():
    buffer = small_buffer(50, 2, 1)
    feed(random_stream(np.random.default_rng(0), 2, 1), 50, buffer)
    with pytest.raises(ValueError, match="is not one of 7"):
        small_buffer(7, 2, 1).load_state_dict(buffer.state_dict())


def test_the_state_of_an_older_version_loads():
    """It called the transitions' frame ids "numbers"."""
    buffer, fresh = small_buffer(7, 2, 1, n_step=3), small_buffer(7, 2, 1, n_step=3)
    naive = NaiveBuffer(7, 3)
    stream = random_stream(np.random.default_rng(0), 2, 1)
    feed(stream, 20, buffer, naive)
    state = saved_and_loaded(buffer.state_dict())
    state["numbers"] = state.pop("frame_ids")
    fresh.load_state_dict(state)
    feed(stream, 20, fresh, naive)
    assert_holds_the_same(fresh, naive)


def test_the_current_observation_is_the_one_that_the_next_step_starts_from():
    buffer, fresh = small_buffer(7, 2, 1), small_buffer(7, 2, 1)
    first, second = np.random.default_rng(0).integers(0, 256, (2, 2, 5, 6), np.uint8)
    buffer.start_episode(first)
    np.testing.assert_array_equal(buffer.current_obs, first)
    buffer.add(np.zeros(ACTION_DIM, np.float32), 0.0, second, False)
    np.testing.assert_array_equal(buffer.current_obs, second)
    fresh.load_state_dict(saved_and_loaded(buffer.state_dict()))
    np.testing.assert_array_equal(fresh.current_obs, second)
