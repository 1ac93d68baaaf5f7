"""Did the offline gain hold online, why not, and what does the next one promise?

The paired difference on the holdout is reweighted to the traffic that came and put beside the online result; the gap
between them is taken apart; the forecast is scored; and over the model's finished runs the line from offline to online
gain is fitted, once there are enough of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from understudy import policy
from understudy.errors import UnderstudyError
from understudy.lifecycle.evidence import BIAS, traffic_of
from understudy.scoring import probabilities
from understudy.session import Passage
from understudy.spec import Metric, MetricKind
from understudy.stats.cells import ALL, Cell
from understudy.stats.evidence import Evidence
from understudy.stats.forecast import Bias, Labels, Reweighted, explain_gap, reweight
from understudy.stats.heterogeneity import gail_simon, heterogeneity, sign_reversal
from understudy.stats.losses import row_loss
from understudy.stats.ratio import ArmMoments
from understudy.stats.sequences import Interval
from understudy.stats.transfer import Forecast, Transfer, forecast_next, score, transfer
from understudy.store import records, runs

__all__ = ["by_cohort", "explained", "sentence_of"]

Array = NDArray[np.float64]

_LOSS_BOUNDS = {MetricKind.BRIER: (0.0, 1.0), MetricKind.ACCURACY: (-1.0, 0.0)}
_JOIN = " · "


def by_cohort(passage: Passage, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """Return offline and online harm of the primary side by side, for everyone and by cohort."""
    offline = passage.previous("evaluate")
    expected = offline.evidence.get("forecast", {}) if offline else {}
    found = {}
    for cell in evidence.cells:
        if cell.metric != passage.experiment.primary.name or cell.cohort not in expected:
            continue
        online = policy.online_interval(passage.experiment, cell)
        forecast = expected[cell.cohort]
        found[cell.cohort] = {
            "offline": forecast["estimate"],
            "offline_lower": forecast["lower"],
            "offline_upper": forecast["upper"],
            "offline_se": forecast["se"],
            "online": online.estimate,
            "online_lower": online.lower,
            "online_upper": online.upper,
            "online_se": online.se,
            "held": _compatible(forecast["estimate"], forecast["se"], online.estimate, online.se),
        }
    return found


def explained(passage: Passage, evidence: Evidence, cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Explain the gap between holdout and live traffic, score the forecast, and look at the runs before.

    Args:
        passage: The run.
        evidence: The whole run.
        cells: From `by_cohort`.

    Returns:
        JSON-safe parts: ``reweighted``, ``gap``, ``score``, ``spread`` over cohorts, ``transfer`` over finished runs and
        ``next``, the online gain that the line promises for this offline gain. A part that cannot be told says why.
    """
    primary = passage.experiment.primary
    index = evidence.cells.index(primary.name)
    if index is None or not primary.kind.needs_outcome:
        return {"reason": f"{primary.name} is not measured offline, so there is nothing to forecast it from."}
    online = policy.online_interval(passage.experiment, evidence.cells.row(index))
    past = _past(passage)
    try:
        offline, bias = _offline(passage, primary)
    except UnderstudyError as error:
        return {"reason": error.message, "transfer": past.to_dict()}
    labels = _labels(evidence, primary, evidence.cells.row(index))
    gap = explain_gap(
        online, offline, labels, bias, _bias_online(evidence) if bias else None, passage.experiment.alpha
    )
    return {
        "reweighted": offline.to_dict(),
        "gap": gap.to_dict(),
        "score": _scored(offline.interval, online, passage.experiment.alpha),
        "spread": _spread(cells, online),
        "transfer": past.to_dict(),
        "next": _promised(past, offline.offline).to_dict(),
    }


