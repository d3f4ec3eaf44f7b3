"""The episodes of a training: where each begins, its rules, and how one in flight is brought back."""

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from car_racing.config import RulesConfig
from car_racing.episode_statistics import EpisodeRecord, game_of, tiles_visited
from car_racing.game import Frame
from car_racing.hairpins import HAIRPIN_TRACKS
from car_racing.replay import EpisodeSnapshot, Mistake
from car_racing.rules import LapProgress, Penalties, is_hopeless
from car_racing.starts import TILES_TO_RECOVER, EpisodeStart, StartKind, find_placement, put_car
from car_racing.track import track_of_seed
from car_racing.view import AgentView

# Every training track's seed is drawn from here, and every evaluation track's seed lies below it. So no training run,
# whatever its own seed, can ever meet a track that it will be scored on.
TRAINING_TRACK_SEEDS = range(1_000_000, 2**31)

# How many frames before a mistake a retry begins: early enough to avoid the mistake, and late enough to be about it.
FRAMES_BEFORE_MISTAKE = (16, 128)
# Mistakes that an environment remembers: the newest, which are those of the present policy.
MAX_MISTAKES = 8


class TrainingEpisodes(gym.Wrapper):
    """Endless training tracks, fresh ones but for the hairpins, under the rules of `RulesConfig`.

    `reset(seed=s)` seeds the sequence of episodes rather than naming a track. Each reset then draws how the next one
    begins: with the probabilities of the rules at a lap's start, lost beside the road, before a sharp bend, before a
    hairpin whose legs lie close (on one of the `HAIRPIN_TRACKS`), or before an earlier mistake (a retry). An episode
    that begins in the middle of a lap ends as a truncation `TILES_TO_RECOVER` new tiles past its place, the bend, or
    the hairpin's second leg.

    A retry plays the earlier episode again up to shortly before the mistake, so the car comes at the same place at the
    same speed. One that goes wrong is remembered by its own mistake, to be tried again. (Going back to a state and
    exploring from there: Ecoffet et al., "First return, then explore", 2021. Practising more what goes wrong: Jiang et
    al., "Prioritized Level Replay", 2021.) Where no mistake is remembered, a lap begins instead.

    With `bootstrap_lap_end`, an episode that has come round ends as a truncation, with the observation from halfway
    round as its last. To an agent with a discount the end of all rewards looks like the fault of its last steps;
    bootstrapped, it looks like more road. The view from the lap's end itself is not used: it occurs nowhere else, so
    its value is trained only on itself and drifts.

    `info["start"]` is "lap", "lost", "bend", "hairpin" or "retry", and a reset's info has "track_seed" besides.
    `info["episode"]` sums up whole laps only, in the game's own rewards. Options of `reset` have no effect.

    Args:
        env: an `AgentView` of a `FastCarRacing`, whose colours are not randomised.
        rules: the rules.
    """

    def __init__(self, env: AgentView, rules: RulesConfig) -> None:
        super().__init__(env)
        self.rules = rules
        self._view = env
        self._penalties = Penalties(rules)
        self._rng = np.random.default_rng()
        self._mistakes: deque[Mistake] = deque(maxlen=MAX_MISTAKES)
        # The episode in flight: how it began, what was done since, and what follows from that.
        self._start: EpisodeStart
        self._is_retry = False
        self._actions: list[NDArray[np.float32]] = []
        self._record = EpisodeRecord()
        self._lap: LapProgress
        self._tiles = 0
        self._idle_frames = 0
        # What was seen halfway round, and after which action.
        self._halfway_obs: Frame | None = None
        self._halfway_at: int | None = None
        # How many tiles the car has touched once the episode is over, if it does not go to the lap's end.
        self._tiles_at_end: int | None = None
        self._has_erred = False

    def set_progress(self, progress: float) -> None:
        """Say how far the training is, in [0, 1]: the penalty for missed tiles is annealed by it from 0.

        Until this is called, the penalty holds in full.

        Raises:
            ValueError: if it is outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a fraction in [0, 1], not {progress}")
        self._penalties.progress = progress

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # noqa: ARG002, Gymnasium's interface
    ) -> tuple[Frame, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            self._mistakes.clear()
        kind = self._draw_kind()
        return self._begin_retry() if kind == "retry" else self._begin(kind)

    def step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        idle_frames = self._idle_frames
        obs, reward, terminated, truncated, info, n_missed = self._step(action)
        is_mistake = n_missed > 0 or (terminated and not info.get("lap_finished", False))
        if is_mistake and not self._has_erred:
            self._has_erred = True
            # The mistake began where the last new tile was touched.
            self._remember(frames_ago=idle_frames + info["frames"])
        if (terminated or truncated) and self._kind == "lap":
            self._record.summarize(game_of(self), info)
        return obs, reward, terminated, truncated, info

    def capture_episode(self) -> dict[str, Any]:
        """The episode in flight, and all that the next ones depend on, as plain values."""
        return {
            "episode": self._snapshot(len(self._actions)).as_plain(),
            "is_retry": self._is_retry,
            "tiles_at_end": self._tiles_at_end,
            "has_erred": self._has_erred,
            "mistakes": [mistake.as_plain() for mistake in self._mistakes],
            "rng": self._rng.bit_generator.state,
        }

    def restore_episode(self, state: dict[str, Any]) -> Frame:
        """Play a captured episode again, up to where it was, and return its latest observation.

        Of a state that an older version captured (it has "present" and "next_tracks"), only the random generator is
        taken over: a new episode begins.

        Raises:
            KeyError, TypeError, ValueError: if the state is no such episode.
        """
        try:
            if "present" in state:
                self._rng, self._mistakes = _generator_in(state["next_tracks"]), deque(maxlen=MAX_MISTAKES)
                return self.reset()[0]
            return self._restore(state)
        except OverflowError as error:
            raise ValueError(f"a number is too large: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        # It holds on to Box2D's objects. The copy's game must be reset first, which makes a new one.
        return {name: value for name, value in self.__dict__.items() if name != "_lap"}

    def _restore(self, state: dict[str, Any]) -> Frame:
        rng = _generator_in(state["rng"])
        mistakes = [Mistake.from_plain(mistake) for mistake in state["mistakes"]]
        is_retry, has_erred = bool(state["is_retry"]), bool(state["has_erred"])
        tiles_at_end = None if state["tiles_at_end"] is None else int(state["tiles_at_end"])
        obs = self._play(EpisodeSnapshot.from_plain(state["episode"]))
        self._rng, self._mistakes = rng, deque(mistakes, MAX_MISTAKES)
        self._is_retry, self._has_erred, self._tiles_at_end = is_retry, has_erred, tiles_at_end
        return obs

    @property
    def _kind(self) -> str:
        return "retry" if self._is_retry else self._start.kind

    def _draw_kind(self) -> Any:
        """Where the next episode begins: one draw from one distribution."""
        rules = self.rules
        drawn = self._rng.random()
        for kind, probability in (
            ("lost", rules.lost_start_prob),
            ("bend", rules.bend_start_prob),
            ("hairpin", rules.hairpin_start_prob),
            ("retry", rules.retry_start_prob if self._mistakes else 0.0),
        ):
            if drawn < probability:
                return kind
            drawn -= probability
        return "lap"

    def _begin(self, kind: StartKind) -> tuple[Frame, dict[str, Any]]:
        """A track with a start of this kind on it."""
        while True:
            start = EpisodeStart(
                kind,
                track_seed=self._draw_track(kind),
                is_mirrored=bool(self._rng.random() < self.rules.mirror_prob),
                place_seed=int(self._rng.integers(2**32)),
            )
            obs = self._begin_at(start)
            if obs is not None:
                return obs, self._reset_info()

    def _draw_track(self, kind: StartKind) -> int:
        """The seed of a fresh track; for a hairpin, of one from the list, since few tracks have one."""
        if kind == "hairpin":
            return HAIRPIN_TRACKS[int(self._rng.integers(len(HAIRPIN_TRACKS)))]
        return int(self._rng.integers(TRAINING_TRACK_SEEDS.start, TRAINING_TRACK_SEEDS.stop))

    def _begin_retry(self) -> tuple[Frame, dict[str, Any]]:
        """The way to a remembered mistake, played again up to shortly before it."""
        which = int(self._rng.integers(len(self._mistakes)))
        mistake = self._mistakes[which]
        del self._mistakes[which]
        obs = self._play(mistake.before)
        self._is_retry = True
        self._tiles_at_end = mistake.tiles + TILES_TO_RECOVER
        return obs, self._reset_info()

    def _begin_at(self, start: EpisodeStart) -> Frame | None:
        """Begin an episode, and return what is seen first; None where its track has no place for such a start."""
        place = None
        if start.kind != "lap":
            # Looked for before the track is laid out, which takes several times as long.
            track = track_of_seed(start.track_seed, start.is_mirrored)
            place = find_placement(start.kind, track, np.random.default_rng(start.place_seed))
            if place is None:
                return None
        obs, _ = self.env.reset(seed=start.track_seed, options={"mirrored": start.is_mirrored})
        game, tile, tiles_at_end = game_of(self), 0, None
        if place is not None:
            put_car(game, place)
            obs = self._view.refresh_observation()
            tile, tiles_at_end = place.tile, tiles_visited(self) + place.tiles_to_go
        self._start, self._is_retry, self._actions = start, False, []
        self._record, self._lap = EpisodeRecord(), LapProgress(game, tile)
        self._tiles, self._tiles_at_end, self._idle_frames = tiles_visited(self), tiles_at_end, 0
        self._halfway_obs, self._halfway_at, self._has_erred = None, None, False
        return obs

    def _reset_info(self) -> dict[str, Any]:
        return {"track_seed": self._start.track_seed, "start": self._kind}

    def _step(self, action: NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any], int]:
        """One step under the rules, without a look at mistakes; the last value is how many tiles were missed in it."""
        self._actions.append(np.array(action, dtype=np.float32))
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._record.add(float(reward), info["frames"])
        tiles = tiles_visited(self)
        self._idle_frames = 0 if tiles > self._tiles else self._idle_frames + info["frames"]
        self._tiles = tiles
        n_missed = self._lap.count_missed()
        reward = float(reward) - self._penalties.of_step(self._lap, n_missed)
        if self._halfway_obs is None and self._lap.is_halfway:
            self._halfway_obs, self._halfway_at = obs, len(self._actions) - 1
        if self.rules.bootstrap_lap_end and self._has_come_round(terminated, info):
            # A car that goes round the wrong way is never halfway.
            obs = obs if self._halfway_obs is None else self._halfway_obs
            terminated, truncated = False, True
        elif is_hopeless(self.rules, self._lap, self._idle_frames):
            terminated = True
        elif self._tiles_at_end is not None and tiles >= self._tiles_at_end and not terminated:
            truncated = True
        info["start"] = self._kind
        return obs, reward, terminated, truncated, info, n_missed

    def _has_come_round(self, terminated: bool, info: dict[str, Any]) -> bool:
        # Besides a finished lap, leaving the field terminates, on any road.
        return bool(info.get("lap_finished", False)) if terminated else self._lap.is_round

    def _remember(self, frames_ago: int) -> None:
        """Keep the way to a mistake that was made this many frames ago, if its episode began at a lap's start."""
        if not self.rules.retry_start_prob or self._start.kind != "lap":
            return
        frames_back = frames_ago + int(self._rng.integers(*FRAMES_BEFORE_MISTAKE, endpoint=True))
        n_actions = max(len(self._actions) - frames_back // self._view.config.action_repeat, 0)
        self._mistakes.append(Mistake(self._snapshot(n_actions), self._tiles))

    def _snapshot(self, n_actions: int) -> EpisodeSnapshot:
        actions = np.array(self._actions[:n_actions], dtype=np.float32).reshape(-1, 3)
        observed = () if self._halfway_at is None or self._halfway_at >= n_actions else (self._halfway_at,)
        return EpisodeSnapshot(self._start, actions, observed)

    def _play(self, snapshot: EpisodeSnapshot) -> Frame:
        """Play an episode up to a moment of it, and return its observation.

        Raises:
            ValueError: if there is no such moment.
        """
        obs = self._begin_at(snapshot.start)
        if obs is None:
            raise ValueError("the track has no place for such a start")
        drawn = snapshot.drawn(self._view.config.frame_stack)
        try:
            for i, action in enumerate(snapshot.actions):
                self._view.draws = i in drawn
                obs, _, terminated, truncated, _, _ = self._step(action)
                if terminated or truncated:
                    raise ValueError("the episode ends before its last action")
        finally:
            self._view.draws = True
        if self._halfway_at is not None and self._halfway_at not in drawn:
            raise ValueError("the view from halfway round is needed, and the snapshot does not say so")
        return obs


def _generator_in(state: dict[str, Any]) -> np.random.Generator:
    """A random generator in a state that another one had."""
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    return rng
