"""From a training script's command line to a checked `Job`, before anything is created or trained."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

import checkpoint
import recipe as recipes
from checkpoint import Checkpoint, CheckpointError
from paths import check_writable_directory, is_server, path_from
from process import default_run_name, describe_run, from_here, memory_limit, quoted
from recipe import Recipe
from run_history import evaluations_of
from run_settings import RECIPE_OPTIONS, RunOptions
from settings import (
    MAX_NUMBER,
    SettingError,
    explicit_flags,
    flag_of,
    parser_of,
    resumed,
    saved_settings,
)


@dataclass(frozen=True)
class AgentSpec:
    """What a training script must say of its agent before anything runs.

    Attributes:
        name: the agent's name in checkpoints.
        config_class: the dataclass of its settings; derives from `GameConfig`, has `seed` and `start_from`.
        total: the setting that says how many steps to train for.
        whole_steps: the steps that a training with these settings takes: its total, rounded up to whole updates.
        iteration_steps: the steps of an iteration, between which nothing is evaluated.
        label: what the names of its runs begin with, by its settings.
        size: the settings that decide how long a step takes, in a few words.
        script: the script's file.
        needs: what a checkpoint's state must hold for a training to go on with it.
        network_settings: the settings that decide the networks and what they see; alike in all stages.
        min_memory: the bytes that a training with these settings takes at least.
        memory_mend: what to do where that is too much.
    """

    name: str
    config_class: type
    total: str
    whole_steps: Callable[[Any], int]
    iteration_steps: Callable[[Any], int]
    label: Callable[[Any], str]
    size: Callable[[Any], str]
    script: str
    needs: tuple[str, ...]
    network_settings: tuple[str, ...]
    min_memory: Callable[[Any], int]
    memory_mend: str


@dataclass(frozen=True)
class Stage:
    """A part of a training with settings of its own. Most trainings have one.

    Attributes:
        index: its place among the stages.
        config: its settings.
        first_step: the step of the whole training at which it begins.
        steps: the steps that it was asked to take.
        end: the step at which it ends, after its last whole update.
    """

    index: int
    config: Any
    first_step: int
    steps: int
    end: int

    @property
    def is_from_scratch(self) -> bool:
        """Whether it begins with untrained networks."""
        return self.index == 0 and self.config.start_from is None

    @property
    def seed(self) -> int:
        """Its seed: the setting's own in the first stage, and one derived from it in each later stage."""
        seed: int = self.config.seed
        return seed if self.index == 0 else int(np.random.SeedSequence([seed, self.index]).generate_state(1)[0])

    def progress(self, step: int) -> float:
        """How much of the stage is done at a step of the whole training, in [0, 1]."""
        return min(max((step - self.first_step) / self.steps, 0.0), 1.0)

    def rules_progress(self, step: int) -> float:
        """What the environments are told of the progress (`TrainingEpisodes.set_progress`).

        Trained networks meet the full penalty from the start. Untrained ones would learn from it not to drive at all.
        """
        return self.progress(step) if self.is_from_scratch else 1.0


