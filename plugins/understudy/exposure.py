"""The flag document: who sees the challenger, how many, until when, and under which generation.

The document follows flagd's schema, so that any OpenFeature SDK answers as the gateway does. Challenger units are cut
from the left edge of the hash range and control units from the right edge, with a constant total weight: a growing
stage never moves a unit that was exposed before. A ring is a cohort with wider edges than everybody else; challenger and
control are equally wide inside and outside of it. The lease is a rule on ``$flagd.timestamp``; past it every reader
answers with the champion, whether or not anybody is left to tell it so. A contained cohort is a rule on its column: its
units go back to the champion, and so do those that do not say which cohort they belong to.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from mmh3 import mmh3_32_uintdigest

from understudy.errors import FlagDocumentError

__all__ = [
    "CHALLENGER",
    "CONTROL",
    "HOLDBACK_PERCENT",
    "LONGEST_LEASE",
    "RING_PERCENT",
    "TOTAL_WEIGHT",
    "UNEXPOSED",
    "Exposure",
    "arms",
    "assign",
    "column_and_value",
    "document",
    "publish",
    "reach",
    "read_flag",
    "weights",
]

CHALLENGER = "challenger"
CONTROL = "control"
UNEXPOSED = "unexposed"

TOTAL_WEIGHT = 100_000
"""Sum of the weights in every document. It never changes, or growing a stage would move exposed units."""

HOLDBACK_PERCENT = 5.0
"""Share that stays on the champion as control once the challenger takes more than half of all units."""

RING_PERCENT = 50.0
"""Largest share of a ring's units: past it control would shrink in the ring alone, and the arms would differ in mix."""

LONGEST_LEASE = 86_400.0
"""Seconds. With a longer one a challenger would stay for days after everything that watches it has died."""

_LARGEST_DOCUMENT = 16 * 1024 * 1024
_SCHEMA = "https://flagd.dev/schema/v0/flags.json"
_NO_COHORTS: Mapping[str, str] = MappingProxyType({})
Version = Annotated[str, msgspec.Meta(min_length=1)]


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
        percent: Share of units on the challenger, 0 to 100, before the holdback is taken off; 0 while only rings see it.
        lease_expires_at: Unix second at which exposure ends by itself; none when nobody is exposed.
        mirror: Whether the challenger also scores copies of the champion's requests.
        contained: Cohorts that are back on the champion while the others stay exposed, as ``"column=value"``; kept sorted.
        rings: Cohorts of which more units are exposed than of everybody else, with their percent; kept sorted, and those
            that have come to ``percent`` are left out. A unit in several of them gets the largest.
        lease_seconds: How long the lease is. No reader keeps an exposure longer after it has first seen the lease,
            whatever its wall clock says.
        feature_set: Name of the feature set that the champion needs, so that requests must carry it; none where none is
            registered.
        challenger_feature_set: Name of the one with which the challenger was admitted.

    Raises:
        ValueError: A cohort does not read ``"column=value"``, or a number is out of its range.
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
    rings: tuple[tuple[str, float], ...] = ()
    lease_seconds: float = LONGEST_LEASE
    feature_set: str | None = None
    challenger_feature_set: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError(f"{self.percent!r} is not a percent from 0 to 100")
        if not self.lease_seconds <= LONGEST_LEASE:
            raise ValueError(f"a lease of {self.lease_seconds!r} s is longer than {LONGEST_LEASE:g} s")
        object.__setattr__(self, "contained", tuple(sorted(set(self.contained))))
        for cohort in self.contained:
            column_and_value(cohort)
        widest: dict[str, float] = {}
        for cohort, percent in self.rings:
            if not column_and_value(cohort)[1] or not 0 < percent <= RING_PERCENT:
                raise ValueError(
                    f"{percent!r} % of {cohort!r} is no ring: a value, and at most {RING_PERCENT:g} %"
                )
            widest[cohort] = max(percent, widest.get(cohort, self.percent))
        rings = tuple(
            sorted((cohort, percent) for cohort, percent in widest.items() if percent > self.percent)
        )
        object.__setattr__(self, "rings", rings)

    @property
    def exposed(self) -> bool:
        """Whether any unit may see the challenger while the lease holds."""
        somebody = self.percent > 0 or bool(self.rings)
        return self.challenger is not None and somebody and self.lease_expires_at is not None

    def live(self, now: float) -> bool:
        """Return whether any unit sees the challenger at ``now`` (Unix seconds)."""
        # flagd compares whole seconds, so the gateway does the same.
        return self.exposed and int(now) < int(self.lease_expires_at or 0)

    def contains(self, cohorts: Mapping[str, str]) -> bool:
        """Return whether containment keeps a unit with these cohorts on the champion.

        Args:
            cohorts: The unit's value in each cohort column. One that is missing or empty may hide a contained cohort.
        """
        pairs = map(column_and_value, self.contained)
        return any(cohorts.get(column) in (None, "", value) for column, value in pairs)

    def percent_of(self, cohorts: Mapping[str, str]) -> float:
        """Return the share of units with these cohorts that is exposed, containment aside.

        Who does not say where he belongs is in no ring.
        """
        rings = ((column_and_value(cohort), percent) for cohort, percent in self.rings)
        inside = (percent for (column, value), percent in rings if cohorts.get(column) == value)
        return max([self.percent, *inside])

    def keeps(self, other: Exposure) -> bool:
        """Return whether everybody whom ``other`` exposes is exposed by this one too, to the same version."""
        rings = dict(self.rings)
        return (
            self.exposed
            and self.challenger == other.challenger
            and self.percent >= other.percent
            and all(max(self.percent, rings.get(cohort, 0.0)) >= percent for cohort, percent in other.rings)
            and set(self.contained) <= set(other.contained)
        )

    def ended(self) -> Exposure:
        """Return the same generation with nobody exposed."""
        return replace(self, run_id=None, percent=0.0, rings=(), stage=0, lease_expires_at=None, mirror=False)


