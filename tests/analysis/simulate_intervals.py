"""Tables of docs/explanation/statistics.md: how often intervals named 95 % cover, and the power at the sizes that `power` names.

    OMP_NUM_THREADS=1 python tests/analysis/simulate_intervals.py means rates survival gao roc needed [--studies 2000]

Rates with one run per unit are exact sums over all outcomes; all else is simulated with fixed seeds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from scipy import stats

from analysis.estimate.early_warning import _jackknife
from analysis.estimate.overoptimisation import fit_arms, gao, peak
from analysis.estimate.power import (
    reward_models_for_mean,
    reward_models_for_rates,
    seeds_for_bound,
    seeds_for_equivalence,
    seeds_for_mean,
    seeds_for_rates,
    seeds_for_same_rates,
)
from analysis.estimate.stats import clopper_pearson, clustered_rate, mean_interval, newcombe, paired_effect, rate_effect, sign_flip_p
from analysis.estimate.survival import kaplan_meier, median_time
from analysis.estimate.units import MIN_FOR_RATES, MIN_SEEDS

UNITS = (3, 5, 8, 16)


def table(what: str, columns: tuple, rows: Iterator[tuple[str, list[float]]]) -> None:
    print(f"| {what} | " + " | ".join(map(str, columns)) + " |\n|---|" + "---|" * len(columns), flush=True)
    for name, values in rows:
        print(f"| {name} | " + " | ".join("–" if np.isnan(value) else f"{100 * value:.1f}" for value in values) + " |", flush=True)
    print(flush=True)


def covers(interval: tuple[float, ...], truth: float) -> bool:
    """Whether a (…, low, high) holds the truth."""
    return interval[-2] <= truth <= interval[-1]


def normal(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.standard_normal(n)


def one_in_five(generator: np.random.Generator, n: int) -> np.ndarray:
    """Mean 0: a run of five has collapsed to 10 below the others."""
    return 0.4 * generator.standard_normal(n) + 2 - 10 * (generator.random(n) < 0.2)


def percentile_bootstrap(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    """The wrong method, for comparison: 2.5 and 97.5 % of the means of 1000 resamples."""
    means = values[generator.integers(len(values), size=(1000, len(values)))].mean(axis=1)
    return tuple(np.quantile(means, [0.025, 0.975]))


def means(studies: int) -> None:
    def rows() -> Iterator[tuple[str, list[float]]]:
        for name, draw in (("normal units", normal), ("one run in five collapses", one_in_five)):
            found = {"t interval": [], "percentile bootstrap": []}
            for n in UNITS:
                generator = np.random.default_rng(n)
                samples = [draw(generator, n) for _ in range(studies)]
                found["t interval"].append(np.mean([covers(mean_interval(values), 0.0) for values in samples]))
                found["percentile bootstrap"].append(np.mean([covers(percentile_bootstrap(values, generator), 0.0) for values in samples]))
            yield from ((f"{method}, {name}", values) for method, values in found.items())
        pairs = []
        for n in UNITS:
            generator = np.random.default_rng(n)
            shared = generator.standard_normal((studies, n))
            gaps = 0.5 + (shared + 0.4 * generator.standard_normal((studies, n))) - (shared + 0.4 * generator.standard_normal((studies, n)))
            pairs.append(np.mean([covers(paired_effect(one)[1:3], 0.5) for one in gaps]))
        yield "t interval of paired differences, normal units", pairs

    table("mean, units", UNITS, rows())

    def two_kinds(n: int, within: float) -> float:
        """Share of studies in which the paired t decides though the mean is 0: units are +1 or −1 with SD `within` about them."""
        generator = np.random.default_rng(n)
        gaps = generator.choice([-1.0, 1.0], (4 * studies, n)) + within * generator.standard_normal((4 * studies, n))
        return float(np.mean([paired_effect(one).p < 0.05 for one in gaps]))

    units = (4, 5, 6, 8, 16)
    kinds = ((f"SD {within:g} about the two", [two_kinds(n, within) for n in units]) for within in (0.2, 0.5, 1.0))
    table("units of two kinds, +1 and −1, decided by the paired t", units, kinds)


def rates(studies: int) -> None:
    def exact(n: int, p: float) -> float:
        return float(sum(stats.binom.pmf(k, n, p) for k in range(n + 1) if covers(clopper_pearson(k, n), p)))

    def difference(n: int, pairs: np.ndarray) -> np.ndarray:
        """Coverage of Newcombe's interval for pairs of rates (pairs, 2)."""
        low, high = np.moveaxis([[newcombe(i / n, n, j / n, n) for j in range(n + 1)] for i in range(n + 1)], -1, 0)
        chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, pairs.T[:, None])  # (2, n + 1, pairs)
        gap = pairs[:, 0] - pairs[:, 1]
        inside = (low[..., None] <= gap + 1e-12) & (gap <= high[..., None] + 1e-12)
        return np.einsum("ip,jp,ijp->p", *chances, inside)

    def called_the_same(n: int) -> float:
        """The largest chance that rates 0.25 apart have an interval within ± 0.25."""
        low, high = np.moveaxis([[newcombe(i / n, n, j / n, n) for j in range(n + 1)] for i in range(n + 1)], -1, 0)
        rates = np.linspace(0, 0.75, 151)
        chances = [stats.binom.pmf(np.arange(n + 1)[:, None], n, values) for values in (rates + 0.25, rates)]
        return float(np.einsum("ip,jp,ij->p", *chances, (low > -0.25) & (high < 0.25)).max())

    def clustered(models: int, seeds: int, p: float, correlation: float) -> float:
        """Runs that collapse with a probability of their reward model's own, beta with intra-cluster correlation `correlation`."""
        generator = np.random.default_rng(models)
        total = (1 - correlation) / correlation if correlation else np.inf
        own = generator.beta(p * total, (1 - p) * total, size=(studies, models)) if correlation else np.full((studies, models), p)
        counts = generator.binomial(seeds, own)
        known = {key: covers(clustered_rate(np.array(key) / seeds, models * seeds), p) for key in {tuple(sorted(one)) for one in counts}}
        return float(np.mean([known[tuple(sorted(one))] for one in counts]))

    def boschloo_errs(n: int, p: float, opposite: bool) -> float:
        """Chance of p < 0.05 of two arms with the rate p: independent, or never both collapsed in one seed."""
        if not opposite:
            return sum(chance for i, j, chance in counts(n, p, p) if rate_effect(i, n, j, n).p < 0.05)
        both = [(i, j) for i in range(n + 1) for j in range(n + 1 - i) if rate_effect(i, n, j, n).p < 0.05]
        return float(sum(stats.multinomial.pmf([i, j, n - i - j], n, [p, p, 1 - 2 * p]) for i, j in both))

    ps = (0.05, 0.1, 0.3, 0.5)
    table("rate, one run per unit (exact)", ps, ((f"{n} units", [exact(n, p) for p in ps]) for n in UNITS))
    designs = itertools.product(((8, 2), (5, 4), (8, 4), (16, 2)), (0.0, 0.3, 0.9))
    nested = ((f"{m} × {s}, intra-cluster correlation {icc:g}", [clustered(m, s, p, icc) for p in ps]) for (m, s), icc in designs)
    table("rate, reward models × seeds, by true rate", ps, nested)
    pairs = ((0.1, 0.1), (0.5, 0.5), (0.3, 0.1), (0.9, 0.3), (0.9, 0.02))
    every = np.array(list(itertools.product(np.linspace(0.02, 0.98, 25), repeat=2)))
    rows = ((f"{n} runs per arm", [*difference(n, np.array(pairs)), (all_ := difference(n, every)).mean(), all_.min()]) for n in UNITS)
    table("Newcombe's difference of rates (exact)", (*pairs, "mean over all rates", "least"), rows)
    sizes = (8, 12, 13, 16, 24, 32, 48)
    table("rates 0.25 apart called the same (exact)", sizes, iter([("at most", [called_the_same(n) for n in sizes])]))
    designs = itertools.product((5, 8, 16), (False, True))
    names = {False: "independent", True: "never both in one seed"}
    rows = ((f"{n} seeds, {names[opposite]}", [boschloo_errs(n, p, opposite) for p in ps]) for n, opposite in designs)
    table("equal rates called different by Boschloo's test (exact), by rate", ps, rows)


