"""A replay buffer for off-policy agents that see stacks of frames: each frame is stored once, returns span n steps.

It knows nothing of the agent that learns from it, nor of the networks that it learns with.
"""

from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from car_racing import Frame


class Batch(NamedTuple):
    """Transitions drawn from the replay buffer, on the device that the agent learns on.

    Attributes:
        obs: uint8 (batch, channels, height, width).
        actions: float32 (batch, action_dim), in [-1, 1].
        rewards: float32 (batch, 1), the discounted sum over the next `n_step` steps, or over fewer at an episode's end.
        next_obs: the observations after those steps, as `obs`; the two may overlap in memory.
        discounts: float32 (batch, 1), the factor of the value of `next_obs`: `gamma` to the power of those steps, and
            0 where the game ended. A time limit does not end the game.
    """

    obs: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_obs: torch.Tensor
    discounts: torch.Tensor


class PendingStep(NamedTuple):
    """A step whose next `n_step` rewards are not all known yet.

    Attributes:
        frame_ids: int64 (frame_stack,), the frames of its observation.
        action: float32 (action_dim,).
        reward: of this step alone.
    """

    frame_ids: torch.Tensor
    action: torch.Tensor
    reward: float


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on `device`. To a GPU it goes through pinned memory, so that the CPU does not wait for the transfer."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class ReplayBuffer:
    """The newest `capacity` transitions of one environment, every frame stored once.

    An observation is a stack of frames. All of them but the newest are in the observation before it, too. So a
    transition is stored as the ids of the frames in its two observations, and the stacks are gathered when it is drawn.
    Frames get consecutive ids, and frame `id` lies in a ring at `id` modulo the ring's length. An episode's first stack
    repeats a frame and so its id. Hence no stack mixes episodes, and none is torn where the ring begins anew.

    30,000 transitions of 84x84 grey frames take 226 MB, where whole observations would take 850 MB (stacks of
    two frames) or 1.7 GB (of four).

    A transition spans `n_step` steps (Sutton & Barto, "Reinforcement Learning", 2018, chapter 7), and fewer where the
    episode ends before. As in DrQ-v2 (Yarats et al., 2021), nothing corrects for the actions after the first, which an
    earlier policy chose, and the return leaves their entropy out.

    Args:
        capacity: transitions to keep.
        obs_shape: (channels, height, width) of an observation.
        frame_stack: frames in an observation; divides its channels.
        action_dim: size of an action.
        n_step: steps that a transition spans.
        gamma: discount factor of a step.
        device: where batches are wanted.
        frames_device: where the frames lie; on the GPU, each frame is copied there only once.

    Attributes:
        size: transitions stored.
    """

    def __init__(
        self,
        capacity: int,
        obs_shape: tuple[int, int, int],
        frame_stack: int,
        action_dim: int,
        n_step: int,
        gamma: float,
        device: torch.device,
        frames_device: torch.device,
    ) -> None:
        channels, height, width = obs_shape
        self.capacity = capacity
        self.n_step = n_step
        self.gamma = gamma
        self.device = device
        self.size = 0
        self._position = 0
        self._channels = channels // frame_stack
        ring = (self.ring_length(capacity, frame_stack, n_step), self._channels, height, width)
        self._frames = torch.zeros(ring, dtype=torch.uint8, device=frames_device)
        self._n_frames = 0  # ever stored, which is the next frame's id
        self._current_obs: Frame = np.zeros(obs_shape, np.uint8)
        self._current_ids = torch.zeros(frame_stack, dtype=torch.int64)  # frames of the current observation
        self._frame_ids = torch.zeros((capacity, 2 * frame_stack), dtype=torch.int64)
        self._actions = torch.zeros((capacity, action_dim))
        self._rewards = torch.zeros((capacity, 1))
        self._discounts = torch.zeros((capacity, 1))
        self._pending: deque[PendingStep] = deque()  # the newest steps, oldest first, fewer than `n_step`

    @staticmethod
    def ring_length(capacity: int, frame_stack: int, n_step: int) -> int:
        """Frames to make room for at first.

        An episode of T transitions has T + 1 frames; if episodes are so short that the room does not do, `_make_room`
        adds some. The pending steps and the current observation need the last `frame_stack + n_step`.
        """
        return capacity + capacity // 16 + frame_stack + n_step

    @property
    def nbytes(self) -> int:
        """Bytes that the buffer holds."""
        return sum(tensor.nbytes for tensor in vars(self).values() if isinstance(tensor, torch.Tensor))

    @property
    def current_obs(self) -> Frame:
        """The observation that the next `add` starts from: the buffer's own, uint8 (channels, height, width)."""
        return self._current_obs

    def start_episode(self, obs: Frame) -> None:
        """Begin an episode with the observation, uint8 (channels, height, width), that a reset returned."""
        while self._pending:  # A time limit cut the episode before, so its last observation's value still counts.
            self._complete_oldest(self._current_ids, terminated=False)
        self._current_ids = self._store_all(obs)
        self._current_obs = obs.copy()

    def add(self, action: NDArray[np.float32], reward: float, next_obs: Frame, terminated: bool) -> None:
        """One step from the current observation to `next_obs`.

        Args:
            action: (action_dim,), in [-1, 1].
            reward: of the whole step.
            next_obs: uint8 (channels, height, width), also where the episode ends with it. Usually its newest frame
                alone is new, but a lap may end with the view from another place (`RulesConfig.bootstrap_lap_end`).
            terminated: whether the game ended. A time limit is no end.
        """
        if np.array_equal(next_obs[: -self._channels], self._current_obs[self._channels :]):
            newest = self._store(next_obs[-self._channels :])
            next_ids = torch.cat([self._current_ids[1:], torch.tensor([newest])])
        else:
            next_ids = self._store_all(next_obs)
        self._pending.append(PendingStep(self._current_ids, torch.tensor(action), reward))
        while self._pending and (terminated or len(self._pending) == self.n_step):
            self._complete_oldest(next_ids, terminated)
        self._current_ids, self._current_obs = next_ids, next_obs.copy()

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """A batch drawn evenly, with replacement.

        Raises:
            ValueError: if the buffer is empty.
        """
        if self.size == 0:
            raise ValueError("the replay buffer is empty")
        return self.gather(torch.randint(self.size, (batch_size,), generator=generator))

    def gather(self, indices: torch.Tensor) -> Batch:
        """The transitions at `indices`, int64 (batch,), each in [0, size)."""
        n_stacked = len(self._current_ids)
        frame_ids = self._frame_ids[indices]
        before, after = frame_ids[:, :n_stacked], frame_ids[:, n_stacked:]
        # The later stack begins n steps after the earlier one, so its first frames are the earlier one's last, and are
        # fetched once. Just after an episode's start they are not: there a stack repeats its first frame.
        n_shared = max(n_stacked - self.n_step, 0)
        frames = self._fetch(torch.cat([before, after[:, n_shared:]], dim=1))
        n_channels = n_stacked * self._channels
        next_obs = frames[:, -n_channels:]
        elsewhere = (before[:, n_stacked - n_shared :] != after[:, :n_shared]).any(dim=1).nonzero()[:, 0]
        if len(elsewhere):
            next_obs = next_obs.clone()
            next_obs[to_device(elsewhere, self.device)] = self._fetch(after[elsewhere])
        return Batch(
            obs=frames[:, :n_channels],
            actions=to_device(self._actions[indices], self.device),
            rewards=to_device(self._rewards[indices], self.device),
            next_obs=next_obs,
            discounts=to_device(self._discounts[indices], self.device),
        )

    def state_dict(self) -> dict[str, Any]:
        """All that is stored, for `load_state_dict`; the tensors are the buffer's own, not copies."""
        return {
            "frames": self._frames[: self._n_frames],
            "capacity": self.capacity,
            "n_slots": len(self._frames),
            "n_frames": self._n_frames,
            "stack": self._current_ids,
            "size": self.size,
            "position": self._position,
            "frame_ids": self._frame_ids[: self.size],
            "actions": self._actions[: self.size],
            "rewards": self._rewards[: self.size],
            "discounts": self._discounts[: self.size],
            "pending": [tuple(step) for step in self._pending],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Bring a buffer of the same capacity to where `state_dict` was called.

        Older versions called `frame_ids` "numbers".

        Raises:
            AttributeError, KeyError, OverflowError, TypeError, ValueError, RuntimeError: if the state is another's.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"a replay buffer of {state['capacity']} transitions is not one of {self.capacity}")
        # A frame lies at its id modulo the ring's length, so the ring must be as long as it was.
        n_slots, n_frames, size, position = (state[key] for key in ("n_slots", "n_frames", "size", "position"))
        frame_ids, stack = state["frame_ids"] if "frame_ids" in state else state["numbers"], state["stack"]
        pending = self._loaded_pending(state["pending"])
        if not (0 <= position < self.capacity and 0 <= size <= self.capacity and len(state["frames"]) <= n_slots):
            raise ValueError("the replay buffer's counts do not fit together")
        if stack.shape != self._current_ids.shape:
            raise ValueError("the replay buffer's current stack is another's")
        stacks = torch.stack([*(step.frame_ids for step in pending), stack])
        if (stacks[1:] < stacks[:-1]).any() or not 0 <= int(stacks.min()) <= int(stacks.max()) < n_frames:
            raise ValueError("the replay buffer's current stacks are in disorder, or lie outside its frames")
        if size and min(int(frame_ids.min()), n_frames - 1 - int(frame_ids.max())) < 0:
            raise ValueError("the replay buffer's transitions lie outside its frames")
        frames = self._frames.new_zeros((n_slots, *self._frames.shape[1:]))
        frames[: len(state["frames"])] = state["frames"]
        self._frame_ids[:size] = frame_ids
        for name in ("actions", "rewards", "discounts"):
            getattr(self, f"_{name}")[:size] = state[name]
        self._frames, self._current_ids = frames, stack.clone()
        self._current_obs = frames[(stack % n_slots).to(frames.device)].flatten(0, 1).cpu().numpy()
        self._pending, self.size, self._position, self._n_frames = pending, size, position, n_frames

    def _loaded_pending(self, saved: list[tuple[torch.Tensor, torch.Tensor, float]]) -> deque[PendingStep]:
        """Pending steps of a saved state, copied into what they are here."""
        if len(saved) >= self.n_step:
            raise ValueError(f"{len(saved)} pending steps of the replay buffer are too many for {self.n_step}")
        pending: deque[PendingStep] = deque()
        for frame_ids, action, reward in saved:
            if frame_ids.shape != self._current_ids.shape or action.shape != self._actions.shape[1:]:
                raise ValueError("a pending step of the replay buffer is another's")
            own_ids, own_action = torch.zeros_like(self._current_ids), torch.zeros_like(self._actions[0])
            pending.append(PendingStep(own_ids.copy_(frame_ids), own_action.copy_(action), float(reward)))
        return pending

    def _complete_oldest(self, next_ids: torch.Tensor, terminated: bool) -> None:
        """Store the oldest pending step as a transition to the observation of the frames `next_ids`."""
        rewards = [step.reward for step in self._pending]
        frame_ids, action, _ = self._pending.popleft()
        self._frame_ids[self._position] = torch.cat([frame_ids, next_ids])
        self._actions[self._position] = action
        self._rewards[self._position] = sum(self.gamma**k * reward for k, reward in enumerate(rewards))
        self._discounts[self._position] = 0.0 if terminated else self.gamma ** len(rewards)
        self._position = (self._position + 1) % self.capacity
        self.size = min(self.size + 1, self.capacity)

    def _fetch(self, frame_ids: torch.Tensor) -> torch.Tensor:
        """Stacks (n, m * channels, height, width) of the frames with these ids, int64 (n, m), on the agent's device."""
        slots = to_device((frame_ids % len(self._frames)).flatten(), self._frames.device)
        # Whole frames are copied at once, which indexing with [slots] would do pixel by pixel.
        frames = self._frames.index_select(0, slots)
        n, n_stacked = frame_ids.shape
        return to_device(frames.view(n, n_stacked * self._channels, *self._frames.shape[2:]), self.device)

    def _store_all(self, obs: Frame) -> torch.Tensor:
        """Store an observation that continues none; the ids of its frames, int64 (frame_stack,)."""
        frames = obs.reshape(len(self._current_ids), self._channels, *obs.shape[1:])
        frame_ids: list[int] = []
        for i, frame in enumerate(frames):
            is_same = i > 0 and np.array_equal(frame, frames[i - 1])
            frame_ids.append(frame_ids[-1] if is_same else self._store(frame))
        return torch.tensor(frame_ids)

    def _store(self, frame: Frame) -> int:
        self._make_room()
        self._frames[self._n_frames % len(self._frames)] = torch.from_numpy(np.ascontiguousarray(frame))
        self._n_frames += 1
        return self._n_frames - 1

    def _make_room(self) -> None:
        """Grow the ring by half where the next frame would overwrite one that is still in use.

        It happens with very short episodes: each stores all frames of its first stack, and of a last one that does not
        continue the one before.
        """
        oldest = int(self._pending[0].frame_ids[0] if self._pending else self._current_ids[0])
        if self.size:
            oldest = min(oldest, int(self._frame_ids[self._position if self.size == self.capacity else 0, 0]))
        length = len(self._frames)
        if self._n_frames - oldest < length:
            return
        grown = self._frames.new_zeros((length + length // 2 + 1, *self._frames.shape[1:]))
        in_use = torch.arange(oldest, self._n_frames, device=grown.device)
        grown[in_use % len(grown)] = self._frames[in_use % length]
        self._frames = grown
