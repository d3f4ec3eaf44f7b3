"""The settings of the game: what an agent sees and does, and what training changes about the game.

Every setting is declared here once. An agent's own settings derive from `GameConfig`; `config.view` and `config.rules`
are the parts that the environment is made from.
"""

from dataclasses import dataclass
from typing import Any

from car_racing.settings import SettingError, check_settings, narrowed, setting

FRAME_SIZE = 84


@dataclass(frozen=True)
class ViewConfig:
    """What the agent sees and does.

    It is part of a policy: a policy must be scored with the view that it was trained with.

    Raises:
        SettingError: if a setting is out of its range.
    """

    action_repeat: int = setting(4, "frames for which one action is held", minimum=1)
    frame_stack: int = setting(4, "pictures in one observation, one a decision, the newest last", minimum=1)
    grayscale: bool = setting(True, "see grey pictures; otherwise RGB, three channels a picture")
    road_contrast: bool = setting(
        True, "spread the grey levels of the road, which tells touched tiles from untouched ones"
    )
    brake_dead_zone: float = setting(
        0.0, "fraction of the brake's action, from below, that does not brake", minimum=0.0, maximum=0.9
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def obs_shape(self) -> tuple[int, int, int]:
        """Shape of an observation: (frame_stack, 84, 84), or (3 * frame_stack, 84, 84) in colour."""
        return (self.frame_stack if self.grayscale else 3 * self.frame_stack, FRAME_SIZE, FRAME_SIZE)


@dataclass(frozen=True)
class RulesConfig:
    """What training changes about the game; scoring never does.

    Penalties are points taken off the reward. An episode begins lost, before a bend, before a hairpin, before an
    earlier mistake, or else at the start of a lap: the probabilities of the first four add up to at most 1.

    Raises:
        SettingError: if a setting is out of its range, or the probabilities add up to more than 1.
    """

    max_idle_frames: int = setting(100, "end an episode after this many frames without a new tile; 0 never", minimum=0)
    max_backward_tiles: int = setting(
        10,
        "end an episode once the car is this many tiles behind the furthest one it touched; 0 never",
        minimum=0,
        formerly="max_tiles_back",
    )
    missed_tile_penalty: float = setting(
        40.0,
        "penalty for each tile left behind untouched, in points; annealed from 0 to this over the training",
        minimum=0.0,
        formerly="missed_tile_charge",
    )
    wheel_off_penalty: float = setting(
        0.0,
        "penalty for each tile left behind and each of the four wheels that did not touch it, in points",
        minimum=0.0,
        formerly="wheel_off_charge",
    )
    bootstrap_lap_end: bool = setting(
        True,
        "treat the end of a lap as a truncation, bootstrapped from the view halfway round",
        formerly="endless_road",
    )
    lost_start_prob: float = setting(
        0.1, "probability that an episode starts with a car lost beside the road", minimum=0.0, maximum=1.0
    )
    bend_start_prob: float = setting(
        0.2,
        "probability that an episode starts just before a sharp bend against the track's direction",
        minimum=0.0,
        maximum=1.0,
    )
    hairpin_start_prob: float = setting(
        0.1,
        "probability that an episode starts just before a hairpin whose legs lie close to each other",
        minimum=0.0,
        maximum=1.0,
        before=0.0,
    )
    retry_start_prob: float = setting(
        0.3, "probability that an episode starts just before an earlier mistake", minimum=0.0, maximum=1.0
    )
    mirror_prob: float = setting(
        0.25,
        "probability that a track is laid out as its mirror image, whatever the start",
        minimum=0.0,
        maximum=1.0,
        formerly="mirrored_tracks",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        total = self.lost_start_prob + self.bend_start_prob + self.hairpin_start_prob + self.retry_start_prob
        if total > 1.0 + 1e-9:
            raise SettingError(
                f"--lost-start-prob {self.lost_start_prob:g}, --bend-start-prob {self.bend_start_prob:g}, "
                f"--hairpin-start-prob {self.hairpin_start_prob:g} and --retry-start-prob {self.retry_start_prob:g} "
                f"add up to {total:g}; they are parts of one distribution, so give at most 1 in all"
            )


@dataclass(frozen=True)
class GameConfig(ViewConfig, RulesConfig):
    """The settings of the game that every agent has."""

    def __post_init__(self) -> None:
        RulesConfig.__post_init__(self)  # checks every field, the view's too

    @property
    def view(self) -> ViewConfig:
        """What the agent sees and does."""
        return narrowed(self, ViewConfig)

    @property
    def rules(self) -> RulesConfig:
        """What training changes about the game."""
        return narrowed(self, RulesConfig)

    @classmethod
    def upgrade(cls, saved: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's settings in today's terms.

        Once the brake's dead zone was half of its action or nothing, on or off. And once starts were drawn one inside
        the other: `second_tries` first, `lost_starts` among the rest, `bend_starts` among what was left.
        """
        older = dict(saved)
        if isinstance(older.get("brake_dead_zone"), bool):
            older["brake_dead_zone"] = 0.5 * older["brake_dead_zone"]
        if "lost_starts" not in older:
            return older
        retry, lost, bend = (older.pop(name, 0.0) for name in ("second_tries", "lost_starts", "bend_starts"))
        return {
            **older,
            "retry_start_prob": retry,
            "lost_start_prob": (1.0 - retry) * lost,
            "bend_start_prob": (1.0 - retry) * (1.0 - lost) * bend,
        }
