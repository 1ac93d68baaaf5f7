"""The same expressions on other engines: PostgreSQL always where it is installed, Spark where the extra is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from tests.events.test_metrics import METRICS
from understudy.events.evidence import EvidenceQuery, MetricQuery
from understudy.events.expressions import measured
from understudy.events.increment import Increment
from understudy.events.partitions import bound, fold, partition_sql
from understudy.events.totals import Totals
from understudy.stats.losses import row_loss

COVARIATE = MetricQuery("helped", "mean", value="sales", better="lower", covariate="history")
QUERY = EvidenceQuery("delay", (*METRICS, COVARIATE), ("origin", "carrier"), 30.0)
KEYS = ["stage", "arm", "hour", "bucket", "c0", "c1"]


def events(rows: int = 4000, seed: int = 1) -> pd.DataFrame:
    """Return events joined with their outcomes, with everything that goes wrong in a warehouse."""
    rng = np.random.default_rng(seed)

    def sometimes(values: Any, share: float, instead: Any = None) -> list[Any]:
        hit = rng.random(rows) < share
        return [instead if bad else value for bad, value in zip(hit, values.tolist(), strict=True)]

    frame = pd.DataFrame(
        {
            "stage": rng.integers(1, 4, rows), "arm": rng.integers(0, 2, rows), "bucket": rng.integers(0, 4, rows),
            "event_time": 1.7e9 + rng.integers(0, 7200, rows), "age": rng.uniform(0, 200, rows), "arrived": True,
            "origin": rng.choice(["JFK", "it's"], rows), "carrier": rng.choice(["a", "b"], rows),
            "prediction": sometimes(rng.random(rows), 0.05), "latency_ms": sometimes(rng.gamma(2, 5, rows), 0.05),
            "cpu_ms": sometimes(rng.gamma(2, 1, rows), 0.05), "failed": rng.random(rows) < 0.1,
            "fallback": rng.random(rows) < 0.1, "outcome": sometimes((rng.random(rows) < 0.4) * 1.0, 0.1),
            "v_sales": sometimes(1e9 + rng.random(rows), 0.1), "v_views": sometimes(rng.integers(-1, 6, rows) * 1.0, 0.1),
            "x_helped_n": rng.random(rows), "x_helped_d": 1.0,
        }
    )  # fmt: skip
    for name in ("outcome", "v_sales", "v_views"):
        frame[f"{name}_at"] = frame["event_time"] + rng.integers(-5, 120, rows)
    return frame


def on_duckdb(frame: pd.DataFrame, query: EvidenceQuery) -> pd.DataFrame:
    with duckdb.connect(":memory:") as connection:
        connection.register("events", frame)
        return connection.execute(partition_sql(query, tuple(frame.columns))).df()


def agree(left: pd.DataFrame, right: pd.DataFrame) -> None:
    left, right = (frame.sort_values(KEYS).reset_index(drop=True) for frame in (left, right))
    assert left[KEYS].astype(str).equals(right[KEYS].astype(str))
    assert len(left) > 100
    for name in left.columns.difference(KEYS):
        a, b = (frame[name].astype(float).to_numpy() for frame in (left, right))
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=name)
        # Sums of squared deviations at an offset of 1e9 carry the rounding of the values themselves.
        slack = 1e-9 * np.maximum(1, np.abs(left.get(f"mean{name[2:]}", 1.0))) if name.startswith("m2") else 0
        np.testing.assert_array_less(np.abs(a - b), 1e-9 * np.abs(a) + slack + 1e-300, err_msg=name)


@pytest.mark.stack
def test_postgres_finds_the_same_moments(server: str) -> None:
    frame = events()
    engine = sa.create_engine(server)
    try:
        with engine.begin() as connection:
            frame.to_sql("events", connection, index=False)
            sql = partition_sql(QUERY, tuple(frame.columns), dialect="postgres")
            agree(pd.read_sql(sa.text(sql), connection), on_duckdb(frame, QUERY))
    finally:
        engine.dispose()


@pytest.mark.spark
def test_spark_finds_the_same_moments(tmp_path: Path) -> None:
    spark = pytest.importorskip("pyspark.sql", reason="needs the extra `spark` and Java")
    session = (
        spark.SparkSession.builder.master("local[2]")
        .config("spark.sql.warehouse.dir", str(tmp_path))
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )
    try:
        frame = events()
        frame.to_parquet(tmp_path / "events.parquet")
        session.read.parquet(str(tmp_path / "events.parquet")).createOrReplaceTempView("events")
        ibis.pyspark.connect(session)  # the dialect reads options that come with the connection
        found = session.sql(partition_sql(QUERY, tuple(frame.columns), dialect="pyspark")).collect()
        agree(pd.DataFrame([row.asDict() for row in found]), on_duckdb(frame, QUERY))
    finally:
        session.stop()


def test_losses_are_those_that_the_offline_evaluation_uses() -> None:
    frame = events(500)
    query = EvidenceQuery("delay", METRICS[:3])
    columns = ("stage", "arm", "bucket", "event_time", "prediction", "outcome")
    with duckdb.connect(":memory:") as connection:
        connection.register("events", frame)
        each = ibis.to_sql(measured(bound(query, columns), query), dialect="duckdb")
        found = connection.execute(str(each)).df()
    for index, metric in enumerate(query.metrics):
        expected = row_loss(metric.kind, frame["prediction"].astype(float), frame["outcome"].astype(float))
        np.testing.assert_allclose(found[f"y{index}"].astype(float), expected, rtol=1e-12)


PLAIN = EvidenceQuery(
    "delay",
    (COVARIATE, MetricQuery("per_view", "ratio", value="sales", over="views", better="higher")),
    ("origin", "carrier"),
)
SOUND = (
    "stage",
    "arm",
    "bucket",
    "event_time",
    "origin",
    "carrier",
    "v_sales",
    "v_views",
    "x_helped_n",
    "x_helped_d",
)


def folded(frame: pd.DataFrame, query: EvidenceQuery = PLAIN) -> Increment:
    with duckdb.connect(":memory:") as connection:
        connection.register("events", frame)
        return fold(connection, "events", query)


def test_a_partition_of_a_warehouse_becomes_an_increment() -> None:
    frame = events()[list(SOUND)].dropna()
    frame["v_views"] = frame["v_views"].abs()
    increment = folded(frame)
    assert increment.n.sum(axis=1).tolist() == [len(frame)] * 2
    assert float((increment.n * increment.mean)[0].sum()) == pytest.approx(frame["v_sales"].sum())
    assert float((increment.n * increment.mean)[1].sum()) == pytest.approx(-frame["v_sales"].sum())
    assert increment.d[1].sum() == frame["v_views"].sum()
    everybody = increment.unit_column == -1
    assert increment.unit_xn[everybody].sum() == pytest.approx(frame["x_helped_n"].sum())
    totals = Totals(PLAIN)
    totals.add(Increment.unpack(increment.pack()))
    assert len(totals.cells()) == 10


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0, None], ids=str)
def test_a_partition_with_a_number_that_is_none_is_counted_with_every_check(wrong: float | None) -> None:
    frame = events()[list(SOUND)].dropna().reset_index(drop=True)
    frame["v_views"] = frame["v_views"].abs()
    frame["v_views"] = frame["v_views"].astype(object).where(frame.index != 5, wrong).astype(float)
    increment = folded(frame)
    assert increment.n.sum(axis=1).tolist() == [len(frame), len(frame) - 1]
    assert np.isfinite(increment.mean).all()


def test_events_of_a_partition_that_name_no_cohort_are_a_cohort_of_their_own() -> None:
    frame = events()[list(SOUND)].dropna().reset_index(drop=True)
    frame["v_views"] = frame["v_views"].abs()
    frame.loc[:99, "origin"] = None
    increment = folded(frame)
    nobody = [index for index, part in enumerate(increment.tuples) if part[0] == "(missing)"]
    assert increment.n[0][np.isin(increment.cohort, nobody)].sum() == 100
    assert len(increment.tuples) == 6


def test_a_partition_without_a_column_that_is_read_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'v_views'"):
        folded(events()[[name for name in SOUND if name != "v_views"]])
