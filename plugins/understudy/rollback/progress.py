"""How far a rollback came, told by the ledger: whether one is on, who joined it, what is done, how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import StaleGeneration
from understudy.rollback.plan import Plan, resolve
from understudy.session import Session
from understudy.store import ledger
from understudy.store.unfinished import ENDINGS

__all__ = [
    "Begun",
    "Order",
    "begin",
    "finished",
    "latest",
    "led_to",
    "note_step",
    "require_standing",
    "unfinished",
]

_ACTIONS = ("rollback.started", "rollback.joined", *ENDINGS)


@dataclass(frozen=True)
class Order:
    """What somebody asked for.

    Attributes:
        model: The model.
        reason: Why.
        actor: Who.
        key: Idempotency key.
        target_version: A version that was chosen, or None.
    """

    model: str
    reason: str
    actor: str
    key: str
    target_version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the order as JSON-safe data."""
        return dict(self.__dict__)


@dataclass(frozen=True)
class Begun:
    """A rollback that is on.

    Attributes:
        plan: Where it leads.
        seq: Number of the ledger entry that began it.
        at: When that was, Unix seconds.
        keys: Idempotency keys of everybody who asked for it.
    """

    plan: Plan
    seq: int
    at: float
    keys: frozenset[str]


def _walk(entries: Iterable[ledger.Entry]) -> tuple[Begun | None, dict[str, Mapping[str, Any]]]:
    """Return the rollback that is on, and what ended ones came to by the key that asked for them.

    One that was abandoned is over too: whoever asks again gets a new plan.
    """
    begun: Begun | None = None
    ended: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        if entry.action == "rollback.started":
            plan = Plan.from_dict(entry.body["plan"])
            begun = Begun(plan, entry.seq, entry.at, frozenset({str(entry.body["key"])}))
        elif entry.action == "rollback.joined" and begun is not None:
            begun = Begun(begun.plan, begun.seq, begun.at, begun.keys | {str(entry.body["key"])})
        elif entry.action == "rollback.finished":
            for key in (*(begun.keys if begun else ()), str(entry.body["key"])):
                ended[key] = dict(entry.body)
            begun = None
        else:
            begun = None
    return begun, ended


def unfinished(connection: Connection, model: str) -> Begun | None:
    """Return the rollback of a model that was started and not finished."""
    return _walk(ledger.entries(connection, model=model, actions=_ACTIONS))[0]


def finished(connection: Connection, order: Order) -> Mapping[str, Any] | None:
    """Return what an order came to, if it was carried out or joined before."""
    return _walk(ledger.entries(connection, model=order.model, actions=_ACTIONS))[1].get(order.key)


def led_to(connection: Connection, order: Order) -> Mapping[str, Any] | None:
    """Return the newest rollback if it led to the chosen version and nothing began since: two doors asked for the same."""
    entries = ledger.entries(connection, model=order.model, actions=_ACTIONS)
    last = entries[-1] if entries else None
    done = (
        last is not None
        and last.action == "rollback.finished"
        and last.body["target"] == order.target_version
    )
    return dict(last.body) if last is not None and done else None


def _newest(connection: Connection, model: str) -> ledger.Entry | None:
    """Return the entry that began the newest rollback of a model, ended or not."""
    found = ledger.entries(connection, model=model, newest=1, actions=("rollback.started",))
    return found[0] if found else None


def begin(doors: Session, order: Order) -> Begun:
    """Write the plan down before the registry is touched, or join the rollback that is on.

    Without this a repeat after a crash would look at a half-moved registry and go one version too far back.
    """
    with doors.store.read() as connection:
        on = unfinished(connection, order.model)
    if _fits(on, order):
        return _join(doors, order)
    with doors.store.read() as connection:
        plan = resolve(connection, doors, order.model, order.reason, order.target_version)
    with doors.store.write() as connection:
        on = unfinished(connection, order.model)
        if on is not None and _fits(on, order):
            _note_joined(connection, doors, order, on)
            return on
        entry = _append(connection, doors, order, "rollback.started", plan, {"plan": plan.to_dict()})
    return Begun(plan, entry.seq, entry.at, frozenset({order.key}))


def _fits(on: Begun | None, order: Order) -> bool:
    return on is not None and order.target_version in (None, on.plan.target)


def _join(doors: Session, order: Order) -> Begun:
    with doors.store.write() as connection:
        on = unfinished(connection, order.model)
        if on is not None:
            _note_joined(connection, doors, order, on)
            return on
    return latest(doors, order.model)


def _note_joined(connection: Connection, doors: Session, order: Order, on: Begun) -> None:
    if order.key not in on.keys:
        _append(connection, doors, order, "rollback.joined", on.plan, {"started": on.seq})


def latest(doors: Session, model: str) -> Begun:
    """Return the newest rollback of a model, whether it has ended or not.

    Raises:
        StaleGeneration: There is none.
    """
    with doors.store.read() as connection:
        entry = _newest(connection, model)
    if entry is None:
        raise StaleGeneration(f"The ledger has no rollback of {model}. Ask for one.")
    return Begun(Plan.from_dict(entry.body["plan"]), entry.seq, entry.at, frozenset({str(entry.body["key"])}))


def require_standing(connection: Connection, begun: Begun) -> None:
    """Refuse to go on with a plan that another one has replaced.

    Raises:
        StaleGeneration: Somebody has begun a rollback of the model to another version since.
    """
    entry = _newest(connection, begun.plan.model)
    if entry is None or entry.seq != begun.seq:
        raise StaleGeneration(
            f"The rollback of {begun.plan.model} to version {begun.plan.target} was replaced by one to another version."
        )


def note_step(
    doors: Session,
    order: Order,
    begun: Begun,
    name: str,
    seconds: float,
    changed: bool,
    found: Mapping[str, Any],
) -> None:
    """Write a step down, once for each time that it changed something.

    Raises:
        StaleGeneration: Another plan has replaced this one.
    """
    with doors.store.write() as connection:
        require_standing(connection, begun)
        noted = {
            entry.body["step"]
            for entry in ledger.entries(connection, model=order.model, actions=("rollback.step",))
            if entry.body["started"] == begun.seq
        }
        if changed or name not in noted:
            body = {
                "started": begun.seq,
                "step": name,
                "seconds": round(seconds, 3),
                "changed": changed,
                "found": found,
            }
            _append(connection, doors, order, "rollback.step", begun.plan, body)


def _append(
    connection: Connection, doors: Session, order: Order, action: str, plan: Plan, body: Mapping[str, Any]
) -> ledger.Entry:
    return ledger.append(
        connection,
        at=doors.store.clock(),
        actor=order.actor,
        action=action,
        model=order.model,
        run_id=plan.run_id,
        reason=order.reason,
        body={"key": order.key, **body},
    )
