"""The settings of the game that every agent has: what it sees of it, and what training changes about it."""

from dataclasses import dataclass

from car_racing import TrainingOptions, ViewConfig
from checkpoint import Checkpoint
from settings import SettingError, setting


@dataclass(frozen=True)
class GameConfig:
    """The game's settings

    An agent's own settings derive from these.
    """

    action_repeat: int = setting(4, "frames for which an action is held", minimum=1)
    frame_stack: int = setting(4, "frames in an observation", minimum=1)
    grayscale: bool = setting(True, "see in colour")
    road_contrast: bool = setting(True, "do not spread the road's levels, which tell touched tiles from untouched ones")
    brake_dead_zone: bool = setting(
        False, "let the lower half of the brake's action not brake, so that an agent at a loss rolls on"
    )
    max_idle_frames: int = setting(
        100, "in training, cut an episode after so many frames without a new tile; 0 never does", minimum=0
    )
    max_tiles_back: int = setting(
        0, "in training, cut an episode of a car that has gone so many tiles the wrong way; 0 never does", minimum=0
    )
    missed_tile_charge: float = setting(
        40.0,
        "in training, points taken off for each tile left behind untouched; rises linearly from 0 to this at the end, "
        "or is this throughout with --start-from",
        minimum=0.0,
    )
    wheel_off_charge: float = setting(
        0.0,
        "in training, points taken off for each tile left behind and each of the four wheels that has not touched it; "
        "the same throughout",
        minimum=0.0,
    )
    endless_road: bool = setting(True, "in training, let a lap's end count as the end of all rewards")
    lost_starts: float = setting(
        0.3, "in training, share of the episodes that begin beside the road", minimum=0.0, maximum=1.0
    )
    bend_starts: float = setting(
        0.0,
        "in training, share of the episodes that do not begin beside the road that begin shortly before a sharp bend "
        "against the track's direction",
        minimum=0.0,
        maximum=1.0,
    )
    mirrored_tracks: float = setting(
        0.25, "in training, share of the episodes on the mirror image of a track", minimum=0.0, maximum=1.0
    )
    second_tries: float = setting(
        0.0,
        "in training, share of the episodes that begin shortly before an earlier mistake, until that is made good",
        minimum=0.0,
        maximum=1.0,
    )

    @property
    def view(self) -> ViewConfig:
        """What one step means to the environment."""
        return ViewConfig(
            self.action_repeat, self.frame_stack, self.grayscale, self.road_contrast, self.brake_dead_zone
        )

    @property
    def training(self) -> TrainingOptions:
        """What training changes about the game; whoever trains lets the charge for missed tiles rise from 0."""
        return TrainingOptions(
            self.max_idle_frames,
            self.max_tiles_back,
            wheel_off_charge=self.wheel_off_charge,
            endless_road=self.endless_road,
            lost_starts=self.lost_starts,
            bend_starts=self.bend_starts,
            mirrored_tracks=self.mirrored_tracks,
            second_tries=self.second_tries,
        )


def check_same_networks(config: GameConfig, checkpoint: Checkpoint, names: tuple[str, ...]) -> None:
    """Check that a training may start from a checkpoint's networks: that `names`, which make them, are set alike.

    Raises:
        SettingError: if they are not, with those that differ.
    """
    theirs = checkpoint.meta["config"]
    others = [f"{name} {theirs[name]}" for name in names if theirs[name] != getattr(config, name)]
    if others:
        what = ", ".join(others)
        raise SettingError(f"--start-from {checkpoint.path} was trained with {what}; give the flags for the same")
