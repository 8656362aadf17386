"""Do the scores of a small model put the datapoints in the order of the large one's?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some

__all__ = ["ProxyReport", "ShareAgreement", "proxy_report"]

LEVEL = 0.95  # of the intervals


@dataclass(frozen=True)
class ShareAgreement:
    """What both would choose of a share."""

    share: float  # of the datapoints
    n: int  # datapoints that are
    overlap: float  # share of the full model's choice that the proxy makes, too
    low: float
    high: float
    by_chance: float  # overlap of a random choice


@dataclass(frozen=True)
class ProxyReport:
    """Agreement of a proxy's scores with the full model's; prints as a table."""

    n: int
    spearman: float
    spearman_low: float
    spearman_high: float
    kendall: float
    agreement: tuple[ShareAgreement, ...]
    highest: bool

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        end = "highest" if self.highest else "lowest"
        lines = [
            f"proxy against full model, {self.n:,} datapoints",
            f"rank correlation {self.spearman:.3f} ({self.spearman_low:.3f} to {self.spearman_high:.3f}),"
            f" Kendall's tau {self.kendall:.3f}",
            f"{end + ' share':>13}  {'n':>8}  both choose  95 % interval  by chance",
        ]
        for a in self.agreement:
            between = f"{a.low:.0%} to {a.high:.0%}"
            lines.append(f"{a.share:>13.0%}  {a.n:>8,}  {a.overlap:>11.0%}  {between:>13}  {a.by_chance:>9.0%}")
        return "\n".join(lines)


def proxy_report(
    proxy: Any,
    full: Any,
    *,
    shares: tuple[float, ...] = (0.05, 0.1, 0.3, 0.5),
    highest: bool = True,
    n_bootstrap: int = 1000,
    random_state: Any = None,
) -> ProxyReport:
    """Compare the scores of a smaller model, or of an earlier checkpoint, with those of the model itself.

    Score a sample of the datapoints with both; where they agree, the proxy can score the rest.

    Parameters
    ----------
    proxy, full : array (n,)
        Scores of the same datapoints.
    shares : tuple of float
        Shares of the datapoints that a selection would take.
    highest : bool, default True
        Whether the highest scores are taken.
    n_bootstrap : int, default 1000
        Resamples of the datapoints; intervals are percentiles.
    random_state : int, Generator or None

    Returns
    -------
    ProxyReport

    References
    ----------
    Coleman et al., 2020, *Selection via Proxy*, section 3.3.

    Examples
    --------
    >>> full = np.arange(200.0)
    >>> noise = np.random.default_rng(0).normal(size=200)
    >>> report = proxy_report(full + 20 * noise, full, random_state=0)
    >>> report.spearman > 0.9, report.agreement[1].by_chance
    (True, 0.1)
    """
    a, b = np.asarray(proxy, np.float64), np.asarray(full, np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise SchemaMismatch(f"the scores have shapes {a.shape} and {b.shape}", remedy="one number a datapoint, of both")
    bad = np.flatnonzero(~(np.isfinite(a) & np.isfinite(b)))
    if len(bad):
        raise NotFinite(f"a score is NaN or infinite in row {name_some(bad)}", remedy="drop these rows", ids=bad.tolist())
    if len(a) < 3 or not all(0 < share < 1 for share in shares):
        raise DatumwiseError("a comparison takes 3 datapoints or more, and shares between 0 and 1")
    n = len(a)
    rng = np.random.default_rng(random_state)
    draws = [rng.integers(n, size=n) for _ in range(n_bootstrap)]
    correlations = [_spearman(a[rows], b[rows]) for rows in draws]
    low, high = _interval(correlations, _spearman(a, b))
    found = []
    for share in shares:
        k = max(1, round(share * n))
        overlaps = [_overlap(a[rows], b[rows], k, highest) for rows in draws]
        value = _overlap(a, b, k, highest)
        found.append(ShareAgreement(share, k, value, *_interval(overlaps, value), k / n))
    tau = float(kendalltau(a, b).statistic)
    return ProxyReport(n, _spearman(a, b), low, high, tau, tuple(found), highest)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks, ties at their mean rank; NaN where one is constant."""
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    spread = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / spread) if spread else float("nan")


def _overlap(a: np.ndarray, b: np.ndarray, k: int, highest: bool) -> float:
    sign = -1 if highest else 1
    first, second = (np.argsort(sign * scores, kind="stable")[:k] for scores in (a, b))
    return float(len(np.intersect1d(first, second)) / k)


def _interval(draws: list[float], value: float) -> tuple[float, float]:
    if not draws:
        return value, value
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
