"""One rollback point as the store has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import NoWayBack
from understudy.points.manifest import FORMAT
from understudy.store import ledger, records, runs

__all__ = ["TAKEN", "Point", "find", "newest", "recorded_digests"]

TAKEN = "rollback_point.taken"
"""What the ledger calls the moment in which a point was taken; the entry holds the point's digest."""


@dataclass(frozen=True)
class Point:
    """A known-good state that a run can be taken back to.

    Attributes:
        run_id: The run that took it.
        model: Registered model name.
        version: The champion to go back to.
        manifest: Format and parts, as `understudy.points.manifest.seal` makes them.
        digest: SHA-256 of the manifest's canonical JSON, as the store has it.
        at: Unix seconds.
    """

    run_id: str
    model: str
    version: str
    manifest: Mapping[str, Any]
    digest: str
    at: float

    @property
    def parts(self) -> Mapping[str, Any]:
        """Facts by part.

        Raises:
            NoWayBack: The manifest is none that this version can read.
        """
        if self.manifest.get("format") != FORMAT:
            raise NoWayBack(
                f"The rollback point of run {self.run_id} has the format {self.manifest.get('format')!r}, and {FORMAT!r} is "
                "needed: another version of Understudy took it. Start a new run."
            )
        parts: Mapping[str, Any] = self.manifest["parts"]
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return dict(self.__dict__)


def find(connection: Connection, run_id: str) -> Point:
    """Return the rollback point of a run.

    Raises:
        NoSuchRun: The store knows no such run.
        NoWayBack: It took none.
    """
    run = runs.get(connection, run_id)
    row = records.rollback_point(connection, run_id)
    if row is None:
        raise NoWayBack(
            f"Run {run_id} is {run.state} and has no rollback point. Every run takes one before anybody is exposed; start a "
            "new run."
        )
    return Point(**row)


def newest(connection: Connection, model: str, version: str) -> Point | None:
    """Return the rollback point that was last taken of a version; none where it never was the one to go back to."""
    found = [row for row in records.rollback_points(connection, model) if row["version"] == version]
    return Point(**found[-1]) if found else None


def recorded_digests(connection: Connection, run_id: str) -> dict[str, str]:
    """Return the digest of a run's point as others remember it, by who does; none of them can be changed unnoticed."""
    entries = [entry for entry in ledger.entries(connection, run_id=run_id) if entry.action == TAKEN]
    return {f"entry {entry.seq} of the ledger": str(entry.body["digest"]) for entry in entries[:1]}
