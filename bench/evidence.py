"""One pass over ten million events, ten thousand cells judged, and what a look costs when little is new.

The file has an arm, a stage, an hour, a unit bucket, one of eight cohorts, a value, a second value below it, and the unit's
past; its rows are in the order of time, over six hours. *Plain* is one hand-written DuckDB aggregation of the same columns by
arm and cohort: count, mean and variance of value, second value and past, and the two covariances that CUPED and the delta
method need. *Ours* is the product's own pass, by stage, arm, hour, bucket and cohort, down to the increment that is stored.
*tea-tasting* reads the same file through DuckDB too and makes the same comparisons, of everybody and of each cohort; ours
then includes judging them. The hundredth that is new is of the following hour.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROWS = 10_000_000
LOGGED = 1_000_000
GOALS = {"pass": 1.5, "tea": 3.0, "memory": 500.0, "cells": 20.0, "look": 5.0}

_PLAIN = """
SELECT arm, cohort, count(*), avg(v_sales), var_samp(v_sales), avg(v_views), var_samp(v_views), avg(x_sales_n),
       var_samp(x_sales_n), covar_samp(v_sales, v_views), covar_samp(v_sales, x_sales_n), sum(x_sales_d)
FROM events GROUP BY arm, cohort"""


def main(rows: int = ROWS, logged: int = LOGGED) -> None:
    """Print one line a goal, each as a ratio or figure of this run."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        path = Path(folder, "events.parquet")
        _write_events(path, rows)
        print(f"{rows:,} events, {path.stat().st_size / 1e6:.0f} MB, 2 threads, best of several")
        plain, ours = _passes(path)
        tea, judged = _tea(path)
        memory = _apart(path, "memory")
        more = Path(folder, "more.parquet")
        _write_events(more, rows // 100, seed=2, first_hour=470_006, hours=1)
        first, added = _file_looks(path, more)
        print(f"{'plain DuckDB aggregation':44} {plain:8.3f} s")
        _line("our pass against it", f"{ours:8.3f} s", ours / plain, GOALS["pass"], "x")
        _line("tea-tasting against ours", f"{tea:8.3f} s", tea / judged, GOALS["tea"], "x", at_least=True)
        _line("peak memory of our pass", "", memory, GOALS["memory"], "MB")
        _line("10,000 cells judged", "", _judging(), GOALS["cells"], "ms")
        _line(
            "1 % more, as a file",
            f"{added * 1000:8.1f} ms",
            100 * added / first,
            GOALS["look"],
            "% of the first",
        )
        first, added = _log_looks(Path(folder), logged)
        print(f"{f'first look at a log of {logged:,} events':44} {first:8.3f} s")
        _line(
            "1 % more, in the log",
            f"{added * 1000:8.1f} ms",
            100 * added / first,
            GOALS["look"],
            "% of the first",
        )


def _line(what: str, took: str, value: float, goal: float, unit: str, *, at_least: bool = False) -> None:
    met = value >= goal if at_least else value <= goal
    word = "at least" if at_least else "at most"
    print(
        f"{what:44} {took:10} {value:8.2f} {unit} ({word} {goal:g}: {'met' if met else 'MISSED'})", flush=True
    )


def _best(work: Callable[[], object], repeats: int = 7) -> float:
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def _write_events(path: Path, rows: int, seed: int = 1, first_hour: int = 470_000, hours: int = 6) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, 500_000):
        size = min(500_000, rows - start)
        unit = rng.integers(0, 2_000_000, size)
        past = rng.gamma(2.0, 1.0, size)
        cohorts = pa.DictionaryArray.from_arrays(
            pa.array((unit // 2 % 8).astype(np.int8)), [f"c{index}" for index in range(8)]
        )
        table = pa.table(
            {
                "stage": np.full(size, 1, np.int32),
                "arm": (unit % 2).astype(np.int32),
                "hour": (first_hour + hours * (start + np.arange(size)) // rows).astype(np.int32),
                "bucket": (unit * 2654435761 >> 8 & 255).astype(np.int32),
                "cohort": cohorts,
                "v_sales": past + rng.normal(0, 1, size),
                "v_views": 1.0 + rng.poisson(3, size),
                "x_sales_n": past,
                "x_sales_d": np.ones(size),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=122_880)
    assert writer is not None
    writer.close()


def _query():  # type: ignore[no-untyped-def]
    from understudy.events.evidence import EvidenceQuery, MetricQuery

    metrics = (
        MetricQuery("sales", "mean", value="sales", better="higher", covariate="history"),
        MetricQuery("per_view", "ratio", value="sales", over="views", better="higher"),
    )
    return EvidenceQuery("bench", metrics, ("cohort",))


def _connect(path: Path):  # type: ignore[no-untyped-def]
    import duckdb

    connection = duckdb.connect(":memory:")
    # A process started with -c counts as interactive, and a pass of seconds would draw a bar among its figures.
    connection.execute("SET threads = 2; SET enable_progress_bar = false")
    connection.execute(f"CREATE VIEW events AS FROM read_parquet('{path}')")
    return connection


def _passes(path: Path, rounds: int = 9) -> tuple[float, float]:
    """Return the best plain pass and the best of ours, taken in turn so that drift hits both."""
    from understudy.events.partitions import fold

    connection, query = _connect(path), _query()
    plain, ours = [], []
    for _ in range(rounds):
        plain.append(_best(lambda: connection.execute(_PLAIN).fetchall(), 1))
        ours.append(_best(lambda: fold(connection, "events", query), 1))
    return min(plain), min(ours)


def _tea(path: Path) -> tuple[float, float]:
    """Return what tea-tasting needs to compare the arms for everybody and each cohort, and what we need for it."""
    import ibis
    import numpy as np
    import tea_tasting as tt

    from understudy.events.partitions import fold
    from understudy.events.totals import Totals
    from understudy.stats.cells import interval_table

    table = ibis.duckdb.connect(threads=2).read_parquet(path)
    wanted = {
        "sales": tt.Mean("v_sales", covariate="x_sales_n"),
        "per_view": tt.RatioOfMeans("v_sales", "v_views"),
    }
    experiment = tt.Experiment(wanted, variant="arm")
    connection, query = _connect(path), _query()

    def theirs() -> None:
        experiment.analyze(table)
        for index in range(8):
            experiment.analyze(table.filter(table.cohort == f"c{index}"))

    def ours() -> None:
        totals = Totals(query)
        totals.add(fold(connection, "events", query))
        cells = totals.cells()
        interval_table(cells, np.full(len(cells), 0.001), 1e6)

    return _best(theirs, 3), _best(ours, 5)


def _apart(path: Path, what: str) -> float:
    """Run a measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"from bench.evidence import _{what}; print(_{what}({str(path)!r}))"],
        stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    return float(done.stdout.splitlines()[-1])


def _memory(path: str) -> float:
    import resource

    from understudy.events.partitions import fold

    fold(_connect(Path(path)), "events", _query())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _file_looks(path: Path, more: Path) -> tuple[float, float]:
    """Return the first look at the file, and one that adds a file of a hundredth of its size."""
    from understudy.events.partitions import fold
    from understudy.events.totals import Totals

    query = _query()
    totals = Totals(query)
    whole, part = _connect(path), _connect(more)

    def add(connection: object) -> None:
        totals.add(fold(connection, "events", query))  # type: ignore[arg-type]
        totals.cells()

    return _best(lambda: add(whole), 1), _best(lambda: add(part), 5)


def _judging(cells: int = 10_000) -> float:
    """Return the milliseconds that judging so many cells of one look takes."""
    import numpy as np

    from understudy.stats.cells import Cells, interval_table
    from understudy.stats.ratio import ArmMoments

    rng = np.random.default_rng(1)
    d = rng.integers(1, 50, (cells, 256, 1)).astype(float)
    arms = [ArmMoments.from_units(d * 0.2 + rng.normal(0, 1, d.shape), d) for _ in range(2)]
    names = tuple(str(index) for index in range(cells))
    table = Cells(names, ("mean",) * cells, ("all",) * cells, *arms)
    alpha = np.full(cells, 0.05 / cells)
    return 1000 * _best(lambda: interval_table(table, alpha, 1e5))


def _log_looks(folder: Path, events: int) -> tuple[float, float]:
    """Return the first look at an event log and the best of looks that each find a hundredth more."""
    from understudy.events.evidence import EvidenceQuery, MetricQuery, collect
    from understudy.settings import Settings
    from understudy.store import Store

    os.environ["UNDERSTUDY_HOME"] = str(folder / "home")
    os.environ.setdefault("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    store = Store.open(Settings.from_env())
    query = EvidenceQuery(
        "bench",
        (
            MetricQuery("brier", "brier"),
            MetricQuery("errors", "error_rate"),
            MetricQuery("slow", "latency_over", 50.0),
            MetricQuery("sales", "mean", value="sales", better="higher"),
        ),
        ("cohort",),
        shares={1: {"control": 0.5, "challenger": 0.5}},
    )
    took = []
    written = 0
    for count in (events, *(events // 100,) * 5):
        _write_log(folder / "bench", written, count)
        written += count
        began = time.perf_counter()
        found = collect(store, folder, query, "run", 2e9)
        took.append(time.perf_counter() - began)
        assert found.quality.control.events + found.quality.challenger.events == written
    return took[0], min(took[1:])


def _write_log(folder: Path, first: int, count: int) -> None:
    import numpy as np

    from understudy.events.lines import OutcomeLine, RequestLine, encode

    rng = np.random.default_rng(first)
    for kind in ("requests", "outcomes"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with (
        (folder / "requests/w-0.jsonl").open("ab") as requests,
        (folder / "outcomes/w-0.jsonl").open("ab") as outcomes,
    ):
        for number in range(first, first + count):
            unit, at = int(rng.integers(0, 50_000)), 1.7e9 + number
            arm, name = ("control", "challenger")[unit % 2], f"{unit * 2654435761 % 2**32:08x}" * 4
            cohorts = {"cohort": f"c{unit // 2 % 8}"}
            row = [
                [value]
                for value in (f"e{number}", at, arm, "1", name, cohorts, rng.random(), 3.0, None, False, None)
            ]
            line = RequestLine(f"r{number}", None, at, "bench", "run", 1, 1, *row, ["hour"], [[number % 24]])
            requests.write(encode([line]))
            told = OutcomeLine(f"e{number}", 1.0, {"sales": rng.random()}, at + 1, at + 1)
            outcomes.write(encode([told]))
