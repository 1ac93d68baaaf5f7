"""What the quick reader reads is what MLflow's parser reads, and whatever it does not read goes MLflow's way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.compiled_models import fitted, loaded
from understudy.gateway import protocol
from understudy.gateway.batch import Batch
from understudy.gateway.compiled import compile_model
from understudy.gateway.config import TrafficColumns
from understudy.gateway.loading import LoadedModel
from understudy.gateway.quick import QuickReader
from understudy.gateway.routing import read_envelopes

JSON = "application/json"
TRAFFIC = TrafficColumns("tail", "id", "time", frozenset({"tail", "pilot"}), ("origin", "late"))
HIDDEN = TRAFFIC.envelope | TRAFFIC.private
_LOADED: dict[str, LoadedModel] = {}


@pytest.fixture
def model(name: str, tmp_path: Path) -> LoadedModel:
    """Return a version as the gateway loads it; each is made once."""
    if name not in _LOADED:
        estimator, frame = fitted(name)
        predictor = loaded(estimator, frame, tmp_path, "predict_proba")
        compiled, reason = compile_model(predictor)
        assert compiled is not None, reason
        schema = predictor.metadata.get_input_schema()
        _LOADED[name] = LoadedModel(
            "1", predictor, schema, HIDDEN, "", compiled, QuickReader(compiled, TRAFFIC), reason
        )
    return _LOADED[name]


def split(rows: list[dict[str, Any]]) -> Any:
    return {"columns": list(rows[0]), "data": [list(row.values()) for row in rows]}


def columns(rows: list[dict[str, Any]]) -> Any:
    return {name: [row[name] for row in rows] for name in rows[0]}


FORMS: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "dataframe_split": lambda rows: {"dataframe_split": split(rows)},
    "index first": lambda rows: {"dataframe_split": {"index": list(range(len(rows)))} | split(rows)},
    "index last": lambda rows: {"dataframe_split": split(rows) | {"index": list(range(len(rows)))}},
    "dataframe_records": lambda rows: {"dataframe_records": rows},
    "instances of records": lambda rows: {"instances": rows},
    "inputs of columns": lambda rows: {"inputs": columns(rows)},
    "instances of columns": lambda rows: {"instances": columns(rows)},
    "inputs of records": lambda rows: {"inputs": rows},
}

USUAL = {
    "origin": st.sampled_from(["JFK", "LGA", "EWR", "jfk", "", "Zürich"]),
    "distance": st.floats(-3000, 3000),
    "humid": st.floats(0, 100),
    "pressure": st.floats(900, 1100) | st.integers(900, 1100),
    "hour": st.integers(5, 23),
    "late": st.booleans(),
    "carrier": st.sampled_from([f"C{number}" for number in range(14)]),
}
ENVELOPE = {
    "tail": st.sampled_from(["N1", "N2", "Ünit", "", None, 7, 7.5]),
    "id": st.sampled_from(["a", None, 3]),
    "time": st.sampled_from([1.5, None, 10]),
    "pilot": st.text(max_size=3) | st.none() | st.lists(st.integers(), max_size=2),
}
ODD = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["1", "nan", "\ud800", 10**30, 2**53 + 1, -0.0, 1e308, [], [1.0], {"a": 1}])
)


# Columns that nobody asked for, with names that look like what may stand around rows.
EXTRA = ("[[1]]", '"data": [[null]]', "null", "Straße", "")


def rows_of(draw: Any, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Draw rows that are usual but for a cell here and there, with some of the envelope's columns among the others."""
    cells = {name: USUAL[name] for name in names}
    cells |= {name: ENVELOPE[name] for name in draw(st.sets(st.sampled_from(sorted(ENVELOPE))))}
    cells |= dict.fromkeys(draw(st.sets(st.sampled_from(EXTRA), max_size=2)), ODD)
    order = draw(st.permutations(sorted(cells)))
    rows = [{name: draw(cells[name]) for name in order} for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        rows[draw(st.integers(0, len(rows) - 1))][draw(st.sampled_from(order))] = draw(ODD)
    return rows


def written(draw: Any, form: str, rows: list[dict[str, Any]]) -> bytes:
    spacing: Any = draw(
        st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}])
    )
    return json.dumps(FORMS[form](rows), **spacing).encode("utf-8", "surrogatepass")


def outcome(
    model: LoadedModel, batch: Callable[[], Batch], *, quick: bool, rows: list[int] | None = None
) -> Any:
    """Return the answer to a request, or to some of its rows, as it is sent, or the error."""
    try:
        read = batch()
        scored = model.score(read, rows) if quick else model._score_by_mlflow(read, rows)
        return protocol.encode_answer(scored.answers, scored.unwrapped)
    except Exception as error:
        return type(error).__name__, getattr(error, "message", str(error))


