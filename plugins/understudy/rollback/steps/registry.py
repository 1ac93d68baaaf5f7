"""The registry's alias, and the legacy stage where it is in use."""

from __future__ import annotations

from understudy.errors import Unreachable
from understudy.registry import CHALLENGER, CHAMPION
from understudy.rollback.progress import require_standing
from understudy.rollback.steps.step import Found, Step, Work

__all__ = ["STEP"]


def _moves_stage(work: Work) -> bool:
    """Tell whether the legacy stages of the model are in use: the run's spec says so, or the registry itself."""
    if work.plan.run_id and work.experiment and work.experiment.registry.move_stage:
        return True
    return any(version.stage == "Production" for version in work.doors.registry.versions(work.plan.model))


def _loser(work: Work) -> str | None:
    plan = work.plan
    return plan.taken_back if plan.taken_back != plan.target else None


def _not_challengers(work: Work) -> set[str]:
    """Return the versions that nobody is to try: the one that lost, and the champion, which may have been under test."""
    return {work.plan.target, work.plan.taken_back or work.plan.target}


def _is_restored(work: Work) -> bool:
    registry, plan, loser = work.doors.registry, work.plan, _loser(work)
    if registry.alias(plan.model, CHAMPION) != plan.target:
        return False
    if registry.alias(plan.model, CHALLENGER) in _not_challengers(work):
        return False
    if not _moves_stage(work):
        return True
    stages = {version.version: version.stage for version in registry.versions(plan.model)}
    return stages.get(plan.target) == "Production" and (
        not loser or stages.get(loser) in (None, "Archived", "None")
    )


def _apply(work: Work) -> None:
    registry, plan, loser = work.doors.registry, work.plan, _loser(work)
    with work.doors.store.read() as connection:
        require_standing(connection, work.begun)
    if registry.alias(plan.model, CHAMPION) != plan.target:
        # A version whose files are gone or changed must not become champion: no gateway could load it.
        registry.verify(plan.model, plan.target)
    move_stage = _moves_stage(work)
    registry.make_champion(plan.model, plan.target, move_stage=move_stage)
    for version in _not_challengers(work):
        registry.delete_alias(plan.model, CHALLENGER, only_if=version)
    if loser and move_stage and any(item.version == loser for item in registry.versions(plan.model)):
        registry.archive(plan.model, loser)


def _verify(work: Work) -> Found:
    plan = work.plan
    found = work.doors.registry.alias(plan.model, CHAMPION)
    if found != plan.target:
        raise Unreachable(
            f"The registry names {found} champion of {plan.model} and not {plan.target}, to which it was moved. Somebody else "
            "moves the alias; find out who."
        )
    return {"parts": 1, "restored": 1, "champion": found}


STEP = Step("registry", 10.0, _is_restored, _apply, _verify)
