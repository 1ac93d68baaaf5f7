"""Scores both versions on the labelled holdout and compares them row by row, overall and by cohort."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataMissing
from understudy.lifecycle import groups, off_policy
from understudy.scoring import probabilities
from understudy.session import Passage, session
from understudy.spec import MetricKind
from understudy.stats.calibration import calibration
from understudy.stats.losses import row_loss
from understudy.stats.paired import PairedDifference, paired_by_cohort
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["evaluate", "judged"]


def evaluate(run_id: str) -> dict[str, Any]:
    """Compare challenger and champion on the holdout.

    The primary's gain must be proven to be at least ``evaluation.min_gain``, and no cohort may be proven worse by more
    than ``evaluation.max_cohort_loss``. Intervals cluster rows by the unit of the spec.

    Raises:
        StepNotPassed: The gain is not proven, or a cohort is harmed.
        DataMissing: The holdout lacks rows or columns.
    """
    passage = session().passage(run_id)
    verdict, record = judged(passage)
    return passage.conclude("evaluate", verdict, record)


def judged(passage: Passage) -> tuple[Verdict, StepRecord]:
    """Judge both versions on the copies of the data that the run keeps, so that the same comes out again at any time.

    Raises:
        DataMissing: The holdout lacks rows or columns.
        SnapshotBroken: A copy was altered.
        Unreachable: MLflow does not answer, which has the versions.
    """
    experiment, run = passage.experiment, passage.run
    holdout = passage.dataset(experiment.data.holdout)
    _refuse_unusable(passage, set(holdout.columns), len(holdout))
    labels = _labels(passage, holdout)
    # What the gateway withholds from a model in production is withheld here too.
    withheld = [experiment.data.label, experiment.traffic.unit, *experiment.traffic.private]
    features = holdout.drop(columns=withheld, errors="ignore")
    scores = {
        version: probabilities(passage.session.registry.load(run.model, version), features)
        for version in (run.champion, run.version)
    }
    units = holdout[experiment.traffic.unit].astype(str).to_numpy()
    cohorts = {
        name: holdout[name].to_numpy() for name in experiment.traffic.cohorts if name in holdout.columns
    }
    compared = {
        metric.name: paired_by_cohort(
            row_loss(metric.kind.value, scores[run.champion], labels),
            row_loss(metric.kind.value, scores[run.version], labels),
            units,
            cohorts,
            experiment.alpha,
        )
        for metric in experiment.metrics
        if metric.kind.needs_outcome
    }
    answered = _answered(run.version, scores[run.version])
    verdict = _judge(passage, compared, len(holdout), answered)
    told = {"champion": scores[run.champion], "challenger": scores[run.version]}
    verdict = _with(passage, verdict, groups.gaps(told, labels, cohorts, experiment.alpha))
    verdict = replace(verdict, evidence={**verdict.evidence, "data": _data(passage)})
    record = StepRecord(
        metrics=_metrics(passage, scores, labels, compared),
        params={"rows": len(holdout), "holdout": experiment.data.holdout, "alpha": experiment.alpha},
        artifacts={"paired.csv": _table(compared)},
        datasets={
            "holdout": holdout.drop(
                columns=[experiment.traffic.unit, *experiment.traffic.private], errors="ignore"
            )
        },
    )
    return verdict, record


def _data(passage: Passage) -> dict[str, str]:
    """Return the SHA-256 of each dataset that decides."""
    experiment, kept = passage.experiment, passage.kept["snapshot"]["datasets"]
    logged = experiment.evaluation.off_policy
    named = [experiment.data.holdout, *([logged.logged] if logged else [])]
    return {name: kept[name] for name in named}


def _refuse_unusable(passage: Passage, columns: set[str], rows: int) -> None:
    experiment = passage.experiment
    missing = sorted({experiment.data.label, experiment.traffic.unit} - columns)
    if missing:
        raise DataMissing(
            f"The holdout {experiment.data.holdout} has no column {', '.join(missing)}. It needs the label and the unit of "
            "the spec; write it again with them."
        )
    if rows < experiment.evaluation.min_rows:
        raise DataMissing(
            f"The holdout {experiment.data.holdout} has {rows} rows, the spec asks for {experiment.evaluation.min_rows}. "
            "Collect more labelled rows."
        )


def _labels(passage: Passage, holdout: Any) -> NDArray[np.float64]:
    import pandas as pd

    data = passage.experiment.data
    labels = pd.to_numeric(holdout[data.label], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unusable = int((~np.isin(labels, (0.0, 1.0))).sum())
    if unusable:
        raise DataMissing(
            f"{unusable} of {len(labels)} rows of the holdout {data.holdout} have a {data.label} that is neither 0 nor 1. "
            "A row without its true outcome cannot be judged; leave such rows out."
        )
    return np.asarray(labels)


def _answered(version: str, answers: NDArray[np.float64]) -> Verdict:
    """A row that a version cannot answer drops out of the comparison, so that not answering must not pay."""
    unanswered = int((~np.isfinite(answers)).sum())
    numbers = {"rows": len(answers), "unanswered": unanswered}
    if unanswered:
        sentence = f"Version {version} answers {unanswered} of {len(answers):,} labelled rows with no number."
        return Verdict(Outcome.ERROR, "unanswered_rows", sentence, numbers)
    return Verdict(Outcome.PASS, "every_row_answered", f"Version {version} answers every row.", numbers)


def _judge(
    passage: Passage, compared: dict[str, dict[str, PairedDifference]], rows: int, answered: Verdict
) -> Verdict:
    experiment = passage.experiment
    primary = experiment.primary
    if primary.name not in compared:
        if not answered.passed:
            return answered
        return Verdict(
            Outcome.PASS,
            "primary_is_online_only",
            f"{primary.name} cannot be measured offline; the holdout of {rows:,} rows is recorded for comparison.",
        )
    cells = compared[primary.name]
    parts = [answered, _gain(primary.name, cells["all"], experiment.evaluation.min_gain)]
    parts += [
        _cohort(primary.name, cell, experiment.evaluation.max_cohort_loss)
        for key, cell in cells.items()
        if key != "all"
    ]
    harm = cells["all"].interval.estimate
    sentence = f"On {rows:,} labelled rows {primary.name} improves by {-(harm or 0.0):.4g}; no cohort is proven worse."
    folded = worst_of([part for part in parts if part.reason != "cohort_undetermined"], sentence)
    forecast = {key: cell.interval.to_dict() for key, cell in cells.items()}
    return Verdict(
        folded.outcome,
        folded.reason,
        folded.sentence,
        {"metric": primary.name, "forecast": forecast},
        folded.metric,
        folded.cohort,
        tuple(parts),
    )


def _with(passage: Passage, verdict: Verdict, apart: dict[str, Any]) -> Verdict:
    """Add the gaps between groups and, where it is asked for, the off-policy value; the forecast stays where it is."""
    verdict = replace(verdict, evidence={**verdict.evidence, "groups": apart})
    declared = passage.experiment.evaluation.off_policy
    if declared is None:
        return verdict
    valued = off_policy.value(passage, declared)
    folded = worst_of([verdict, valued], f"{verdict.sentence} {valued.sentence}")
    numbers = {**verdict.evidence, "off_policy": dict(valued.evidence)}
    return replace(folded, evidence=numbers, parts=(*verdict.parts, valued))


def _gain(metric: str, cell: PairedDifference, min_gain: float) -> Verdict:
    interval = cell.interval
    if not interval.determined or interval.upper is None or interval.estimate is None:
        sentence = f"The offline gain of {metric} cannot be determined ({_why(interval.reason)})."
        return Verdict(Outcome.INCONCLUSIVE, "undetermined", sentence, interval.to_dict(), metric, "all")
    proven = -interval.upper
    if proven >= min_gain:
        sentence = f"{metric} improves by {-interval.estimate:.4g} offline, at least {proven:.4g}."
        return Verdict(Outcome.PASS, "gain_proven", sentence, interval.to_dict(), metric, "all")
    sentence = (
        f"{metric} improves by {-interval.estimate:.4g} offline, but only {proven:.4g} of it is proven; the spec asks for "
        f"{min_gain:g}."
    )
    outcome = Outcome.FAIL if -(interval.lower or 0.0) < min_gain else Outcome.INCONCLUSIVE
    return Verdict(outcome, "gain_not_proven", sentence, interval.to_dict(), metric, "all")


def _why(reason: str | None) -> str:
    return "both versions answer alike on every row" if reason == "zero_variance" else str(reason)


def _cohort(metric: str, cell: PairedDifference, max_loss: float) -> Verdict:
    interval = cell.interval
    if not interval.determined or interval.lower is None:
        sentence = f"{metric} in cohort {cell.cohort} has too little data to be judged alone."
        return Verdict(
            Outcome.INCONCLUSIVE, "cohort_undetermined", sentence, interval.to_dict(), metric, cell.cohort
        )
    if interval.lower > max_loss:
        sentence = f"{metric} in cohort {cell.cohort} is worse by at least {interval.lower:.4g}; {max_loss:g} is tolerated."
        return Verdict(Outcome.FAIL, "cohort_harmed", sentence, interval.to_dict(), metric, cell.cohort)
    sentence = f"{metric} in cohort {cell.cohort} is not proven worse."
    return Verdict(Outcome.PASS, "cohort_unharmed", sentence, interval.to_dict(), metric, cell.cohort)


def _metrics(
    passage: Passage,
    scores: dict[str, NDArray[np.float64]],
    labels: NDArray[np.float64],
    compared: dict[str, dict[str, PairedDifference]],
) -> dict[str, float]:
    named = {"champion": scores[passage.run.champion], "challenger": scores[passage.run.version]}
    found: dict[str, float] = {}
    for role, answers in named.items():
        for kind in (MetricKind.BRIER, MetricKind.LOG_LOSS):
            found[f"{role}.{kind.value}"] = float(row_loss(kind.value, answers, labels).mean())
        curve = calibration(answers, labels)
        found[f"{role}.ece"] = float(curve.ece) if curve.ece is not None else -1.0
    for name, cells in compared.items():
        estimate = cells["all"].interval.estimate
        if estimate is not None:
            found[f"{name}.gain"] = -estimate
    return found


def _table(compared: dict[str, dict[str, PairedDifference]]) -> str:
    lines = ["metric,cohort,rows,units,harm,lower,upper,p_holm"]
    for name, cells in compared.items():
        for key, cell in cells.items():
            numbers = (
                cell.rows,
                cell.units,
                cell.interval.estimate,
                cell.interval.lower,
                cell.interval.upper,
                cell.p_holm,
            )
            lines.append(
                ",".join([name, key, *("" if value is None else f"{value:.6g}" for value in numbers)])
            )
    return "\n".join(lines) + "\n"
