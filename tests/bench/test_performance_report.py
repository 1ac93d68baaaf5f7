"""The report on performance says what was measured: the ratios of the rounds, the goals that are missed, what grew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from bench.performance import report, returns
from bench.performance.goals import Goal, goals
from bench.performance.series import Measured, Return, Rollbacks, Round, Sample, Series, Serving, Soak
from bench.performance.trend import trends

DOCS = Path(__file__).resolve().parents[2] / "docs"
PEERS = (
    "mlflow models serve",
    "MLServer",
    "bare, scikit-learn",
    "bare, compiled",
    "gateway",
    "gateway, not compiled",
)
PARTS = ("gateway", "without routing", "without event log")
FAST, SLOW = Round(1000.0, 1.0, 2.0, 100.0), Round(10.0, 100.0, 200.0, 10_000.0)


def serving(ours: Round = FAST, theirs: Round = FAST) -> Serving:
    """Return a run in which the gateway found one thing and everything else another."""
    peers = [
        Series(server, model, rows, connections, rounds=[ours if server == "gateway" else theirs] * 3)
        for model in ("logistic", "boosting")
        for rows in (1, 100)
        for connections in (1, 8, 32)
        for server in PEERS
    ]
    parts = [
        Series(label, model, rows, 8, rounds=[ours] * 3)
        for model in ("logistic", "boosting")
        for rows in (1, 100)
        for label in PARTS
    ]
    parts += [
        Series("mirror off", "logistic", 1, 8, 7, [ours]),
        Series("mirror on", "logistic", 1, 8, 7, [ours]),
    ]
    return Serving(
        {"date": "2026-01-01"}, peers, parts, {"gateway, logistic": {"server": 300.0, "challenger": 200.0}}
    )


def soak(slope: float = 0.0) -> Soak:
    samples = [
        Sample(minute / 10, 300.0 + slope * minute / 10 + minute % 2, 200.0, 30, 5.0 * minute, 3)
        for minute in range(100)
    ]
    return Soak({"date": "2026-01-01"}, FAST, 600_000, {"copies dropped": 7}, samples)


def judged(found: Serving, words: str) -> list[Goal]:
    matching = [goal for goal in goals(found) if words in goal.what]
    assert matching
    return matching


def test_a_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    ours = Series("a", "m", 1, 1, rounds=[replace(FAST, rate=rate) for rate in (10.0, 100.0, 1000.0)])
    theirs = Series("b", "m", 1, 1, rounds=[replace(FAST, rate=rate) for rate in (20.0, 50.0, 4000.0)])
    assert ours.against(theirs, "rate") == 0.5
    assert ours.typical("rate") == 100.0


def test_a_round_that_is_missing_on_one_side_is_an_error_and_not_left_out() -> None:
    with pytest.raises(ValueError, match="zip"):
        Series("a", "m", 1, 1, rounds=[FAST]).against(Series("b", "m", 1, 1), "rate")


def test_a_gateway_a_hundred_times_as_fast_as_mlflow_meets_those_goals() -> None:
    found = judged(serving(FAST, SLOW), "against `mlflow models serve`")
    assert [goal.met for goal in found] == [True] * 5
    assert found[0].found == 100.0


def test_a_gateway_no_faster_than_mlflow_misses_those_goals_and_the_page_says_so() -> None:
    found = serving(FAST, FAST)
    assert [goal.met for goal in judged(found, "against `mlflow models serve`")] == [False] * 5
    assert "**not met**" in report.text(Measured(serving=found))


@pytest.mark.parametrize(("rate", "met"), [(0.79, [False] * 3), (0.8, [True] * 3)])
def test_a_batch_has_to_come_to_four_fifths_of_a_bare_server_with_scikit_learn(
    rate: float, met: list[bool]
) -> None:
    ours = replace(FAST, rate=FAST.rate * rate)
    found = judged(
        serving(ours, FAST), "against a bare server with scikit-learn, logistic regression, batches"
    )
    assert [goal.met for goal in found] == met


@pytest.mark.parametrize(("cpu", "met"), [(111.0, True), (112.0, False)])
def test_the_share_of_a_part_is_what_of_the_request_goes_without_it(cpu: float, met: bool) -> None:
    found = serving()
    parts = [
        replace(one, rounds=[replace(FAST, cpu_us=cpu)] * 3) if one.server == "gateway" else one
        for one in found.parts
    ]
    for goal in judged(replace(found, parts=parts), "share of the routing"):
        assert goal.found == pytest.approx(100 * (1 - 100 / cpu))
        assert goal.met is met


@pytest.mark.parametrize(("rate", "met"), [(1.99, False), (2.0, True)])
def test_a_gateway_has_to_be_twice_as_fast_as_mlserver(rate: float, met: bool) -> None:
    found = judged(serving(replace(FAST, rate=rate), replace(FAST, rate=1.0)), "MLServer")
    assert [goal.met for goal in found] == [met] * 3


def test_growth_is_told_from_noise_and_extrapolated() -> None:
    still, growing = (trends(soak(slope).samples)[0] for slope in (0.0, 2.0))
    assert still.low < 0 < still.high
    assert "no growth" in still.in_words()
    assert growing.slope == pytest.approx(2.0, abs=0.05)
    assert growing.low > 1.5
    assert growing.in_words().startswith("+2,8")


@pytest.mark.parametrize(
    ("share", "found"), [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (0.991, 100.0), (1.0, 100.0)]
)
def test_a_quantile_is_a_value_that_was_found_and_never_one_below_the_share(
    share: float, found: float
) -> None:
    assert returns.quantile([float(value) for value in range(100, 0, -1)], share) == found
    assert returns.quantile([7.0], share) == 7.0


def rollbacks(zero: float = 0.1, verified: float = 2.0, slow: int = 0) -> Rollbacks:
    """Return a hundred rollbacks by each way, some of them ten times as slow."""
    found = [
        Return(by, zero * factor, verified * factor, {"zero_exposure": zero, "registry": verified / 2})
        for by in ("engine", "command")
        for factor in [10.0] * slow + [1.0] * (100 - slow)
    ]
    return Rollbacks({"date": "2026-03-03"}, found)


@pytest.mark.parametrize(
    ("found", "met"),
    [
        (rollbacks(), [True, True]),
        (rollbacks(zero=1.0), [False, True]),
        (rollbacks(verified=5.0), [True, False]),
        (rollbacks(slow=1), [True, True]),
        (rollbacks(slow=2), [False, True]),
        (rollbacks(slow=6), [False, False]),
    ],
)
def test_a_slow_rollback_counts_as_soon_as_it_is_no_longer_rare(found: Rollbacks, met: list[bool]) -> None:
    assert [goal.met for goal in returns.goals(found)] == met


def test_the_page_has_every_distribution_of_the_rollbacks() -> None:
    page = report.text(Measured(rollback=rollbacks(slow=1)))
    assert "| zero, by the engine | 100 | 0.100 | 0.100 | 0.100 | 1.000 |" in page
    assert "| verified, by the command | 100 | 2.000 | 2.000 | 2.000 | 20.000 |" in page
    assert "| until registry was done, by the engine | 100 | 1.000 |" in page
    assert "zero_exposure" not in page


def test_each_measurement_takes_the_place_of_the_last_of_its_kind_and_leaves_the_other(
    tmp_path: Path,
) -> None:
    report.store(tmp_path, serving())
    report.store(tmp_path, soak())
    report.store(tmp_path, rollbacks())
    report.store(tmp_path, replace(serving(), made={"date": "2026-02-02"}))
    page = (tmp_path / "performance.md").read_text()
    assert "2026-02-02" in page
    assert "## Soak" in page
    assert "## Rollback" in page
    assert "600,000 rows" in page
    kept = msgspec.json.decode((tmp_path / "performance.json").read_bytes(), type=Measured)
    assert report.text(kept) == page


def test_the_committed_page_is_what_the_committed_figures_say() -> None:
    kept = msgspec.json.decode((DOCS / "performance.json").read_bytes(), type=Measured)
    assert (DOCS / "performance.md").read_text() == report.text(kept)
    assert kept.serving is not None
    assert kept.soak is not None
