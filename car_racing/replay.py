"""Moments of an episode, kept as how they came about.

The game is deterministic: the same start and the same actions lead to the same state, to the last bit.
"""

from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from car_racing.starts import EpisodeStart, StartKind


@dataclass(frozen=True)
class EpisodeSnapshot:
    """A moment of an episode.

    Attributes:
        start: how the episode began.
        actions: float32 (n, 3), those since.
        observed: after which of these actions the observation is still needed, besides the last.
    """

    start: EpisodeStart
    actions: NDArray[np.float32]
    observed: tuple[int, ...]

    def as_plain(self) -> dict[str, Any]:
        """The snapshot as plain values, for a checkpoint."""
        return {"start": asdict(self.start), "actions": self.actions.tolist(), "observed": list(self.observed)}

    def drawn(self, frame_stack: int) -> set[int]:
        """The actions after which a picture is in one of the observations that are needed."""
        wanted = (*self.observed, len(self.actions) - 1)
        return {index - age for index in wanted for age in range(frame_stack)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "EpisodeSnapshot":
        """The snapshot of `as_plain`.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: if it is none.
        """
        start, actions = EpisodeStart(**plain["start"]), plain["actions"]
        # Older versions drew all of them, and did not say which are needed.
        observed = tuple(plain.get("observed", range(len(actions))))
        if start.kind not in get_args(StartKind) or type(start.is_mirrored) is not bool:
            raise ValueError(f"no start of an episode: {start}")
        if not all(type(seed) is int and seed >= 0 for seed in (start.track_seed, start.place_seed)):
            raise ValueError(f"no seeds of a start: {start}")
        if not all(type(index) is int and 0 <= index < len(actions) for index in observed):
            raise ValueError(f"no numbers of {len(actions)} actions: {observed}")
        with np.errstate(over="ignore"):  # what overflows is not finite
            snapshot = cls(start, np.array(actions, dtype=np.float32).reshape(len(actions), 3), observed)
        if not np.isfinite(snapshot.actions).all():
            raise ValueError("an action is not finite")
        return snapshot


@dataclass(frozen=True)
class Mistake:
    """A mistake that is to be tried again.

    Attributes:
        before: where the next try begins, in an episode that began at a lap's start.
        tiles: how many tiles the car had touched when the mistake was made.
    """

    before: EpisodeSnapshot
    tiles: int

    def as_plain(self) -> dict[str, Any]:
        """The mistake as plain values, for a checkpoint."""
        return {"before": self.before.as_plain(), "tiles": self.tiles}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Mistake":
        """The mistake of `as_plain`.

        Raises:
            KeyError, TypeError, ValueError, OverflowError: if it is none.
        """
        before = EpisodeSnapshot.from_plain(plain["before"])
        if before.start.kind != "lap":
            raise ValueError(f"no start of a mistake: {before.start}")
        return cls(before, int(plain["tiles"]))
