"""Makes tests/fixtures/statistics.json: what SciPy, statsmodels and krippendorff say, for src/analysis/statistics.

    python3 -m venv .venv && .venv/bin/pip install scipy statsmodels krippendorff
    .venv/bin/python tests/peers/statistics_fixtures.py

For what none of them has it computes from the definition in another way than the program does: Tango's interval by
maximising the likelihood numerically, the smallest difference by a root of the formula for the sample size.
"""

import json
from pathlib import Path

import krippendorff
import numpy as np
import statsmodels.api as sm
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

OUT = Path(__file__).parent.parent / "fixtures" / "statistics.json"
Z = stats.norm.ppf(0.975)
Z_POWER = stats.norm.ppf(0.8)
rng = np.random.default_rng(20261126)


def wilson():
    counts = [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (1, 120), (119, 120), (60, 120), (5, 100_000),
              (50_000, 100_000), (99_999, 100_000), (1_234_567, 10_000_000)]
    return [dict(hits=h, count=n, interval=proportion_confint(h, n, method="wilson")) for h, n in counts]


def mcnemar_exact():
    pairs = [(0, 0), (0, 1), (1, 0), (0, 5), (0, 6), (1, 5), (7, 7), (7, 8), (3, 17), (17, 3), (15, 16), (40, 20),
             (100, 140), (0, 60), (0, 900), (480, 520), (1000, 1100), (4900, 5100), (49_000, 51_000),
             (50_000, 50_000), (20_000, 21_000), (50_000, 50_001), (3, 1020)]
    cases = []
    for b, c in pairs:
        p = 1.0 if b + c == 0 else float(mcnemar([[5, b], [c, 5]], exact=True).pvalue)
        if b + c:
            assert np.isclose(p, stats.binomtest(b, b + c).pvalue, rtol=1e-8)
        cases.append(dict(b=b, c=c, p=p))
    return cases


def tango(b, c, n):
    """The differences that the score test keeps, its nuisance parameter by numerical maximum likelihood."""

    def score(delta):
        low, high = max(0.0, -delta), (1 - delta) / 2

        def loss(q):
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = [(b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta)]
                return -sum(k * np.log(p) for k, p in terms if k)

        q = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options=dict(xatol=1e-13)).x
        return (b - c - n * delta) / np.sqrt(n * (2 * q + delta - delta**2))

    found, edge = (b - c) / n, 1 - 1e-9
    low = -1.0 if b - c == -n else optimize.brentq(lambda d: score(d) - Z, -edge, min(found, edge), xtol=1e-12)
    high = 1.0 if b - c == n else optimize.brentq(lambda d: score(d) + Z, max(found, -edge), edge, xtol=1e-12)
    return low, high


def differences():
    cases = [(40, 20, 160), (12, 2, 50), (0, 1, 44), (0, 0, 30), (5, 0, 20), (0, 5, 20), (10, 10, 100), (8, 2, 10),
             (30, 45, 1000), (900, 1100, 100_000), (10, 0, 10)]
    return [dict(gained=b, lost=c, count=n, interval=tango(b, c, n)) for b, c, n in cases]


def smallest():
    cases = []
    for psi, n in [(0.3, 100), (0.1, 120), (0.5, 1000), (0.02, 10_000), (1.0, 50), (0.003, 100_000), (0.01, 100),
                   (0.0, 500)]:
        def lacking(delta):
            share = max(psi, delta)
            return (Z * np.sqrt(share) + Z_POWER * np.sqrt(share - delta**2)) ** 2 / delta**2 - n

        cases.append(dict(discordant=psi, count=n, smallest=optimize.brentq(lacking, 1e-9, 1.0, xtol=1e-15)))
    return cases


def holm():
    families = [[0.01], [0.04, 0.03, 0.02], [0.001, 0.02, 0.02, 0.9, 0.5], [1.0, 1.0], list(rng.uniform(size=12) ** 3)]
    return [dict(p=p, adjusted=list(multipletests(p, method="holm")[1])) for p in families]


