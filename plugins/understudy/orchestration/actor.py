"""Who started an Airflow run, and why, as the ledger names them."""

from __future__ import annotations

from typing import Any

from understudy.telemetry import TraceContext

__all__ = ["TRACEPARENT", "actor_of", "airflow_run_of", "idempotency_key_of", "reason_of", "traceparent_of"]

TRACEPARENT = "traceparent"
"""Key of a DAG run's configuration by which whoever starts it through the API hands its trace on."""

_DOORS = {"scheduled": "schedule", "asset_triggered": "registry", "backfill": "backfill"}
_REGISTRY_RUN = "registry__"


def actor_of(dag_run: Any) -> str:
    """Return the name of the person who started a run, or of the door it came through.

    Airflow records the user for runs started from its UI, its REST API, its command line and for backfills, and hands
    the name down to runs which such a run triggers. It records nobody for scheduled runs and asset events.

    Args:
        dag_run: ``context["dag_run"]``.

    Returns:
        A user name, or ``schedule``, ``registry``, ``backfill``, ``airflow``.
    """
    user = getattr(dag_run, "triggering_user_name", None)
    if user:
        return str(user)
    if dag_run.run_id.startswith(_REGISTRY_RUN):
        return "registry"
    return _DOORS.get(str(getattr(dag_run.run_type, "value", dag_run.run_type)), "airflow")


def reason_of(context: Any) -> str:
    """Return the reason given in the form, or a plain sentence on how the run came to be."""
    given = (context["params"].get("reason") or "").strip()
    if given:
        return str(given)
    actor = actor_of(context["dag_run"])
    if actor == "schedule":
        return "Scheduled start."
    return f"Started by {actor}; no reason was given."


def idempotency_key_of(dag_run: Any) -> str:
    """Return the key under which repeats of a run's first step count as one: its DAG and run id."""
    return f"{dag_run.dag_id}/{dag_run.run_id}"


def airflow_run_of(dag_run: Any) -> dict[str, Any]:
    """Return what is needed to find an Airflow run again: ids, kind of start and the page of the run."""
    from urllib.parse import quote

    from understudy.settings import Settings

    page = f"{Settings.from_env().airflow_url}/dags/{dag_run.dag_id}/runs/{quote(dag_run.run_id, safe='')}"
    return {
        "dag_id": dag_run.dag_id,
        "run_id": dag_run.run_id,
        "run_type": str(getattr(dag_run.run_type, "value", dag_run.run_type)),
        "url": page,
    }


def traceparent_of(dag_run: Any) -> str | None:
    """Return the W3C trace context that a run continues.

    Args:
        dag_run: ``context["dag_run"]``.

    Returns:
        The one in the run's configuration, else that of Airflow's own span of this task; None where there is neither and
        the run begins a trace of its own.
    """
    given = (dag_run.conf or {}).get(TRACEPARENT)
    if isinstance(given, str):
        return given
    from opentelemetry import trace

    # Airflow gives every run a trace id, but only where it sends spans has that trace anything in it.
    place = trace.get_current_span().get_span_context()
    if not place.is_valid or not hasattr(trace.get_tracer_provider(), "sampler"):
        return None
    return TraceContext(
        f"{place.trace_id:032x}", f"{place.span_id:016x}", place.trace_flags.sampled
    ).traceparent
