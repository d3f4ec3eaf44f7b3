"""What the tests of the game share: actions, policies that look at the map, and references made by hand."""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.car_racing import CarRacing
from numpy.typing import NDArray

from car_racing import Frame, RulesConfig, ViewConfig, make_env, stock_frame

Action = NDArray[np.float32]

GAS: Action = np.array([0.0, 1.0, -1.0], dtype=np.float32)
BRAKE: Action = np.array([0.0, -1.0, 1.0], dtype=np.float32)
COAST: Action = np.array([0.0, -1.0, -1.0], dtype=np.float32)
# Going straight on leaves the field after 187 frames.
OFF_FIELD_TRACK = 11
# The game's own grey levels, as the stock environment shows them.
STOCK_VIEW = ViewConfig(road_contrast=False)


class UndrawnCarRacing(CarRacing):
    """The stock game without its picture, which costs 99% of its time and changes nothing."""

    def _render(self, mode: str) -> Any:
        return None


def plain_rules(**settings: Any) -> RulesConfig:
    """Rules that change nothing about the game but what `settings` say, so that one rule is tested at a time."""
    nothing = {
        "max_idle_frames": 0,
        "max_backward_tiles": 0,
        "missed_tile_penalty": 0.0,
        "bootstrap_lap_end": False,
        "lost_start_prob": 0.0,
        "bend_start_prob": 0.0,
        "hairpin_start_prob": 0.0,
        "retry_start_prob": 0.0,
        "mirror_prob": 0.0,
    }
    return RulesConfig(**{**nothing, **settings})


def resets(env: gym.Env, n_resets: int, seed: int) -> Iterator[tuple[Frame, dict[str, Any]]]:
    """Observation and info of `n_resets` resets, of which only the first is seeded."""
    for i in range(n_resets):
        yield env.reset(seed=seed if i == 0 else None)


def drive_to_end(env: gym.Env, act: Callable[[CarRacing], Action]) -> tuple[bool, bool, dict[str, Any]]:
    """Drive to the episode's end by a policy that is shown the game: terminated, truncated and the last info."""
    game: Any = env.unwrapped
    while True:
        _, _, terminated, truncated, info = env.step(act(game))
        if terminated or truncated:
            return terminated, truncated, info


def literal_steps(
    track: int, actions: Sequence[Action], action_repeat: int
) -> Iterator[tuple[Frame, float, bool, bool]]:
    """Gymnasium's own environment and nothing of this project's: yields (stack, reward, terminated, truncated) a step.

    The first is the reset's.
    """
    env = gym.make("CarRacing-v3")
    obs, _ = env.reset(seed=track)
    frames = [stock_frame(obs)] * 4
    yield np.stack(frames), 0.0, False, False
    for action in actions:
        reward_sum = 0.0
        for _ in range(action_repeat):
            stock_action = np.array([action[0], (action[1] + 1) / 2, (action[2] + 1) / 2], dtype=np.float64)
            obs, reward, terminated, truncated, _ = env.step(stock_action)
            reward_sum += float(reward)
            if terminated or truncated:
                break
        frames = [*frames[1:], stock_frame(obs)]
        yield np.stack(frames), reward_sum, terminated, truncated
        if terminated or truncated:
            return


def lap_of(n_tiles: int) -> tuple[Any, Callable[..., None]]:
    """A game of which only the tiles are there, and a function that puts the car's first wheel on some of them."""
    road = [SimpleNamespace(idx=i, road_visited=False) for i in range(n_tiles)]
    wheels = [SimpleNamespace(tiles=[]) for _ in range(4)]

    def put(*indices: int) -> None:
        for index in indices:
            road[index % n_tiles].road_visited = True
        wheels[0].tiles = [road[index % n_tiles] for index in indices]

    return SimpleNamespace(road=road, car=SimpleNamespace(wheels=wheels)), put


