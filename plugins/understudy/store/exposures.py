"""The one true exposure of each model, fenced by generation, and its publication as the flag document.

Every change of what is served is a new generation. A lease renewal keeps the generation, so that readers can tell a
change from a heartbeat. Publication happens after the commit, from the store's own state, under a file lock: whoever
publishes last publishes what is true.
"""

from __future__ import annotations

import fcntl
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import StaleGeneration, StoreError
from understudy.exposure import Exposure, publish, reach
from understudy.settings import Settings
from understudy.store import heads, ledger, outbox, runs, schema, set_aside
from understudy.store.database import Store

__all__ = [
    "adopt",
    "contain",
    "drop",
    "every",
    "find",
    "promote",
    "publish_flags",
    "raise_to",
    "renew",
    "set_champion",
    "set_feature_sets",
    "stand_by",
    "stop",
    "take_over_orders",
]

_PUBLISH = "publish_flags"


def find(connection: Connection, model: str) -> Exposure | None:
    """Return a model's exposure, if the store knows the model."""
    row = connection.execute(sa.select(schema.exposures).where(schema.exposures.c.model == model)).first()
    return Exposure(**row._mapping) if row else None


def every(connection: Connection) -> list[Exposure]:
    """Return the exposure of every model, by name."""
    query = sa.select(schema.exposures).order_by(schema.exposures.c.model)
    return [Exposure(**row._mapping) for row in connection.execute(query)]


def adopt(connection: Connection, model: str, champion: str, *, actor: str, at: float) -> Exposure:
    """Make a model known with its champion, or follow a champion that was moved outside Understudy.

    While a run is on, the champion in the store is the one that counts and nothing is changed.
    """
    current = find(connection, model)
    if current and (current.champion == champion or current.challenger):
        return current
    adopted = Exposure(
        model,
        generation=current.generation + 1 if current else 1,
        champion=champion,
        feature_set=current.feature_set if current else None,
    )
    _serve(connection, adopted, at)
    ledger.append(
        connection,
        at=at,
        actor=actor,
        action="champion.adopted",
        model=model,
        reason="The registry names this version champion.",
        body={
            "champion": champion,
            "before": current.champion if current else None,
            "generation": adopted.generation,
        },
    )
    return adopted


def raise_to(
    connection: Connection,
    run_id: str,
    stage: int,
    percent: float,
    lease: float,
    *,
    rings: Iterable[tuple[str, float]] = (),
    at: float,
) -> Exposure:
    """Expose a run at a stage of its ladder. What the run has contained stays contained.

    Args:
        connection: A write transaction.
        run_id: The run; it must hold its model's lock and must not be on its way back.
        stage: Index of the stage, one above the present one, or the present one again.
        percent: Share of units on the challenger; 0 while only rings are exposed.
        lease: Seconds until exposure lapses.
        rings: Cohorts that are exposed further than everybody else, with their percent.
        at: Unix seconds.

    Raises:
        StaleGeneration: The run may not raise exposure, or skips a stage.
    """
    run = runs.get(connection, run_id)
    current = _known(connection, run.model)
    runs.require_next(run, stage)
    if current.challenger and current.run_id != run_id:
        raise StaleGeneration(
            f"Model {run.model} is exposed by run {current.run_id}, not by {run_id}. Only its own run may."
        )
    raised = _after(
        current,
        champion=run.champion,
        challenger=run.version,
        run_id=run_id,
        stage=stage,
        percent=percent,
        lease_expires_at=int(at + lease),
        contained=current.contained if current.run_id == run_id else (),
        rings=tuple(rings),
        lease_seconds=lease,
    )
    _serve(connection, raised, at)
    if stage != run.stage:
        runs.enter_stage(connection, run_id, stage, at)
    ledger.append(
        connection,
        at=at,
        actor="understudy",
        action="exposure.raised",
        model=run.model,
        run_id=run_id,
        reason=f"Stage {stage}: {reach(raised.percent, raised.rings)}.",
        body={
            "from": current.percent,
            "to": percent,
            "rings": dict(raised.rings),
            "generation": raised.generation,
            "version": run.version,
            "contained": list(raised.contained),
            "stage": stage,
            "lease_before": current.lease_expires_at,
        },
    )
    return raised


