"""The exact event split: closed forms, its promise under looks for any rate and share, zero baselines, planted harm."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import beta, binom

from understudy.stats.event_split import Part, event_split, split_log_bayes_factor
from understudy.stats.sequences import Sided
from understudy.stats.srm import log_bayes_factor

Array = NDArray[np.float64]


def test_the_two_sided_factor_is_that_of_the_sample_ratio_test() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        counts, exposure = rng.integers(0, 40, 2), rng.uniform(0.1, 9, 2)
        ours = float(split_log_bayes_factor(counts, exposure))
        assert ours == pytest.approx(log_bayes_factor(counts, exposure, 10.0), abs=1e-9)


@pytest.mark.parametrize(
    ("c0", "c1", "t"), [(0, 4, 0.5), (7, 3, 0.5), (40, 9, 0.05), (2, 2, 0.01), (300, 200, 0.5)]
)
def test_the_one_sided_factor_is_the_mixture_over_larger_shares(c0: int, c1: int, t: float) -> None:
    prior = beta(10 * t, 10 * (1 - t))
    ratio = lambda q: math.exp(c1 * math.log(q / t) + c0 * math.log((1 - q) / (1 - t)))  # noqa: E731
    grid = [t, min(t * 1.2, (1 + t) / 2), min(3 * t, (1 + t) / 2), 1.0]
    mixture = sum(
        quad(lambda q: ratio(q) * prior.pdf(q), a, b, limit=200)[0] for a, b in pairwise(grid) if b > a
    )
    found = float(split_log_bayes_factor([c0, c1], [1 - t, t], "one"))
    assert found == pytest.approx(math.log(mixture / prior.sf(t)), abs=1e-6)


def test_far_below_its_share_the_one_sided_factor_keeps_its_digits() -> None:
    # The tail is 1e-3000 here; the factor itself is an ordinary number, close to prior density / slope at the null.
    found = split_log_bayes_factor([[20_000, 1_000], [200, 10], [60_000, 40]], [0.5, 0.5], "one")
    prior = beta(5, 5)
    for value, (c0, c1) in zip(found, ((20_000, 1_000), (200, 10), (60_000, 40)), strict=True):
        slope = c0 / 0.5 - c1 / 0.5
        assert float(value) == pytest.approx(math.log(prior.pdf(0.5) / prior.sf(0.5) / slope), abs=0.2)
        assert float(value) <= math.log(prior.pdf(0.5) / prior.sf(0.5) / slope) + 0.05


def test_a_control_without_a_single_error_hides_nothing() -> None:
    """A baseline of zero makes a ratio useless; here it is the clearest case (Kayenta issue 377)."""
    for sided in ("one", "two"):
        first = next(c for c in range(1, 100) if event_split([Part(0, c, 1, 1)], 0.001, sided).alarm)
        assert first <= 20
        found = event_split([Part(0, 60, 1, 1)], 0.001, sided)
        assert (found.alarm, found.direction, found.expected) == (True, "more", 30.0)
    assert not event_split([Part(0, 1, 1, 1)], 0.001).alarm
    # At 1 % exposure a handful is enough, because hardly any were due.
    assert event_split([Part(0, 6, 99, 1)], 0.001, "one").alarm


def test_no_errors_of_the_challenger_are_no_harm() -> None:
    assert event_split([Part(60, 0, 1, 1)], 0.001).alarm
    found = event_split([Part(60, 0, 1, 1)], 0.001, "one")
    assert (found.alarm, found.direction, found.determined) == (False, "fewer", True)


def test_parts_with_other_exposure_add_up() -> None:
    parts = [Part(90, 12, 95, 5), Part(30, 45, 1, 1)]
    total = sum(
        float(split_log_bayes_factor([p.control, p.challenger], [p.control_exposure, p.challenger_exposure]))
        for p in parts
    )
    found = event_split(parts, 0.05)
    assert found.log_bf == pytest.approx(total)
    assert found.p == pytest.approx(min(1, math.exp(-total)))
    assert found.expected == pytest.approx(102 * 0.05 + 75 / 2)


def _looks(
    rng: np.random.Generator, rates: tuple[float, float], share: float, runs: int, looks: int, per_look: int
) -> tuple[Array, Array]:
    """Return cumulative events and cumulative requests, [run, look, arm]; exposure itself is random."""
    challenger = rng.binomial(per_look, share, (runs, looks))
    requests = np.stack([per_look - challenger, challenger], axis=-1)
    events = np.stack([rng.binomial(requests[..., i], rates[i]) for i in (0, 1)], axis=-1)
    return events.cumsum(axis=1).astype(float), requests.cumsum(axis=1).astype(float)


@pytest.mark.parametrize("sided", ["one", "two"])
@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("rate", [0.001, 0.1])
def test_a_look_at_every_moment_alarms_no_more_often_than_promised(
    rate: float, share: float, sided: Sided
) -> None:
    rng = np.random.default_rng(2)
    runs = 500
    events, requests = _looks(rng, (rate, rate), share, runs, 150, 600)
    for exposure in (np.array([1 - share, share]), requests):
        alarms = (split_log_bayes_factor(events, exposure, sided) >= math.log(20)).any(axis=1).sum()
        assert alarms <= binom.ppf(1 - 1e-4, runs, 0.05)


def test_the_one_sided_test_stays_valid_when_the_challenger_is_better() -> None:
    rng = np.random.default_rng(3)
    events, _ = _looks(rng, (0.02, 0.017), 0.5, 500, 150, 400)
    alarms = (split_log_bayes_factor(events, [0.5, 0.5], "one") >= math.log(20)).any(axis=1).sum()
    assert alarms <= 0.02 * 500


def test_a_change_of_exposure_in_a_ramp_raises_no_alarm() -> None:
    rng = np.random.default_rng(4)
    runs = 800
    total, alarms = np.zeros(runs), np.zeros(runs, dtype=bool)
    for share in (0.01, 0.05, 0.25, 0.5):
        events, _ = _looks(rng, (0.01, 0.01), share, runs, 80, 400)
        value = total[:, None] + split_log_bayes_factor(events, [1 - share, share])
        alarms |= (value >= math.log(20)).any(axis=1)
        total = value[:, -1]
    assert alarms.sum() <= binom.ppf(1 - 1e-4, runs, 0.05)


def test_planted_harm_is_found_and_earlier_one_sided() -> None:
    rng = np.random.default_rng(5)
    events, _ = _looks(rng, (0.001, 0.004), 0.5, 200, 400, 400)
    first = {}
    for sided in ("one", "two"):
        reached = split_log_bayes_factor(events, [0.5, 0.5], sided) >= math.log(1000)
        assert reached.any(axis=1).mean() > 0.99
        first[sided] = float(np.median(reached.argmax(axis=1)))
    assert first["one"] <= first["two"]


def test_a_51_to_49_split_of_units_is_found_after_45_100_of_them() -> None:
    """Measured before on other code: sequential sample-ratio test at .001 and K = 100, median of the first alarm."""
    rng = np.random.default_rng(6)
    runs, step = 300, 200
    first = rng.binomial(step, 0.51, (runs, 1000)).cumsum(axis=1).astype(float)
    n = step * np.arange(1, 1001)
    value = split_log_bayes_factor(np.stack([first, n - first], axis=-1), [0.5, 0.5], concentration=100.0)
    reached = value >= math.log(1000)
    median = float(np.median(np.where(reached.any(axis=1), n[reached.argmax(axis=1)], np.inf)))
    # The first alarm scatters by about 45 %; 300 runs know its median to about 4 %.
    assert median == pytest.approx(45_100, rel=0.15)


def test_arrays_give_what_single_calls_give() -> None:
    rng = np.random.default_rng(7)
    counts = rng.integers(0, 30, (4, 5, 2)).astype(float)
    for sided in ("one", "two"):
        together = split_log_bayes_factor(counts, [0.7, 0.3], sided)
        assert together.shape == (4, 5)
        assert float(together[2, 3]) == pytest.approx(
            float(split_log_bayes_factor(counts[2, 3], [0.7, 0.3], sided))
        )


UGLY: dict[str, tuple[list[Part], bool, bool, str | None]] = {
    "no parts": ([], False, False, "no_events"),
    "no events": ([Part(0, 0, 1, 1)], False, False, "no_events"),
    "nothing exposed": ([Part(0, 0, 0, 0)], False, False, "no_events"),
    "one event": ([Part(0, 1, 1, 1)], False, True, None),
    "events without exposure": ([Part(3, 1, 1, 0)], True, True, "events_in_an_arm_without_exposure"),
    "events and no exposure at all": ([Part(3, 1, 0, 0)], True, True, "events_in_an_arm_without_exposure"),
    "arm without exposure stays empty": ([Part(3, 0, 1, 0)], False, True, None),
    "nan count": ([Part(math.nan, 1, 1, 1)], False, False, "not_a_number"),
    "inf count": ([Part(1, math.inf, 1, 1)], False, False, "not_a_number"),
    "nan exposure": ([Part(50, 1, math.nan, 1)], False, False, "not_a_number"),
    "inf exposure": ([Part(50, 1, 1, math.inf)], False, False, "not_a_number"),
    "nan beside an alarm": ([Part(0, 90, 1, 1), Part(1, 1, math.nan, 1)], False, False, "not_a_number"),
    "a billion events as shared": ([Part(1e9, 1e9, 1, 1)], False, True, None),
    "exposure in billions": ([Part(10, 10, 1e9, 1e9)], False, True, None),
    "tiny exposure": ([Part(10, 10, 1e-300, 1e-300)], False, True, None),
}  # fmt: skip


@pytest.mark.parametrize("sided", ["one", "two"])
@pytest.mark.parametrize("name", UGLY)
def test_ugly_inputs_have_a_named_end(name: str, sided: Sided) -> None:
    parts, alarm, determined, reason = UGLY[name]
    found = event_split(parts, 0.001, sided)
    assert (found.alarm, found.determined, found.reason) == (alarm, determined, reason)
    assert 0 <= found.p <= 1
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        event_split([], 0.0)
    for counts, exposure in (([-1, 1], [1, 1]), ([1, 1], [-1, 1])):
        with pytest.raises(ValueError, match="negative"):
            split_log_bayes_factor(counts, exposure)
    with pytest.raises(ValueError, match="last axis"):
        split_log_bayes_factor([1, 1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match="concentration"):
        split_log_bayes_factor([1, 1], [1, 1], concentration=0)
