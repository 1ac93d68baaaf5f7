"""The flag document: who sees the challenger, how many, until when, and under which generation.

The document follows flagd's schema, so that any OpenFeature SDK answers as the gateway does. Challenger units are cut
from the left edge of the hash range and control units from the right edge, with a constant total weight: a growing
stage never moves a unit that was exposed before. The lease is a rule on ``$flagd.timestamp``; past it every reader
answers with the champion, whether or not anybody is left to tell it so. A contained cohort is a rule on its column: its
units go back to the champion, and so do those that do not say which cohort they belong to.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mmh3

from understudy.errors import FlagDocumentError

__all__ = [
    "CHALLENGER",
    "CONTROL",
    "HOLDBACK_PERCENT",
    "TOTAL_WEIGHT",
    "UNEXPOSED",
    "Exposure",
    "assign",
    "document",
    "publish",
    "read_document",
    "weights",
]

CHALLENGER = "challenger"
CONTROL = "control"
UNEXPOSED = "unexposed"

TOTAL_WEIGHT = 100_000
"""Sum of the weights in every document. It never changes, or growing a stage would move exposed units."""

HOLDBACK_PERCENT = 5.0
"""Share that stays on the champion as control once the challenger takes more than half of all units."""

_SCHEMA = "https://flagd.dev/schema/v0/flags.json"
_NO_COHORTS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Exposure:
    """What one model serves to whom.

    Attributes:
        model: Registered model name; it is the flag key and the salt of the hash.
        generation: Fencing number; it only grows.
        champion: Version in production.
        challenger: Version under test, if a run is on.
        run_id: The run that exposes it.
        stage: Index of the stage, from 1; 0 when nobody is exposed.
        percent: Share of units on the challenger, 0 to 100, before the holdback is taken off.
        lease_expires_at: Unix second at which exposure ends by itself; none when nobody is exposed.
        mirror: Whether the challenger also scores copies of the champion's requests.
        contained: Cohorts that are back on the champion while the others stay exposed, as ``"column=value"``; whatever
            the order they are given in, they are kept sorted and without repeats.

    Raises:
        ValueError: A contained cohort does not read ``"column=value"``.
    """

    model: str
    generation: int
    champion: str
    challenger: str | None = None
    run_id: str | None = None
    stage: int = 0
    percent: float = 0.0
    lease_expires_at: int | None = None
    mirror: bool = False
    contained: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "contained", tuple(sorted(set(self.contained))))
        for cohort in self.contained:
            _column_and_value(cohort)

    @property
    def exposed(self) -> bool:
        """Whether any unit may see the challenger while the lease holds."""
        return self.challenger is not None and self.percent > 0 and self.lease_expires_at is not None

    def live(self, now: float) -> bool:
        """Return whether any unit sees the challenger at ``now`` (Unix seconds)."""
        # flagd compares whole seconds, so the gateway does the same.
        return self.exposed and int(now) < int(self.lease_expires_at or 0)

    def contains(self, cohorts: Mapping[str, str]) -> bool:
        """Return whether containment keeps a unit with these cohorts on the champion.

        Args:
            cohorts: The unit's value in each cohort column, as the event log has it. A column that is missing or empty
                may hide a contained cohort, so it counts as one.
        """
        for cohort in self.contained:
            column, value = _column_and_value(cohort)
            if cohorts.get(column) in (None, "", value):
                return True
        return False


def weights(percent: float) -> tuple[int, int, int]:
    """Return the weights of challenger, unexposed and control at a stage.

    Args:
        percent: Share of the stage, 0 to 100.

    Returns:
        Three whole numbers that sum to ``TOTAL_WEIGHT``. Challenger and control are equal up to 50 %; above that
        control shrinks to the rest, but never below ``HOLDBACK_PERCENT``.
    """
    wanted = round(percent * TOTAL_WEIGHT / 100)
    holdback = round(HOLDBACK_PERCENT * TOTAL_WEIGHT / 100)
    control = min(wanted, max(TOTAL_WEIGHT - wanted, holdback))
    challenger = min(wanted, TOTAL_WEIGHT - control)
    return challenger, TOTAL_WEIGHT - challenger - control, control


def assign(exposure: Exposure, unit: str | None, now: float, cohorts: Mapping[str, str] = _NO_COHORTS) -> str:
    """Return the arm of a unit, as flagd's ``fractional`` decides it.

    Args:
        exposure: The model's current exposure.
        unit: Raw value of the randomised unit; without one the unit is never exposed.
        now: Unix seconds, compared with the lease.
        cohorts: The unit's value in each cohort column, by column; only looked at while a cohort is contained.

    Returns:
        ``"challenger"``, ``"control"`` or ``"unexposed"``.
    """
    if not unit or not exposure.live(now) or exposure.contains(cohorts):
        return UNEXPOSED
    challenger, unexposed, _ = weights(exposure.percent)
    # As bytes: the hash takes the whole process down on a text that is not Unicode, such as a lone surrogate.
    key = (exposure.model + unit).encode("utf-8", "surrogatepass")
    bucket = (mmh3.hash(key, signed=False) * TOTAL_WEIGHT) >> 32
    if bucket < challenger:
        return CHALLENGER
    return UNEXPOSED if bucket < challenger + unexposed else CONTROL


def document(exposures: Iterable[Exposure]) -> dict[str, Any]:
    """Return the flag document of several models, one flag each."""
    return {"$schema": _SCHEMA, "flags": {exposure.model: _flag(exposure) for exposure in exposures}}


def publish(path: Path, exposures: Iterable[Exposure]) -> None:
    """Write the flag document in one atomic step, so that no reader ever sees half of it.

    Args:
        path: Where readers look for it.
        exposures: Every model's exposure; models left out disappear from the document.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(document(exposures), stream, indent=1, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_document(path: Path) -> dict[str, Exposure]:
    """Read a flag document back.

    Args:
        path: The published file.

    Returns:
        The exposure of each model in it.

    Raises:
        FlagDocumentError: It is missing, torn or not of the expected shape. Callers keep what they had.
    """
    try:
        flags = json.loads(path.read_text())["flags"]
        return {model: _exposure(model, flag) for model, flag in flags.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise FlagDocumentError(
            f"The flag document {path} cannot be read ({type(error).__name__}: {error}). It must be the JSON file that "
            "Understudy publishes; `understudy doctor` writes it again from the store."
        ) from error


def _flag(exposure: Exposure) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "generation": exposure.generation,
        "stage": exposure.stage,
        "percent": exposure.percent,
        "champion": exposure.champion,
        "mirror": exposure.mirror,
    }
    optional = {
        "challenger": exposure.challenger,
        "run": exposure.run_id,
        "lease_expires_at": exposure.lease_expires_at,
    }
    metadata |= {key: value for key, value in optional.items() if value is not None}
    if exposure.contained:
        # flagd's metadata may hold text, numbers and booleans; a list would have the whole document refused.
        metadata["contained"] = json.dumps(exposure.contained)
    variants = {UNEXPOSED: exposure.champion}
    targeting: dict[str, Any] = {}
    if exposure.exposed:
        variants |= {CHALLENGER: exposure.challenger or "", CONTROL: exposure.champion}
        challenger, unexposed, control = weights(exposure.percent)
        within_lease = {"<": [{"var": "$flagd.timestamp"}, exposure.lease_expires_at]}
        split = {"fractional": [[CHALLENGER, challenger], [UNEXPOSED, unexposed], [CONTROL, control]]}
        targeting = {"if": [within_lease, _around_contained(exposure.contained, split), UNEXPOSED]}
    return {
        "state": "ENABLED",
        "variants": variants,
        "defaultVariant": UNEXPOSED,
        "targeting": targeting,
        "metadata": metadata,
    }


