"""Lets the challenger answer a burst of recent requests, faster than they ever came, before anybody is exposed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from understudy import gateways
from understudy.errors import UnderstudyError
from understudy.events.lookups import answered_requests, busiest_minute
from understudy.lifecycle.burst import Burst, fire
from understudy.lifecycle.check_data import nothing_logged
from understudy.lifecycle.limits import at_most
from understudy.lifecycle.trial import NOT_MEASURED, TrialGateway, not_measured, trial_gateway, undeclared
from understudy.session import Passage, session
from understudy.spec import Spike
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["spike"]

_LEAST_REQUESTS = 100
"""Fewer do not tell a 99th percentile, so a burst of little traffic lasts until it has as many."""

_LONGEST_BURST = 1200.0
_KEPT_UP = 0.95
_PATIENCE = 10.0


@dataclass(frozen=True)
class _Load:
    """The burst that a spec asks for.

    Attributes:
        busiest: Requests in the busiest minute of the last day, at all gateways.
        gateways: How many gateways share them.
        rate: Requests per second of the burst.
        count: Requests of the burst.
        bodies: JSON bodies of recent requests.
    """

    busiest: int
    gateways: int
    rate: float
    count: int
    bodies: list[bytes]

    @property
    def seconds(self) -> float:
        """How long the burst lasts; without end where nothing came."""
        return self.count / self.rate if self.rate else math.inf


def spike(run_id: str) -> dict[str, Any]:
    """Replay recent requests at a multiple of the busiest minute to the challenger, then to the champion for comparison.

    Raises:
        StepNotPassed: The challenger answers too slowly or not at all, or nobody can tell.
        BadParameter: The frozen spec declares no spike.
        Unreachable: A gateway does not answer, so nobody can tell how many share the traffic.
    """
    passage = session().passage(run_id)
    rules = passage.experiment.trial.spike
    if rules is None:
        raise undeclared(passage, "spike")
    record = StepRecord(params={"times": rules.times, "seconds": rules.seconds})
    try:
        load = _load(passage, rules)
        bursts = _try(passage, load, rules) if load.seconds <= _LONGEST_BURST else {}
    except NOT_MEASURED as error:
        verdict = not_measured(error)
    else:
        verdict = _judge(rules, load, bursts) if bursts else _too_few(load)
        verdict = replace(verdict, evidence=dict(verdict.evidence) | _evidence(load, bursts))
        record = replace(record, metrics=_metrics(load, bursts))
    return passage.conclude("spike", verdict, record)


def _load(passage: Passage, rules: Spike) -> _Load:
    doors, model = passage.session, passage.run.model
    unit = passage.experiment.traffic.unit
    requests = answered_requests(doors.settings.events_dir, model, passage.experiment.shadow.requests)
    if not requests:
        raise nothing_logged(passage)
    busiest = busiest_minute(doors.settings.events_dir, model)
    shared_by = max(1, len(gateways.serving(doors.settings.gateway_urls, model)))
    rate = rules.times * busiest / 60 / shared_by
    # Neither the unit nor what is private is in the log; no model gets either, but a gateway looks for the unit.
    bodies = [
        _body([{unit: f"trial-{number}"} | row for row in rows]) for number, rows in enumerate(requests)
    ]
    return _Load(busiest, shared_by, rate, max(round(rate * rules.seconds), _LEAST_REQUESTS), bodies)


def _body(rows: list[dict[str, Any]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    data = [[row.get(name) for name in columns] for row in rows]
    return json.dumps({"dataframe_split": {"columns": columns, "data": data}}).encode()


def _try(passage: Passage, load: _Load, rules: Spike) -> dict[str, Burst]:
    """Send the burst to both versions, one after the other at the same gateway; only the challenger's has to come off."""
    bursts: dict[str, Burst] = {}
    with trial_gateway(passage) as gateway:
        bursts["challenger"] = _fire(gateway, passage.run.version, load, rules)
        # The challenger may have taken the gateway down, which its own numbers say.
        with suppress(UnderstudyError):
            bursts["champion"] = _fire(gateway, passage.run.champion, load, rules)
    return bursts


