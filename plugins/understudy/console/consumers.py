"""Which DAGs use a model's answers, as Airflow's database knows them: those that name the asset of its champion.

Airflow lets its API server alone read that database, so what is found goes into the ledger, where the engine of a rollback finds
it wherever it runs.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from understudy.errors import UnderstudyError
from understudy.rollback.consumers import note_dags

__all__ = ["CHAMPION_ASSETS", "look"]

CHAMPION_ASSETS = "x-understudy://champions/"
"""URI of the asset of a model's champion, up to the model's name."""

log = logging.getLogger(__name__)


def look() -> None:
    """Note which DAGs wait for the asset of a model's champion or read it; what cannot be read stays as it was noted."""
    from understudy.session import session

    try:
        note_dags(session(), _consuming())
    except (UnderstudyError, sa.exc.SQLAlchemyError) as error:
        log.warning("Which DAGs consume models could not be noted: %s", error)


def _consuming() -> dict[str, list[str]]:
    """Return the DAGs by model."""
    from airflow.models.asset import AssetModel, DagScheduleAssetReference, TaskInletAssetReference
    from airflow.utils.session import create_session

    found: dict[str, set[str]] = defaultdict(set)
    with create_session(scoped=False) as connection:
        references: tuple[Any, ...] = (DagScheduleAssetReference, TaskInletAssetReference)
        for reference in references:
            named = sa.select(AssetModel.uri, reference.dag_id).join(
                reference, reference.asset_id == AssetModel.id
            )
            for uri, dag in connection.execute(named.where(AssetModel.uri.startswith(CHAMPION_ASSETS))):
                found[uri.removeprefix(CHAMPION_ASSETS)].add(dag)
    return {model: sorted(dags) for model, dags in found.items()}
