"""What the ledger says of a moment: which version served whom, and which entries put that in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.exposure import CHALLENGER, TOTAL_WEIGHT, Exposure, assign, reach, weights
from understudy.record.chain import Entry

__all__ = ["Situation", "as_of"]


@dataclass(frozen=True)
class Situation:
    """What was in force at a moment.

    Attributes:
        at: The moment, Unix seconds.
        exposure: Who was served what, if the lease held; None before anything was served.
        lease: "held", "lapsed" or "unknown"; "none" while nobody was exposed. An exposure whose lease lapsed served nobody.
        why: The entries that put it in force, oldest first.
        doubt: Entries of later times that were written before it, by number: somebody's clock ran backwards.
        lost_since: The record of the moment was lost when the store was put back; it ends at this Unix second.
    """

    at: float
    exposure: Exposure | None = None
    lease: str = "none"
    why: tuple[Entry, ...] = ()
    doubt: tuple[int, ...] = ()
    lost_since: float | None = None

    @property
    def in_force(self) -> Exposure | None:
        """What was served at that moment: nobody was exposed unless the lease held."""
        if self.exposure is None or self.lease in ("held", "none"):
            return self.exposure
        return self.exposure.ended()

    def sentence(self) -> str:
        """Return whom which version served."""
        lost = ""
        if self.lost_since is not None:
            lost = " What was changed shortly before is not on record: it was lost when the store was put back from a backup."
        return self._served() + lost

    def _served(self) -> str:
        served, recorded = self.in_force, self.exposure
        if served is None or recorded is None:
            return "Nothing is on record before that time."
        if self.lease == "unknown":
            return (
                f"Version {served.champion} served everybody, unless the lease of version {recorded.challenger} held for "
                f"{_reach(recorded)}: the ledger does not say how long it did."
            )
        if served.exposed:
            kept = f", except {', '.join(served.contained)}" if served.contained else ""
            others = f"version {served.champion} served everybody else"
            return f"Version {served.challenger} served {_reach(served)}{kept}; {others}."
        lapsed = "; the lease of the exposure had lapsed" if self.lease == "lapsed" else ""
        mirrored = f"; version {served.challenger} scored copies only" if served.mirror else ""
        return f"Version {served.champion} served everybody{lapsed}{mirrored}."

    def version_for(self, unit: str, cohorts: Mapping[str, str]) -> str | None:
        """Return the version that served a unit; None where the record cannot tell."""
        served = self.in_force
        if served is None or self.lease == "unknown" or self.lost_since is not None:
            return None
        arm = assign(served, unit, self.at, cohorts)
        return served.challenger if arm == CHALLENGER else served.champion

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        served = self.in_force
        return {
            "at": self.at,
            "sentence": self.sentence(),
            "exposure": None if served is None else dict(served.__dict__),
            "lease": self.lease,
            "why": [dict(entry.__dict__) for entry in self.why],
            "times_run_backwards_at": list(self.doubt),
            "lost_since": self.lost_since,
        }


def _reach(exposure: Exposure) -> str:
    """Return whom an exposure reaches, the holdback taken off."""
    return reach(weights(exposure.percent)[0] * 100 / TOTAL_WEIGHT, exposure.rings)


@dataclass
class _State:
    exposure: Exposure | None = None
    champion: Entry | None = None
    exposed_by: list[Entry] = field(default_factory=list)


def as_of(entries: Iterable[Entry], at: float, now: Exposure | None) -> Situation:
    """Replay a model's entries up to a moment.

    Args:
        entries: All entries of one model, in order.
        at: The moment, Unix seconds. What is in force is what the last entry of that time or before says; entries are in the
            order in which they were written, whatever their clocks said.
        now: The model's exposure as the store has it, for the lease of what is still in force.
    """
    known = list(entries)
    upto = max((index for index, entry in enumerate(known) if entry.at <= at), default=-1)
    past, future = known[: upto + 1], known[upto + 1 :]
    state = _State()
    for entry in past:
        _apply(state, entry)
    lease, exposure = _lease(state.exposure, at, future, now)
    why = [*([state.champion] if state.champion else []), *state.exposed_by]
    doubt = tuple(entry.seq for entry in past if entry.at > at)
    ends = (entry.body["recorded_until"] for entry in future if entry.action == "exposure.reset")
    return Situation(
        at, exposure, lease, tuple(why), doubt, min((end for end in ends if end < at), default=None)
    )


def _lease(
    exposure: Exposure | None, at: float, future: Iterable[Entry], now: Exposure | None
) -> tuple[str, Exposure | None]:
    """Tell whether the lease held. It is one stretch, however often it was renewed, and who ends it writes down its end."""
    if exposure is None or not (exposure.percent > 0 or exposure.rings):
        return "none", exposure
    ends = now.lease_expires_at if now is not None and now.generation == exposure.generation else None
    ended = next((entry for entry in future if "lease_before" in entry.body), None)
    if ended is not None:
        ends = ended.body["lease_before"]
    if ends is None:
        return "unknown", exposure
    return ("held" if int(at) < int(ends) else "lapsed"), replace(exposure, lease_expires_at=int(ends))


def _apply(state: _State, entry: Entry) -> None:
    body, model = entry.body, str(entry.model)
    before = state.exposure
    if entry.action in ("champion.adopted", "champion.promoted", "champion.restored", "exposure.reset"):
        generation = int(body.get("generation") or (before.generation if before else 0))
        features = before.feature_set if before else None
        state.exposure = Exposure(model, generation, str(body["champion"]), feature_set=features)
        state.champion, state.exposed_by = entry, []
        return
    if before is None:
        return
    if entry.action == "feature_set.activated":
        state.exposure = replace(before, generation=int(body["generation"]), feature_set=body["feature_set"])
    elif entry.action in ("challenger.stood_by", "mirror.started"):
        state.exposure = Exposure(
            model,
            int(body["generation"]),
            before.champion,
            body["version"],
            entry.run_id,
            mirror=entry.action == "mirror.started",
            feature_set=before.feature_set,
        )
        state.exposed_by = [entry]
    elif entry.action == "exposure.raised":
        state.exposure = _raised(before, entry)
        state.exposed_by = [entry]
    elif entry.action == "cohort.contained":
        state.exposure = replace(
            before, generation=int(body["generation"]), contained=tuple(body["contained"])
        )
        state.exposed_by.append(entry)
    elif entry.action == "exposure.dropped":
        state.exposure = Exposure(
            model, int(body["generation"]), before.champion, feature_set=before.feature_set
        )
        state.exposed_by = [entry]


def _raised(before: Exposure, entry: Entry) -> Exposure:
    body = entry.body
    return Exposure(
        before.model,
        int(body["generation"]),
        before.champion,
        str(body["version"]),
        entry.run_id,
        int(body.get("stage", 0)),
        float(body["to"]),
        contained=tuple(body.get("contained", ())),
        rings=tuple(dict(body.get("rings", {})).items()),
        feature_set=before.feature_set,
    )