def sentence_of(cells: Mapping[str, Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    """Say in words whether the forecast held, and why not."""
    overall = cells.get(ALL)
    if not overall or overall["held"] is None:
        return "The offline forecast cannot be compared."
    word = "held" if overall["held"] else "did not hold"
    said = f"The offline forecast {word}: {-overall['offline']:.4g} expected, {-overall['online']:.4g} found."
    why = found.get("gap", {}).get("sentence", "") if not overall["held"] else ""
    return f"{said} {why}".strip()


def _offline(passage: Passage, primary: Metric) -> tuple[Reweighted, Bias | None]:
    """Score the holdout again and weight its paired differences to the traffic that came."""
    experiment, run, doors = passage.experiment, passage.run, passage.session
    holdout = passage.dataset(experiment.data.holdout)
    label = np.asarray(holdout[experiment.data.label], dtype=float)
    withheld = [experiment.data.label, experiment.traffic.unit, *experiment.traffic.private]
    features = holdout.drop(columns=withheld, errors="ignore")
    champion, challenger = (
        probabilities(doors.registry.load(run.model, version), features)
        for version in (run.champion, run.version)
    )
    units = holdout[experiment.traffic.unit].astype(str).to_numpy()
    columns = [name for name in experiment.traffic.cohorts if name in holdout.columns]
    names = [holdout[name].astype(str).to_numpy() for name in columns]
    joint = (
        np.array([_JOIN.join(part) for part in zip(*names, strict=True)])
        if names
        else np.full(len(label), ALL)
    )
    loss = [row_loss(primary.kind.value, scores, label) for scores in (champion, challenger)]
    traffic: dict[str, float] = {}
    for values, count in traffic_of(passage).items():
        named = dict(zip(experiment.traffic.cohorts, values, strict=True))
        key = _JOIN.join(named[name] for name in columns) if columns else ALL
        traffic[key] = traffic.get(key, 0.0) + count
    found = reweight(loss[1] - loss[0], units, joint, traffic, experiment.alpha)
    if primary.kind is not MetricKind.BRIER:
        return found, None
    means = [_clustered(scores - label, units) for scores in (champion, challenger)]
    return found, Bias(*means[0], *means[1])


def _clustered(values: Array, units: Any) -> tuple[float, float]:
    """Return a mean with its standard error, the unit as the cluster."""
    known = np.isfinite(values)
    code = np.unique(units[known], return_inverse=True)[1]
    size = int(code.max()) + 1 if code.size else 0
    sums = np.bincount(code, values[known], size)[:, None]
    return _level(ArmMoments.from_units(sums, np.bincount(code, minlength=size)[:, None]))


def _level(arm: ArmMoments) -> tuple[float, float]:
    """Return an arm's ratio over all stages with its standard error."""
    events = float(arm.sum_d.sum())
    if events == 0:
        return math.nan, math.nan
    return float(arm.sum_n.sum()) / events, math.sqrt(float(arm.rr.sum())) / events


def _bias_online(evidence: Evidence) -> Bias | None:
    index = evidence.cells.index(BIAS)
    if index is None:
        return None
    cell = evidence.cells.row(index)
    return Bias(*_level(cell.control), *_level(cell.challenger))


def _labels(evidence: Evidence, primary: Metric, cell: Cell) -> Labels:
    quality = evidence.quality
    low, high = _LOSS_BOUNDS.get(primary.kind, (None, None))
    missing = [
        arm.missing / arm.matured if arm.matured else 0.0 for arm in (quality.control, quality.challenger)
    ]
    means = [_level(arm)[0] for arm in (cell.control, cell.challenger)]
    return Labels(missing[0], missing[1], means[0], means[1], low, high)


def _scored(offline: Interval, online: Interval, alpha: float) -> dict[str, Any]:
    """Score the reweighted forecast; what it is held against has an error of its own."""
    if offline.estimate is None or offline.se is None or online.estimate is None or online.se is None:
        return score(Forecast(alpha, reason="no_forecast"), math.nan).to_dict()
    se = math.hypot(offline.se, online.se)
    half = -float(ndtri(alpha / 2)) * se
    forecast = Forecast(alpha, offline.estimate, offline.estimate - half, offline.estimate + half, se)
    return score(forecast, online.estimate).to_dict() | {"forecast": forecast.to_dict()}


def _spread(cells: Mapping[str, Mapping[str, Any]], online: Interval) -> dict[str, Any]:
    """Tell whether the online effect differs between cohorts, and whether it changes its sign."""
    known = [
        row
        for cohort, row in cells.items()
        if cohort != ALL and row["online"] is not None and row["online_se"]
    ]
    effects, errors = ([row[name] for row in known] for name in ("online", "online_se"))
    return {
        "heterogeneity": heterogeneity(effects, errors).to_dict(),
        "crossing": gail_simon(effects, errors).to_dict(),
        "reversal": None if online.estimate is None else sign_reversal(online.estimate, effects).to_dict(),
    }


def _past(passage: Passage) -> Transfer:
    """Compare offline with online harm over the model's finished runs of this primary."""
    run, points = passage.run, []
    with passage.session.store.read() as connection:
        for other in runs.latest(connection, run.model, limit=1000):
            if other.run_id == run.run_id or not other.state.terminal or other.experiment != run.experiment:
                continue
            compared = records.verdicts_of(connection, other.run_id, "compare", newest=1)
            row = compared[0].verdict.evidence.get("forecast", {}).get(ALL) if compared else None
            if row and "offline_se" in row:
                points.append([row[name] for name in ("offline", "offline_se", "online", "online_se")])
    table = np.array(
        [[math.nan if value is None else value for value in point] for point in points], dtype=float
    )
    x, se_x, y, se_y = table.reshape(-1, 4).T
    return transfer(x, se_x, y, se_y, passage.experiment.alpha)


def _promised(past: Transfer, offline: Interval) -> Forecast:
    if offline.estimate is None or offline.se is None:
        return Forecast(0.05, reason="no_offline_gain")
    return forecast_next(past, offline.estimate, offline.se)


def _compatible(
    expected: float | None, expected_se: float | None, online: float | None, online_se: float | None
) -> bool | None:
    """Tell whether offline and online differ by no more than their noise explains (two standard errors)."""
    if expected is None or expected_se is None or online is None or online_se is None:
        return None
    return bool(abs(expected - online) <= 2 * math.hypot(expected_se, online_se))
