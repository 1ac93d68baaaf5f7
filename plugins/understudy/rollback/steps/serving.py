"""What is served: the champion in the store and in the flag document, and then in every gateway."""

from __future__ import annotations

from contextlib import suppress

from understudy import gateways
from understudy.errors import StaleGeneration, Unreachable
from understudy.exposure import Exposure
from understudy.points import features
from understudy.rollback.progress import require_standing
from understudy.rollback.steps.exposure import publish
from understudy.rollback.steps.step import Found, Step, Work
from understudy.store import exposures, ledger

__all__ = ["GATEWAYS", "SERVING"]


def _served(work: Work) -> Exposure | None:
    with work.doors.store.read() as connection:
        return exposures.find(connection, work.plan.model)


def _is_served(work: Work) -> bool:
    served = _served(work)
    with work.doors.store.read() as connection:
        noted = _noted(connection, work)
    return (
        served is not None
        and (served.champion, served.challenger, served.feature_set)
        == (work.plan.target, None, work.plan.feature_set)
        and noted
    )


def _apply(work: Work) -> None:
    """Put the version in force and on record in one transaction: the record of the past is told from these entries alone."""
    plan, store = work.plan, work.doors.store
    with suppress(Unreachable):  # gateways refuse a champion whose tag was changed since
        work.doors.registry.name_feature_set(plan.model, plan.target, plan.feature_set)
    with store.write() as connection:
        require_standing(connection, work.begun)
        now = store.clock()
        if exposures.find(connection, plan.model) is None:
            exposures.adopt(connection, plan.model, plan.current, actor="understudy", at=now)
        # Whoever exposed somebody in the meantime ends here, and on record.
        exposures.stop(connection, plan.model, actor=work.order.actor, reason=work.order.reason, at=now)
        before = exposures.find(connection, plan.model)
        assert before is not None
        exposures.set_champion(connection, plan.model, plan.target, at=now)
        # In the same transaction: gateways must never hold one version's requests against another's features.
        features.activate(
            connection,
            plan.model,
            plan.feature_set,
            actor=work.order.actor,
            reason=work.order.reason,
            run_id=plan.run_id,
            at=now,
        )
        served = exposures.find(connection, plan.model)
        assert served is not None
        if served.champion != before.champion or not _noted(connection, work):
            ledger.append(
                connection,
                at=now,
                actor=work.order.actor,
                action="champion.restored",
                model=plan.model,
                run_id=plan.run_id,
                reason=work.order.reason,
                body={
                    "champion": plan.target,
                    "before": before.champion if before.champion != plan.target else plan.current,
                    "why": plan.why,
                    "generation": served.generation,
                    "lease_before": before.lease_expires_at,
                    "started": work.begun.seq,
                },
            )
    publish(work.doors)


def _noted(connection: object, work: Work) -> bool:
    """Tell whether the change of champion is on record; none is where the champion stays."""
    if work.plan.target == work.plan.current:
        return True
    found = ledger.entries(connection, model=work.plan.model, actions=("champion.restored",))  # type: ignore[arg-type]
    return any(entry.body.get("started") == work.begun.seq for entry in found)


def _verify(work: Work) -> Found:
    served = _served(work)
    if served is None or served.champion != work.plan.target:
        raise StaleGeneration(
            f"The store has {served.champion if served else 'no version'} as champion of {work.plan.model} and not "
            f"{work.plan.target}. Somebody overtook the rollback; run it again."
        )
    return {
        "parts": 1,
        "restored": 1,
        "champion": served.champion,
        "feature_set": served.feature_set,
        "generation": served.generation,
    }


def _follow(work: Work) -> Found:
    served, urls = _served(work), work.doors.settings.gateway_urls
    assert served is not None
    gateways.wait_until_followed(urls, served)
    own = gateways.serving(urls, work.plan.model)
    return {"parts": len(own), "restored": len(own), "gateways": own, "generation": served.generation}


SERVING = Step("serving", 2.0, _is_served, _apply, _verify)
# Publishing again mends a document that was lost or half written.
GATEWAYS = Step("gateways", 20.0, lambda work: False, lambda work: publish(work.doors), _follow)