def told(batch: Batch) -> Any:
    """Return what is logged about a request's rows; names that were made up are left out."""
    try:
        found = read_envelopes(batch, TRAFFIC, {}, 9.0, "made-up-id")
    except Exception as error:
        return type(error).__name__, str(error)
    names, features = batch.table(HIDDEN)
    rows = msgspec.json.decode(features) if isinstance(features, msgspec.Raw) else features
    given = [name if len(name) < 10 else "" for name in found.event_ids]
    return (
        found.units,
        given,
        found.event_times,
        found.cohorts,
        [dict(zip(names, row, strict=True)) for row in rows],
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["sparse", "hist-mixed", "logistic"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_answers_errors_and_logged_rows_are_those_of_mlflows_path(
    model: LoadedModel, name: str, form: str, data: st.DataObject
) -> None:
    assert model.compiled is not None
    body = written(data.draw, form, rows_of(data.draw, model.compiled.columns))
    ours = outcome(model, lambda: model.read(body, JSON), quick=True)
    theirs = outcome(model, lambda: protocol.parse(body, JSON), quick=False)
    assert ours == theirs
    quick = QuickReader(model.compiled, TRAFFIC).read(body, JSON)
    if quick is not None:
        slow = protocol.parse(body, JSON)
        assert quick.size == slow.size
        assert told(quick) == told(slow)
        assert quick.secrets(TRAFFIC.secret) == slow.secrets(TRAFFIC.secret)
        picked = [quick.size - 1, 0]
        ours = outcome(model, lambda: quick, quick=True, rows=picked)
        assert ours == outcome(model, lambda: slow, quick=False, rows=picked)


GOOD = {"distance": 1.5, "humid": 60, "pressure": 1000.25}
SPLIT = '{"dataframe_split": {"columns": ["distance", "humid", "pressure"], "data": %s}}'


@pytest.mark.parametrize("name", ["logistic"])
@pytest.mark.parametrize("form", FORMS)
def test_the_usual_requests_are_read_quickly_and_their_layout_is_learned_once(
    model: LoadedModel, form: str
) -> None:
    assert model.compiled is not None
    reader = QuickReader(model.compiled, TRAFFIC)
    for number in range(3):
        for extra in ({}, {"tail": f"N{number}"}):
            body = json.dumps(FORMS[form]([GOOD | extra, GOOD | extra])).encode()
            batch = reader.read(body, "application/json; charset=utf-8" if number else JSON)
            assert batch is not None
            assert batch.rows_for(model.compiled) == [tuple(GOOD.values())] * 2
            assert batch.rows_for(model.compiled, [1]) == [tuple(GOOD.values())]
            assert batch.column("tail") == ([f"N{number}"] * 2 if extra else None)
            assert batch.column("time") is None
    assert len(reader._layouts) == 2


@pytest.mark.parametrize("name", ["logistic"])
@pytest.mark.parametrize(
    "body",
    [
        SPLIT % "[[1, 2, NaN]]",
        SPLIT % "[[1, 2, null]]",
        SPLIT % "[[1, 2, true]]",
        SPLIT % '[[1, 2, "3"]]',
        SPLIT % "[[1, 2]]",
        SPLIT % "[[1, 2, 3, 4]]",
        SPLIT % "[]",
        SPLIT % "null",
        SPLIT % '[[1, 2, 3]], "index": [0, 1]',
        SPLIT % "[[1, 2, 3]]" + " x",
        (SPLIT % "[[1, 2, 3]]")[:-1],
        (SPLIT % "[[1, 2, 3]]").replace('"humid"', '"distance"'),
        (SPLIT % "[[1, 2, 3]]").replace('"humid"', '"humidity"'),
        (SPLIT % "[[1, 2, 3]]").replace('"humid"', "7"),
        (SPLIT % "[[1, 2, 3]]")[:-1] + ', "params": {"a": 1}}',
        (SPLIT % "[[1, 2, 3]]")[:-1] + ', "messages": []}',
        (SPLIT % "[[1, 2, 3]]").replace("dataframe_split", "dataframe_other"),
        '{"dataframe_records": [{"distance": 1, "humid": 2, "pressure": 3}, {"distance": 1, "humid": 2}]}',
        '{"dataframe_records": {"distance": [1], "humid": [2], "pressure": [3]}}',
        '{"dataframe_records": []}',
        '{"inputs": {"distance": [1], "humid": [2], "pressure": [3, 4]}}',
        '{"inputs": {}}',
        '{"inputs": [[1, 2, 3]]}',
        '{"inputs": "x"}',
        "[]",
        "",
        '{"inputs": ' + "[" * 100_000,
    ],
)
def test_what_is_not_sure_to_be_read_alike_is_left_to_mlflow(model: LoadedModel, body: str) -> None:
    assert model.compiled is not None
    reader = QuickReader(model.compiled, TRAFFIC)
    for _ in range(2):
        assert reader.read(body.encode(), JSON) is None
        assert reader.read((SPLIT % "[[1, 2, 3.5]]").encode(), JSON) is not None


@pytest.mark.parametrize("name", ["logistic"])
def test_other_content_types_and_long_bodies_are_left_to_mlflow(model: LoadedModel) -> None:
    assert model.compiled is not None
    reader = QuickReader(model.compiled, TRAFFIC)
    body = (SPLIT % "[[1, 2, 3.5]]").encode()
    assert reader.read(body, JSON) is not None
    for other in ("text/csv", "application/json; charset=latin-1", "", None):
        assert reader.read(body, other) is None
    assert reader.read(body + b" " * (1 << 20), JSON) is None


@pytest.mark.parametrize("name", ["logistic"])
def test_a_client_with_ever_new_columns_costs_a_bounded_memory(model: LoadedModel) -> None:
    assert model.compiled is not None
    reader = QuickReader(model.compiled, TRAFFIC)
    for number in (*range(40), 39, 0):
        body = json.dumps({"dataframe_records": [GOOD | {f"extra{number}": number}]}).encode()
        batch = reader.read(body, JSON)
        assert batch is not None
        assert batch.column(f"extra{number}") == [number]
    assert len(reader._layouts) == 16


@pytest.mark.parametrize("name", ["logistic"])
@pytest.mark.parametrize("space", [" ", "\n", "\r\n", "\t"])
def test_logged_rows_are_one_line_however_the_request_is_spaced(model: LoadedModel, space: str) -> None:
    batch = model.read((SPLIT % f"[[1,{space}2, 3.50]]").encode(), JSON)
    names, features = batch.table(HIDDEN)
    line = msgspec.json.encode([names, features])
    assert b"\n" not in line
    assert b"\r" not in line
    assert msgspec.json.decode(line) == [["distance", "humid", "pressure"], [[1, 2, 3.5]]]


@pytest.mark.parametrize("name", ["logistic"])
def test_hidden_columns_are_not_among_the_logged_ones(model: LoadedModel) -> None:
    for form in FORMS.values():
        body = json.dumps(form([{"tail": "N1", **GOOD, "pilot": "Ann", "time": 5}])).encode()
        # Records are read in the order of those that came before, whatever their own.
        names, (features,) = model.read(body, JSON).table(HIDDEN)
        assert dict(zip(names, features, strict=True)) == GOOD


_UNITS = st.one_of(
    st.text(),
    st.text(alphabet='[]{}",\\ a:', max_size=8),
    st.integers(),
    st.none(),
    st.booleans(),
    st.lists(st.text(max_size=2), max_size=2),
)
_NOTES = st.one_of(st.none(), st.text(alphabet='[]{}",\\ a', max_size=5), st.integers(0, 9))


@pytest.mark.parametrize("name", ["logistic"])
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(st.tuples(_UNITS, _UNITS, _NOTES), min_size=1, max_size=4),
    between=st.sampled_from([", ", ",", " ,  ", ",\n"]),
    ascii_only=st.booleans(),
)
def test_whatever_hidden_cells_hold_it_is_cut_out_and_the_rest_is_what_was_asked(
    model: LoadedModel, rows: list[tuple[Any, Any, Any]], between: str, ascii_only: bool
) -> None:
    table = {"columns": ["tail", "pilot", "distance", "humid", "pressure", "note"]}
    data = [[unit, pilot, 1, 2, 3.5, note] for unit, pilot, note in rows]
    body = json.dumps(
        {"dataframe_split": table | {"data": data}}, separators=(between, ":"), ensure_ascii=ascii_only
    )
    batch = model.quick.read(body.encode("utf-8", "surrogatepass"), JSON) if model.quick else None
    if batch is not None:
        names, features = batch.table(HIDDEN)
        assert names == ["distance", "humid", "pressure", "note"]
        assert json.loads(msgspec.json.encode(features)) == [[1, 2, 3.5, note] for _, _, note in rows]


@pytest.mark.parametrize("name", ["logistic"])
def test_rows_behind_plain_hidden_cells_are_logged_as_they_came(model: LoadedModel) -> None:
    names = ["tail", "time", "distance", "humid", "pressure"]
    data = '[["N1", 5, 1, 2, 3.50], ["N2", null, 1e0, 2, 3.5]]'
    batch = model.read(
        f'{{"dataframe_split": {{"columns": {json.dumps(names)}, "data": {data}}}}}'.encode(), JSON
    )
    assert bytes(batch.table(HIDDEN)[1]) == b"[[1, 2, 3.50], [1e0, 2, 3.5]]"
    names, features = batch.table(HIDDEN, [1])
    assert (names, list(map(list, features))) == (["distance", "humid", "pressure"], [[1, 2, 3.5]])