def survival(studies: int) -> None:
    """Exponential times with mean 1 and a horizon; `censored`: a third of runs stops at a uniform time before it."""
    at = {q: -np.log(q) for q in (0.8, 0.5, 0.2)}

    def draw(n: int, censored: bool, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        times, ends = generator.exponential(size=n), np.full(n, 2.5)
        if censored:
            ends = np.where(generator.random(n) < 1 / 3, generator.uniform(0, 2.5, n), ends)
        return np.minimum(times, ends), times <= ends

    def rows() -> Iterator[tuple[str, list[float]]]:
        for censored, n in itertools.product((False, True), UNITS):
            generator, inside, claimed, median = np.random.default_rng(n), {q: [] for q in at}, {q: 0 for q in at}, []
            for _ in range(studies):
                times, events = draw(n, censored, generator)
                curve = kaplan_meier(times, events)
                for q, t in at.items():
                    known = curve[curve["time"] <= t].iloc[-1]
                    if np.isfinite(known["low"]):
                        inside[q].append(known["low"] <= q <= known["high"])
                    claimed[q] += np.isfinite(known["low"])
                median.append(covers(median_time(times, events), np.log(2)))
            yield (
                f"{n} runs{', a third censored' if censored else ''}",
                [*(float(np.mean(inside[q])) for q in at), float(np.mean(median))],
            )

    def clustered() -> Iterator[tuple[str, list[float]]]:
        """Log times with a reward model's own part: half of their variance."""
        for models, seeds in ((5, 4), (8, 2), (8, 4)):
            generator, inside, median = np.random.default_rng(models), {q: [] for q in at}, []
            groups = np.repeat(np.arange(models), seeds)
            for _ in range(studies):
                logs = 0.5 * (generator.standard_normal(models)[groups] + generator.standard_normal(models * seeds))
                times, events = np.minimum(np.exp(logs), 2.5), np.exp(logs) <= 2.5
                curve = kaplan_meier(times, events, groups)
                for q in at:
                    t = float(np.exp(np.sqrt(0.5) * stats.norm.isf(q)))
                    known = curve[curve["time"] <= t].iloc[-1]
                    if np.isfinite(known["low"]):
                        inside[q].append(known["low"] <= q <= known["high"])
                median.append(covers(median_time(times, events, groups), 1.0))
            yield f"{models} reward models × {seeds} seeds", [*(float(np.mean(inside[q])) for q in at), float(np.mean(median))]

    table("Kaplan-Meier's band where S is", (*at, "median time"), itertools.chain(rows(), clustered()))


def gao_fits(studies: int) -> None:
    """Runs with (α, β) of their own around (1.6, 0.6), measured at the same twelve distances."""
    distance = np.linspace(0, 4.5, 12)
    names = ("alpha", "beta", "peak_d", "peak_gain")
    truth = dict(zip(names, (1.6, 0.6, *peak(1.6, 0.6)), strict=True))

    def covered(n: int, level: float) -> list[float]:
        generator, found = np.random.default_rng(n), {name: [] for name in names}
        for _ in range(studies // 4):
            alpha, beta = 1.6 + 0.15 * generator.standard_normal(n), 0.6 + 0.05 * generator.standard_normal(n)
            gold = np.concatenate([gao(distance, a, b) for a, b in zip(alpha, beta, strict=True)]) + 0.15 * generator.standard_normal(
                12 * n
            )
            gold[::12] = 0.0
            curves = pd.DataFrame({"run": np.repeat([f"r{k}" for k in range(n)], 12), "arm": "a", "reward_model": "m",
                                   "seed": np.repeat(np.arange(n), 12), "update": np.tile(np.arange(12), n), "eval/gold": gold,
                                   "eval/kl_to_sft": np.tile(distance**2, n)})  # fmt: skip
            fit = fit_arms(curves, level=level).iloc[0]
            for name in names:
                found[name].append(fit[f"{name}_low"] <= truth[name] <= fit[f"{name}_high"])
        return [float(np.mean(found[name])) for name in names]

    table("Gao's fit, jackknife", names, ((f"{n} units", covered(n, 0.95)) for n in UNITS))


def scores(n: int, gap: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(score, label, unit): 10 rows before a collapse and 30 others of every unit; a unit has a level and a gap of its own."""
    unit, label = np.repeat(np.arange(n), 40), np.tile(np.arange(40) < 10, n)
    level, own = 0.5 * generator.standard_normal(n), gap + 0.5 * generator.standard_normal(n)
    return level[unit] + own[unit] * label + generator.standard_normal(40 * n), label.astype(float), unit


def roc(studies: int) -> None:
    """The truth is the expected area of n units: rows of two units are in order with Φ(gap / √2.75), those of one with Φ(gap / √2.25)."""
    gaps = {area: float(stats.norm.ppf(area) * np.sqrt(2.75)) for area in (0.5, 0.7, 0.9, 0.97, 0.99)}

    def covered(n: int, area: float) -> float:
        generator = np.random.default_rng(n)
        truth = (1 - 1 / n) * area + float(stats.norm.cdf(gaps[area] / 1.5)) / n
        return float(np.mean([covers(_jackknife(*scores(n, gaps[area], generator)), truth) for _ in range(studies // 2)]))

    table("ROC area, by true area", tuple(gaps), ((f"{n} units", [covered(n, area) for area in gaps]) for n in UNITS))


def counts(n: int, a: float, b: float) -> list[tuple[int, int, float]]:
    """(events of one arm, of the other, probability) of two arms of n runs with rates a and b, those below 1e-7 left out."""
    chances = np.outer(stats.binom.pmf(range(n + 1), n, a), stats.binom.pmf(range(n + 1), n, b))
    return [(int(i), int(j), float(chances[i, j])) for i, j in np.argwhere(chances > 1e-7)]


def needed(studies: int) -> None:
    """Power at the size that is named where the truth is known; never fewer units than anything is decided from."""
    print("| decided by | named | power there |\n|---|---|---|")

    def say(what: str, n: int | None, power: Callable[[int], float]) -> None:
        print(f"| {what} | {n} | {'–' if n is None else f'{100 * power(n):.0f} %'} |", flush=True)

    generator = np.random.default_rng(0)
    for d in (0.5, 1.0, 2.0):
        exact = d + np.array([-1.0, 1.0]) / np.sqrt(2)  # mean d, SD 1
        say(f"mean of {d:g} SD, paired t", seeds_for_mean(exact),
            lambda n, d=d: float(np.mean([paired_effect(generator.normal(d, 1, n)).p < 0.05 for _ in range(studies)])))  # fmt: skip
    for a, b in ((0.9, 0.02), (0.9, 0.3), (0.5, 0.1), (0.3, 0.1)):

        def boschloo(n: int, a: float = a, b: float = b) -> float:
            return sum(chance for i, j, chance in counts(n, a, b) if rate_effect(i, n, j, n).p < 0.05)

        def signs(n: int, a: float = a, b: float = b) -> float:
            gaps = generator.binomial(1, a, (studies // 4, n)) - generator.binomial(1, b, (studies // 4, n))
            return float(np.mean([sign_flip_p(one) < 0.05 for one in gaps]))

        n = seeds_for_rates(a, b)
        say(f"rates {a:g} and {b:g}, seeds (Boschloo)", n and max(n, MIN_SEEDS), boschloo)
        n = reward_models_for_rates(a, b)
        say(f"rates {a:g} and {b:g}, reward models of one seed (signs)", n and max(n, MIN_FOR_RATES), signs)
    for rate, bound in ((0.02, 0.25), (0.1, 0.3), (0.05, 0.5)):

        def below(n: int, rate: float = rate, bound: float = bound) -> float:
            return float(sum(stats.binom.pmf(k, n, rate) for k in range(n + 1) if clopper_pearson(k, n).high < bound))

        say(f"rate {rate:g} below {bound:g}", seeds_for_bound(rate, bound), below)
    for mean, deviation in ((0.0, 0.5), (0.4, 0.5), (0.0, 1.0)):
        exact = mean + deviation * np.array([-1.0, 1.0]) / np.sqrt(2)

        def inside(n: int, mean: float = mean, deviation: float = deviation) -> float:
            found = [paired_effect(generator.normal(mean, deviation, n), 0.9) for _ in range(studies)]
            return float(np.mean([one.low > -1 and one.high < 1 for one in found]))

        say(f"mean {mean:g}, SD {deviation:g}, the same within 1", max(seeds_for_equivalence(exact, 1.0) or 0, MIN_SEEDS), inside)
    for a, b in ((0.02, 0.02), (0.1, 0.1), (0.5, 0.5)):

        def alike(n: int, a: float = a, b: float = b) -> float:
            return sum(chance for i, j, chance in counts(n, a, b) if max(map(abs, newcombe(i / n, n, j / n, n))) < 0.25)

        say(f"rates {a:g} and {b:g}, the same within 0.25", seeds_for_same_rates(a, b, 0.25), alike)
    for between, within, seeds in ((1.0, 1.0, 1), (1.0, 1.0, 4), (0.5, 2.0, 4)):
        # a pilot with exactly these variances: two runs of each of two reward models
        spread, centre = within / np.sqrt(2), np.sqrt((between**2 + within**2 / 2) / 2)
        pilot = 1.0 + np.array([-centre - spread, -centre + spread, centre - spread, centre + spread])

        def nested(n: int, between: float = between, within: float = within, seeds: int = seeds) -> float:
            units = generator.normal(1.0, np.sqrt(between**2 + within**2 / seeds), (studies, n))
            return float(np.mean([paired_effect(one).p < 0.05 for one in units]))

        say(f"mean 1, SD {between:g} between and {within:g} within reward models, {seeds} seeds each",
            reward_models_for_mean(pilot, np.array([0, 0, 1, 1]), seeds), nested)  # fmt: skip


TABLES: dict[str, Callable[[int], None]] = {
    "means": means, "rates": rates, "survival": survival, "gao": gao_fits, "roc": roc, "needed": needed,
}  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES, nargs="+")
    parser.add_argument("--studies", type=int, default=2000)
    arguments = parser.parse_args()
    for name in arguments.table:
        TABLES[name](arguments.studies)
