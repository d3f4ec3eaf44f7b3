"""Observations as SAC + DrQ learns from them: shifted at random, half of them mirrored, and normalized."""

import torch

from car_racing.indicators import SIDEWAYS_BARS, STRIP_ROWS
from replay_buffer import Batch


def random_shift(obs: torch.Tensor, offsets: torch.Tensor, pad: int) -> torch.Tensor:
    """Shift each observation by a few pixels, with its border pixels repeated outwards (DrQ's augmentation).

    Args:
        obs: (batch, channels, height, width); all channels of an observation move together.
        offsets: int64 (batch, 2), rows and columns, in [0, 2 * pad]; `pad` is no shift.
        pad: pixels repeated on each side.

    Returns:
        Of the shape and dtype of `obs`.
    """
    batch, channels, height, width = obs.shape
    # F.pad has no uint8 on the GPU, and floats would be four times the memory to move.
    padded = obs.new_empty((batch, channels, height, width + 2 * pad))
    padded[..., pad : pad + width] = obs
    padded[..., :pad] = obs[..., :1]
    padded[..., pad + width :] = obs[..., -1:]
    # Each row of the result lies somewhere in `padded` as it is, so all of them are picked at once.
    rows = torch.arange(height, device=obs.device) + offsets[:, :1] - pad
    first_rows = height * torch.arange(batch * channels, device=obs.device).view(batch, channels, 1)
    starts = (first_rows + rows.clamp(0, height - 1)[:, None]) * padded.shape[3] + offsets[:, 1, None, None]
    windows = padded.flatten().unfold(0, width, 1)
    return windows.index_select(0, starts.flatten()).view(obs.shape)


def normalize_pixels(obs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Pixels, uint8 (batch, channels, height, width), in [-0.5, 0.5], channels last in memory for fast convolutions."""
    # The channels are interleaved as bytes, which moves a quarter of the memory that floats would take.
    interleaved = torch.stack(obs.unbind(1), dim=-1)
    return interleaved.to(dtype).mul_(1.0 / 255.0).sub_(0.5).permute(0, 3, 1, 2)


def mirrored(obs: torch.Tensor) -> torch.Tensor:
    """What the agent would see in the mirror image of the game, (..., height, width), but for two details.

    Below the picture, score and speed stay where they are, and the bars of steering and turning point the other way.
    The details are the grass's pattern, and the four thin bars of the wheels' speeds, where left and right are not
    swapped: in bends they differ by a few grey levels.
    """
    image = obs.flip(-1)
    strip, mirrored_strip = obs[..., STRIP_ROWS, :], image[..., STRIP_ROWS, :]
    mirrored_strip.copy_(strip)
    for bar in SIDEWAYS_BARS:
        mirrored_strip[..., bar] = strip[..., bar].flip(-1)
    return image


def half_mirrored(batch: Batch) -> Batch:
    """The batch with its first half as it would be in the mirror image of the game: left for right, steering too."""
    half = len(batch.obs) // 2
    actions = batch.actions.clone()
    actions[:half, 0].neg_()
    obs, next_obs = (torch.cat([mirrored(part[:half]), part[half:]]) for part in (batch.obs, batch.next_obs))
    return batch._replace(obs=obs, actions=actions, next_obs=next_obs)
