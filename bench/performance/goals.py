"""What serving has to reach, each as a ratio within one run, and whether it did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from bench.performance.series import Series, Serving

_MODELS = {"logistic": "logistic regression", "boosting": "gradient boosting"}
_PARTS = (("without routing", "routing", 10.0), ("without event log", "event log", 15.0))
_BATCH = 100


@dataclass(frozen=True)
class Goal:
    """One goal of one run.

    Attributes:
        what: What is compared.
        asked: The bound, in words.
        found: The ratio.
        met: Whether it is within the bound; nothing where there is none.
        unit: What stands after the number.
    """

    what: str
    asked: str
    found: float
    met: bool | None
    unit: str = "x"


def goals(serving: Serving) -> list[Goal]:
    """Return every goal with what was found."""
    return [
        *_against_mlflow(serving),
        *_against_bare(serving),
        *_against_mlserver(serving),
        *_compiled(serving),
        *_parts(serving),
    ]


def _against_mlflow(serving: Serving) -> Iterator[Goal]:
    for connections, asked in ((1, 20.0), (32, 50.0)):
        ours, theirs = _pair(serving, "logistic", 1, connections, "mlflow models serve")
        what = f"requests a second against `mlflow models serve`, logistic regression, single rows, {connections} connection(s)"
        yield _at_least(what, asked, ours.against(theirs, "rate"))
    for connections in (1, 8, 32):
        ours, theirs = _pair(serving, "logistic", 1, connections, "mlflow models serve")
        what = f"p99 against `mlflow models serve`, logistic regression, single rows, {connections} connection(s)"
        yield _at_most(what, 0.1, ours.against(theirs, "p99_ms"))


def _against_bare(serving: Serving) -> Iterator[Goal]:
    for model, title in _MODELS.items():
        for connections in (1, 8, 32):
            ours, theirs = _pair(serving, model, 1, connections, "bare, compiled")
            where = f"against a bare server with the same compiled model, {title}, single rows, {connections} connection(s)"
            yield _at_least(f"requests a second {where}", 0.6, ours.against(theirs, "rate"))
            yield _at_most(f"p50 {where}", 1.6, ours.against(theirs, "p50_ms"))
        for other in ("scikit-learn", "compiled"):
            for connections in (1, 8, 32):
                ours, theirs = _pair(serving, model, _BATCH, connections, f"bare, {other}")
                bare = (
                    "a bare server with scikit-learn"
                    if other == "scikit-learn"
                    else "one with the same compiled model"
                )
                where = f"against {bare}, {title}, batches of {_BATCH}, {connections} connection(s)"
                found = ours.against(theirs, "rate")
                if other == "scikit-learn":
                    yield _at_least(f"requests a second {where}", 0.8, found)
                else:
                    yield Goal(f"requests a second {where}", "none", found, None)


def _against_mlserver(serving: Serving) -> Iterator[Goal]:
    for connections in (1, 8, 32):
        ours, theirs = _pair(serving, "logistic", 1, connections, "MLServer")
        what = f"requests a second against MLServer, logistic regression, single rows, {connections} connection(s)"
        yield _at_least(what, 2.0, ours.against(theirs, "rate"))


def _compiled(serving: Serving) -> Iterator[Goal]:
    for connections in (1, 8, 32):
        ours, theirs = _pair(serving, "boosting", 1, connections, "gateway, not compiled")
        what = f"gradient boosting compiled against not compiled, single rows, {connections} connection(s)"
        yield _at_least(what, 5.0, ours.against(theirs, "rate"))


def _parts(serving: Serving) -> Iterator[Goal]:
    for (label, part, asked), (model, title), rows in product(_PARTS, _MODELS.items(), (1, _BATCH)):
        kind = "single rows" if rows == 1 else f"batches of {rows}"
        share = _share(_of(serving, "gateway", rows, model), _of(serving, label, rows, model))
        yield _at_most(
            f"share of the {part} in the CPU time of a request, {title}, {kind}", asked, share, "%"
        )
    on, off = _of(serving, "mirror on"), _of(serving, "mirror off")
    yield _at_most("share of the mirror in the CPU time of a champion's request", 10.0, _share(on, off), "%")
    longer = 100 * (on.against(off, "p99_ms") - 1)
    yield _at_most("the champion's p99 with the mirror on, longer by", 10.0, longer, "%")


def _share(whole: Series, without: Series) -> float:
    """Return what part of the CPU time of a request goes when something is taken out, in percent."""
    return 100 * (1 - without.against(whole, "cpu_us"))


def _pair(serving: Serving, model: str, rows: int, connections: int, other: str) -> tuple[Series, Series]:
    found = {
        one.server: one
        for one in serving.peers
        if (one.model, one.rows, one.connections) == (model, rows, connections)
    }
    return found["gateway"], found[other]


def _of(serving: Serving, label: str, rows: int = 1, model: str = "logistic") -> Series:
    return next(one for one in serving.parts if (one.server, one.rows, one.model) == (label, rows, model))


def _at_least(what: str, asked: float, found: float) -> Goal:
    return Goal(what, f">= {asked:g} x", found, found >= asked)


def _at_most(what: str, asked: float, found: float, unit: str = "x") -> Goal:
    return Goal(what, f"<= {asked:g} {unit}", found, found <= asked, unit)