def lift(game: Any, offset: NDArray[np.float64]) -> None:
    """Move the car by an offset (x, y), in units, and change nothing else."""
    for body in (game.car.hull, *game.car.wheels):
        body.position = tuple(np.add(body.position, offset))


def lifted_round(
    rules: RulesConfig, misses_a_tile: bool = False, seen: list[Frame] | None = None, backwards: bool = False
) -> tuple[bool, bool, dict[str, Any]] | None:
    """How an episode ends whose car is put on one tile after the other: terminated, truncated, `info["episode"]`.

    None if it does not end. The observations are appended to `seen`.
    """
    seen = [] if seen is None else seen
    env = make_env(ViewConfig(action_repeat=1), rules)
    env.reset(seed=5)
    game: Any = env.unwrapped
    tiles = [*range(2, len(game.track), 2), *range(20)]
    for i in reversed(tiles) if backwards else tiles:
        if misses_a_tile and 100 <= i < 108:
            continue
        lift(game, np.subtract(game.track[i][2:4], game.car.hull.position))
        obs, _, terminated, truncated, info = env.step(GAS)
        seen.append(obs)
        if terminated or truncated:
            return terminated, truncated, info["episode"]
    return None


def wander(
    env: gym.Env, rng: np.random.Generator, n_steps: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64], list[int]]:
    """Drive at random: observations, rewards, and the numbers of the steps after which a new episode began."""
    seen, rewards, ends = [], [], []
    for i in range(n_steps):
        obs, reward, terminated, truncated, _ = env.step(rng.uniform([-1, 0, -1], [1, 1, -0.8]).astype(np.float32))
        if terminated or truncated:
            obs, _ = env.reset()
            ends.append(i)
        seen.append(obs)
        rewards.append(float(reward))
    return np.array(seen), np.array(rewards), ends


def along_the_road(game: Any, ahead: int = 4, speed: float = 30.0) -> Action:
    """The action of a policy at about this speed that looks so many tiles ahead, by the map instead of the picture."""
    centres = centres_of(game)
    position = np.array(game.car.hull.position)
    nearest = np.linalg.norm(centres - position, axis=1).argmin()
    way = centres[(nearest + ahead) % len(centres)] - position
    off = (np.arctan2(-way[0], way[1]) - game.car.hull.angle + np.pi) % (2 * np.pi) - np.pi
    excess = np.linalg.norm(game.car.hull.linearVelocity) - speed
    return np.array(
        [np.clip(-2.0 * off, -1, 1), -0.6 if excess < -5.0 else -1.0, -0.2 if excess > 5.0 else -1.0], np.float32
    )


def centres_of(game: Any) -> NDArray[np.float64]:
    """The road's middle, (n_tiles, 2)."""
    return np.array([place[2:4] for place in game.track])


def nearest_tile(game: Any) -> int:
    """The tile whose middle is nearest to the car."""
    return int(np.linalg.norm(centres_of(game) - np.array(game.car.hull.position), axis=1).argmin())


def state_of(game: Any) -> list[float]:
    """What tells two moments of a drive apart; the tiles visited are the last but one."""
    hull = game.car.hull
    return [*hull.position, hull.angle, *hull.linearVelocity, game.tile_visited_count, game.t]


def drive_off_the_road(env: gym.Env) -> tuple[list[list[float]], dict[str, Any]]:
    """Full gas, straight on: the states on the way to the episode's end, and its last info."""
    states: list[list[float]] = []

    def act(game: CarRacing) -> Action:
        states.append(state_of(game))
        return GAS

    *_, info = drive_to_end(env, act)
    return states, info


def turned_by(game: Any, tiles: Sequence[int]) -> float:
    """What the road's middle turns by along some tiles, in radians, to the left positive, from its places alone."""
    x, y = np.array([game.track[i % len(game.track)][2:4] for i in tiles]).T
    directions = np.unwrap(np.arctan2(np.diff(y), np.diff(x)))
    return float(directions[-1] - directions[0])