def _around_contained(contained: tuple[str, ...], split: dict[str, Any]) -> dict[str, Any]:
    """Return the rule that asks for the split only where no contained cohort can be.

    ``starts_with`` an empty text is true of every text and of nothing else, in every SDK; a missing column, null, a number
    or a list therefore goes to the champion. Each test is a branch of one ``if``, because what ``and`` makes of a null
    differs between implementations of JSONLogic.
    """
    values: dict[str, list[str]] = {}
    for cohort in contained:
        column, value = _column_and_value(cohort)
        values.setdefault(column, [""]).append(value)
    branches: list[Any] = []
    for column, kept_back in values.items():
        told = {"starts_with": [{"var": column}, ""]}
        branches += [{"!": [told]}, UNEXPOSED, {"in": [{"var": column}, kept_back]}, UNEXPOSED]
    return {"if": [*branches, split]} if branches else split


def _column_and_value(cohort: str) -> tuple[str, str]:
    column, equals, value = cohort.partition("=")
    if not column or not equals:
        raise ValueError(f"{cohort!r} is not a cohort; it must read column=value")
    return column, value


def _exposure(model: str, flag: Mapping[str, Any]) -> Exposure:
    metadata = flag["metadata"]
    lease = metadata.get("lease_expires_at")
    for version in (metadata["champion"], metadata.get("challenger", "none")):
        if not isinstance(version, str) or not version:
            raise ValueError(f"{version!r} is not a version")
    return Exposure(
        model=model,
        generation=int(metadata["generation"]),
        champion=metadata["champion"],
        challenger=metadata.get("challenger"),
        run_id=metadata.get("run"),
        stage=int(metadata["stage"]),
        percent=float(metadata["percent"]),
        lease_expires_at=None if lease is None else int(lease),
        mirror=bool(metadata["mirror"]),
        contained=_contained(metadata.get("contained", "[]")),
    )


def _contained(text: str) -> tuple[str, ...]:
    cohorts = json.loads(text)
    if not isinstance(cohorts, list) or not all(isinstance(cohort, str) for cohort in cohorts):
        raise ValueError(f"{text!r} is not a list of contained cohorts")
    return tuple(cohorts)
