"""The six distributions that calibration runs on, each drawn through a standard normal latent.

The latent is where units and moments in time leave their mark (a Gaussian copula), so every structure of traffic has
exactly the same distribution of single values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["DISTRIBUTIONS", "Array", "Distribution"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Distribution:
    """One distribution.

    Attributes:
        name: short name, a key in the stored counts.
        label: what the report calls it.
        kind: kind of metric that the product would judge it as.
        value: values of events, from their latents; the generator is for what does not come from the latent.
        mean: expectation of a value.
        sd: standard deviation of a value.
    """

    name: str
    label: str
    kind: str
    value: Callable[[np.random.Generator, Array], Array]
    mean: float
    sd: float


def _bernoulli(name: str, label: str, rate: float) -> Distribution:
    edge = float(ndtri(1 - rate))
    return Distribution(
        name,
        label,
        "error_rate",
        lambda _, latent: (latent > edge).astype(float),
        rate,
        float(np.sqrt(rate * (1 - rate))),
    )


def _lognormal(name: str, label: str, sigma: float) -> Distribution:
    mean = float(np.exp(sigma**2 / 2))
    return Distribution(
        name,
        label,
        "mean",
        lambda _, latent: np.exp(sigma * latent),
        mean,
        mean * float(np.sqrt(np.expm1(sigma**2))),
    )


def _buyers(rate: float, sigma: float) -> Distribution:
    edge, mean = float(ndtri(1 - rate)), rate * float(np.exp(sigma**2 / 2))
    square = rate * float(np.exp(2 * sigma**2))

    def value(rng: np.random.Generator, latent: Array) -> Array:
        bought = latent > edge
        spent = np.zeros(latent.shape)
        spent[bought] = np.exp(sigma * rng.standard_normal(int(bought.sum())))
        return spent

    label = f"{rate:.0%} buyers x lognormal"
    return Distribution("buyers", label, "mean", value, mean, float(np.sqrt(square - mean**2)))


DISTRIBUTIONS = (
    Distribution("normal", "normal", "mean", lambda _, latent: latent, 0.0, 1.0),
    _bernoulli("bernoulli-5", "Bernoulli 5 %", 0.05),
    _bernoulli("bernoulli-0.1", "Bernoulli 0.1 %", 0.001),
    _lognormal("lognormal-1.5", "lognormal, sigma 1.5", 1.5),
    _lognormal("lognormal-2", "lognormal, sigma 2", 2.0),
    _buyers(0.02, 1.0),
)
