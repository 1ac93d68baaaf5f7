"""Follows one id from a request through the event log to the run, its ledger entries, Airflow and MLflow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import NoSuchId, NoSuchRun, SettingMissing
from understudy.events.finder import find_events
from understudy.session import Session
from understudy.store import ledger, runs

__all__ = ["follow", "sentences"]

_OF_REQUEST = ("request_id", "trace_id", "received_at", "model", "run", "stage", "generation")


def follow(doors: Session, wanted: str) -> dict[str, Any]:
    """Return everything that is on record under an id, and what that leads to.

    Args:
        doors: The session.
        wanted: Id of a request, an event, a trace or a run, or ``dag_id/run_id`` of a run in Airflow.

    Returns:
        ``id``; ``requests`` with their ``events``; ``mirrored`` and ``outcomes``; ``runs`` with links; and the ``ledger``
        entries of those runs and traces, each with ``served`` telling whether it put into force what a request was
        answered under. Times are Unix seconds. JSON-safe.

    Raises:
        NoSuchId: Nothing bears it.
    """
    events_dir = doors.settings.events_dir
    served, mirrored = (find_events(events_dir, kind, [wanted]) for kind in ("requests", "mirrors"))
    names = dict.fromkeys([wanted, *(str(event["event_id"]) for event in (*served, *mirrored))])
    outcomes = find_events(events_dir, "outcomes", list(names))
    with doors.store.read() as connection:
        involved = _runs(connection, wanted, [event["run"] for event in (*served, *mirrored)])
        entries = _entries(connection, wanted, involved, served)
    if not (served or mirrored or outcomes or involved or entries):
        raise NoSuchId(
            f"Nothing is on record under {wanted!r}. It must be the id of a request (the answer's X-Request-Id), of an event, "
            "of a trace (32 hex digits) or of a run; events older than the retention of the log are gone."
        )
    return {
        "id": wanted,
        "requests": _requests(served),
        "mirrored": mirrored,
        "outcomes": outcomes,
        "runs": [_run(run, doors) for run in involved],
        "ledger": entries,
    }


def _runs(connection: Connection, wanted: str, named: Iterable[str | None]) -> list[runs.Run]:
    found = runs.by_trace(connection, wanted)
    for name in dict.fromkeys([wanted, *filter(None, named)]):
        try:
            found.append(runs.by_key(connection, name) or runs.get(connection, name))
        except NoSuchRun:
            continue
    return list({run.run_id: run for run in found}.values())


def _entries(
    connection: Connection, wanted: str, involved: Iterable[runs.Run], served: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the entries of the runs, those of the trace, and those under which the requests were answered."""
    found = ledger.entries(connection, trace_id=wanted)
    for run in involved:
        found += ledger.entries(connection, run_id=run.run_id)
    under: set[int] = set()
    for model, generation in {(event["model"], event["generation"]) for event in served}:
        decided = ledger.entries(connection, model=model, generation=generation)
        under |= {entry.seq for entry in decided}
        found += decided
    return [
        {
            "seq": entry.seq,
            "at": entry.at,
            "actor": entry.actor,
            "action": entry.action,
            "run": entry.run_id,
            "reason": entry.reason,
            "trace_id": entry.body.get("trace_id"),
            "served": entry.seq in under,
        }
        for _, entry in sorted({entry.seq: entry for entry in found}.items())
    ]


def _requests(served: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    requests: dict[str, dict[str, Any]] = {}
    for event in served:
        own = requests.setdefault(
            event["request_id"], {name: event[name] for name in _OF_REQUEST} | {"events": []}
        )
        own["events"].append({name: value for name, value in event.items() if name not in _OF_REQUEST})
    return list(requests.values())


def _run(run: runs.Run, doors: Session) -> dict[str, Any]:
    try:
        pages = doors.settings.mlflow_url
    except SettingMissing:
        pages = ""
    recorded = run.mlflow_run_id
    return run.facts() | {
        "airflow": {name: run.airflow[name] for name in ("dag_id", "run_id", "url") if run.airflow.get(name)},
        "mlflow": {
            "run_id": recorded,
            "url": f"{pages}/#/runs/{recorded}" if recorded and pages else None,
        },
    }


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `follow` returned as lines for people."""
    for request in found["requests"]:
        yield (
            f"request {request['request_id']}  {_moment(request['received_at'])}  model {request['model']}"
            f"{_traced(request)}"
        )
        yield f"  generation {request['generation']}, stage {request['stage']}, run {request['run'] or 'none'}"
        for event in request["events"]:
            yield f"  event {event['event_id']}: {event['arm']}, version {event['version']}, {_answer(event)}"
    for event in found["mirrored"]:
        yield f"mirrored {event['event_id']}: version {event['version']}, {_answer(event)}"
    for outcome in found["outcomes"]:
        values = {"outcome": outcome["outcome"]} | dict(outcome["values"] or {})
        told = ", ".join(f"{name} {value:g}" for name, value in values.items() if value is not None)
        yield f"outcome of {outcome['event_id']}: {told}"
    for run in found["runs"]:
        yield from _of_run(run)
    for entry in found["ledger"]:
        mark = "  <- served under this" if entry["served"] else ""
        what = f"{entry['actor']}  {entry['action']}: {entry['reason']}"
        yield f"ledger {entry['seq']}  {_moment(entry['at'])}  {what}{mark}"


def _of_run(run: Mapping[str, Any]) -> Iterator[str]:
    yield f"run {run['run']}  {run['state']}, stage {run['stage']}{_traced(run)}"
    yield f"  version {run['version']} of {run['model']} against {run['champion']}"
    yield f"  started by {run['actor']}: {run['reason']}"
    if run["ending"]:
        yield f"  ending: {run['ending']}"
    airflow, mlflow = run["airflow"], run["mlflow"]
    if airflow:
        yield f"  Airflow {airflow.get('dag_id')} / {airflow.get('run_id')}  {airflow.get('url', '')}".rstrip()
    if mlflow["run_id"]:
        yield f"  MLflow {mlflow['run_id']}  {mlflow['url'] or ''}".rstrip()


def _answer(event: Mapping[str, Any]) -> str:
    answered = "no number" if event["prediction"] is None else f"answered {event['prediction']:g}"
    error = f" ({event['error']})" if event["error"] else ""
    return f"{answered} in {event['latency_ms']:g} ms{error}"


def _traced(item: Mapping[str, Any]) -> str:
    return f"  trace {item['trace_id']}" if item["trace_id"] else ""


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="milliseconds")
