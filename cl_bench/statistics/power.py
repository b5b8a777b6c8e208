"""Sample sizes and power for showing a correlation, by Kendall's normal approximation."""

from __future__ import annotations

import math

from scipy import stats

POWER = 0.8
FEWEST = 4  # with fewer than four points no order has a probability below 1 in 20


def needed_for(tau: float, alpha: float = 0.05) -> int | None:
    """Return the configurations that a one-sided test needs to show ``tau`` (in its own direction) with power .8.

    This is the smallest n with ``|tau| >= (z_alpha + z_power) sd0(n)``, ``sd0^2 = 2 (2n + 5) / (9 n (n - 1))``:
    Kendall's normal approximation, with the variance of no association under both hypotheses. None where tau is 0 or
    nan.
    """
    if math.isnan(tau) or tau == 0:
        return None
    return math.ceil(effective(abs(tau) / float(stats.norm.isf(alpha) + stats.norm.ppf(POWER))) - 1e-9)


def needed_for_none(bound: float, alpha: float = 0.05) -> int:
    """Return the configurations that two one-sided tests need to show ``|tau| < bound`` with power .8, if tau is 0.

    It uses the normal approximation of ``atanh(tau)`` (``kendall.fieller_interval``). Each of the two tests may fail
    with half of the remaining probability.
    """
    z = float(stats.norm.isf(alpha) + stats.norm.ppf((1 + POWER) / 2))
    return math.ceil(4 + 0.437 * (z / math.atanh(bound)) ** 2)


def power(n: int, tau: float, alpha: float = 0.05) -> float:
    """Return the chance that n configurations show a true ``tau``, by the approximation of ``needed_for``."""
    return float(stats.norm.sf(stats.norm.isf(alpha) - abs(tau) / spread(n))) if n >= 2 else 0.0


def spread(n: int) -> float:
    """Return the standard deviation of tau over n >= 2 exchangeable configurations without association or ties."""
    return math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))


def effective(deviation: float) -> float:
    """Return the number of exchangeable configurations whose tau, without association, has that standard deviation.

    It is the inverse of ``spread``, and infinite for a deviation of 0.
    """
    k = deviation**2
    b = 9 * k + 4
    return (b + math.sqrt(b * b + 360 * k)) / (18 * k) if k > 0 else math.inf  # 9 k n (n - 1) = 2 (2n + 5)
