"""Turns the state of a model into what the page says about it: one sentence first, then the facts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from understudy.exposure import TOTAL_WEIGHT, reach, weights

__all__ = ["Card", "Step", "cards", "duration", "mlflow_address", "utc"]

_LABELS = {
    "idle": "no run",
    "preparing": "in preparation",
    "exposed": "exposed",
    "promoting": "being promoted",
    "rolling_back": "rolling back",
    "promoted": "promoted",
    "rolled_back": "rolled back",
    "failed": "stopped",
}
_ENDED = ("promoted", "rolled_back", "failed")


@dataclass(frozen=True)
class Step:
    """One rung of the ladder.

    Attributes:
        percent: Share of units.
        ring: The cohorts whose units it exposes alone; empty where it exposes everyone's.
        mark: ``passed``, ``present``, ``stopped`` or ``ahead``.
        words: The mark for those who do not see the drawing.
    """

    percent: float
    ring: str
    mark: str
    words: str


@dataclass(frozen=True)
class Card:
    """What the page says about one model.

    Attributes:
        model: Its name.
        label: State in a word or two.
        tone: ``calm``, ``busy``, ``live`` or ``alarm``; the colour.
        headline: What users get right now.
        outlook: What happens if nobody acts.
        shares: Who answers outside of rings: label, version, share of units in percent.
        ladder: The rungs; empty without a run.
        stage: Time and rules of the present stage, in words.
        state: The whole state as :func:`understudy.lifecycle.status.status` gives it.
        links: Addresses relative to the page, by ``experiment``, ``airflow``, ``mlflow``, ``report``.
        command: The way back with Airflow down.
    """

    model: str
    label: str
    tone: str
    headline: str
    outlook: str
    shares: Sequence[tuple[str, str, float]]
    ladder: Sequence[Step]
    stage: str
    state: Mapping[str, Any]
    links: Mapping[str, str]
    command: str

    @property
    def ended(self) -> bool:
        """Whether the newest run has ended, so that another may start."""
        return self.state["state"] in _ENDED

    @property
    def exposed(self) -> bool:
        """Whether any unit sees the challenger now."""
        return _exposed_now(self.state)

    @property
    def exposes(self) -> str:
        """Whom the challenger answers, in a few words."""
        return reach(self.state["percent"], self.state["rings"].items())


def cards(states: Sequence[Mapping[str, Any]], mlflow: str) -> list[Card]:
    """Return one card a model.

    Args:
        states: What :func:`understudy.lifecycle.status.status` returned.
        mlflow: Address of MLflow's pages, empty if there is none to link to.
    """
    return [_card(state, mlflow) for state in states]


def _card(state: Mapping[str, Any], mlflow: str) -> Card:
    tone, headline, outlook = _sentences(state)
    return Card(
        model=state["model"],
        label=_label(state),
        tone=tone,
        headline=headline,
        outlook=outlook,
        shares=_shares(state),
        ladder=_ladder(state),
        stage=_stage(state),
        state=state,
        links=_links(state, mlflow),
        command=f'understudy rollback {shlex.quote(state["model"])} --reason "what you saw"',
    )


def _label(state: Mapping[str, Any]) -> str:
    if state["lease_lapsed"] and state["state"] in ("exposed", "promoting"):
        return "lease lapsed"
    if state["state"] == "exposed" and not _exposed_now(state):
        return "exposure ended"
    return _LABELS.get(state["state"], state["state"])


def _sentences(state: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return tone, headline and outlook; whatever is not known to be well is an alarm."""
    if state["state"] == "rolling_back":
        return _rolling_back(state)
    if state["lease_lapsed"]:
        return (
            "alarm",
            f"{_everyone(state)} The lease of version {state['challenger']} has lapsed: nobody renewed it in time.",
            "Exposure stays at zero. The guard or the scheduler may be down: look at the Airflow run.",
        )
    if _exposed_now(state):
        return _exposed(state)
    return _unexposed(state)


def _rolling_back(state: Mapping[str, Any]) -> tuple[str, str, str]:
    outlook = "Starting the rollback again is safe: it joins the one that is on."
    if _exposed_now(state):
        return "alarm", f"{_seen(state)} A rollback is on and takes it back.", outlook
    restoring = "The rollback is on: registry and gateways are being restored and verified."
    return "alarm", f"{_everyone(state)} {restoring}", outlook


def _exposed(state: Mapping[str, Any]) -> tuple[str, str, str]:
    if state["state"] == "exposed":
        guarded = "The guard goes on only when the evidence passes and goes back when it fails."
        return "live", _seen(state), f"{guarded} If the guard dies, the lease ends the exposure by itself."
    if state["state"] == "promoting":
        passed = "It passed every stage and is being made champion."
        return "live", f"{_seen(state)} {passed}", "If the promotion gets stuck, the lease ends the exposure."
    return (
        "alarm",
        f"{_seen(state)} No run stands behind it.",
        "Only the lease ends this exposure: roll back to be sure.",
    )