def weights(percent: float) -> tuple[int, int, int]:
    """Return the weights of challenger, unexposed and control at a stage.

    Args:
        percent: Share of the stage, 0 to 100.

    Returns:
        Three whole numbers that sum to ``TOTAL_WEIGHT``. Challenger and control are equal up to 50 %; above that
        control shrinks to the rest, but never below ``HOLDBACK_PERCENT``.
    """
    wanted = round(percent * TOTAL_WEIGHT / 100)
    control = min(wanted, max(TOTAL_WEIGHT - wanted, round(HOLDBACK_PERCENT * TOTAL_WEIGHT / 100)))
    challenger = min(wanted, TOTAL_WEIGHT - control)
    return challenger, TOTAL_WEIGHT - challenger - control, control


def assign(exposure: Exposure, unit: str | None, now: float, cohorts: Mapping[str, str] = _NO_COHORTS) -> str:
    """Return the arm of a unit, as flagd's ``fractional`` decides it.

    Args:
        exposure: The model's current exposure.
        unit: Raw value of the randomised unit; without one nobody is exposed.
        now: Unix seconds, compared with the lease.
        cohorts: The unit's value in each cohort column, by column; only looked at for rings and contained cohorts.
    """
    if not unit or not exposure.live(now) or exposure.contains(cohorts):
        return UNEXPOSED
    return arms(exposure.model, [unit], exposure.percent_of(cohorts))[0]


def arms(model: str, units: Iterable[str | None], percent: float) -> list[str]:
    """Return the arm of each unit by its hash alone, where a stage exposes this share of them."""
    unexposed, control = _edges(percent)
    found = []
    for unit in units:
        # As bytes: the hash takes the whole process down on a text that is not Unicode, such as a lone surrogate.
        hashed = mmh3_32_uintdigest((model + (unit or "")).encode("utf-8", "surrogatepass"))
        seen = unit and not unexposed <= hashed < control
        found.append((CHALLENGER if hashed < unexposed else CONTROL) if seen else UNEXPOSED)
    return found


