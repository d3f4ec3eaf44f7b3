"""Random transitions for replay buffers, and states as they come back from a file."""

import io

import numpy as np
import torch

ACTION_DIM = 3


def random_stream(rng, frame_stack, channels, size=(5, 6), mean_length=None):
    """Endless calls of `start_episode` and `add`: episodes from one step up, ended by the game or by time."""

    def frame():
        # A frame in four is one of few, so that frames are also equal where they are not the same.
        if rng.random() < 0.25:
            return np.full((channels, *size), rng.integers(2), np.uint8)
        return rng.integers(0, 256, (channels, *size), np.uint8)

    mean_length = mean_length or rng.choice([1, 3, 30])
    while True:
        first = frame()
        frames = [first] * frame_stack
        if rng.random() < 0.3:  # a stack from the middle of an episode
            frames = [frame() if rng.random() < 0.7 else first for _ in range(frame_stack)]
        yield "start_episode", (np.concatenate(frames),)
        length = rng.geometric(1.0 / mean_length)
        is_terminated = rng.random() < 0.5
        ends_elsewhere = rng.random() < 0.3  # as a lap on an endless road does
        for i in range(length):
            if ends_elsewhere and i == length - 1:
                frames = [frame() for _ in range(frame_stack)]
            else:
                frames = [*frames[1:], frame()]
            action, reward = rng.uniform(-1, 1, ACTION_DIM).astype(np.float32), float(np.float32(rng.normal()))
            yield "add", (action, reward, np.concatenate(frames), bool(is_terminated and i == length - 1))


def feed(stream, n_adds, *buffers):
    """Give the buffers the same stream, up to its `n_adds`-th transition."""
    while n_adds:
        name, args = next(stream)
        for buffer in buffers:
            given = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in args]
            getattr(buffer, name)(*given)
            for arg in given:  # an environment may write its next picture where the last one was
                if isinstance(arg, np.ndarray):
                    arg.fill(77)
        n_adds -= name == "add"


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
