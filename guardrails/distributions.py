"""Quantiles of the normal, Student's *t* and beta distributions, in plain Python.

Invariants: results are rounded to twelve digits, so that the last digits of a machine's ``lgamma`` and
``log`` do not reach a verdict that others must be able to recompute.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_DIGITS = 12


def normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution."""
    return _rounded(NormalDist().inv_cdf(p))


@lru_cache(maxsize=4096)
def t_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's *t* with ``degrees`` degrees of freedom."""
    if p == 0.5:
        return 0.0
    if p < 0.5:
        return -t_quantile(1.0 - p, degrees)
    # P(|T| > t) = I_x(degrees/2, 1/2) with x = degrees / (degrees + t²); near the middle of the
    # distribution its mirror image keeps the digits that x close to 1 would lose.
    if p < 0.9:
        y = beta_quantile(2.0 * p - 1.0, 0.5, degrees / 2.0)
        return _rounded(math.sqrt(degrees * y / (1.0 - y)))
    x = beta_quantile(2.0 * (1.0 - p), degrees / 2.0, 0.5)
    return _rounded(math.sqrt(degrees * (1.0 - x) / x)) if x > 0 else math.inf


@lru_cache(maxsize=4096)
def beta_quantile(p: float, a: float, b: float) -> float:
    """Quantile of the beta distribution, by bisection on its distribution function."""
    if p <= 0:
        return 0.0
    if p >= 1:
        return 1.0
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2.0
        if middle in (low, high):
            return _rounded(middle)
        if beta_cdf(middle, a, b) < p:
            low = middle
        else:
            high = middle


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function, by its continued fraction."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1.0) / (a + b + 2.0):
        return front * _continued_fraction(x, a, b) / a
    return 1.0 - front * _continued_fraction(1.0 - x, b, a) / b


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation; converges in about sqrt(a + b) steps on the side that the caller picks."""
    tiny = 1e-300
    c, d = 1.0, 1.0 / (_away_from_zero(1.0 - (a + b) * x / (a + 1.0), tiny))
    result = d
    for m in range(1, 20_000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + even * d, tiny)
        c = _away_from_zero(1.0 + even / c, tiny)
        result *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / _away_from_zero(1.0 + odd * d, tiny)
        c = _away_from_zero(1.0 + odd / c, tiny)
        step = d * c
        result *= step
        if abs(step - 1.0) < 1e-16 * 4:
            return result
    raise ArithmeticError(f"the incomplete beta function did not converge at {x}, {a}, {b}")


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