@lru_cache(maxsize=16)
def _edges(percent: float) -> tuple[int, int]:
    """Return the first hashes of the unexposed and of control, where flagd's buckets ``hash * TOTAL_WEIGHT >> 32`` begin."""
    challenger, unexposed, _ = weights(percent)
    return -(-(challenger << 32) // TOTAL_WEIGHT), -(-((challenger + unexposed) << 32) // TOTAL_WEIGHT)


def reach(percent: float, rings: Iterable[tuple[str, float]]) -> str:
    """Return whom an exposure reaches, in words: ``5 % of units, 50 % of origin=JFK``."""
    parts = [f"{percent:g} % of units"] if percent > 0 else []
    return ", ".join([*parts, *(f"{share:g} % of {cohort}" for cohort, share in rings)]) or "nobody"


def document(exposures: Iterable[Exposure]) -> dict[str, Any]:
    """Return the flag document of several models, one flag each."""
    return {"$schema": _SCHEMA, "flags": {exposure.model: _flag(exposure) for exposure in exposures}}


def publish(path: Path, exposures: Iterable[Exposure]) -> None:
    """Write the flag document in one atomic step, so that no reader ever sees half of it.

    Args:
        path: Where readers look for it.
        exposures: Every model's; those left out disappear from the document.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    with os.fdopen(handle, "w") as stream:
        try:
            json.dump(document(exposures), stream, indent=1, sort_keys=True)
            stream.flush()
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        # Seen first, durable next: a slow disk must not hold up a withdrawal. What a power cut leaves raises nothing.
        os.fsync(stream.fileno())


def read_flag(path: Path, model: str) -> Exposure | None:
    """Read the exposure of one model; what is wrong with the flags of others does not matter to it.

    Args:
        path: The published document.
        model: Whose flag.

    Returns:
        The exposure, or nothing if the document has no flag of this model.

    Raises:
        FlagDocumentError: The document is missing or torn, or the flag is not as Understudy writes it. Callers keep what
            they had.
    """
    try:
        flags = msgspec.json.decode(_content(path), type=_Document).flags
        return _exposure(model, flags[model]) if model in flags else None
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise FlagDocumentError(
            f"The flag document {path} cannot be read ({type(error).__name__}: {error}). It must be the JSON file that "
            "Understudy publishes; `understudy doctor` writes it again from the store."
        ) from error


def _content(path: Path) -> bytes:
    """Return the bytes of a plain file of a sensible size; anything else could take its reader's time or memory."""
    # A pipe without a writer would otherwise be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("it is no plain file")
        content = stream.read(_LARGEST_DOCUMENT + 1)
    if len(content) > _LARGEST_DOCUMENT:
        raise ValueError(f"it is larger than {_LARGEST_DOCUMENT} bytes")
    return content


def _flag(exposure: Exposure) -> dict[str, Any]:
    # flagd's metadata may hold text, numbers and booleans; a list would have the whole document refused.
    metadata = {name: value for name, value in vars(exposure).items() if name not in ("model", "run_id")}
    metadata |= {
        "rings": json.dumps(exposure.rings) if exposure.rings else None,
        "contained": json.dumps(exposure.contained) if exposure.contained else None,
        "run": exposure.run_id,
    }
    variants = {UNEXPOSED: exposure.champion}
    targeting: dict[str, Any] = {}
    if exposure.exposed:
        variants |= {CHALLENGER: exposure.challenger or "", CONTROL: exposure.champion}
        within_lease = {"<": [{"var": "$flagd.timestamp"}, exposure.lease_expires_at]}
        split = _around_contained(exposure.contained, _by_ring(exposure))
        targeting = {"if": [within_lease, split, UNEXPOSED]}
    return {
        "state": "ENABLED",
        "variants": variants,
        "defaultVariant": UNEXPOSED,
        "targeting": targeting,
        "metadata": {key: value for key, value in metadata.items() if value is not None},
    }


def _around_contained(contained: tuple[str, ...], split: Any) -> Any:
    """Return the rule that asks for the split only where no contained cohort can be."""
    values: dict[str, list[str]] = {}
    for cohort in contained:
        column, value = column_and_value(cohort)
        values.setdefault(column, [""]).append(value)
    branches: list[Any] = []
    for column, kept_back in values.items():
        branches += [{"!": [_told(column)]}, UNEXPOSED, {"in": [{"var": column}, kept_back]}, UNEXPOSED]
    return {"if": [*branches, split]} if branches else split


def _by_ring(exposure: Exposure) -> Any:
    """Return the rule that splits the units of each ring at its own percent, the widest ring first."""
    branches: list[Any] = []
    for cohort, percent in sorted(exposure.rings, key=lambda ring: (-ring[1], ring[0])):
        column, value = column_and_value(cohort)
        inside = {"if": [_told(column), {"in": [{"var": column}, [value]]}, False]}
        branches += [inside, _split(percent)]
    everyone = _split(exposure.percent) if exposure.percent > 0 else UNEXPOSED
    return {"if": [*branches, everyone]} if branches else everyone


def _told(column: str) -> dict[str, Any]:
    """Return the rule that a column holds text.

    ``starts_with`` an empty text is true of every text and of nothing else, in every SDK, so a missing column, null, a
    number or a list never passes for a value. Each test is a branch of an ``if``, because what ``and`` makes of a null
    differs between implementations of JSONLogic.
    """
    return {"starts_with": [{"var": column}, ""]}


def _split(percent: float) -> dict[str, Any]:
    challenger, unexposed, control = weights(percent)
    return {"fractional": [[CHALLENGER, challenger], [UNEXPOSED, unexposed], [CONTROL, control]]}


def column_and_value(cohort: str) -> tuple[str, str]:
    """Split a cohort as evidence names it, ``"column=value"``.

    Raises:
        ValueError: It does not read so.
    """
    column, equals, value = cohort.partition("=")
    if not column or not equals:
        raise ValueError(f"{cohort!r} is not a cohort; it must read column=value")
    return column, value


class _Metadata(msgspec.Struct):
    generation: Annotated[int, msgspec.Meta(ge=0)]
    champion: Version
    stage: Annotated[int, msgspec.Meta(ge=0)]
    percent: float
    mirror: bool
    lease_seconds: float
    challenger: Version | None = None
    run: str | None = None
    lease_expires_at: int | None = None
    contained: str = "[]"
    rings: str = "[]"
    feature_set: str | None = None
    challenger_feature_set: str | None = None


class _Flag(msgspec.Struct):
    metadata: _Metadata


class _Document(msgspec.Struct):
    flags: dict[str, msgspec.Raw]


def _exposure(model: str, flag: msgspec.Raw) -> Exposure:
    told = msgspec.structs.asdict(msgspec.json.decode(flag, type=_Flag).metadata)
    told["run_id"] = told.pop("run")
    told["contained"] = msgspec.json.decode(told["contained"], type=tuple[str, ...])
    told["rings"] = msgspec.json.decode(told["rings"], type=tuple[tuple[str, float], ...])
    return Exposure(model=model, **told)
