"""Steps and drifts in a run's metrics are named; a quiet run is not."""

from __future__ import annotations

import numpy as np
import pytest

from understudy.events.evidence import Series
from understudy.lifecycle.anomalies import find


def arms(
    hours: int, *, step: float = 0.0, drift: float = 0.0, world: float = 0.0, seed: int = 1
) -> list[Series]:
    """Return a metric by the hour with a day's pattern in both arms; harm begins half way, in one arm or in both."""
    rng = np.random.default_rng(seed)
    hour = np.arange(480_000, 480_000 + hours)
    pattern = 0.05 * np.sin(2 * np.pi * hour / 24)
    late = np.arange(hours) >= hours // 2
    after = np.where(late, np.arange(hours) - hours // 2, 0)
    n = rng.integers(40, 80, hours).astype(float)
    found = []
    for arm, harm in (("control", 0.0 * late), ("challenger", step * late + drift * after)):
        noise = rng.normal(0, 0.1, hours) / np.sqrt(n / 60)
        found.append(Series("brier", arm, hour, n, 0.2 + pattern + world * late + harm + noise))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_a_quiet_run_has_no_anomaly_in_spite_of_its_days_and_nights(seed: int) -> None:
    assert find(arms(150, seed=seed), 0.05) == []
    assert find(arms(1200, seed=seed), 0.05) == []


def test_a_step_of_the_challenger_is_named_with_its_time_and_side() -> None:
    found = find(arms(160, step=0.45), 0.05)
    assert [(item.metric, item.of, item.change.kind) for item in found] == [("brier", "difference", "step")]
    assert abs(found[0].at / 3600 - (480_000 + 80)) <= 3
    assert "worse" in found[0].sentence


def test_a_drift_of_the_challenger_is_found() -> None:
    found = find(arms(160, drift=0.02), 0.05)
    assert found
    assert {item.of for item in found} == {"difference"}
    assert found[0].at >= 480_000 * 3600


def test_a_world_that_moves_under_both_arms_is_told_apart_from_the_versions_parting() -> None:
    found = find(arms(1200, world=0.4), 0.05)
    assert {item.of for item in found} == {"champion"}


def test_metrics_without_a_pair_of_arms_or_with_hardly_any_hours_say_nothing() -> None:
    assert find(arms(160, step=0.45)[:1], 0.05) == []
    assert find(arms(6, step=0.45), 0.05) == []
    assert find([], 0.05) == []