@dataclass(frozen=True)
class Job:
    """A training whose every input has been checked, and nothing of which has been created yet.

    Attributes:
        spec: the agent.
        stages: what is trained, in order.
        recipe: where the settings came from, if from a recipe.
        options: the run's options.
        run_name: the run's name.
        directory: where its checkpoints go.
        resumed: the checkpoint to go on from.
        provenance: versions, commit, command and machine.
    """

    spec: AgentSpec
    stages: tuple[Stage, ...]
    recipe: Recipe | None
    options: RunOptions
    run_name: str
    directory: Path
    resumed: Checkpoint | None
    provenance: dict[str, Any]

    def evaluations_after(self, step: int) -> int:
        """How many evaluations come after a step: one for each `--eval-freq` or iteration, and one at the end."""
        every = max(self.options.eval_freq, self.spec.iteration_steps(self.stages[-1].config))
        return 0 if step >= self.total_steps else -(-self.total_steps // every) - step // every

    @property
    def total_steps(self) -> int:
        """The step at which the training ends."""
        return self.stages[-1].end

    @property
    def first_stage(self) -> Stage:
        """The stage to begin or to go on with."""
        return self.stages[self.resumed_meta.get("stage", 0)]

    @property
    def resumed_meta(self) -> dict[str, Any]:
        """What the resumed checkpoint says of itself; empty for a new run."""
        return {} if self.resumed is None else self.resumed.meta

    def frames_at(self, step: int) -> int:
        """Frames of the game up to a step."""
        return sum(
            (min(step, stage.end) - stage.first_step) * stage.config.action_repeat
            for stage in self.stages
            if step > stage.first_step
        )


def prepare(spec: AgentSpec, description: str, argv: list[str]) -> Job:
    """Read and check the command line.

    Raises:
        SettingError, CheckpointError: for the first thing in it that cannot work.
    """
    namespace = parser_of(description, (spec.config_class, RunOptions)).parse_args(argv)
    overrides, explicit = explicit_flags(spec.config_class, namespace), explicit_flags(RunOptions, namespace)
    return _resumed_job(spec, overrides, explicit) if "resume" in explicit else _new_job(spec, overrides, explicit)


def _new_job(spec: AgentSpec, overrides: dict[str, Any], explicit: dict[str, Any]) -> Job:
    recipe = recipes.read(explicit["recipe"]) if "recipe" in explicit else None
    if recipe is None:
        options = RunOptions(**explicit)
        configs = [spec.config_class(**overrides)]
    else:
        _check_recipe(spec, recipe)
        options = RunOptions(**{**_options_of(recipe), **explicit})
        configs = stage_configs(spec, recipe, overrides)
    stages = _stages(spec, configs)
    run_name = options.run_name or default_run_name(spec.label(configs[0]), configs[0].seed)
    return _job(spec, stages, recipe, options, run_name, None)


def _check_recipe(spec: AgentSpec, recipe: Recipe) -> None:
    """Check a recipe by itself, so that a mistake in it is not taken for one of the command line.

    Raises:
        SettingError: if it is another agent's, names what is no setting, or gives a setting a wrong value.
    """
    known = [field.name for field in dataclasses.fields(spec.config_class)]
    recipes.check_for(recipe, spec.name, spec.script, [*known, *RECIPE_OPTIONS], spec.total)
    for stage in recipe.stages:
        fixed = [key for key in ("start_from", "seed", *RECIPE_OPTIONS) if key in stage]
        if fixed:
            raise SettingError(f"--recipe {recipe.name}: {fixed[0]} is the whole run's; move it above the stages")
    try:
        RunOptions(**_options_of(recipe))
        stage_configs(spec, recipe, {})
    except SettingError as error:
        raise SettingError(f"--recipe {recipe.name}: {error}") from None


def _options_of(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.settings.items() if key in RECIPE_OPTIONS}


def stage_configs(spec: AgentSpec, recipe: Recipe, overrides: dict[str, Any]) -> list[Any]:
    """The settings of each stage of a recipe, with what the command line overrides in all of them.

    Where the command line says how many steps to train for, the stages keep their proportions.

    Raises:
        SettingError: if settings are out of their range or do not go together.
    """
    settings = {key: value for key, value in recipe.settings.items() if key not in RECIPE_OPTIONS}
    if not recipe.stages:
        return [spec.config_class(**{**_as_fields(settings), **overrides})]
    sum_of_steps = sum(stage[recipes.STEPS] for stage in recipe.stages)
    total = overrides.get(spec.total, sum_of_steps)
    configs = []
    for stage in recipe.stages:
        changes = {key: value for key, value in stage.items() if key != recipes.STEPS}
        steps = max(round(Fraction(stage[recipes.STEPS] * total, sum_of_steps)), 1)
        configs.append(spec.config_class(**{**_as_fields(settings | changes), **overrides, spec.total: steps}))
    for name in spec.network_settings:
        values = [getattr(config, name) for config in configs]
        if len(set(values)) > 1:
            raise SettingError(
                f"{name} is {' and '.join(map(str, dict.fromkeys(values)))} in its stages, which share their networks; "
                "move it above the stages"
            )
    return configs


def _as_fields(settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values as fields have them: TOML has arrays where they have tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def _stages(spec: AgentSpec, configs: list[Any]) -> tuple[Stage, ...]:
    def each() -> Iterator[Stage]:
        first_step = 0
        for index, config in enumerate(configs):
            stage = Stage(index, config, first_step, getattr(config, spec.total), first_step + spec.whole_steps(config))
            first_step = stage.end
            yield stage

    return tuple(each())


def _job(
    spec: AgentSpec,
    stages: tuple[Stage, ...],
    recipe: Recipe | None,
    options: RunOptions,
    run_name: str,
    resumed_checkpoint: Checkpoint | None,
) -> Job:
    _check_memory(spec, stages, resolve_device(options.device))
    directory = choose_checkpoint_dir(options, run_name)
    if not is_server(options.aim_repo):
        repo = path_from(options.aim_repo, "--aim-repo")
        options = replace(options, aim_repo=str(repo))
        if options.aim:
            check_writable_directory(repo, "--aim-repo")
    return Job(spec, stages, recipe, options, run_name, directory, resumed_checkpoint, describe_run())


def _check_memory(spec: AgentSpec, stages: tuple[Stage, ...], device: torch.device) -> None:
    """Check that no stage needs more memory than there is; where it merely gets tight, it may still run out later.

    Raises:
        SettingError: if one does.
    """
    available = memory_limit()
    if device.type == "cuda":
        available += torch.cuda.get_device_properties(device).total_memory
    needed = max(spec.min_memory(stage.config) for stage in stages)
    if needed > available:
        raise SettingError(
            f"these settings need at least {needed / 1e9:,.1f} GB of memory, where {available / 1e9:,.1f} GB are; "
            f"{spec.memory_mend}"
        )


def _resumed_job(spec: AgentSpec, overrides: dict[str, Any], explicit: dict[str, Any]) -> Job:
    if "recipe" in explicit:
        raise SettingError("--resume goes on with the run's own settings; leave out --recipe")
    given = explicit["resume"]
    loaded = checkpoint.load(path_from(given, "--resume"))
    _check_resumable(spec, loaded, given)
    meta = loaded.meta
    saved_configs = meta.get("stages", [meta["config"]])
    if spec.total in overrides and len(saved_configs) > 1:
        raise SettingError(f"--resume {given} has stages, whose steps are set; leave out {flag_of(spec.total)}")
    stages = _stages(spec, [resumed(spec.config_class, saved, overrides) for saved in saved_configs])
    # A stop may have called off the last evaluation: then that is what is left to do.
    if meta["steps"] >= stages[-1].end and meta["evaluated_at"] == meta["steps"]:
        raise SettingError(
            f"--resume {given} has done its {meta['steps']:,} steps; give a larger {flag_of(spec.total)}"
        )
    intervals = {key: value for key, value in meta.get("intervals", {}).items() if key in RECIPE_OPTIONS}
    options = RunOptions(**{**intervals, "eval_tracks": meta["eval_tracks"], **explicit})
    if options.eval_tracks != meta["eval_tracks"]:
        raise SettingError(
            f"--resume goes on with the checkpoint's settings; leave out what contradicts them: --eval-tracks "
            f"(there: {meta['eval_tracks']}, here: {options.eval_tracks})"
        )
    recipe = None if meta.get("recipe") is None else Recipe.from_plain(meta["recipe"])
    return _job(spec, stages, recipe, options, options.run_name or meta["run_name"], loaded)


def _check_resumable(spec: AgentSpec, loaded: Checkpoint, given: str) -> None:
    """Check that a checkpoint holds a whole training of this agent.

    Raises:
        SettingError: if it is another agent's, or a policy alone.
        CheckpointError: if it does not say of itself what every one of ours says.
    """
    agent = loaded.meta.get("agent")
    if agent != spec.name:
        raise SettingError(f"--resume {given} holds a {agent!r} agent, not a {spec.name} one")
    missing = [key for key in spec.needs if key not in loaded.state]
    if missing:
        raise SettingError(
            f"--resume {given} holds a policy, not a whole training (no {', no '.join(missing)}); "
            f"name the run's directory or one of its steps"
        )
    if not _is_whole(loaded.meta):
        raise CheckpointError(f"{loaded.path} is no whole {spec.name} checkpoint (its manifest lacks something)")
    try:
        for saved in loaded.meta.get("stages", [loaded.meta["config"]]):
            saved_settings(spec.config_class, saved)
    except SettingError as error:
        raise CheckpointError(f"{loaded.path} cannot be resumed: {error}") from None


def _is_whole(meta: dict[str, Any]) -> bool:
    counts = [meta.get(key) for key in ("steps", "episodes", "evaluated_at", "eval_tracks")]
    stages, recipe = meta.get("stages", [meta.get("config")]), meta.get("recipe")
    return (
        all(type(count) is int and count >= 0 for count in counts)
        and isinstance(meta.get("run_name"), str)
        and isinstance(meta.get("config"), dict)
        and isinstance(meta.get("aim_run"), str | None)
        and isinstance(meta.get("intervals", {}), dict)
        and (meta.get("best") is None or best_of(meta["best"]) is not None)
        and (isinstance(stages, list) and bool(stages) and all(isinstance(stage, dict) for stage in stages))
        and _is_history(meta)
        and (type(meta.get("stage", 0)) is int and 0 <= meta.get("stage", 0) < len(stages))
        and (recipe is None or _is_recipe(recipe))
    )


def _is_recipe(plain: Any) -> bool:
    try:
        Recipe.from_plain(plain)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _is_history(meta: dict[str, Any]) -> bool:
    minutes = meta.get("minutes")
    try:
        evaluations_of(meta)
    except ValueError:
        return False
    return minutes is None or (isinstance(minutes, float) and 0.0 <= minutes <= MAX_NUMBER)


@dataclass(frozen=True)
class BestScore:
    """The best evaluation of a run: its mean return and the step it was made at."""

    mean: float
    step: int


def best_of(plain: Any) -> BestScore | None:
    """A best score from a manifest, None where it is none."""
    if not isinstance(plain, dict):
        return None
    mean, step = plain.get("mean"), plain.get("step")
    return BestScore(mean, step) if isinstance(mean, float) and type(step) is int else None


def resolve_device(name: str) -> torch.device:
    """The torch device that `--device` means; a CUDA device has its number, as `torch.cuda.set_device` asks.

    Raises:
        SettingError: for a name that torch does not know or a device that this machine does not have.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise SettingError(f"--device {name} is no device; give auto, cpu, cuda or cuda:<number>") from None
    if device.type not in ("cpu", "cuda"):
        raise SettingError(f"--device {name} is not supported; give auto, cpu, cuda or cuda:<number>")
    if device.type == "cpu":
        return device
    index = device.index or 0
    if not 0 <= index < torch.cuda.device_count():
        raise SettingError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices that torch can use; "
            f"give --device cpu or auto"
        )
    return torch.device("cuda", index)


def choose_checkpoint_dir(options: RunOptions, run_name: str) -> Path:
    """Where this run's checkpoints go.

    A resumed run goes on where it was, unless `--checkpoint-dir` says otherwise.

    Raises:
        SettingError: if it cannot be written to, or holds another run already.
        CheckpointError: if it holds checkpoints of another format version, which this run would drop.
    """
    resumed_run = None
    if options.resume is not None:
        resumed_run = checkpoint.find_run(path_from(options.resume, "--resume").resolve())
    if options.checkpoint_dir is not None:
        directory = path_from(options.checkpoint_dir, "--checkpoint-dir")
    elif resumed_run is not None:
        directory = from_here(resumed_run)
    else:
        directory = Path("checkpoints") / run_name
    check_writable_directory(directory, "--checkpoint-dir")
    holds_any = checkpoint.holds_run(directory) or (directory / checkpoint.BEST / checkpoint.MANIFEST).exists()
    if holds_any and directory.resolve() != resumed_run:
        raise SettingError(
            f"--checkpoint-dir {directory} holds a run already; go on with it (--resume {quoted(directory)}) or name "
            "another"
        )
    checkpoint.check_format_versions(directory)
    return directory
