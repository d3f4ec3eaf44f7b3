"""Optuna chooses the settings of each trial from what the ones before it came to, and ends those that lag behind.

Its study is made anew from the trials' directories whenever a search is begun or resumed: they are all that a search
has learnt, and nothing else can be lost.
"""

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from progress_file import Progress, read_progress
from settings import SettingError
from sweep_plan import PLAN_FILE, Plan, Trial, add_trial, trial_of
from sweep_space import Search
from sweep_trial import Result, is_finished, is_over

# So many trials come to their end before others are measured by them.
N_STARTUP = 3
# No trial is ended in this part of its training: the first validations say little about the last ones.
WARM_UP = 0.25


class OptunaSearch:
    """A `TrialSource` of the trials that Optuna asks for.

    It maximises the best validation return. After each evaluation past the first quarter of a training, a trial whose
    best validation so far is below the median of the other trials at the same evaluation is ended (`MedianPruner`).

    Args:
        plan: the sweep; it has a search.
        directory: the sweep's directory.

    Raises:
        SettingError: if the plan has trials that are not of its space.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        assert plan.search is not None
        self._search = plan.search
        self._directory = directory
        self._space = distributions_of(plan.search)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # The seed counts on, or a resumed search would repeat its first draws.
        seed = (plan.search.seed + len(plan.trials)) % 2**32
        self._study = optuna.create_study(
            # Trials that still run count as bad ones, or those that run at the same time would be alike.
            sampler=TPESampler(seed=seed, n_startup_trials=N_STARTUP, constant_liar=True),
            pruner=MedianPruner(n_startup_trials=N_STARTUP),
            direction="maximize",
        )
        self._n_made = len(plan.trials)
        self._running: dict[str, optuna.trial.Trial] = {}
        self._n_reported: dict[str, int] = {}
        self._unfinished: list[Trial] = []
        for trial in plan.trials:
            self._remember(trial)

    def _remember(self, trial: Trial) -> None:
        """Tell Optuna of a trial that is over; one that is not is gone on with."""
        directory = self._directory / trial.name
        progress, is_whole = read_progress(directory), is_finished(directory)
        evaluations = () if progress is None else progress.evaluations
        if not is_over(directory) or not evaluations:
            self._unfinished.append(trial)
            return
        try:
            told = optuna.create_trial(
                state=TrialState.COMPLETE if is_whole else TrialState.PRUNED,
                value=max(one.mean_return for one in evaluations) if is_whole else None,
                params=trial.varied,
                distributions=self._space,
                intermediate_values={number: one.mean_return for number, one in enumerate(evaluations)},
            )
            self._study.add_trial(told)
        except ValueError as error:
            raise SettingError(f"--resume: {self._directory / PLAN_FILE} and its space differ ({error})") from None

    @property
    def n_waiting(self) -> int:
        return len(self._unfinished) + self._search.n_trials - self._n_made

    def next(self) -> Trial | None:
        """The next trial: one that was left unfinished, or a new one."""
        if self._unfinished:
            trial = self._unfinished.pop(0)
            self._study.enqueue_trial(trial.varied)
            self._running[trial.name] = self._study.ask(self._space)
            return trial
        if self._n_made >= self._search.n_trials:
            return None
        asked = self._study.ask(self._space)
        self._n_made += 1
        trial = trial_of(asked.params, f"t{self._n_made:03}", self._search.seed)
        self._running[trial.name] = asked
        add_trial(self._directory, trial)
        return trial

    def is_hopeless(self, trial: Trial, progress: Progress) -> bool:
        """Whether Optuna ends a trial early. One that has taken its last step is only being saved."""
        self._report(trial, progress)
        validated_at = progress.evaluations[-1].step if progress.evaluations else 0
        if validated_at < WARM_UP * progress.total_steps or progress.steps >= progress.total_steps:
            return False
        return self._running[trial.name].should_prune()

    def ended(self, trial: Trial, result: Result, progress: Progress | None) -> None:
        """Tell Optuna what a trial came to."""
        if progress is not None:
            self._report(trial, progress)
        asked = self._running.pop(trial.name)
        if result.state == "finished" and progress is not None and progress.evaluations:
            self._study.tell(asked, max(one.mean_return for one in progress.evaluations))
        elif result.state in ("pruned", "failed", "finished"):
            self._study.tell(asked, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)

    def _report(self, trial: Trial, progress: Progress) -> None:
        """Tell Optuna the validations that are new. They are numbered: steps may differ by a rollout."""
        for number in range(self._n_reported.get(trial.name, 0), len(progress.evaluations)):
            self._running[trial.name].report(progress.evaluations[number].mean_return, number)
        self._n_reported[trial.name] = len(progress.evaluations)


def distributions_of(search: Search) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms. A range between whole numbers holds whole numbers."""
    return {name: _distribution_of(one) for name, one in search.space.items()}


def _distribution_of(one: dict[str, Any]) -> BaseDistribution:
    if "choices" in one:
        return CategoricalDistribution(one["choices"])
    low, high, is_log, step = one["low"], one["high"], one.get("log", False), one.get("step")
    if all(type(number) is int for number in (low, high, 1 if step is None else step)):
        return IntDistribution(low, high, log=is_log, step=1 if step is None else step)
    return FloatDistribution(low, high, log=is_log, step=step)
