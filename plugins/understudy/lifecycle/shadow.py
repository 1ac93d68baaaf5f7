"""Replays recent requests through both versions before anybody sees the challenger's answers."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import UnderstudyError
from understudy.events.lookups import mirrored_requests
from understudy.lifecycle.check_data import logged_requests
from understudy.lifecycle.exposed import stand_by, stand_down
from understudy.lifecycle.limits import at_most
from understudy.scoring import probabilities
from understudy.session import Passage, session
from understudy.spec import Shadow
from understudy.stats.drift import psi
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict, worst_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["mirror", "shadow"]

_BATCH = 500

log = logging.getLogger(__name__)


def shadow(run_id: str) -> dict[str, Any]:
    """Compare the predictions of both versions on the newest logged requests, and on live ones where the spec asks.

    Raises:
        StepNotPassed: The challenger fails on requests, or its answers differ too much to be exposed.
        DataMissing: Nothing is logged.
    """
    passage = session().passage(run_id)
    rules = passage.experiment.shadow
    requests = logged_requests(passage, rules.requests)
    champion, champion_seconds, _ = _replay(passage, passage.run.champion, requests)
    challenger, challenger_seconds, failed = _replay(passage, passage.run.version, requests)
    verdict = _judge(rules, champion, challenger, failed)
    drift = psi(champion, challenger)
    metrics = {
        "requests": len(requests),
        "failed": failed,
        "mean_score.champion": _mean(champion),
        "mean_score.challenger": _mean(challenger),
        "agreement": _agreement(champion, challenger),
        "latency_ratio": challenger_seconds / max(champion_seconds, 1e-9),
        **({"score_psi": drift.psi} if drift.psi is not None else {}),
    }
    if verdict.passed and rules.mirror:
        live = mirror(passage, rules.mirror)
        metrics |= {"mirrored": len(live)}
        verdict = worst_of([verdict, _judge_mirror(rules, live)], verdict.sentence)
        if verdict.passed:
            verdict = replace(verdict, sentence=" ".join(part.sentence for part in verdict.parts))
    record = StepRecord(
        metrics=metrics,
        params={"requests": len(requests), "mirror": rules.mirror},
        datasets={"requests": requests.drop(columns=["unit"], errors="ignore")},
    )
    return passage.conclude("shadow", verdict, record)


def mirror(passage: Passage, seconds: float) -> pd.DataFrame:
    """Have the gateways copy live requests to the challenger for a while.

    Returns:
        What both versions answered, as :func:`~understudy.events.lookups.mirrored_requests` gives it.
    """
    settings, run = passage.session.settings, passage.run
    stand_by(passage, mirror=True)
    try:
        time.sleep(seconds)
    finally:
        stand_down(passage, "The mirror has seen what it was to see.")
    return mirrored_requests(settings.events_dir, run.model, run.run_id)


def _judge_mirror(rules: Shadow, live: pd.DataFrame) -> Verdict:
    if live.empty:
        sentence = "No live request was mirrored, so the mirror shows nothing. Send traffic, or leave `shadow.mirror` out."
        return Verdict(Outcome.INCONCLUSIVE, "nothing_mirrored", sentence)
    champion, challenger = live["champion"].to_numpy(float), live["challenger"].to_numpy(float)
    failed = int((~np.isfinite(challenger)).sum())
    # A mirror sees a few minutes of one day: enough to see the challenger fail, too little to judge its answers by.
    judged = at_most(
        "error_rate", failed / len(live), rules.max_error_rate, "of the mirrored requests failed"
    )
    if not judged.passed:
        return judged
    agreement = _agreement(champion, challenger)
    sentence = f"It answered all of {len(live):,} mirrored live requests, {agreement:.1%} of them as the champion does."
    return replace(judged, sentence=sentence, evidence={**judged.evidence, "agreement": agreement})


def _replay(passage: Passage, version: str, requests: Any) -> tuple[NDArray[np.float64], float, int]:
    """Score the requests in batches; a batch that cannot be scored counts as failed and leaves NaN."""
    model = passage.session.registry.load(passage.run.model, version)
    answers = np.full(len(requests), np.nan)
    seconds = 0.0
    for start in range(0, len(requests), _BATCH):
        batch = requests.iloc[start : start + _BATCH]
        began = time.perf_counter()
        try:
            answers[start : start + _BATCH] = probabilities(model, batch)
        except UnderstudyError:
            raise
        # A model may raise anything at all; here that is a measurement, not a fault of the step.
        except Exception as error:
            log.warning("Version %s cannot score a batch of requests: %s", version, type(error).__name__)
        finally:
            seconds += time.perf_counter() - began
    return answers, seconds, int((~np.isfinite(answers)).sum())


def _judge(
    rules: Shadow, champion: NDArray[np.float64], challenger: NDArray[np.float64], failed: int
) -> Verdict:
    count = len(champion)
    scored = count - failed
    agreement, shift = _agreement(champion, challenger), abs(_mean(challenger) - _mean(champion))
    parts = [
        at_most("error_rate", failed / count, rules.max_error_rate, "of the requests could not be scored"),
        at_most(
            "score_shift", shift, rules.max_score_shift, "is the shift of the mean predicted probability"
        ),
        at_most(
            "disagreement", 1 - agreement, 1 - rules.min_agreement, "of the requests are decided differently"
        ),
    ]
    if scored < rules.min_requests:
        sentence = f"{scored} requests could be replayed; {rules.min_requests} are needed to decide anything."
        parts.append(Verdict(Outcome.INCONCLUSIVE, "too_few_requests", sentence))
    return worst_of(
        parts,
        f"On {count:,} recent requests the challenger answered all, agrees with the champion on {agreement:.1%} and shifts "
        f"the mean probability by {shift:.3f}.",
    )


def _agreement(champion: NDArray[np.float64], challenger: NDArray[np.float64]) -> float:
    both = np.isfinite(champion) & np.isfinite(challenger)
    return (
        float(np.mean((champion[both] >= 0.5) == (challenger[both] >= 0.5))) if both.any() else float("nan")
    )


def _mean(answers: NDArray[np.float64]) -> float:
    finite = answers[np.isfinite(answers)]
    return float(finite.mean()) if finite.size else float("nan")
