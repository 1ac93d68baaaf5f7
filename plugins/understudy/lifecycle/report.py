"""Writes the decision report of a run, keeps it in MLflow, and closes the MLflow run."""

from __future__ import annotations

import math
import time
from typing import Any

import jinja2

from understudy import policy
from understudy.errors import NoSuchRun
from understudy.events.lookups import exposed_units
from understudy.lifecycle import change_log, charts, incident
from understudy.lifecycle.anomalies import anomalies
from understudy.lifecycle.compare import ONLINE_RESULT
from understudy.lifecycle.evidence import latency_of
from understudy.session import Passage, session
from understudy.stats.histogram import LogHistogram
from understudy.store import ledger, records, runs
from understudy.verdicts import Verdict

__all__ = ["render", "report"]

_SAYS_NOTHING = 100.0

_STATUS = {runs.RunState.PROMOTED: "FINISHED", runs.RunState.ROLLED_BACK: "KILLED"}


def report(run_id: str) -> dict[str, Any]:
    """Write the report of a run, whatever became of it.

    Args:
        run_id: The run's id, or the key it was started with: a run may have been refused before it told its id.

    Returns:
        ``run_id``, ``state``, ``sentence`` and the address of the MLflow run that carries the report.
    """
    try:
        passage = session().passage_of(run_id)
    except NoSuchRun as error:
        return {
            "run_id": run_id,
            "outcome": "none",
            "sentence": f"There is no run to report on. {error.message}",
        }
    doors, run = passage.session, passage.run
    page = render(passage)
    answer = {
        "run_id": run.run_id,
        "state": run.state.value,
        "sentence": run.ending or "The run has not ended yet.",
        "mlflow_url": "",
    }
    if run.mlflow_run_id:
        pages = {"report.html": page, "change_log.md": change_log.write(doors, run.model)}
        if run.state is runs.RunState.ROLLED_BACK:
            pages["incident.md"] = incident.write(doors, run.model, incident.rollback_of(doors, run.run_id))
        doors.tracking.artifacts(run.mlflow_run_id, pages)
        tags = {"understudy.state": run.state.value, "understudy.ending": run.ending or ""}
        doors.tracking.finish(run.mlflow_run_id, _STATUS.get(run.state, "FAILED"), tags)
        answer["mlflow_url"] = doors.tracking.url(run.mlflow_run_id)
    return answer


def render(passage: Passage) -> str:
    """Return the report as one HTML page that needs nothing from elsewhere."""
    run = passage.run
    with passage.session.store.read() as connection:
        recorded = records.verdicts_of(connection, run.run_id)
        entries = ledger.entries(connection, run_id=run.run_id)
        steps = [
            item for item in records.newest_of_each_step(connection, run.run_id) if item.step != ONLINE_RESULT
        ]
    looks = [item for item in recorded if item.is_look]
    begun = next((item.verdict for item in steps if item.step == "preregister"), None)
    evaluated = next((item.verdict for item in steps if item.step == "evaluate"), None)
    compared = next((item.verdict for item in steps if item.step == "compare"), None)
    exposed, units = exposed_units(passage.session.settings.events_dir, run.model, run.run_id)
    forecast = compared.evidence.get("forecast", {}) if compared else {}
    explained = compared.evidence.get("explained", {}) if compared else {}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("understudy.lifecycle", "templates"), autoescape=True, trim_blocks=True
    )
    environment.filters["bound"] = _bound
    environment.filters["clock"] = lambda at: time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
    return environment.get_template("report.html").render(
        run=run,
        experiment=passage.experiment,
        steps=steps,
        entries=entries,
        forecast=forecast,
        exposed=exposed,
        units=units,
        looks=len(looks),
        harm_charts=_harm_charts(passage, looks),
        forecast_chart=charts.offline_and_online(forecast),
        explained=explained,
        past_chart=charts.past_runs(explained.get("transfer", {})),
        anomalies=anomalies(passage),
        groups=evaluated.evidence.get("groups", {}) if evaluated else {},
        answer_times=_answer_times(passage),
        rehearsal=begun.evidence.get("rehearsal", {}) if begun else {},
        tables=_tables(looks),
        quiet=_quiet_cohorts(looks),
        bursts=_bursts(steps),
        missed_cases=_missed_cases(steps),
    )


def _harm_charts(passage: Passage, looks: list[records.RecordedVerdict]) -> dict[str, str]:
    """Return the picture of each deciding metric over the run, the primary first."""
    experiment = passage.experiment
    order = sorted(experiment.deciding, key=lambda metric: metric != experiment.primary)
    drawn = {metric.name: charts.harm_over_time(looks, metric.name, metric.margin) for metric in order}
    return {name: picture for name, picture in drawn.items() if picture}


def _answer_times(passage: Passage) -> list[dict[str, Any]]:
    """Return percentiles of the answer times of both arms, in milliseconds, with their intervals."""
    histogram = latency_of(passage)
    if histogram is None:
        return []
    return [
        {"arm": arm, "n": int(histogram.n[index])}
        | {f"p{round(100 * q)}": _percentile(histogram, q, index) for q in (0.5, 0.95, 0.99)}
        for index, arm in enumerate(("control", "challenger"))
        if histogram.n[index]
    ]


def _percentile(histogram: LogHistogram, q: float, arm: int) -> str:
    found = histogram.interval(q)
    value, low, high = (float(part[arm]) for part in (found.estimate, found.lower, found.upper))
    if not math.isfinite(value):
        return "not known"
    return f"{value:.3g} ms" + (
        f" ({low:.3g} to {high:.3g})" if math.isfinite(low) and math.isfinite(high) else ""
    )


def _bound(value: float | None) -> str:
    """Show a bound with its sign; one that says nothing, because hardly any unit stands behind it, is not spelled out."""
    if value is None:
        return "none"
    return f"{value:+.4f}" if abs(value) < _SAYS_NOTHING else "open"


def _tables(looks: list[records.RecordedVerdict]) -> list[Verdict]:
    """Return the judgements of the last look, one a metric and cohort."""
    return [part for part in looks[-1].verdict.parts if part.metric] if looks else []


def _quiet_cohorts(looks: list[records.RecordedVerdict]) -> str:
    """Return what a last look that only held kept of the other cohorts; empty if it kept every judgement."""
    parts = looks[-1].verdict.parts if looks else ()
    return next((part.sentence for part in parts if part.reason == policy.QUIET_COHORTS), "")


def _bursts(steps: list[records.RecordedVerdict]) -> list[dict[str, Any]]:
    """Return what came of the burst, one item a version that had to answer it."""
    tried = next((item.verdict for item in steps if item.step == "spike"), None)
    if tried is None:
        return []
    shown = {arm: tried.evidence[arm] for arm in ("champion", "challenger") if arm in tried.evidence}
    return [
        {"arm": arm, "sent": burst["sent"], "unanswered": burst["error_rate"]}
        | {name: _milliseconds(burst[name]) for name in ("p50", "p99")}
        for arm, burst in shown.items()
    ]


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{1000 * seconds:.3g} ms"


def _missed_cases(steps: list[records.RecordedVerdict]) -> list[Verdict]:
    """Return the cases of the critical path that did not go as they must."""
    tried = next((item.verdict for item in steps if item.step == "critical_path"), None)
    return [part for part in tried.parts if not part.passed] if tried else []
