"""The catalogue of ways back by kind of incident: when each applies, what it does in which order, and what users notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from understudy.rollback.facts import Facts

__all__ = ["CATALOGUE", "Recipe", "named", "pick"]

_PAGE = "docs/runbooks/roll-back-now.md"


@dataclass(frozen=True)
class Recipe:
    """One way back.

    Attributes:
        kind: The kind of incident.
        applies: Whether it fits what is known.
        when: The condition in words.
        steps: Names of the steps, in order; the first one is always ``exposure``.
        seconds: How long it takes as a rule.
        users_notice: What users see of it.
    """

    kind: str
    applies: Callable[[Facts], bool]
    when: str
    steps: tuple[str, ...]
    seconds: float
    users_notice: str

    @property
    def runbook(self) -> str:
        """The section of the runbook that goes with it."""
        return f"{_PAGE}#{self.kind.replace('_', '-')}"

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-safe data."""
        return {
            "kind": self.kind,
            "when": self.when,
            "steps": list(self.steps),
            "seconds": self.seconds,
            "users_notice": self.users_notice,
            "runbook": self.runbook,
        }


def _of(kind: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.incident == kind


def _while_a_run_is_on(kind: str) -> Callable[[Facts], bool]:
    # Without a run both versions of a choice see the same data, and a change of champion mends nothing by itself.
    return lambda facts: facts.incident == kind and facts.run is not None


_USUAL = ("exposure", "registry", "suites", "serving", "gateways", "probe", "consumers")
_SUITES_FIRST = ("exposure", "suites", "registry", "serving", "gateways", "probe", "consumers")
_PROVEN_FIRST = ("exposure", "suites", "probe", "registry", "serving", "gateways", "consumers")
_USERS_FIRST = ("exposure", "serving", "gateways", "registry", "suites", "probe", "consumers")

CATALOGUE = (
    Recipe(
        "partial_data",
        _while_a_run_is_on("partial_data"),
        "A run is on, and events or rows are missing, doubled or late, so that nobody can judge it.",
        _SUITES_FIRST,
        5.0,
        "Exposed units are back on the champion at once. The champion may suffer from the same gap until the feed is mended.",
    ),
    Recipe(
        "data_drift",
        _while_a_run_is_on("data_drift"),
        "A run is on, and the requests are not distributed as they were in training.",
        _SUITES_FIRST,
        5.0,
        "Exposed units are back on the champion at once. The champion meets the same data: watch its metrics.",
    ),
    Recipe(
        "missing_features",
        _of("missing_features"),
        "Features that the version needs do not arrive, or arrive empty.",
        _PROVEN_FIRST,
        8.0,
        "Answers come from the version before. Requests that lack its features too are answered with an error.",
    ),
    Recipe(
        "tag_mismatch",
        _of("tag_mismatch"),
        "The version's signature or its tags do not fit what gateways and clients send.",
        _PROVEN_FIRST,
        8.0,
        "Requests that were refused are answered again, by the version before.",
    ),
    Recipe(
        "training_out_of_sync",
        _of("training_out_of_sync"),
        "The version was trained with other data or another transformation than it is served with.",
        _PROVEN_FIRST,
        8.0,
        "Answers come from the version before, which is first shown to answer as it did when it was recorded.",
    ),
    Recipe(
        "latency_spike",
        _of("latency_spike"),
        "The version answers too slowly. Gateways go first; the registry serves nobody and can wait.",
        _USERS_FIRST,
        5.0,
        "Answers are as fast as before as soon as gateways have the version before; requests under way are finished.",
    ),
    Recipe(
        "model_regression",
        lambda _: True,
        "The version does harm, or nothing more particular is known.",
        _USUAL,
        5.0,
        "Answers come from the version before; no request is lost meanwhile.",
    ),
)
"""From the safest to the most far-reaching; the last one always applies."""


def pick(facts: Facts) -> Recipe:
    """Return the safest recipe that applies."""
    return next(recipe for recipe in CATALOGUE if recipe.applies(facts))


def named(kind: str) -> Recipe:
    """Return the recipe of a kind of incident; the general one for a kind that the catalogue does not have."""
    return next((recipe for recipe in CATALOGUE if recipe.kind == kind), CATALOGUE[-1])
