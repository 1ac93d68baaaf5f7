"""The registry door: from pending starts in the registry to runs of experiments, none lost and none doubled.

``registry_intake`` announces each pending start as a partition key ``model:version`` and accepts it only after Airflow
has committed the announcement. A crash in between announces the same keys again; ``registry_start`` then runs again
for them, and there the fixed run id ``registry__model:version`` ends the repeat.
"""

from __future__ import annotations

from typing import Any

from understudy.errors import DataMissing
from understudy.orchestration.catalog import dag_id_of

__all__ = ["accept", "announce", "plan_starts"]

_REASONS = {
    "alias": "Version {version} of {model} got the alias challenger in the registry.",
    "stage": "Version {version} of {model} was moved to Staging in the registry.",
}


def announce(emission: Any) -> dict[str, str]:
    """Emit one partition key per pending start.

    Args:
        emission: ``outlet_events[asset]`` of the task; Airflow commits it together with the task's success.

    Returns:
        The announced keys, each with its signal, for :func:`accept`.
    """
    from airflow.sdk.exceptions import AirflowSkipException

    from understudy.lifecycle import registry_watch

    starts = registry_watch.pending_starts()
    if not starts:
        raise AirflowSkipException("Every start in the registry has been accepted already.")
    emission.add_partitions([start["key"] for start in starts])
    emission.extra = {"starts": {start["key"]: start for start in starts}}
    return {start["key"]: start["signal"] for start in starts}


def accept(announced: dict[str, str]) -> None:
    """Mark announced starts as dealt with, so that they are pending no longer."""
    from understudy.lifecycle import registry_watch

    registry_watch.accept_starts(announced)


def plan_starts(partition_key: str, events: list[Any]) -> list[dict[str, Any]]:
    """Turn one announced key into the runs to start, as arguments of ``StartRunOperator``.

    Args:
        partition_key: ``model:version``.
        events: The asset events behind this run, oldest first; equal keys that came together are merged by Airflow.

    Raises:
        DataMissing: No event describes the key, because somebody emitted it by hand.
    """
    announced = [event.extra.get("starts", {}) for event in events]
    described = [starts[partition_key] for starts in announced if partition_key in starts]
    if not described:
        raise DataMissing(
            f"No event behind this run describes {partition_key!r}: it was not announced by registry_intake. "
            f"Start the experiment itself, with the version as its parameter."
        )
    start = described[-1]
    reason = _REASONS[start["signal"]].format(**start)
    return [
        {
            "dag_to_start": dag_id_of(experiment),
            "run_id_to_start": f"registry__{partition_key}",
            "conf": {"version": start["version"], "reason": reason},
        }
        for experiment in start["experiments"]
    ]
