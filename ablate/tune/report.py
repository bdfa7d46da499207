"""The report that ends a search: the best trial or the Pareto front, and the importance of each setting."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from ablate.sweeps.table import number
from ablate.system.tables import text_table
from ablate.tune.space import Search
from ablate.tune.storage import journal_path
from ablate.tune.study import METRICS, overrides_of

NO_FANOVA = "fANOVA needs scikit-learn: pip install 'ppo-ablation[tune]', and run the same command again"
ENOUGH_TRIALS = 50  # PED-ANOVA compares the best tenth of the trials with all, and this tenth should have at least five


def closing_report(study: optuna.Study) -> str:
    """The counts of outcomes, the best trial (with two objectives the Pareto front), and the importance of each setting."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    held = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    counts = Counter(trial.user_attrs.get("outcome", "failed") for trial in trials)
    parts = [f"{counts[word]} {word}" for word in ("held", "collapsed", "diverged", "failed")]
    lines = [f"{len(trials)} trials of {study.study_name}: {', '.join(parts)}"]
    if not held:
        return "\n".join([*lines, "no trial held, so there is no best one"])
    lines += [f"best: {described(trial)}" for trial in best(study)]
    return "\n".join([*lines, *importance_table(held)])


def next_steps(study: optuna.Study, search: Search, folder: Path) -> list[str]:
    """Lines that name the command of the best trial, in a study of its own, and the one that shows the search in a browser.

    A database is not named, since its URL may hold a password.
    """
    source = journal_path(folder) if search.storage is None else "STORAGE"
    lines = [f"optuna-dashboard {shlex.quote(str(source))}   shows the search (pip install optuna-dashboard)"]
    if any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        chosen = best(study)[0]
        fixed = [override for override in overrides_of(search, chosen) if override.partition("=")[0] not in ("study", "arm")]
        overrides = shlex.join([*fixed, f"study={study.study_name}_best"])
        lines.append(f"python -m ablate.run {overrides}   runs trial {chosen.number} by itself")
    return lines


def best(study: optuna.Study) -> list[FrozenTrial]:
    """The trial with the most gold, or the Pareto front from high gold to low."""
    return [study.best_trial] if len(study.directions) == 1 else sorted(study.best_trials, key=lambda trial: -trial.values[0])


def described(trial: FrozenTrial) -> str:
    """`trial 7, gold 1.83, KL 6.2, results/…/trial=7`, and on a second line its settings, as `ablate.run` takes them."""
    attrs = trial.user_attrs
    return f"trial {trial.number}, gold {number(attrs['gold'])}, KL {number(attrs['kl'], 1)}, {attrs['folder']}\n  {settings(trial)}"


def settings(trial: FrozenTrial | optuna.Trial) -> str:
    """The searched settings of a trial as `setting=value`, numbers to four digits."""
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in trial.params.items())


def importance_table(held: Sequence[FrozenTrial]) -> list[str]:
    """The lines of a table over the trials that held, with one row per setting and one column per objective and method.

    Where there is nothing to compute it from, one line that says why.
    """
    columns = importances(held)
    if not columns:
        return ["importance: at least two trials must hold, and differ in what they reach"]
    few = f"; with fewer than {ENOUGH_TRIALS} these are hints" if len(held) < ENOUGH_TRIALS else ""
    title = f"importance, as shares of 1, over the {len(held)} trials that held{few}"
    rows = [[name, *(f"{column[name]:.2f}" for column in columns.values())] for name in next(iter(columns.values()))]
    lines = [title, *(f"  {line}" for line in text_table(["", *columns], rows, align="right").splitlines())]
    return lines if fanova() else [*lines, NO_FANOVA]


def importances(held: Sequence[FrozenTrial]) -> dict[str, dict[str, float]]:
    """Title of a column (`gold PED-ANOVA`) → setting → importance as a share of 1.

    PED-ANOVA (Watanabe et al. 2304.10255) measures how the best tenth of the trials differs from all. fANOVA (Hutter et al. 2014)
    measures the share of the variance over the whole space that a setting explains alone, and needs scikit-learn. KL has columns where
    it is an objective. Trials that collapsed have no value and count in neither. The first column decides the order of the settings.
    """
    found = {}
    for index, direction in enumerate(("maximize", "minimize")[: len(held[0].values)]):
        if len({trial.values[index] for trial in held}) < 2:
            continue
        study = one_objective(held, index, direction)
        found[f"{METRICS[index]} PED-ANOVA"] = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        if evaluator := fanova():
            found[f"{METRICS[index]} fANOVA"] = get_param_importances(study, evaluator=evaluator)
    return found


def fanova() -> FanovaImportanceEvaluator | None:
    """The evaluator of fANOVA; None where scikit-learn is missing or cannot be imported."""
    if find_spec("sklearn") is None:
        return None
    try:
        return FanovaImportanceEvaluator(seed=0)
    except ImportError:
        return None


def one_objective(held: Sequence[FrozenTrial], index: int, direction: str) -> optuna.Study:
    """A study in memory with one of the objectives as its only value, which is what both evaluators take."""
    study = optuna.create_study(direction=direction)
    study.add_trials([create_trial(params=t.params, distributions=t.distributions, value=t.values[index]) for t in held])
    return study
