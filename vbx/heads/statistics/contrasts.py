"""Contrasts: settings against the best of them, told apart although the best was chosen from the same numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from vbx.heads.metrics import Floats
from vbx.heads.statistics.settings import Setting
from vbx.heads.statistics.significance import exceed_range, fit_prior

_ROUNDING = 1e-12
"""Share of the squared values below which a variance is that of rounding."""


@dataclass(frozen=True)
class Source:
    """What one kind of draw, speakers or seeds, adds to the variance of a difference between two settings.

    Attributes:
        scale: prior variance of one draw; nan where there are too few settings for one
        weight: how many draws the prior is worth; infinity where settings do not differ in it
        most: degrees of freedom of all settings together
    """

    scale: float = np.nan
    weight: float = 0.0
    most: float = np.inf

    def variance(self, differences: Floats) -> tuple[float, float]:
        """Variance of the mean of n differences `(n,)` and its degrees of freedom, drawn towards the prior."""
        n = len(differences)
        v, df = float(np.var(differences, ddof=1)), n - 1.0
        if self.weight:
            share = 1.0 if np.isinf(self.weight) else self.weight / (self.weight + df)
            v = share * self.scale + (1 - share) * v
            df = max(df, min(df + self.weight, self.most))
        return v / n, df


def tell_apart(settings: Sequence[Setting], what: str) -> Floats:
    """How often as large a difference to the best would come by chance, were the settings all alike.

    The variance of a difference is what other speakers would change plus what other seeds would, less what belongs to
    both and was counted twice (two-way clustering: Cameron, Gelbach & Miller 2011, eq. 2.12). Five seeds say little of
    a variance: that of a pair is drawn towards what all pairs of the table have, as far as they agree (Smyth 2004,
    sections 3 and 6.2). Degrees of freedom are Satterthwaite's. As the best is whichever came out best, a difference is
    compared with the range of all settings (Tukey 1953, Kramer 1956), stepping down: one that was told apart is no
    longer in the range for the next.

    Args:
        settings: the best first
        what: what they are ranked by, `dev.score` or the like

    Returns:
        p of each setting `(M,)`; nan for the best and for what cannot be compared with it
    """
    p = np.full(len(settings), np.nan)
    best = settings[0]
    places = [i for i, s in enumerate(settings) if i and s.pairs_with(what, best)]
    if not places:
        return p
    whole = [s for s in (best, *(settings[i] for i in places)) if set(best.keys) <= set(s.keys)]
    speakers = _fit_source([s.parts[what][s.places(best.keys)].mean(axis=0) for s in whole])
    seeds = _fit_source([s.values[what][s.places(best.keys)] for s in whole])
    errors = [_contrast(settings[i], best, what, speakers, seeds) for i in places]
    known = [place for place, (t, _) in zip(places, errors, strict=True) if not np.isnan(t)]
    p[known] = _step_down(*np.array([pair for pair in errors if not np.isnan(pair[0])]).reshape(-1, 2).T)
    return p


def _fit_source(rows: Sequence[Floats]) -> Source:
    """The prior of one kind of draw, from all pairs of settings.

    Args:
        rows: of each setting, its draws `(n,)`
    """
    values = np.stack(rows)
    values = values[np.isfinite(values).all(axis=1)]
    m, n = values.shape
    if m < 3 or n < 2:
        return Source()
    covariance = np.cov(values)
    own = np.diag(covariance)
    pairs = (own[:, None] + own - 2 * covariance)[np.triu_indices(m, 1)]
    pairs = pairs[pairs > _ROUNDING * np.square(values).mean()]
    return Source(*fit_prior(pairs, n - 1), (n - 1.0) * (m - 1)) if len(pairs) > 1 else Source()


def _contrast(setting: Setting, best: Setting, what: str, speakers: Source, seeds: Source) -> tuple[float, float]:
    """Difference to the best in standard errors, positive, and its degrees of freedom."""
    shared = [seed for seed in best.keys if seed in setting.keys]
    ours, theirs = setting.places(shared), best.places(shared)
    cells = best.parts[what][theirs] - setting.parts[what][ours]
    rows = best.values[what][theirs] - setting.values[what][ours]
    count, blocks = cells.shape
    v, df = speakers.variance(cells.mean(axis=0))
    if count > 1:
        v_seeds, df_seeds = seeds.variance(rows)
        rest = cells - cells.mean(axis=0) - cells.mean(axis=1, keepdims=True) + cells.mean()
        df_rest = (count - 1) * (blocks - 1)
        v_rest = float(np.square(rest).sum()) / df_rest / cells.size
        total = max(v, v_seeds, v + v_seeds - v_rest)
        spread = v**2 / df + v_seeds**2 / df_seeds + v_rest**2 / df_rest
        v, df = total, max(total**2 / spread if spread else np.inf, min(df, df_seeds))
    difference = float(rows.mean()) * (1 if best.values[what].mean() >= setting.values[what].mean() else -1)
    if v <= _ROUNDING * np.square(best.values[what]).mean():
        return (np.inf if abs(difference) > np.sqrt(_ROUNDING) else 0.0), df
    return difference / np.sqrt(v), df


def _step_down(errors: Floats, df: Floats) -> Floats:
    """The p of each contrast, the least likely first; the range is that of what is left."""
    p = np.empty(len(errors))
    last = 0.0
    for step, i in enumerate(np.argsort(stats.t.sf(errors, df), kind="stable")):
        last = max(last, exceed_range(float(errors[i]), len(errors) + 1 - step, float(df[i])))
        p[i] = last
    return p