def _fire(gateway: TrialGateway, version: str, load: _Load, rules: Spike) -> Burst:
    gateway.serve(version)
    return fire(gateway.url, load.bodies, load.rate, load.count, max(_PATIENCE, 2 * rules.max_p99))


def _judge(rules: Spike, load: _Load, bursts: Mapping[str, Burst]) -> Verdict:
    burst = bursts["challenger"]
    p99 = burst.percentile(0.99)
    what = f"{load.rate:,.1f} requests a second, {rules.times:g} times the busiest minute"
    verdict = worst_of(
        [
            at_most("error_rate", burst.error_rate, rules.max_error_rate, "of the burst got no answer"),
            _too_slow_here(rules, burst)
            or at_most("p99", p99, rules.max_p99, "s is the 99th percentile of the time to answer"),
        ],
        f"The challenger answered {burst.sent:,} requests, 99 % of them within {p99:.3f} s.",
    )
    beside = bursts["champion"].percentile(0.99) if "champion" in bursts else math.nan
    compared = f" The champion answered 99 % within {beside:.3f} s." if math.isfinite(beside) else ""
    return replace(verdict, sentence=f"At {what}: {verdict.sentence}{compared}")


def _too_slow_here(rules: Spike, burst: Burst) -> Verdict | None:
    """Return why the burst shows nothing, where this process could not send it in time."""
    late = burst.percentile(0.99) > rules.max_p99 >= burst.percentile(0.99, since_sent=True)
    if burst.achieved >= _KEPT_UP * burst.rate and not late:
        return None
    sentence = (
        f"This machine could not send the burst in time: {burst.achieved:,.1f} of {burst.rate:,.1f} requests a second, up to "
        f"{burst.delay.max():.3f} s late. So it shows nothing of the challenger. Run the evaluation queue on a faster or "
        "calmer machine, or lower trial.spike.times."
    )
    numbers = {"asked": burst.rate, "achieved": burst.achieved, "late": float(burst.delay.max())}
    return Verdict(Outcome.INCONCLUSIVE, "sender_too_slow", sentence, numbers)


def _too_few(load: _Load) -> Verdict:
    sentence = (
        f"The busiest minute had {load.busiest:,} requests, so a burst would take longer than {_LONGEST_BURST / 60:g} minutes "
        f"to have the {_LEAST_REQUESTS} that tell a 99th percentile. Let traffic reach the champion for a while, raise "
        "trial.spike.times, or leave the burst out with trial.spike: null."
    )
    return Verdict(Outcome.INCONCLUSIVE, "too_few_requests", sentence)


def _evidence(load: _Load, bursts: Mapping[str, Burst]) -> dict[str, Any]:
    shown = {arm: burst.to_dict() for arm, burst in bursts.items()}
    return {"busiest_minute": load.busiest, "gateways": load.gateways, "rate": load.rate, **shown} | _ratio(
        bursts
    )


def _metrics(load: _Load, bursts: Mapping[str, Burst]) -> dict[str, float]:
    numbers = {
        f"{arm}.{name}": value
        for arm, burst in bursts.items()
        for name, value in burst.to_dict().items()
        if isinstance(value, int | float)
    }
    return {"rate": load.rate} | numbers | _ratio(bursts)


def _ratio(bursts: Mapping[str, Burst]) -> dict[str, float]:
    """Return how many times as long as the champion the challenger takes, by the 99th percentile, where both are known."""
    if len(bursts) < 2:
        return {}
    ratio = bursts["challenger"].percentile(0.99) / bursts["champion"].percentile(0.99)
    return {"latency_ratio": ratio} if math.isfinite(ratio) else {}
