"""What each version would have earned where actions influence outcomes, from logged decisions and their propensities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import DataMissing
from understudy.scoring import probabilities
from understudy.session import Passage
from understudy.spec import OffPolicy
from understudy.stats.off_policy import off_policy
from understudy.verdicts import Outcome, Verdict

__all__ = ["value"]

Array = NDArray[np.float64]

_REFUSALS = {
    "effective_sample_too_small": "hardly any logged decision agrees with what a version would do",
    "no_rows": "there is no usable logged decision",
    "too_few_units": "too few units stand behind them",
    "reward_missing": "some have no reward; leave out those whose reward is not known yet",
    "propensity_missing": "some have no propensity",
    "propensity_not_positive": "some have a propensity of zero, and nothing can be divided by that",
    "propensity_above_one": "some have a propensity above one",
    "no_support": "a version would act where the logged policy never did",
    "weights_not_finite": "a propensity is too small to divide by",
    "weights_do_not_average_one": "their propensities do not fit the actions taken",
}


def value(passage: Passage, declared: OffPolicy) -> Verdict:
    """Value both versions on the logged decisions and compare them.

    A version takes action 1 when its prediction reaches the threshold. The reward model behind the doubly robust value is
    a line per action in both versions' predictions, fitted on the other half of the units.

    Returns:
        FAIL when the challenger is proven to earn less, INCONCLUSIVE when the log does not support an answer, else PASS.

    Raises:
        DataMissing: The log lacks a column or a row.
    """
    experiment, run, doors = passage.experiment, passage.run, passage.session
    log = passage.dataset(declared.logged)
    unit = experiment.traffic.unit
    needed = {declared.action, declared.propensity, declared.reward, unit}
    missing = sorted(needed - set(log.columns))
    if missing:
        raise DataMissing(
            f"The logged decisions {declared.logged} have no column {', '.join(missing)}. An off-policy value needs the unit, "
            "the action, its propensity and the reward of every decision; log them when the decision is made."
        )
    withheld = [*needed, *experiment.traffic.private, experiment.data.label]
    features = log.drop(columns=withheld, errors="ignore")
    scores = [
        probabilities(doors.registry.load(run.model, version), features)
        for version in (run.champion, run.version)
    ]
    units = np.unique(log[unit].astype(str).to_numpy(), return_inverse=True)[1]
    reward, action, propensity = (
        _numbers(log, column) for column in (declared.reward, declared.action, declared.propensity)
    )
    return _compare(declared, reward, action, propensity, np.column_stack(scores), units, experiment.alpha)


def _compare(
    declared: OffPolicy,
    reward: Array,
    action: Array,
    propensity: Array,
    scores: Array,
    units: NDArray[np.intp],
    alpha: float,
) -> Verdict:
    if not np.isin(action, (0.0, 1.0)).all() or not np.isfinite(scores).all():
        sentence = f"The logged decisions {declared.logged} hold actions other than 0 and 1, or rows that cannot be scored."
        return Verdict(Outcome.ERROR, "off_policy_unusable", sentence, {"rows": len(reward)})
    taken = action.astype(np.int64)
    model = _expected_reward(reward, taken, scores, units)
    found = []
    for column in range(2):
        acts = (scores[:, column] >= declared.threshold).astype(float)
        target = np.column_stack([1 - acts, acts])
        found.append(off_policy(reward, taken, propensity, target, model=model, units=units, alpha=alpha))
    champion, challenger = found
    evidence: dict[str, Any] = {"champion": champion.to_dict(), "challenger": challenger.to_dict()}
    refused = challenger.refused or champion.refused
    if refused or challenger.dr is None or champion.dr is None:
        why = _REFUSALS.get(str(refused), str(refused).replace("_", " "))
        sentence = f"The logged decisions do not support an off-policy value: {why}."
        return Verdict(Outcome.INCONCLUSIVE, "off_policy_refused", sentence, evidence)
    gain = challenger.dr.estimate - champion.dr.estimate
    # Both values come from the same rows and move together, so this is the wider of the possible errors.
    se = math.hypot(challenger.dr.se, champion.dr.se)
    evidence |= {"gain": gain, "gain_se": se}
    wide = 1.96 * se
    sentence = (
        f"On {challenger.rows:,} logged decisions the challenger would earn {gain:+.4g} a decision more than the champion "
        f"(between {gain - wide:+.4g} and {gain + wide:+.4g})."
    )
    if challenger.model_disagrees or champion.model_disagrees:
        sentence += " The reward model alone says something else, so trust the weights, not the model."
    if gain + wide < 0:
        return Verdict(Outcome.FAIL, "off_policy_loss", sentence, evidence)
    return Verdict(Outcome.PASS, "off_policy_value", sentence, evidence)


def _expected_reward(
    reward: Array, action: NDArray[np.int64], scores: Array, units: NDArray[np.intp]
) -> Array:
    """Predict the reward of both actions in every row from the half of the units that the row is not in."""
    design = np.column_stack([np.ones(len(scores)), scores])
    known = np.isfinite(reward)
    expected = np.zeros((len(reward), 2))
    for half in range(2):
        for choice in range(2):
            fitted = known & (units % 2 != half) & (action == choice)
            if not fitted.any():
                continue
            line = np.linalg.lstsq(design[fitted], reward[fitted], rcond=None)[0]
            expected[units % 2 == half, choice] = design[units % 2 == half] @ line
    return expected


def _numbers(log: Any, column: str) -> Array:
    import pandas as pd

    return np.asarray(pd.to_numeric(log[column], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))
