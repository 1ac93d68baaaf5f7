"""The promise about false alarms: the committed report is complete and kept, and its hardest worlds hold again today.

The worlds are run with few simulated runs, so the bounds are exact binomial ones that correct code passes but for one time
in a million. That they are sharp enough all the same is shown by breaking the rules on purpose.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from bench.calibration import jobs, plan, report, runner
from bench.calibration.distributions import DISTRIBUTIONS
from bench.calibration.rates import Rate, median_interval, most_alarms, summary
from bench.calibration.tables import detected, promised
from bench.calibration.tally import Tally
from bench.calibration.traffic import BUCKETS, STRUCTURES, Crowd, Design, Traffic
from understudy.stats.ratio import ArmMoments

DOCS = Path(__file__).resolve().parents[2] / "docs"
REDUCED = {f"{job.section}: {job.name}": job for job in plan.reduced()}
PROMISES = sum(
    len(promised(runner.Result(j.section, j.name, j.runs, dict(j.settings), {}, {}, {}, 0.0)))
    for j in REDUCED.values()
)
SURPRISE = 1e-6 / PROMISES
USUAL_ALARM = 1.645
"""Multiple of the standard error at which an ordinary one-sided test at 5 % speaks up."""


@functools.cache
def simulated(name: str) -> runner.Result:
    return runner.results([REDUCED[name]])[0]


def excess(result: runner.Result, kind: str, alpha: float = 0.05) -> bool:
    """Tell whether a rate is beyond what a true rate of alpha would ever show."""
    return result.counts[kind] > most_alarms(result.runs, alpha, SURPRISE)


def broken(name: str) -> runner.Result:
    """Run a world anew, with whatever is patched."""
    return runner.results([REDUCED[name]])[0]


@pytest.mark.parametrize("name", REDUCED)
def test_false_alarms_stay_within_the_exact_bound(name: str) -> None:
    result = simulated(name)
    for kind, alpha in promised(result).items():
        assert not excess(result, kind, alpha), f"{kind}: {result.counts[kind]} of {result.runs}"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("grid: normal, repeating", "t_every"),
        ("unequal: buyers, holdback", "welch_harm"),
        ("unequal: bernoulli-5, holdback", "welch_harm"),
        ("ramp: normal, product's control, to a holdback", "pooled_two"),
        ("ramp: normal, product's control, to a holdback", "pooled_t_once"),
        ("policy: 4 metrics x 20 cohorts", "undivided"),
        ("split: as planned", "chi-square|0.05"),
    ],
)
def test_the_same_worlds_fool_the_usual_rules(name: str, kind: str) -> None:
    assert excess(simulated(name), kind)


def _no_correction_for_peeking(patch: pytest.MonkeyPatch) -> None:
    for module in ("understudy.stats.cells", "bench.calibration.watch"):
        patch.setattr(f"{module}.multiplier", lambda n, *_: np.full(np.shape(n), USUAL_ALARM))


def _welch_alone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("understudy.stats.ratio._pooled", lambda arms, weights: np.zeros(weights.shape[:-1]))


def _spread_pooled_by_bucket(patch: pytest.MonkeyPatch) -> None:
    def pooled(arms: tuple[ArmMoments, ArmMoments], weights: np.ndarray) -> np.ndarray:
        n = [arm.units[..., 0] for arm in arms]
        second = sum(arm.rr[..., 0, 0] * (m / arm.sum_d[..., 0]) ** 2 for arm, m in zip(arms, n, strict=True))
        return second / (n[0] + n[1] - 2) * (1 / n[0] + 1 / n[1])

    patch.setattr("understudy.stats.ratio._pooled", pooled)


def _events_taken_for_units(patch: pytest.MonkeyPatch) -> None:
    add, rng = Tally.add, np.random.default_rng(1)
    patch.setattr(
        Tally,
        "add",
        lambda self, lane, bucket, *rest: add(self, lane, rng.integers(0, BUCKETS, bucket.size), *rest),
    )


@pytest.mark.parametrize(
    ("sabotage", "name", "kind"),
    [
        (_no_correction_for_peeking, "grid: normal, repeating", "harm"),
        (_no_correction_for_peeking, "grid: bernoulli-5, both", "two"),
        (_welch_alone, "unequal: lognormal-1.5, holdback", "harm"),
        (_spread_pooled_by_bucket, "unequal: buyers, holdback", "harm"),
        (_events_taken_for_units, "grid: normal, repeating", "two"),
    ],
)
def test_a_broken_rule_is_noticed(
    sabotage: Callable[[pytest.MonkeyPatch], None], name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch)
    assert excess(broken(name), kind)


def test_harm_is_found_when_it_is_there() -> None:
    job = jobs.Job(
        "detection", "4x", "means:detection",
        {"times": 4, "looks": 250, "per_look": 20, "planned": 20_160, "n_stars": [20_160]}, 200,
    )  # fmt: skip
    result = runner.results([job])[0]
    # The target is a median of 1,580 units per arm; its test passes whenever the true median is there or earlier.
    assert result.stops["one|20160|0.05"]["low"] <= 1_580 * 1.05
    assert result.rate("one|20160|0.05").high > 0.999


# The committed report


@pytest.fixture(scope="module")
def committed() -> list[runner.Result]:
    return report.read(DOCS / "calibration.json")[1]


def test_the_committed_page_says_what_the_committed_counts_say(committed: list[runner.Result]) -> None:
    facts, _ = report.read(DOCS / "calibration.json")
    assert report.text(facts, committed) == (DOCS / "calibration.md").read_text()


def test_the_committed_report_has_every_world_of_the_plan(committed: list[runner.Result]) -> None:
    planned = {
        (job.section, job.name, json.dumps(dict(job.settings), sort_keys=True), job.runs)
        for job in plan.full()
    }
    found = {(r.section, r.name, json.dumps(r.settings, sort_keys=True), r.runs) for r in committed}
    assert found == planned


def test_the_grid_has_all_distributions_exposures_and_structures(committed: list[runner.Result]) -> None:
    grid = [r for r in committed if r.section == "grid"]
    found = {(r.settings["distribution"], r.settings["design"][1], r.settings["structure"]) for r in grid}
    assert found == {
        (d.name, share, s.name) for d in DISTRIBUTIONS for share in (1, 5, 25, 50) for s in STRUCTURES
    }
    assert len(DISTRIBUTIONS) == 6
    assert {r.settings["looks"] for r in grid} == {2016}


def test_no_committed_world_alarms_more_often_than_promised(committed: list[runner.Result]) -> None:
    rates = [(r.rate(kind), alpha) for r in committed for kind, alpha in promised(r).items()]
    assert all(rate.point <= alpha for rate, alpha in rates)
    assert not report.failures(committed)


def test_committed_harm_is_found_as_soon_as_promised(committed: list[runner.Result]) -> None:
    assert "SLOWER" not in detected(committed).values()
    assert "## Broken promises" not in (DOCS / "calibration.md").read_text()


def test_a_broken_promise_would_stand_in_the_report(committed: list[runner.Result]) -> None:
    first = committed[0]
    wrong = [replace(first, counts={**first.counts, "harm": first.runs // 10}), *committed[1:]]
    page = report.text(report.read(DOCS / "calibration.json")[0], wrong)
    assert "## Broken promises" in page
    assert "harm 10.00 %" in page
    assert "FAILS" in page.split("## No effect, equal arms")[1]


# The simulator and its arithmetic


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
def test_every_structure_leaves_single_values_as_they_are(structure: object) -> None:
    traffic = Traffic(np.random.default_rng(4), 200, Design.staged(5), structure, 10)
    latent = np.concatenate([part.latent for _ in range(40) for part in traffic.look()])
    assert latent.mean() == pytest.approx(0, abs=0.05)
    assert latent.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: d.name)
def test_distributions_have_the_moments_they_claim(distribution: object) -> None:
    rng = np.random.default_rng(5)
    values = distribution.value(rng, rng.standard_normal(4_000_000))
    assert values.mean() == pytest.approx(distribution.mean, abs=6 * distribution.sd / 2000)
    if distribution.name != "lognormal-2":  # its sample variance has not settled even then
        assert values.std() == pytest.approx(distribution.sd, rel=0.1)


def test_successive_values_of_a_unit_have_the_stated_correlation() -> None:
    shape = replace(STRUCTURES[2], hour=0.0)
    traffic = Traffic(np.random.default_rng(6), 2000, Design.staged(50), shape, 10)
    seen = []
    for _ in range(2):
        traffic.look()
        seen.append(traffic._alive[0][0].rest)
    assert np.corrcoef(seen[0], seen[1])[0, 1] == pytest.approx(0.3, abs=0.03)


def test_growing_exposure_takes_nobody_out_of_the_challengers_arm() -> None:
    crowd = Crowd(np.random.default_rng(7), 50, Design.staged(1), STRUCTURES[3], 1.0)
    crowd.look()
    places = crowd._alive[0].place
    for percent in (1, 5, 25, 50, 100):
        design = Design.staged(percent)
        inside = places < design.challenger
        assert not (inside & (places >= 1 - design.control)).any()
        crowd.design, crowd.per_look = design, 100 * min(design.challenger, design.control)
        control, challenger = crowd.look()
        assert challenger.replicate.size / control.replicate.size == pytest.approx(
            design.challenger / design.control, rel=0.8
        )


def test_running_sums_equal_the_moments_that_the_product_builds() -> None:
    rng, tally = np.random.default_rng(8), Tally(6)
    for size in (1, 5, 400, 3000):
        lane, bucket = rng.integers(0, 6, size), rng.integers(0, BUCKETS, size)
        tally.add(lane, bucket, np.exp(rng.standard_normal(size)), rng.integers(1, 5, size).astype(float))
        tally.check(rows=2)
    tally._nn[3] *= 1.01
    with pytest.raises(AssertionError):
        tally.check(rows=2)


def test_exact_intervals_and_bounds_agree_with_scipy() -> None:
    for count, runs in ((0, 50), (3, 50), (50, 50), (151, 4000)):
        expected = binomtest(count, runs).proportion_ci(method="exact")
        rate = Rate(count, runs)
        assert (rate.low, rate.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    for runs, alpha, surprise in ((300, 0.05, 1e-7), (20, 0.001, 1e-3)):
        assert most_alarms(runs, alpha, surprise) == binom.ppf(1 - surprise, runs, alpha)


def test_a_rate_is_only_said_to_hold_when_its_whole_interval_does() -> None:
    assert Rate(30, 1000).verdict(0.05) == "holds"
    assert Rate(45, 1000).verdict(0.05) == "open"
    assert Rate(50, 1000).verdict(0.05) == "open"
    assert Rate(51, 1000).verdict(0.05) == "FAILS"
    assert Rate(0, 1000).verdict(0.001) == "open"


def test_runs_without_a_stop_count_as_never() -> None:
    stops = [1.0, 2.0, 3.0, np.inf, np.inf, np.inf, np.inf]
    assert median_interval(stops)[0] == np.inf
    assert summary({"a": stops})["a"] == {"median": None, "low": 1.0, "high": None, "mean": 2.0}


def test_an_interrupted_calibration_goes_on_where_it_was(tmp_path: Path) -> None:
    small = [replace(job, runs=2, batch=2) for job in plan.reduced()[:2]]
    first = runner.complete(small[:1], tmp_path, workers=1)
    with (tmp_path / "counts.jsonl").open("a") as store:
        store.write('{"key": "torn')
    both = runner.complete(small, tmp_path, workers=1)
    assert both[0] == first[0]
    assert len(both) == 2
    assert runner.complete(small, tmp_path, workers=1) == both
    assert (tmp_path / "counts.jsonl").read_text().count('"runs": 2') == 2


def test_counts_of_other_code_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = [replace(plan.reduced()[0], runs=2, batch=2)]
    runner.complete(small, tmp_path, workers=1)
    monkeypatch.setattr(runner, "code_digest", lambda: "other")
    runner.complete(small, tmp_path, workers=1)
    assert (tmp_path / "counts.jsonl").read_text().count('"key"') == 2