def t_tests():
    cases = []
    for values in [[0.1, 0.3], [1.0, 2.0, 4.0], [-0.02, 0.05, 0.01, 0.03, 0.04], list(rng.normal(0.1, 1, 40)),
                   list(rng.normal(0, 1, 500)), [5.0, 5.1, 5.2]]:
        test = stats.ttest_1samp(values, 0)
        interval = test.confidence_interval()
        error, degrees = stats.sem(values), len(values) - 1
        detectable = (stats.t.ppf(0.975, degrees) + stats.t.ppf(0.8, degrees)) * error
        cases.append(dict(values=values, p=float(test.pvalue), interval=[interval.low, interval.high],
                          detectable=float(detectable)))
    return cases


def welch_tests():
    """Drawn by a generator of its own, so that other cases stay as they are."""
    own = np.random.default_rng(20261130)
    cases = []
    for a, b in [([0.1, 0.3], [0.2, 0.5, 0.4]), ([1.0, 1.0], [2.0, 2.5]),
                 (list(own.normal(0, 1, 5)), list(own.normal(1, 4, 12))),
                 (list(own.normal(0.3, 0.01, 40)), list(own.normal(0.3, 0.02, 3)))]:
        test = stats.ttest_ind(b, a, equal_var=False)
        interval = test.confidence_interval()
        error = np.sqrt(stats.sem(a) ** 2 + stats.sem(b) ** 2)
        detectable = (stats.t.ppf(0.975, test.df) + stats.t.ppf(0.8, test.df)) * error
        cases.append(dict(a=a, b=b, p=float(test.pvalue), interval=[interval.low, interval.high],
                          detectable=float(detectable)))
    return cases


def sign_tests():
    cases = []
    for values in [[0.25] * 5, [0.1, -0.2, 0.3, 0.4, 0.0], [0.0, 0.0], [-1.0] * 12, [0.1, -0.1]]:
        up, down = sum(v > 0 for v in values), sum(v < 0 for v in values)
        p = stats.binomtest(up, up + down).pvalue if up + down else 1.0
        cases.append(dict(values=values, p=float(p)))
    return cases


def clustered():
    """Attempts regressed on their side, with the sandwich covariance of clusters (no correction but G / (G − 1)) and
    Student's t with G − 1 degrees of freedom."""
    own = np.random.default_rng(20261201)
    cases = []
    for hazards, most in [(5, 1), (6, 4), (9, 8), (40, 5)]:
        n_a, n_b = own.integers(1, most + 1, hazards), own.integers(1, most + 1, hazards)
        chance = own.beta(2, 3, hazards)
        a, b = own.binomial(n_a, chance), own.binomial(n_b, np.clip(chance + 0.15, 0, 1))
        a[0], b[0], b[1] = 0, n_b[0], 0
        rows = [(group, side, int(hit < sums[group]))
                for side, sums, counts in [(0, a, n_a), (1, b, n_b)]
                for group in range(hazards) for hit in range(counts[group])]
        groups, sides, hits = (np.array(column) for column in zip(*rows))
        fit = sm.OLS(hits, sm.add_constant(sides)).fit(
            cov_type="cluster", cov_kwds=dict(groups=groups, use_correction=False))
        error = fit.bse[1] * np.sqrt(hazards / (hazards - 1))
        difference, half = fit.params[1], stats.t.ppf(0.975, hazards - 1) * error
        p = 2 * stats.t.sf(abs(difference / error), hazards - 1)
        cases.append(dict(clusters=np.stack([a, n_a, b, n_b], 1).tolist(), difference=difference, p=float(p),
                          interval=[difference - half, difference + half],
                          rate=clustered_rate(groups[sides == 1], hits[sides == 1])))
    return cases


def clustered_rate(groups, hits):
    """Wilson's interval of as many observations as the sandwich covariance of clusters says that they are worth."""
    hazards, rate = len(set(groups)), hits.mean()
    if len(groups) == hazards:
        return proportion_confint(hits.sum(), hazards, method="wilson")
    fit = sm.OLS(hits, np.ones(len(hits))).fit(
        cov_type="cluster", cov_kwds=dict(groups=groups, use_correction=False))
    worth = min(rate * (1 - rate) / (fit.bse[0] ** 2 * hazards / (hazards - 1)), len(hits))
    worth *= (Z / stats.t.ppf(0.975, hazards - 1)) ** 2
    return proportion_confint(rate * worth, worth, method="wilson")