def _unexposed(state: Mapping[str, Any]) -> tuple[str, str, str]:
    everyone, version = _everyone(state), state["version"]
    copies = " It scores copies of requests, whose answers nobody gets." if state["mirror"] else ""
    closed = "A run that has ended never exposes anybody again."
    known = {
        "idle": ("calm", everyone, "Nothing changes until a run is started."),
        "preparing": (
            "busy",
            f"{everyone} Version {version} is being checked.{copies}",
            "Nobody is exposed until every check has passed.",
        ),
        "promoted": (
            "calm",
            f"{everyone} The run of version {version} ended with its promotion.",
            closed,
        ),
        "rolled_back": ("calm", f"{everyone} The run of version {version} was rolled back.", closed),
        "failed": ("calm", f"{everyone} The run of version {version} was stopped.", closed),
    }
    unfinished = (
        "alarm",
        f"{everyone} Exposure was taken back, but the run of version {version} has not ended.",
        "Airflow ends the run. If it does not, roll back: that is safe to repeat.",
    )
    return known.get(state["state"], unfinished)


def _everyone(state: Mapping[str, Any]) -> str:
    return f"Everyone is served by version {state['champion']}."


def _exposed_now(state: Mapping[str, Any]) -> bool:
    return bool(state["percent"] > 0 or state["rings"])


def _seen(state: Mapping[str, Any]) -> str:
    whom = reach(_challenger_share(state["percent"]), state["rings"].items())
    alone = "" if state["percent"] > 0 else " and nobody else"
    seen = f"Version {state['challenger']} answers {whom}{alone}."
    if state["contained"]:
        seen += f" {', '.join(state['contained'])} went back to version {state['champion']} alone, because it was harmed."
    return seen


def _challenger_share(percent: float) -> float:
    return 100 * weights(percent)[0] / TOTAL_WEIGHT


def _shares(state: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    if not state["percent"]:
        return [("champion", state["champion"], 100.0)]
    challenger, unexposed, control = (100 * weight / TOTAL_WEIGHT for weight in weights(state["percent"]))
    arms = [
        ("challenger", state["challenger"], challenger),
        ("champion", state["champion"], unexposed),
        ("control", state["champion"], control),
    ]
    return [arm for arm in arms if arm[2] > 0]


def _ladder(state: Mapping[str, Any]) -> list[Step]:
    reached, phase = state["stage"], state["state"]
    steps = []
    for number, (percent, ring) in enumerate(zip(state["stages"], state["stage_rings"], strict=True), 1):
        if number < reached or phase == "promoted":
            mark, words = "passed", "passed"
        elif number > reached:
            mark, words = "ahead", "not reached"
        elif phase in (*_ENDED, "rolling_back"):
            mark, words = "stopped", "stopped here"
        else:
            mark, words = "present", "the run is here"
        steps.append(Step(percent, ", ".join(ring), mark, words))
    return steps


def _stage(state: Mapping[str, Any]) -> str:
    rules = state["stage_rules"]
    if not rules or state["state"] != "exposed" or not _exposed_now(state):
        return ""
    return (
        f"Stage {state['stage']} of {len(state['stages'])} takes at least {duration(rules['soak'])} and "
        f"{rules['min_units']} units in each arm; it is rolled back if it has not passed after {duration(rules['timeout'])}."
    )


def _links(state: Mapping[str, Any], mlflow: str) -> dict[str, str]:
    """Return addresses relative to the page, so that they hold behind any proxy and under any base path."""
    if not state["run"]:
        return {}
    links = {"report": f"reports/{quote(state['run'], safe='')}"}
    from understudy.orchestration.catalog import dag_id_of

    links["experiment"] = f"../dags/{quote(dag_id_of(state['experiment']), safe='')}"
    airflow = state["airflow"]
    if "dag_id" in airflow and "run_id" in airflow:
        links["airflow"] = (
            f"../dags/{quote(airflow['dag_id'], safe='')}/runs/{quote(airflow['run_id'], safe='')}"
        )
    if mlflow and state["links"].get("mlflow_run"):
        links["mlflow"] = f"{mlflow}/#/runs/{quote(state['links']['mlflow_run'], safe='')}"
    return links


def mlflow_address(tracking_uri: str) -> str:
    """Return where a browser finds MLflow's pages: no other scheme than the web's, and never a password."""
    parts = urlsplit(tracking_uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: ``2 h 5 min``."""
    rest, words = round(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count:
            words.append(f"{count} {unit}")
    return " ".join(words[:2]) or "0 s"


def utc(at: float) -> str:
    """Return a moment as people on call compare it with their logs."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