def stand_by(connection: Connection, run_id: str, *, mirror: bool = False, at: float) -> Exposure:
    """Have the gateways load the challenger of a run that is not exposed yet; nobody sees it.

    Args:
        connection: A write transaction.
        run_id: The run.
        mirror: Whether copies of the champion's requests go to the challenger meanwhile.
        at: Unix seconds.

    Raises:
        StaleGeneration: The run is exposed already or has ended.
    """
    run = runs.get(connection, run_id)
    current = _known(connection, run.model)
    if run.state is not runs.RunState.PREPARING:
        raise StaleGeneration(
            f"Run {run_id} is {run.state}, and a challenger stands by before exposure. Start a new run."
        )
    waiting = _after(current, champion=run.champion, challenger=run.version, run_id=run_id, mirror=mirror)
    _serve(connection, waiting, at)
    action, reason = (
        ("mirror.started", "Live requests are copied to the challenger; nobody sees its answers.")
        if mirror
        else ("challenger.stood_by", "The gateways load the challenger before anybody is exposed.")
    )
    body = {
        "generation": waiting.generation,
        "version": run.version,
        "lease_before": current.lease_expires_at,
    }
    ledger.append(
        connection, at=at, actor="understudy", action=action, model=run.model, run_id=run_id, reason=reason, body=body
    )  # fmt: skip
    return waiting


def renew(connection: Connection, run_id: str, lease: float, *, at: float) -> Exposure | None:
    """Extend the lease of a run that is exposed; any other run gets nothing.

    Returns:
        The exposure with its new lease; None when this run is no longer exposed or may not be. A lease that lapsed
        stays lapsed.
    """
    current = _exposed_by(connection, run_id, at)
    if current is None:
        return None
    renewed = replace(current, lease_expires_at=int(at + lease), lease_seconds=lease)
    _serve(connection, renewed, at)
    return renewed


def contain(
    connection: Connection, run_id: str, cohorts: Collection[str], *, reason: str, at: float
) -> Exposure | None:
    """Send the units of some cohorts back to the champion while everybody else stays exposed; safe to repeat.

    They stay there for the rest of the run: raising a stage and renewing the lease keep them contained.

    Args:
        connection: A write transaction.
        run_id: The run that exposes them.
        cohorts: Cohorts as evidence names them, ``"column=value"``.
        reason: Why, for the ledger.
        at: Unix seconds.

    Returns:
        The exposure with these cohorts contained, under a new generation unless all of them were contained before;
        None when this run is no longer exposed, so that there is nothing to contain.

    Raises:
        ValueError: A cohort does not read ``"column=value"``.
    """
    current = _exposed_by(connection, run_id, at)
    if current is None:
        return None
    contained = replace(current, contained=(*current.contained, *cohorts))
    if contained == current:
        return current
    contained = replace(contained, generation=current.generation + 1)
    _serve(connection, contained, at)
    ledger.append(
        connection,
        at=at,
        actor="understudy",
        action="cohort.contained",
        model=contained.model,
        run_id=run_id,
        reason=reason,
        body={
            "cohorts": sorted(set(contained.contained) - set(current.contained)),
            "contained": list(contained.contained),
            "generation": contained.generation,
            "version": contained.challenger,
            "lease_before": current.lease_expires_at,
        },
    )
    return contained


def drop(connection: Connection, model: str, *, actor: str, reason: str, at: float) -> Exposure:
    """Send every unit of a model back to the champion; safe to repeat."""
    current = _known(connection, model)
    if current.challenger is None:
        return current
    dropped = _after(current)
    _serve(connection, dropped, at)
    body = {
        "from": current.percent,
        "to": 0,
        "generation": dropped.generation,
        "version": current.challenger,
        "lease_before": current.lease_expires_at,
    }
    ledger.append(
        connection, at=at, actor=actor, action="exposure.dropped", model=model, run_id=current.run_id, reason=reason, body=body
    )  # fmt: skip
    return dropped


