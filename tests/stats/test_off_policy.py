"""Off-policy value: against closed forms and a world whose truth is known, and every way to be refused."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from understudy.stats.off_policy import OffPolicy, off_policy

TARGET = np.array([0.1, 0.2, 0.7])
LOGGED = np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]])
REWARD = np.array([[0.1, 0.3, 0.5], [0.4, 0.2, 0.6]])
TRUTH = float((REWARD.mean(axis=0) * TARGET).sum())


def world(seed: int, rows: int = 4000) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    context = rng.integers(0, 2, rows)
    logged = LOGGED[context]
    action = (rng.random(rows)[:, None] > logged.cumsum(axis=1)).sum(axis=1)
    seen = np.arange(rows)
    return {
        "reward": (rng.random(rows) < REWARD[context][seen, action]).astype(float),
        "action": action,
        "propensity": logged[seen, action],
        "target": np.tile(TARGET, (rows, 1)),
        "logging": logged,
        "model": REWARD[context],
    }


def refused(result: OffPolicy) -> str | None:
    assert json.dumps(result.to_dict(), allow_nan=False)
    values = (result.ips, result.snips, result.dr, result.dm, result.model_disagrees)
    assert (result.refused is None) == (result.ips is not None)
    assert result.refused is None or values == (None,) * 5
    return result.refused


def test_the_three_estimates_are_the_textbook_formulas() -> None:
    log = world(1)
    found = off_policy(**log)
    r, n, rows = log["reward"], 4000, np.arange(4000)
    w = TARGET[log["action"]] / log["propensity"]
    q = log["model"]
    snips = (w * r).sum() / w.sum()
    terms = (log["target"] * q).sum(axis=1) + w * (r - q[rows, log["action"]])
    assert found.ips is not None
    assert found.snips is not None
    assert found.dr is not None
    assert found.ips.estimate == pytest.approx((w * r).mean())
    assert found.ips.se == pytest.approx((w * r).std(ddof=1) / math.sqrt(n))
    assert found.snips.estimate == pytest.approx(snips)
    assert found.snips.se == pytest.approx(math.sqrt((w**2 * (r - snips) ** 2).sum()) / w.sum())
    assert found.dr.estimate == pytest.approx(terms.mean())
    assert found.dr.se == pytest.approx(terms.std(ddof=1) / math.sqrt(n))
    assert found.ess == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert found.mean_weight == pytest.approx(w.mean())


def test_intervals_cover_the_truth_and_a_good_model_makes_them_narrow() -> None:
    hits, answered = np.zeros(3), 0
    for seed in range(300):
        found = off_policy(**world(seed, 1500))
        if found.refused is None:
            answered += 1
            hits += [v.lower <= TRUTH <= v.upper for v in (found.ips, found.snips, found.dr) if v is not None]
        else:
            assert found.refused == "weights_do_not_average_one"
    assert answered >= 295  # right propensities are taken for wrong ones in about 3 of 1,000
    assert (hits >= 0.91 * answered).all()
    found = off_policy(**world(5))
    assert found.dr is not None
    assert found.ips is not None
    assert found.dr.se < found.ips.se


def test_the_logged_policy_itself_is_worth_what_it_earned() -> None:
    log = world(2) | {"model": None}
    log["target"] = log["logging"]
    found = off_policy(**log)
    assert found.ips is not None
    assert found.ips.estimate == pytest.approx(log["reward"].mean())
    assert found.ess == pytest.approx(4000)
    assert (found.dr, found.dm, found.model_disagrees) == (None, None, None)


def test_doubly_robust_survives_a_wrong_model_and_says_that_it_is_wrong() -> None:
    log = world(3, 20_000)
    honest, wrong = off_policy(**log), off_policy(**(log | {"model": log["model"] + 0.2}))
    assert (honest.model_disagrees, wrong.model_disagrees) == (False, True)
    assert wrong.dr is not None
    assert wrong.dm is not None
    assert wrong.dr.lower <= TRUTH <= wrong.dr.upper
    assert wrong.dm.lower > TRUTH


def test_rows_of_one_unit_count_once() -> None:
    log = {key: np.repeat(part, 5, axis=0) for key, part in world(4).items()}
    once, repeated = off_policy(**world(4)), off_policy(**log, units=np.repeat(np.arange(4000), 5))
    for name in ("ips", "snips", "dr"):
        assert getattr(repeated, name).se == pytest.approx(getattr(once, name).se, rel=1e-3)
    assert repeated.units == 4000


def test_an_effective_sample_of_two_is_refused() -> None:
    # The small Open Bandit sample, women, uniform policy from the Thompson logs: largest weight 21,739, ESS 2.1.
    rows = 10_000
    propensity = np.full(rows, 0.9)
    propensity[:2] = 1 / 21_739 / 34, 1 / 20_000 / 34
    target = np.tile([1 / 34, 33 / 34], (rows, 1))
    action = np.zeros(rows, dtype=int)
    action[-1] = 1
    found = off_policy(np.ones(rows), action, propensity, target)
    assert found.ess == pytest.approx(2.0, abs=0.2)
    assert refused(found) == "effective_sample_too_small"


def test_propensities_that_were_not_those_of_serving_time_are_refused() -> None:
    log = world(6) | {"logging": None}
    assert refused(off_policy(**(log | {"propensity": np.minimum(log["propensity"] * 1.3, 1)}))) == (
        "weights_do_not_average_one"
    )


def test_a_target_that_acts_where_the_log_never_did_is_refused() -> None:
    log = world(7)
    never = log["logging"].copy()
    never[0, 2 if log["action"][0] != 2 else 1] = 0.0
    never[0] /= never[0].sum()
    log["propensity"][0] = never[0, log["action"][0]]
    assert refused(off_policy(**(log | {"logging": never}))) == "no_support"
    two = np.where(log["action"] == 2, 0, log["action"])
    assert refused(off_policy(**(log | {"logging": None, "action": two}))) == "no_support"


def test_with_recorded_probabilities_a_rare_action_that_was_not_drawn_still_has_support() -> None:
    log = world(10) | {"model": None}
    wide = {
        "target": np.c_[log["target"] * (1 - 1e-6), np.full(4000, 1e-6)],
        "logging": np.c_[log["logging"] * (1 - 1e-6), np.full(4000, 1e-6)],
        "propensity": log["propensity"] * (1 - 1e-6),
    }
    assert refused(off_policy(**(log | wide))) is None
    assert refused(off_policy(**(log | wide | {"logging": None}))) == "no_support"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"propensity": (0, 0.0)}, "propensity_not_positive"),
        ({"propensity": (0, -0.1)}, "propensity_not_positive"),
        ({"propensity": (0, math.nan)}, "propensity_missing"),
        ({"propensity": (0, math.inf)}, "propensity_missing"),
        ({"propensity": (0, 1.5)}, "propensity_above_one"),
        ({"propensity": (0, 0.123)}, "propensities_contradict"),
        ({"reward": (0, math.nan)}, "reward_missing"),
        ({"reward": (0, math.inf)}, "reward_missing"),
        ({"reward": (slice(None), 1e308)}, "values_too_large"),
        ({"target": (0, 0.5)}, "target_not_a_distribution"),
        ({"target": (0, math.nan)}, "target_not_a_distribution"),
        ({"logging": (0, -0.5)}, "logging_not_a_distribution"),
        ({"model": (0, math.nan)}, "model_missing"),
    ],
)
def test_ugly_logs_are_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    log = world(8)
    for name, (where, value) in change.items():
        log[name][where] = value
    assert refused(off_policy(**log)) == reason


def test_no_rows_one_unit_and_huge_rewards() -> None:
    assert refused(off_policy([], [], [], np.empty((0, 3)))) == "no_rows"
    assert refused(off_policy([1.0], [0], [0.5], [[1.0, 0.0]])) == "too_few_units"
    log = world(9)
    assert refused(off_policy(**log, units=np.zeros(4000))) == "too_few_units"
    scaled = off_policy(**(log | {"reward": log["reward"] * 1e9, "model": log["model"] * 1e9}))
    plain = off_policy(**log)
    assert scaled.dr is not None
    assert plain.dr is not None
    assert scaled.dr.estimate == pytest.approx(plain.dr.estimate * 1e9)
    constant = off_policy(**(log | {"reward": np.zeros(4000), "model": None}))
    assert constant.ips is not None
    assert (constant.ips.estimate, constant.ips.se) == (0, 0)


def test_wrong_shapes_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="one value per row"):
        off_policy([1.0, 2.0], [0], [0.5], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="shape of target"):
        off_policy([1.0], [0], [0.5], [[1.0, 0.0]], model=[[1.0]])
    with pytest.raises(ValueError, match="columns"):
        off_policy([1.0], [2], [0.5], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="alpha"):
        off_policy([1.0], [0], [0.5], [[1.0, 0.0]], alpha=1.0)
