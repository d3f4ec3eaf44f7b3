"""The rules of training: how far a lap has come, what is a penalty, what ends an episode early."""

from typing import Any

from gymnasium.envs.box2d.car_racing import CarRacing

from car_racing.config import RulesConfig

# The car is about four tiles long: its rear wheels may still touch a tile that is no further behind the front ones.
GRACE_TILES = 4
# The most tiles that one step is charged for. For a car that has slid off, more would make staying beside the road
# cheaper than coming back to it further on, and one such step would outweigh a whole batch of others.
MAX_MISSED_TILES_PER_STEP = 5
MAX_WHEELS_OFF_PER_STEP = 4 * MAX_MISSED_TILES_PER_STEP


class TilesUnderWheel(set[Any]):
    """The tiles that a wheel is on, with a memory of all that it has been on.

    It takes the place of the set that CarRacing keeps on each wheel.
    """

    def __init__(self, tiles: set[Any]) -> None:
        super().__init__(tiles)
        self.touched = {tile.idx for tile in tiles}

    def add(self, tile: Any) -> None:
        super().add(tile)
        self.touched.add(tile.idx)


class LapProgress:
    """Follows the car round the lap, and counts the tiles that it leaves behind untouched, each once.

    Args:
        game: a CarRacing that has just been reset.
        start: the tile that the car starts from; those before it do not count.

    Attributes:
        n_judged: the lap's tiles before this one have been left behind, touched or not.
    """

    def __init__(self, game: CarRacing, start: int = 0) -> None:
        self._game = game
        self._tiles: list[Any] = list(game.road or ())
        # How far the car has come along the track, in tiles; it goes on counting past a full lap.
        self._position = self._furthest = start
        self._halfway = (start + len(self._tiles)) // 2
        self.n_judged = start
        self._just_judged: list[Any] = []
        # The car stands on the first few, some wheels before them.
        self._first_with_wheels = start + GRACE_TILES
        assert game.car is not None
        self._under_wheels = [TilesUnderWheel(wheel.tiles) for wheel in game.car.wheels]
        for wheel, tiles in zip(game.car.wheels, self._under_wheels, strict=True):
            wheel.tiles = tiles

    @property
    def is_halfway(self) -> bool:
        """Whether the car is past the middle between its start and the lap's end."""
        return self._position >= self._halfway

    @property
    def is_round(self) -> bool:
        """Whether the car has left the last tile of the lap so far behind that all of them are judged."""
        return self.n_judged == len(self._tiles)

    @property
    def n_backward(self) -> int:
        """How many tiles the car is behind the furthest place that it has been at."""
        return self._furthest - self._position

    def count_missed(self) -> int:
        """How many tiles have been left behind untouched since the last call."""
        assert self._game.car is not None
        touched = [tile.idx for wheel in self._game.car.wheels for tile in wheel.tiles]
        if touched:
            self._position += max(self._distance_to(index) for index in touched)
            self._furthest = max(self._furthest, self._position)
        n_behind = min(max(self.n_judged, self._position - GRACE_TILES), len(self._tiles))
        behind = self._tiles[self.n_judged : n_behind]
        self.n_judged = n_behind
        self._just_judged = behind
        return sum(not tile.road_visited for tile in behind)

    def count_wheels_off(self) -> int:
        """How often one of the four wheels has not touched one of the tiles that the last `count_missed` judged."""
        return sum(
            tile.idx not in tiles.touched
            for tile in self._just_judged
            if tile.idx >= self._first_with_wheels
            for tiles in self._under_wheels
        )

    def _distance_to(self, index: int) -> int:
        """Tiles from the car's position to a tile, the shorter way round: negative if it lies behind."""
        half = len(self._tiles) // 2
        return (index - self._position + half) % len(self._tiles) - half


class Penalties:
    """What a step costs in training, in points.

    The game itself says too late that a tile was missed: the lap does not end, hundreds of steps later. The penalty
    says it at once. The penalty for wheels asks for a margin: the fastest line touches a bend's innermost tiles with
    one wheel, and a line a little further in misses them all.

    Args:
        rules: the penalties at full strength.

    Attributes:
        progress: how far the training is, in [0, 1]. The penalty for missed tiles is annealed by it from 0: at full
            strength it makes returning to the road worthless to an untrained policy.
    """

    def __init__(self, rules: RulesConfig) -> None:
        self._rules = rules
        self.progress = 1.0

    def of_step(self, lap: LapProgress, n_missed: int) -> float:
        """The penalty of a step in which `n_missed` tiles were left behind untouched."""
        rules = self._rules
        penalty = rules.missed_tile_penalty * self.progress * min(n_missed, MAX_MISSED_TILES_PER_STEP)
        if rules.wheel_off_penalty:
            penalty += rules.wheel_off_penalty * min(lap.count_wheels_off(), MAX_WHEELS_OFF_PER_STEP)
        return penalty


def is_hopeless(rules: RulesConfig, lap: LapProgress, idle_frames: int) -> bool:
    """Whether the car has been without a new tile for too long, or goes back where it came from.

    Both are terminations. If the value of a car at rest were bootstrapped, resting beside the road would cost nothing.
    To touch the other leg of a hairpin counts as having been there. So a car that comes back from it has gone back.
    """
    is_idle = 0 < rules.max_idle_frames <= idle_frames
    return is_idle or 0 < rules.max_backward_tiles <= lap.n_backward
