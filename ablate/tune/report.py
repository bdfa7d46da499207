"""What a tune prints at its end: the best trial, or the best compromises, and which settings mattered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablate.sweeps.table import number
from ablate.system.tables import text_table

NO_FANOVA = "fANOVA needs scikit-learn: pip install scikit-learn, and run the same command again"
ENOUGH = 50  # trials; PED-ANOVA compares the best tenth with all, and wants five in it
MEASURES = ("gold", "KL")


def closing_report(study: optuna.Study) -> str:
    """Counts, the best trial (of several objectives: all that no other beats in both), and the importance of each setting."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    held = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    counts = Counter(trial.user_attrs.get("outcome", "failed") for trial in trials)
    parts = [f"{counts[word]} {word}" for word in ("held", "collapsed", "diverged", "failed")]
    lines = [f"{len(trials)} trials of {study.study_name}: {', '.join(parts)}"]
    if not held:
        return "\n".join([*lines, "no trial held, so there is no best one"])
    lines += [f"best: {described(trial)}" for trial in best(study)]
    return "\n".join([*lines, *importance_table(held)])


def best(study: optuna.Study) -> list[FrozenTrial]:
    """The trial with the most gold, or the Pareto front from high gold to low."""
    return [study.best_trial] if len(study.directions) == 1 else sorted(study.best_trials, key=lambda trial: -trial.values[0])


def described(trial: FrozenTrial) -> str:
    """`trial 7, gold 1.83, KL 6.2, results/…/trial=7`, then its settings on a line as one can give them to `ablate.run`."""
    attrs = trial.user_attrs
    return f"trial {trial.number}, gold {number(attrs['gold'])}, KL {number(attrs['kl'], 1)}, {attrs['folder']}\n  {settings(trial)}"


def settings(trial: FrozenTrial | optuna.Trial) -> str:
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.params.items())


def importance_table(held: Sequence[FrozenTrial]) -> list[str]:
    """A row a setting, a column an objective and method, over the trials that held; or the sentence that says why there is none."""
    columns = importances(held)
    if not columns:
        return ["importance: at least two trials must hold, and differ in what they reach"]
    few = f"; with fewer than {ENOUGH} these are hints" if len(held) < ENOUGH else ""
    title = f"importance, as shares of 1, over the {len(held)} trials that held{few}"
    rows = [[name, *(f"{column[name]:.2f}" for column in columns.values())] for name in next(iter(columns.values()))]
    lines = [title, *(f"  {line}" for line in text_table(["", *columns], rows, align="right").splitlines())]
    return lines if fanova() else [*lines, NO_FANOVA]


def importances(held: Sequence[FrozenTrial]) -> dict[str, dict[str, float]]:
    """`gold PED-ANOVA` → setting → share, and so on for fANOVA (with scikit-learn) and KL (where it is an objective).

    PED-ANOVA (Watanabe et al. 2304.10255): what sets the best tenth of trials apart from all. fANOVA (Hutter et al. 2014): the
    share of the variance over the whole space that a setting explains alone. Trials that collapsed have no value and count in
    neither. The first column decides the order.
    """
    found = {}
    for index, direction in enumerate(("maximize", "minimize")[: len(held[0].values)]):
        if len({trial.values[index] for trial in held}) < 2:
            continue
        study = one_objective(held, index, direction)
        found[f"{MEASURES[index]} PED-ANOVA"] = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        if evaluator := fanova():
            found[f"{MEASURES[index]} fANOVA"] = get_param_importances(study, evaluator=evaluator)
    return found


def fanova() -> FanovaImportanceEvaluator | None:
    """None without scikit-learn, or with half of it."""
    if find_spec("sklearn") is None:
        return None
    try:
        return FanovaImportanceEvaluator(seed=0)
    except ImportError:
        return None


def one_objective(held: Sequence[FrozenTrial], index: int, direction: str) -> optuna.Study:
    """A study in memory whose value is one objective: both evaluators understand that."""
    study = optuna.create_study(direction=direction)
    study.add_trials([create_trial(params=t.params, distributions=t.distributions, value=t.values[index]) for t in held])
    return study