def kappas():
    tables = [[[20, 5], [10, 15]], [[45, 15], [25, 15]], [[5, 0], [0, 5]], [[0, 5], [5, 0]],
              [[30, 4, 1], [6, 20, 2], [0, 3, 34]], [[5, 5], [0, 0]], rng.integers(0, 500, (4, 4)).tolist()]
    cases = []
    for table in tables:
        found = cohens_kappa(np.array(table))
        cases.append(dict(table=table, value=found.kappa, error=found.std_kappa))
    return cases


def alphas():
    """Rows are judges, columns items; −1 is missing."""
    classic = [[1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1], [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3],
               [-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1], [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1]]
    cases = [classic, [[0, 1, 0, 1], [0, 1, 1, 1]], [[0, 1], [1, 0]], [[0, 0, 1], [0, 0, 1], [0, 0, 1]]]
    many = rng.integers(0, 3, (5, 60))
    many[rng.uniform(size=many.shape) < 0.3] = -1
    cases.append(many.tolist())
    noisy = np.repeat(rng.integers(0, 4, (1, 200)), 3, axis=0)
    swap = rng.uniform(size=noisy.shape) < 0.2
    noisy[swap] = rng.integers(0, 4, swap.sum())
    cases.append(noisy.tolist())
    result = []
    for judges in cases:
        data = np.array(judges, dtype=float)
        data[data < 0] = np.nan
        value = float(krippendorff.alpha(reliability_data=data, level_of_measurement="nominal"))
        items = [[int(x) for x in column if x >= 0] for column in np.array(judges).T]
        result.append(dict(items=items, value=value))
    return result


def bootstraps():
    """Prompts with attempts on both sides: sums and counts, and SciPy's percentile interval of B − A."""
    cases = []
    for count, attempts, low, high in [(150, (3, 3), 0.2, 0.35), (400, (1, 1), 0.5, 0.55), (300, (2, 5), 0.4, 0.4),
                                       (80, (40, 40), 0.1, 0.15)]:
        own = rng.beta(2, 3, count) - 0.4
        n_a = rng.integers(1, attempts[0] + 1, count) if attempts[0] != attempts[1] else np.full(count, attempts[0])
        n_b = np.full(count, attempts[1])
        a = rng.binomial(n_a, np.clip(low + own, 0, 1))
        b = rng.binomial(n_b, np.clip(high + own, 0, 1))

        def difference(a, n_a, b, n_b, axis):
            return b.sum(axis) / n_b.sum(axis) - a.sum(axis) / n_a.sum(axis)

        found = stats.bootstrap((a, n_a, b, n_b), difference, paired=True, vectorized=True, method="percentile",
                                n_resamples=200_000, batch=2_000, random_state=rng)
        draws = found.bootstrap_distribution
        p = 2 * min((draws <= 1e-12).mean(), (draws >= -1e-12).mean())
        interval = [found.confidence_interval.low, found.confidence_interval.high]
        clusters = np.stack([a, n_a, b, n_b], 1).tolist()
        cases.append(dict(clusters=clusters, interval=interval, error=found.standard_error, p=min(p, 1.0)))
    return cases


def plain(value):
    return value.item() if isinstance(value, np.generic) else list(value)


made = dict(wilson=wilson(), mcnemar=mcnemar_exact(), difference=differences(), smallest=smallest(), holm=holm(),
            t=t_tests(), welch=welch_tests(), sign=sign_tests(), clustered=clustered(), kappa=kappas(),
            alpha=alphas(), bootstrap=bootstraps())
lines = []
for name, cases in made.items():
    rows = ",\n".join(json.dumps(case, default=plain, separators=(",", ":")) for case in cases)
    lines.append(f'"{name}": [\n{rows}\n]')
OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")
print(OUT)
