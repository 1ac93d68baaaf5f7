"""Rows, budgets and states: what is judged, at which part of alpha, and what an interval says about a margin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import (
    EXPERIMENT,
    NEVER,
    arm,
    brier,
    came_to,
    cell,
    errors,
    evidence,
    judge,
    metrics,
    part,
)
from understudy import policy
from understudy.policy import Kind, State
from understudy.stats.cells import Cells
from understudy.stats.ratio import ArmMoments
from understudy.verdicts import Outcome

NAMES = ("origin=JFK", "origin=LGA", "origin=EWR")


def test_alpha_is_divided_over_metrics_and_half_of_it_over_cohorts() -> None:
    rows = policy.harm_rows(EXPERIMENT, NAMES)
    alpha = {
        (metric.name, cohort): value
        for metric, cohort, value in zip(rows.metrics, rows.cohorts, rows.alpha, strict=True)
        if metric.decides
    }
    assert set(alpha) == {(metric, name) for metric in ("brier", "errors") for name in ("all", *NAMES)}
    # 0.05 over two deciding metrics, half of it for everyone, half over three cohorts.
    assert alpha["brier", "all"] == pytest.approx(0.0125)
    assert alpha["brier", "origin=JFK"] == pytest.approx(0.0125 / 3)
    assert sum(alpha.values()) == pytest.approx(EXPERIMENT.alpha)
    alone = policy.harm_rows(EXPERIMENT, ())
    assert alone.alpha[alone.deciding].sum() == pytest.approx(EXPERIMENT.alpha)


def test_dry_runs_and_watched_metrics_spend_nothing_of_alpha() -> None:
    dry = {"name": "dry", "kind": "brier", "role": "guardrail", "margin": 0.02, "dry_run": True}
    watching = declared.experiment(metrics=metrics(dry))
    with_it, without = policy.harm_rows(watching, NAMES), policy.harm_rows(EXPERIMENT, NAMES)
    assert with_it.alpha[with_it.deciding].tolist() == without.alpha[without.deciding].tolist()


def test_a_fairness_gap_has_no_row_in_a_cohort_and_leaves_its_part_to_the_others() -> None:
    gap = {
        "name": "gap",
        "kind": "fairness_gap",
        "role": "guardrail",
        "margin": 0.1,
        "of": "brier",
        "by": "origin",
    }
    rows = policy.harm_rows(declared.experiment(metrics=metrics(gap)), NAMES)
    assert [cohort for metric, cohort in zip(rows.metrics, rows.cohorts, strict=True) if metric.of] == ["all"]
    assert rows.alpha[rows.deciding].sum() == pytest.approx(0.05)


def test_harm_that_only_the_undivided_budget_would_prove_does_not_roll_back_with_many_cohorts() -> None:
    names = tuple(f"origin={number}" for number in range(50))
    seen = evidence(brier(-0.05), NEVER, brier(0.065, 500, names[0]))
    assert judge(seen, cohorts=names[:1]).kind is Kind.ROLL_BACK
    assert judge(seen, cohorts=names).kind is Kind.ADVANCE


@pytest.mark.parametrize(
    ("harm", "units", "state"),
    [
        (-0.05, 2000, State.SAFE),
        (0.005, 60_000, State.SAFE),  # worse for sure, and surely within the margin
        (0.0, 200, State.NOT_PROVEN_WORSE),
        (0.021, 4000, State.DETERIORATED),
        (0.1, 2000, State.HARMFUL),
        (0.0, 1, State.UNDETERMINED),
    ],
)
def test_one_interval_has_one_of_five_states(harm: float, units: int, state: State) -> None:
    found = policy.states(EXPERIMENT, (), Cells.stack([brier(harm, units), NEVER]))
    assert State(int(found.code[0])) is state


def test_a_row_that_the_evidence_does_not_have_is_undetermined() -> None:
    found = policy.states(EXPERIMENT, NAMES, Cells.stack([brier(-0.05)]))
    assert [State(code) for code in found.code[1:]] == [State.UNDETERMINED] * (len(found.rows) - 1)
    assert found.interval(1).reason == "no_data"


def watched(role: str = "watched", **changes: Any) -> list[dict[str, Any]]:
    return metrics({"name": "extra", "kind": "brier", "role": role, **changes})


def extra(harm: float) -> Any:
    return cell("extra", arm(0.2), arm(0.2 + harm, seed=2), kind="brier")


def test_a_watched_metric_has_its_interval_and_never_decides() -> None:
    seen = evidence(brier(-0.05), NEVER, extra(0.5))
    decision = judge(seen, metrics=watched())
    assert decision.kind is Kind.ADVANCE
    shown = part(decision.verdict, "extra")
    assert shown.evidence["lower"] > 0.4
    assert shown.evidence["decides"] is False
    assert policy.compare_online(declared.experiment(metrics=watched()), seen).passed


def test_a_dry_run_is_judged_and_shown_and_never_decides() -> None:
    listed = watched("guardrail", margin=0.02, dry_run=True)
    seen = evidence(brier(-0.05), NEVER, extra(0.5))
    decision = judge(seen, metrics=listed)
    assert decision.kind is Kind.ADVANCE
    shown = part(decision.verdict, "extra")
    assert (shown.outcome, shown.evidence["decides"]) == (Outcome.FAIL, False)
    assert shown.sentence.startswith("(dry run) extra is worse by at least")
    assert policy.compare_online(declared.experiment(metrics=listed), seen).passed


def test_a_dry_run_without_data_holds_nothing_back() -> None:
    listed = watched("guardrail", margin=0.02, dry_run=True)
    assert judge(evidence(), metrics=listed).kind is Kind.ADVANCE


SAME = {"name": "clicks", "kind": "mean", "role": "guardrail", "margin": 0.02, "value": "clicks"}


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (0.0, Kind.ADVANCE, "stage_passed"),
        (0.1, Kind.ROLL_BACK, "guardrail_breached"),
        (-0.1, Kind.ROLL_BACK, "guardrail_breached"),
        (0.03, Kind.HOLD, "could_be_harmful"),
        (-0.03, Kind.HOLD, "could_be_harmful"),
    ],
)
def test_a_metric_that_should_stay_the_same_is_harmed_by_a_change_either_way(
    change: float, kind: Kind, reason: str
) -> None:
    clicks = cell("clicks", arm(0.5), arm(0.5 + change, seed=2), kind="mean")
    seen = evidence(brier(-0.05), NEVER, clicks)
    decision = judge(seen, metrics=metrics(SAME | {"better": "same"}))
    assert came_to(decision) == (kind, reason)
    if kind is Kind.ROLL_BACK:
        assert "clicks has changed by at least" in decision.verdict.sentence


def test_a_change_either_way_is_two_questions_at_half_of_alpha_each() -> None:
    both, one = (
        policy.states(
            declared.experiment(metrics=metrics(SAME | {"better": better})),
            (),
            Cells.stack([cell("clicks", arm(0.5), arm(0.6, seed=2), kind="mean")]),
        )
        for better in ("same", "lower")
    )
    assert both.table.lower[2] < one.table.lower[2]
    halved = declared.experiment(alpha=0.025, metrics=metrics(SAME | {"better": "lower"}))
    half = policy.states(halved, (), Cells.stack([cell("clicks", arm(0.5), arm(0.6, seed=2), kind="mean")]))
    assert both.table.lower[2] == pytest.approx(half.table.lower[2])


CALIBRATION = {"name": "bias", "kind": "calibration", "role": "guardrail", "margin": 0.05}


@pytest.mark.parametrize(
    ("control", "challenger", "kind"),
    [
        (0.0, 0.0, Kind.ADVANCE),
        (0.1, -0.1, Kind.ADVANCE),  # as far off as before, to the other side
        (0.2, 0.0, Kind.ADVANCE),
        (0.0, 0.2, Kind.ROLL_BACK),
        (0.0, -0.2, Kind.ROLL_BACK),
        (0.05, -0.3, Kind.ROLL_BACK),
        (0.0, 0.06, Kind.HOLD),
    ],
)
def test_calibration_is_harmed_when_the_challenger_is_farther_off_on_average(
    control: float, challenger: float, kind: Kind
) -> None:
    bias = cell("bias", arm(control), arm(challenger, seed=2), kind="calibration")
    strict = [declared.content()["stages"][1]]
    seen = evidence(brier(-0.05), NEVER, bias)
    assert judge(seen, metrics=metrics(CALIBRATION), stages=strict).kind is kind


GAP = {
    "name": "gap",
    "kind": "fairness_gap",
    "role": "guardrail",
    "margin": 0.1,
    "of": "brier",
    "by": "origin",
}
GROUPS = ("origin=JFK", "origin=LGA")


def grouped(harm: tuple[float, float], units: tuple[int, int] = (2000, 2000)) -> list[Any]:
    """Return brier by origin: control is alike in both groups, the challenger is worse by so much in each."""
    return [brier(h, n, name) for h, n, name in zip(harm, units, GROUPS, strict=True)]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ((-0.05, -0.05), "stage_passed"),
        ((-0.3, 0.0), "guardrail_breached"),  # nobody is worse off, and yet one group is left behind
        ((-0.1, 0.0), "could_be_harmful"),
    ],
)
def test_a_fairness_gap_is_harmed_when_groups_drift_apart(harm: tuple[float, float], reason: str) -> None:
    seen = evidence(brier(-0.05), NEVER, *grouped(harm))
    decision = judge(seen, cohorts=GROUPS, metrics=metrics(GAP), stages=[declared.content()["stages"][1]])
    assert decision.verdict.reason == reason
    if reason != "stage_passed":
        assert decision.verdict.metric == "gap"


@pytest.mark.parametrize(
    ("cells", "cohorts"),
    [
        (grouped((0.0, 0.0), (2000, 1)), GROUPS),
        (grouped((0.0, 0.0))[:1], GROUPS),
        (grouped((0.0, 0.0)), GROUPS[:1]),
        (grouped((0.0, 0.0)), ()),
    ],
    ids=["a group of one unit", "a group without data", "one registered group", "no registered group"],
)
def test_a_fairness_gap_that_cannot_be_determined_never_passes(
    cells: list[Any], cohorts: tuple[str, ...]
) -> None:
    seen = evidence(brier(-0.05), NEVER, *cells)
    decision = judge(seen, cohorts=cohorts, metrics=metrics(GAP))
    assert decision.kind is Kind.HOLD
    assert decision.verdict.metric == "gap"
    assert "group" in decision.verdict.sentence or "nothing has been measured" in decision.verdict.sentence
    assert not policy.compare_online(declared.experiment(metrics=metrics(GAP)), seen, cohorts=cohorts).passed


def test_a_contained_group_is_no_longer_part_of_the_gap() -> None:
    names = (*GROUPS, "origin=EWR")
    cells = Cells.stack([brier(-0.05), NEVER, *grouped((0.0, 0.0)), brier(0.5, cohort="origin=EWR")])
    experiment = declared.experiment(metrics=metrics(GAP))
    row = 2
    everyone = policy.states(experiment, names, cells)
    assert everyone.harmful[row]
    without = policy.states(experiment, names, cells, policy.mask_of(names, ["origin=EWR"]))
    assert not without.harmful[row]
    assert without.table.determined[row]
    # Nor is it missed when the evidence does not have it any more.
    gone = Cells.stack([brier(-0.05), NEVER, *grouped((0.0, 0.0))])
    assert policy.states(experiment, names, gone).interval(row).reason == "no_data"
    kept = policy.states(experiment, names, gone, policy.mask_of(names, ["origin=EWR"]))
    assert kept.table.upper[row] == without.table.upper[row]


def runs(shape: tuple[int, ...], seed: int) -> ArmMoments:
    rng = np.random.default_rng(seed)
    d = np.full((*shape, 300, 2), 2.0)
    return ArmMoments.from_units(2 * (0.2 + 0.02 * seed + 0.2 * rng.normal(size=d.shape)), d, (1, 2))


def test_many_simulated_runs_are_judged_as_each_of_them_alone() -> None:
    experiment = declared.experiment(metrics=metrics(GAP, CALIBRATION, SAME | {"better": "same"}))
    keys = [(name, cohort) for name in ("brier", "errors", "bias", "clicks") for cohort in ("all", *GROUPS)]
    kinds = {"brier": "brier", "errors": "error_rate", "bias": "calibration", "clicks": "mean"}
    names, cohorts = (tuple(column) for column in zip(*keys, strict=True))
    arms = runs((5, len(keys)), 1), runs((5, len(keys)), 2)
    many = Cells(names, tuple(kinds[name] for name in names), cohorts, *arms)
    contained = np.zeros((5, 2), dtype=bool)
    together = policy.states(experiment, GROUPS, many, contained)
    within = policy.tolerances(experiment, GROUPS, many, 2.0, contained)
    for number in range(5):
        one = Cells(names, many.kinds, cohorts, *(_run(arm, number) for arm in arms))
        alone = policy.states(experiment, GROUPS, one)
        np.testing.assert_allclose(alone.table.lower, together.table.lower[number], rtol=1e-12)
        np.testing.assert_allclose(alone.table.upper, together.table.upper[number], rtol=1e-12)
        assert alone.code.tolist() == together.code[number].tolist()
        assert policy.tolerances(experiment, GROUPS, one, 2.0).safe.tolist() == within.safe[number].tolist()


def _run(arm: ArmMoments, number: int) -> ArmMoments:
    names = ("units", "together", "total", "sum_n", "sum_d", "rr", "rd", "dd", "non_finite")
    return ArmMoments(arm.stages, **{name: getattr(arm, name)[number] for name in names})


def test_a_challenger_that_fails_on_every_request_from_the_start_is_rolled_back() -> None:
    decision = judge(evidence(brier(-0.05), errors(60, 60)))
    assert decision.kind is Kind.ROLL_BACK
    assert "errors" in part(decision.verdict, "errors").sentence


def test_two_arms_that_both_fail_on_every_request_prove_nothing() -> None:
    decision = judge(evidence(brier(-0.05), errors(60, 60, control_bad=60)))
    assert decision.kind is Kind.HOLD