def stop(connection: Connection, model: str, *, actor: str, reason: str, at: float) -> None:
    """Send every unit back to the champion and mark the run that is on, so that it never raises exposure again."""
    run = runs.active(connection, model)
    if run:
        runs.set_state(connection, run.run_id, runs.RunState.ROLLING_BACK, at)
    if find(connection, model):
        drop(connection, model, actor=actor, reason=reason, at=at)


def promote(connection: Connection, run_id: str, *, at: float) -> Exposure:
    """Make the challenger of a promoting run the champion for everyone.

    Raises:
        StaleGeneration: The run is no longer promoting: a rollback overtook it.
    """
    run = runs.get(connection, run_id)
    current = _known(connection, run.model)
    if run.state is not runs.RunState.PROMOTING or current.run_id != run_id:
        raise StaleGeneration(
            f"Run {run_id} is {run.state}, so its promotion is void. A rollback overtook it."
        )
    promoted = _after(current, champion=run.version)
    _serve(connection, promoted, at)
    return promoted


def set_champion(connection: Connection, model: str, version: str, *, at: float) -> Exposure:
    """Serve a version to everyone, whatever was served before; safe to repeat."""
    current = _known(connection, model)
    if current.champion == version and current.challenger is None:
        return current
    changed = _after(current, champion=version)
    _serve(connection, changed, at)
    return changed


def set_feature_sets(
    connection: Connection, model: str, champion: str | None, challenger: str | None, *, at: float
) -> Exposure:
    """Name the feature sets of champion and challenger, whatever they were before; safe to repeat."""
    current = _known(connection, model)
    if (current.feature_set, current.challenger_feature_set) == (champion, challenger):
        return current
    changed = replace(
        current,
        feature_set=champion,
        challenger_feature_set=challenger,
        generation=current.generation + 1,
    )
    _serve(connection, changed, at)
    return changed


def take_over_orders(store: Store, settings: Settings) -> None:
    """Write rollbacks into the store that were asked for while it could not be written; nothing may rise before that.

    Raises:
        StoreError: It still cannot be written.
    """
    set_aside.take_over(store, settings.home, stop)


def publish_flags(store: Store, settings: Settings) -> None:
    """Write the flag document from the store and mark the outbox done; safe to repeat at any time.

    Raises:
        StoreError: The store does not answer, or holds less than what was asked for and cannot be written.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "flags.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        take_over_orders(store, settings)
        with store.read() as connection:
            exposures = every(connection)
            noted = outbox.pending(connection, _PUBLISH)
            head = ledger.head(connection)
        publish(settings.flags_path, exposures)
        heads.keep(settings.ledger_head_path, head)
    if noted:
        with store.write() as connection:
            for errand in noted:
                outbox.mark_done(connection, errand, at=store.clock())


def _known(connection: Connection, model: str) -> Exposure:
    current = find(connection, model)
    if current is None:
        raise StoreError(
            f"The store does not know model {model!r}. Give a version the alias `champion` in MLflow and start a run."
        )
    return current


def _exposed_by(connection: Connection, run_id: str, at: float) -> Exposure | None:
    """Return what a run exposes at ``at``, or nothing: another run does, its lease lapsed, or it is on its way out."""
    run = runs.get(connection, run_id)
    current = _known(connection, run.model)
    if current.run_id != run_id or not current.live(at) or run.state is not runs.RunState.EXPOSED:
        return None
    return current


def _after(current: Exposure, **changes: Any) -> Exposure:
    """Return the next generation: the same champion and feature sets, and nobody exposed, but for some changes.

    What the challenger was admitted with is kept while none is on: after a mirror its run goes on.
    """
    kept = Exposure(
        current.model,
        current.generation + 1,
        current.champion,
        feature_set=current.feature_set,
        challenger_feature_set=current.challenger_feature_set,
    )
    return replace(kept, **changes)


def _serve(connection: Connection, exposure: Exposure, at: float) -> None:
    """Put an exposure in the place of the one before, and note that it must be published."""
    values = dict(exposure.__dict__)
    row = schema.exposures.c.model == exposure.model
    if not connection.execute(schema.exposures.update().where(row).values(**values)).rowcount:
        connection.execute(schema.exposures.insert().values(**values))
    outbox.put(connection, _PUBLISH, {}, at=at)
