"""What a scenario came to: what was measured, whether that is good enough, and in which words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.spec import MetricKind, Restoration, Scenario

__all__ = ["PLANTED", "REFUSED_BY", "Played", "beside_the_point", "judge", "summary"]

PLANTED: Mapping[Scenario, str] = {
    Scenario.HEALTHY: "nothing: the twin is the champion",
    Scenario.DRIFT: "every request lies far outside what the model was trained on",
    Scenario.MISSING_FEATURES: "a feature that the version needs is not delivered",
    Scenario.TAG_MISMATCH: "the version's tag names a feature set that nobody registered",
    Scenario.FLIPPED_SIGN: "probabilities are those of the other class",
    Scenario.SHUFFLED_COHORT: "answers of one cohort are dealt to the wrong rows",
    Scenario.STALE_FEATURE: "the most important features stand still",
    Scenario.TRAINING_OUT_OF_SYNC: "each row has the features of the row before",
    Scenario.MISCALIBRATED: "log-odds are shifted",
    Scenario.SMALL_HARM: "log-odds are shifted until the harm is just beyond the margin",
    Scenario.NULL_HANDLING: "every fourth answer is no number",
    Scenario.SLOW: "every answer is held back until it counts as slow",
    Scenario.LATENCY: "every answer comes after the gateway's patience is over",
    Scenario.PARTIAL_DATA: "half of the challenger's units never arrive",
    Scenario.TRAFFIC_SPIKE: "flipped sign, and four times the load",
    Scenario.REGISTRY_DOWN: "flipped sign, and MLflow is stopped before it is found",
    Scenario.DATABASE_DOWN: "flipped sign, and the store cannot be opened when it is to be taken back",
    Scenario.CONTROL_PLANE_DOWN: "flipped sign, and nobody looks at the evidence",
}
"""What goes wrong in each scenario, in words."""

REFUSED_BY: Mapping[Scenario, frozenset[str]] = {
    Scenario.DRIFT: frozenset({"check_data"}),
    Scenario.MISSING_FEATURES: frozenset({"VERSION_INCOMPATIBLE", "ARTIFACT_UNLOADABLE"}),
    Scenario.TAG_MISMATCH: frozenset({"FEATURE_SET_MISMATCH"}),
}
"""Scenarios that must never reach a user: the steps or the codes of the errors that may refuse them."""

_OF_SERVING = frozenset({Scenario.NULL_HANDLING, Scenario.SLOW, Scenario.LATENCY})
_NOBODY_LOOKED = frozenset({"lease_lapsed", "run_not_exposed"})
_OF_THE_SPLIT = frozenset({"sample_ratio_mismatch", "multi_exposure"})
_SERVED_KINDS = frozenset({MetricKind.ERROR_RATE, MetricKind.LATENCY_OVER})


def beside_the_point(scenario: Scenario, kind: MetricKind | None, reason: str) -> bool:
    """Tell whether what took exposure back is about something else than what was planted, so that it proves nothing.

    Args:
        scenario: What was planted.
        kind: Kind of the metric that was harmed, if it was a metric.
        reason: The verdict's reason.
    """
    if scenario in (Scenario.HEALTHY, Scenario.CONTROL_PLANE_DOWN):
        return False
    if reason in _NOBODY_LOOKED:
        return True
    if reason in _OF_THE_SPLIT:
        # Answers that come too late are missing beside the champion's.
        return scenario not in (Scenario.PARTIAL_DATA, Scenario.LATENCY)
    if scenario is Scenario.PARTIAL_DATA:
        return True
    return kind is not None and (kind in _SERVED_KINDS) != (scenario in _OF_SERVING)


@dataclass(frozen=True)
class Played:
    """What was measured in one scenario.

    Attributes:
        scenario: Which one.
        caught_by: Metric, rule or error that caught it; empty where nothing did.
        told: What that said.
        units: Units that the challenger had answered when it was caught.
        detected_after: Seconds from the first exposure to the decision.
        harmed: Units that got an answer of the challenger.
        asked: Units that asked.
        zero_after: Seconds from the decision until the challenger gave its last answer.
        recovered_after: Seconds from the decision, or from the end of the outage, to the verified end of the rollback.
        allowed: Seconds that zero exposure may take beyond the objective: a lease that has to lapse.
        lost: Requests that were not answered with 200.
        cost: How much worse the answers are by the primary metric on labelled rows, where that was tuned.
        severity: How strong the fault was.
        disturbed: Whether something else than what was planted took it back, so that nothing is known of what was planted.
        problems: What is not as it should be afterwards.
    """

    scenario: Scenario
    caught_by: str = ""
    told: str = ""
    units: int = 0
    detected_after: float = 0.0
    harmed: int = 0
    asked: int = 0
    zero_after: float | None = None
    recovered_after: float | None = None
    allowed: float = 0.0
    lost: int = 0
    cost: float | None = None
    severity: float = 1.0
    disturbed: bool = False
    problems: Sequence[str] = field(default_factory=tuple)

    @property
    def share(self) -> float:
        """Share of the units that asked and were harmed."""
        return self.harmed / self.asked if self.asked else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        numbers = {
            name: None if value is None else round(value, 4)
            for name, value in self.__dict__.items()
            if isinstance(value, float) or value is None
        }
        return {
            **self.__dict__,
            **numbers,
            "scenario": self.scenario.value,
            "problems": list(self.problems),
            "share": round(self.share, 4),
            "planted": PLANTED[self.scenario],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Played:
        """Rebuild what :meth:`to_dict` returned."""
        own = {name: value for name, value in data.items() if name not in ("share", "planted")}
        return cls(**own | {"scenario": Scenario(data["scenario"]), "problems": tuple(data["problems"])})


def judge(played: Played, objectives: Restoration) -> tuple[bool, str]:
    """Say whether a scenario went as it must, and why not.

    Args:
        played: What was measured.
        objectives: Of a rollback, from the spec.

    Returns:
        Whether it passed, and a sentence.
    """
    wrong = list(played.problems)
    if played.scenario is Scenario.HEALTHY:
        if played.caught_by:
            wrong.insert(0, f"a healthy version was taken back by {played.caught_by}: {played.told}")
    elif not played.caught_by:
        wrong.insert(0, f"nothing caught it: {played.told}")
    if played.lost:
        wrong.append(f"{played.lost} requests were not answered")
    if played.scenario in REFUSED_BY:
        if played.harmed:
            wrong.append(f"{played.harmed} units were exposed to it")
    else:
        wrong += _late(played, objectives)
    if wrong:
        return False, f"{played.scenario.value}: {'; '.join(part.rstrip('.') for part in wrong)}."
    return True, _good(played)


def _late(played: Played, objectives: Restoration) -> list[str]:
    found = []
    limit = objectives.zero_within + played.allowed
    if played.zero_after is None:
        found.append("exposure did not end")
    elif played.zero_after > limit:
        found.append(f"zero exposure took {played.zero_after:.2f} s, and {limit:g} s are the objective")
    if played.recovered_after is None:
        found.append("the rollback was not verified")
    elif played.recovered_after > objectives.duration:
        found.append(
            f"the rollback took {played.recovered_after:.1f} s, and {objectives.duration:g} s are the objective"
        )
    return found


def _good(played: Played) -> str:
    if played.scenario is Scenario.HEALTHY:
        return f"healthy: left alone over {played.units:,} units, and taken back when asked."
    if played.scenario in REFUSED_BY:
        return f"{played.scenario.value}: refused by {played.caught_by} before anybody was exposed."
    return (
        f"{played.scenario.value}: caught by {played.caught_by} after {played.units:,} units and {played.detected_after:.1f} s; "
        f"zero exposure after {played.zero_after:.2f} s, verified after {played.recovered_after:.1f} s."
    )


def summary(verdicts: Mapping[str, bool]) -> str:
    """Say in a sentence how a drill went: how many scenarios passed, and which did not."""
    failed = [name for name, passed in verdicts.items() if not passed]
    if not failed:
        return f"All {len(verdicts)} scenarios passed."
    return f"{len(failed)} of {len(verdicts)} scenarios failed: {', '.join(failed)}."
