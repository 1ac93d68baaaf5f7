"""Which rollback points are alive, and the removal of snapshots that none of those needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from sqlalchemy.engine import Connection

from understudy.points.doors import Doors, snapshots_of
from understudy.points.manifest import COPIED
from understudy.points.point import Point
from understudy.store import exposures, feature_sets, records, runs

__all__ = ["live", "needed", "sweep"]

_DAY = 86400.0
_DIGEST = re.compile("[0-9a-f]{64}")


def live(doors: Doors, connection: Connection) -> list[Point]:
    """Return every point that somebody may still have to go back to, or work from.

    These are the points of runs that are on, the newest of each model, and those that are younger than the days for which
    the model's events are kept; all of them where no such days are set.

    Args:
        doors: The installation.
        connection: Any transaction.
    """
    found = []
    for exposure in exposures.every(connection):
        days = doors.settings.retention_days(exposure.model)
        since = float("-inf") if days is None else doors.store.clock() - days * _DAY
        points = [Point(**row) for row in records.rollback_points(connection, exposure.model)]
        found += [
            point
            for point in points
            if point is points[-1]
            or point.at >= since
            or not runs.get(connection, point.run_id).state.terminal
        ]
    return found


def needed(doors: Doors, connection: Connection) -> dict[str, str]:
    """Return the digest of every snapshot that must stay, each with who needs it, in words.

    These are the copies of every live point, the data on which its run was judged, and what every feature set is made of.

    Args:
        doors: The installation.
        connection: Any transaction.
    """
    found: dict[str, str] = {}
    for point in live(doors, connection):
        judged = (
            item.verdict.evidence.get("data", {}) for item in records.verdicts_of(connection, point.run_id)
        )
        parts = point.manifest.get("parts", {})
        kept = [*_digests(parts.get(name) for name in COPIED), *_digests(judged)]
        found |= dict.fromkeys(kept, f"the rollback point of run {point.run_id}")
    for exposure in exposures.every(connection):
        for item in feature_sets.every(connection, exposure.model):
            told = f"feature set {item.name} of {item.model}"
            found |= {item.transformation: told, item.snapshot: told}
    return found


def sweep(doors: Doors) -> int:
    """Remove the snapshots that nobody needs, and return how many bytes that freed.

    Args:
        doors: The installation.
    """
    with doors.store.read() as connection:
        kept = needed(doors, connection)
    return snapshots_of(doors).sweep(kept, doors.store.clock())


def _digests(values: Iterable[object]) -> Iterator[str]:
    """Return the digests in some data, however deep; the digest that a part of a manifest carries is none of a copy."""
    for value in values:
        if isinstance(value, Mapping):
            yield from _digests(item for name, item in value.items() if name != "digest")
        elif isinstance(value, str) and _DIGEST.fullmatch(value):
            yield value
