"""One linear form for means, ratios and CUPED: independent implementations, closed forms, ugly inputs."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.stats.linear_form import LinearDifference, LinearForm, linear_difference
from understudy.stats.moments import Moments

COLUMNS = ("n", "d", "nx", "dx")
FORMS = {
    "mean": LinearForm("n"),
    "mean with CUPED": LinearForm("n", covariate="nx"),
    "ratio": LinearForm("n", "d"),
    "ratio with a ratio covariate": LinearForm("n", "d", "nx", "dx"),
}
Z = 1.959963984540054
Rows = NDArray[np.float64]


def users(rng: np.random.Generator, count: int, effect: float = 0.0) -> Rows:
    taste = rng.normal(1, 0.4, count)
    d, dx = rng.poisson(4, count) + 1.0, rng.poisson(6, count) + 1.0
    n = d * (taste + effect) + np.sqrt(d) * rng.normal(size=count)
    return np.column_stack([n, d, dx * taste + np.sqrt(dx) * rng.normal(size=count), dx])


def compared(control: Rows, challenger: Rows, form: LinearForm) -> LinearDifference:
    return linear_difference(
        Moments.from_rows(control, COLUMNS), Moments.from_rows(challenger, COLUMNS), form
    )


def tea_tasting(control: Rows, challenger: Rows, form: LinearForm, equal_var: bool) -> Any:
    import pandas as pd
    import tea_tasting as tt

    frame = pd.concat(
        pd.DataFrame(rows, columns=list(COLUMNS)).assign(variant=i)
        for i, rows in enumerate((control, challenger))
    )
    metric = tt.RatioOfMeans(
        form.numerator, form.denominator, form.covariate, form.covariate_denominator,
        use_t=False, equal_var=equal_var,
    )  # fmt: skip
    return tt.Experiment(m=metric).analyze(frame)["m"]


@pytest.mark.parametrize("sizes", [(400, 400), (700, 90), (60, 800)])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_agrees_with_tea_tasting(name: str, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    control, challenger = users(rng, sizes[0]), users(rng, sizes[1], 0.1)
    theirs = [tea_tasting(control, challenger, FORMS[name], equal) for equal in (False, True)]
    errors = [(t.effect_size_ci_upper - t.effect_size) / Z for t in theirs]
    found = compared(control, challenger, FORMS[name])
    assert found.determined
    assert float(found.estimate) == pytest.approx(theirs[0].effect_size, rel=1e-9)
    assert float(found.control) == pytest.approx(theirs[0].control, rel=1e-9)
    assert float(found.challenger) == pytest.approx(theirs[0].treatment, rel=1e-9)
    assert float(found.se) == pytest.approx(max(errors), rel=1e-7)
    if abs(errors[1] / errors[0] - 1) > 1e-9:
        assert bool(found.pooled) == (errors[1] > errors[0])


def test_a_mean_is_the_textbook_difference() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(5, 1, (80, 1)), rng.normal(6, 3, (50, 1))
    found = linear_difference(Moments.from_rows(a, ("y",)), Moments.from_rows(b, ("y",)), LinearForm("y"))
    parts = a.var(ddof=1) / 80, b.var(ddof=1) / 50
    welch = sum(parts)
    pooled = (79 * a.var(ddof=1) + 49 * b.var(ddof=1)) / 128 * (1 / 80 + 1 / 50)
    assert float(found.estimate) == pytest.approx(b.mean() - a.mean(), rel=1e-12)
    assert float(found.se) == pytest.approx(math.sqrt(max(welch, pooled)), rel=1e-12)
    assert float(found.df) == pytest.approx(welch**2 / (parts[0] ** 2 / 79 + parts[1] ** 2 / 49), rel=1e-9)


def test_a_perfect_covariate_leaves_only_the_effect() -> None:
    x = np.linspace(0, 1, 50)
    control, challenger = (np.column_stack([3 * x + e, np.ones(50), x, np.ones(50)]) for e in (0.0, 0.5))
    noisy = challenger + np.column_stack([np.tile([1e-3, -1e-3], 25), *[np.zeros(50)] * 3])
    found = compared(control, noisy, FORMS["mean with CUPED"])
    assert float(found.theta) == pytest.approx(3, rel=0.01)
    assert float(found.estimate) == pytest.approx(0.5, rel=1e-3)


def test_cuped_reduces_the_variance_by_the_squared_correlation() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 20_000))
    y = 0.8 * x + 0.6 * rng.normal(size=(2, 20_000))
    arms = [np.column_stack([a, np.ones(20_000), b, np.ones(20_000)]) for a, b in zip(y, x, strict=True)]
    plain, adjusted = (compared(arms[0], arms[1], FORMS[f]) for f in ("mean", "mean with CUPED"))
    assert 1 - float(adjusted.se / plain.se) ** 2 == pytest.approx(0.64, abs=0.01)


def test_a_covariate_that_does_not_vary_changes_nothing() -> None:
    rng = np.random.default_rng(4)
    arms = [users(rng, 100) for _ in range(2)]
    for rows in arms:
        rows[:, 2:] = 7.0
    plain = compared(arms[0], arms[1], FORMS["ratio"])
    adjusted = compared(arms[0], arms[1], FORMS["ratio with a ratio covariate"])
    assert float(adjusted.theta) == 0
    assert (float(adjusted.estimate), float(adjusted.se)) == (float(plain.estimate), float(plain.se))


def test_a_covariate_without_a_denominator_changes_nothing() -> None:
    rng = np.random.default_rng(5)
    arms = [users(rng, 100) for _ in range(2)]
    for rows in arms:
        rows[:, 3] = 0.0
    found = compared(arms[0], arms[1], FORMS["ratio with a ratio covariate"])
    assert (float(found.theta), bool(found.determined)) == (0, True)


@pytest.mark.parametrize("name", FORMS)
def test_offset_and_scale_do_not_matter(name: str) -> None:
    rng = np.random.default_rng(6)
    arms = [users(rng, 200, e) for e in (0.0, 0.1)]
    near = compared(arms[0], arms[1], FORMS[name])
    scaled = compared(arms[0] * [1e9, 1, 1, 1], arms[1] * [1e9, 1, 1, 1], FORMS[name])
    assert float(scaled.estimate) == pytest.approx(1e9 * float(near.estimate), rel=1e-9)
    assert float(scaled.se) == pytest.approx(1e9 * float(near.se), rel=1e-9)


def test_a_mean_a_billion_away_keeps_its_difference() -> None:
    rng = np.random.default_rng(7)
    noise = np.round(rng.uniform(size=(2, 500, 1)) * 2**20) / 2**20
    near, far = (
        linear_difference(*(Moments.from_rows(x + offset, ("y",)) for x in noise), LinearForm("y"))
        for offset in (0.0, 1e9)
    )
    assert float(far.estimate) == pytest.approx(float(near.estimate), rel=1e-12)
    assert float(far.se) == pytest.approx(float(near.se), rel=1e-12)


def test_ten_thousand_cells_are_one_call() -> None:
    rng = np.random.default_rng(8)
    rows = np.stack([users(rng, 12) for _ in range(40)]).reshape(20, 2, 12, 4)
    arms = [Moments.from_rows(rows[:, i], COLUMNS) for i in range(2)]
    together = linear_difference(*arms, FORMS["ratio with a ratio covariate"])
    for i in (0, 7, 19):
        alone = compared(rows[i, 0], rows[i, 1], FORMS["ratio with a ratio covariate"])
        assert float(together.estimate[i]) == pytest.approx(float(alone.estimate), rel=1e-12)
        assert float(together.se[i]) == pytest.approx(float(alone.se), rel=1e-12)
    assert json.dumps(together.to_dict(), allow_nan=False)


ONE = np.ones((5, 4))
UGLY: dict[str, tuple[Rows, Rows, str]] = {
    "empty": (np.empty((0, 4)), ONE, "too_few_units"),
    "both empty": (np.empty((0, 4)), np.empty((0, 4)), "too_few_units"),
    "one unit": (ONE, np.ones((1, 4)), "too_few_units"),
    "zero variance": (ONE, ONE, "zero_variance"),
    "different constants": (ONE, ONE * [2, 1, 1, 1], "zero_variance"),
    "proportional": (np.outer(np.arange(1, 6), [0.3, 0.1, 1, 1]), np.outer(np.arange(2, 9), [0.3, 0.1, 1, 1]), ""),
    "no denominator": (ONE, ONE * [1, 0, 1, 1], "no_estimate"),
    "negative denominator": (ONE * [1, -1, 1, 1], ONE, "no_estimate"),
    "nan": (np.full((5, 4), math.nan), ONE, "too_few_units"),
    "inf": (ONE, np.full((5, 4), math.inf), "too_few_units"),
    "huge": (np.array([[1e308, 1, 1, 1], [-1e308, 1, 1, 1], [1, 1, 1, 1]]), ONE, "no_standard_error"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["ratio", "ratio with a ratio covariate"])
@pytest.mark.parametrize("name", UGLY)
def test_ugly_inputs_are_undetermined(name: str, form: str) -> None:
    control, challenger, reason = UGLY[name]
    found = compared(control, challenger, FORMS[form])
    assert not found.determined
    assert str(found.reason) == (reason or "zero_variance")
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'revenue'"):
        compared(ONE, ONE, LinearForm("revenue"))
