"""What one process knows of a run's events: who was seen, what still waits for its outcome, what was counted.

The tables live in an in-memory DuckDB. Of an event that is done with, only the hash of its id stays (a repeat must be
recognised); of a unit, only that it was seen. Everything that `take` and `fold` do happens in one transaction, which the
caller commits once the increment is stored, or takes back when another process was faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.events.counters import KEPT_TIMES, Counters, newest_times, split_parts
from understudy.events.expressions import LARGEST, moments_sql
from understudy.events.query import ARMS, MISSING, EvidenceQuery
from understudy.events.reader import EventLog, LogState

__all__ = ["SKEW", "RunLog"]

SKEW = 300.0
"""Seconds by which an event may be ahead of its receipt; more is a wrong clock."""

_FURTHEST = 1e11  # seconds; no event time of this world is that far from 1970
_ORPHAN = 3600.0  # seconds of receipt after which an outcome without a request is forgotten
_ROOM = 10_000
_IN_AN_ARM = "arm IN ('control', 'challenger')"


class RunLog:
    """Tables of one run.

    Args:
        folder: the model's folder in the event log.
        query: what is measured.
        run_id: the run.
    """

    def __init__(self, folder: Path, query: EvidenceQuery, run_id: str) -> None:
        self.query = query
        self.run_id = run_id
        self.log = EventLog(folder)
        self.tuples: list[tuple[str, ...]] = []
        self.has_past = any(metric.covariate for metric in query.metrics)
        self._past_done = not self.has_past
        self.deleted = 0
        self.measured_sql, self.moments_sql = moments_sql(query)
        self._parts = split_parts(query.shares)
        self._create()

    def run(self, sql: str, **parameters: Any) -> Any:
        """Execute one statement and return its cursor."""
        return self.log.connection.execute(sql, parameters or None)

    def by_arm(self, sql: str, **parameters: Any) -> tuple[int, int]:
        """Execute a query for (arm, count) and return the counts of control and challenger."""
        found = dict(self.run(sql, **parameters).fetchall())
        return int(found.get(0, 0)), int(found.get(1, 0))

    def _create(self) -> None:
        values = "".join(f", v_{name} DOUBLE, v_{name}_at DOUBLE" for name in self.query.values)
        done = "".join(f", done{index} BOOLEAN" for index in self.query.labels)
        cohorts = "".join(f", c{index} VARCHAR" for index in range(len(self.query.cohorts)))
        past = "".join(f", n{i} DOUBLE, d{i} DOUBLE" for i, m in enumerate(self.query.metrics) if m.covariate)
        for table, columns in {
            "ids": "id BIGINT, counts BOOLEAN",
            "pending": "id BIGINT, event_time DOUBLE, hour INTEGER, stage INTEGER, arm INTEGER, unit BIGINT, bucket INTEGER, "
            "cohort INTEGER, prediction DOUBLE, latency_ms DOUBLE, cpu_ms DOUBLE, failed BOOLEAN, fallback BOOLEAN, "
            f"arrived BOOLEAN{done}",
            "known": f"id BIGINT, told_at DOUBLE, heard_at DOUBLE, outcome DOUBLE, outcome_at DOUBLE{values}",
            "units": "stage INTEGER, arm INTEGER, unit BIGINT",
            "split_units": "part INTEGER, unit BIGINT",
            "entered": "metric INTEGER, grouping INTEGER, value VARCHAR, stage INTEGER, arm INTEGER, unit BIGINT",
            "tuples": f"cohort INTEGER{cohorts}",
            "past": f"unit BIGINT{past}",
        }.items():
            self.run(f"CREATE TABLE {table} ({columns})")

    def take(
        self, now: float, counters: Counters, exposed_at: float | None, upto: Mapping[str, int] | None = None
    ) -> tuple[LogState, float | None, tuple[float, ...]]:
        """Read on and sort in what is new.

        Args:
            now: wall clock; lines received later stay for another time.
            counters: counted on in place.
            exposed_at: receipt of the first exposed request, once known.
            upto: how far to read; everything without it.

        Returns:
            State of the files, ``exposed_at``, and the newest distinct event times among the new requests.
        """
        state = self.log.refresh(upto)
        exposed_at = self._new_requests(now, counters, exposed_at)
        times = self.run(
            f"SELECT DISTINCT event_time FROM firsts WHERE NOT skewed ORDER BY 1 DESC LIMIT {KEPT_TIMES}"
        ).fetchall()
        self._new_outcomes(now, counters)
        self._new_pairs(counters)
        self._new_units(counters)
        self._remember_the_past(exposed_at)
        self._drop_lines(now)
        return state, exposed_at, newest_times((), (time for (time,) in times))

    def _new_requests(self, now: float, counters: Counters, exposed_at: float | None) -> float | None:
        cohorts = "".join(
            f", coalesce(cohorts[$name{index}], '{MISSING}') AS c{index}"
            for index in range(len(self.query.cohorts))
        )
        names = {f"name{index}": name for index, name in enumerate(self.query.cohorts)}
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE mine AS
            SELECT (hash(event_id) >> 1)::BIGINT AS id, received_at, event_time, stage, arm, version,
                   coalesce(fallback, false) AS fallback, error IS NOT NULL AS error, prediction, latency_ms, cpu_ms,
                   {_usable("prediction")} AS answered, unit,
                   CASE WHEN regexp_full_match(unit, '[0-9a-f]{{32}}') THEN unit ELSE md5(unit) END AS pseudonym,
                   event_time > received_at + {SKEW} OR abs(event_time) > {_FURTHEST} AS skewed {cohorts}
            FROM requests WHERE run = $run AND received_at <= $now""",
            run=self.run_id, now=now, **names,
        )  # fmt: skip
        lines, different, in_arms, newest = self.run(
            f"SELECT count(*), count(DISTINCT id), count(*) FILTER ({_IN_AN_ARM}), max(received_at) FROM mine"
        ).fetchone()
        once = "QUALIFY row_number() OVER (PARTITION BY id ORDER BY received_at, event_time) = 1"
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE firsts AS
            SELECT *, {self._why()} AS why FROM mine ANTI JOIN ids USING (id) {once if different < lines else ""}""",
            **{f"version_{arm}": version for arm, version in self.query.versions.items()},
        )
        self.run("INSERT INTO ids SELECT id, why IS NULL FROM firsts")
        reasons = dict(self.run("SELECT why, count(*) FROM firsts GROUP BY why").fetchall())
        counters.duplicates += (
            in_arms - self.run(f"SELECT count(*) FROM firsts WHERE {_IN_AN_ARM}").fetchone()[0]
        )
        for why in ("unit", "skew", "arm", "version"):
            if why in reasons:
                counters.left_out[why] = counters.left_out.get(why, 0) + reasons[why]
        if newest is not None:
            counters.newest_received_at = max(newest, counters.newest_received_at or newest)
        self._new_arrivals(counters)
        if exposed_at is None:
            (exposed_at,) = self.run("SELECT min(received_at) FROM firsts WHERE why IS NULL").fetchone()
        return exposed_at

    def _why(self) -> str:
        """Return why a request does not count, as SQL; null where it does."""
        wrong = "".join(
            f" WHEN NOT fallback AND arm = '{arm}' AND version <> $version_{arm} THEN 'version'"
            for arm in ARMS
            if arm in self.query.versions
        )
        return (
            f"CASE WHEN arm IN ('unexposed', 'champion') THEN 'other' WHEN NOT {_IN_AN_ARM} THEN 'arm' "
            f"WHEN stage < 1 THEN 'other' WHEN unit IS NULL OR unit = '' THEN 'unit' WHEN skewed THEN 'skew'{wrong} END"
        )

    def _new_arrivals(self, counters: Counters) -> None:
        """Move the requests that count to `pending`, and count them."""
        names = [f"c{index}" for index in range(len(self.query.cohorts))]
        known = set(self.tuples)
        listed = (
            f"SELECT DISTINCT {', '.join(names)} FROM firsts WHERE why IS NULL ORDER BY ALL"
            if names
            else "SELECT"
        )
        found = [tuple(row) for row in self.run(listed).fetchall()] if names else [()]
        for part in found:
            if part not in known:
                marks = "".join(f", $c{index}" for index in range(len(names)))
                self.run(
                    f"INSERT INTO tuples VALUES ({len(self.tuples)}{marks})",
                    **{f"c{index}": value for index, value in enumerate(part)},
                )
                self.tuples.append(part)
        done = "".join(f", false AS done{index}" for index in self.query.labels)
        join = f"JOIN tuples USING ({', '.join(names)})" if names else "CROSS JOIN tuples"
        self.run(
            f"""INSERT INTO pending
            SELECT id, event_time, floor(event_time / 3600)::INTEGER, stage,
                   CASE arm WHEN 'control' THEN 0 ELSE 1 END, (hash(pseudonym) >> 1)::BIGINT,
                   ('0x' || pseudonym[1:2])::INTEGER, cohort, prediction, latency_ms, cpu_ms, error OR NOT answered, fallback,
                   true {done}
            FROM firsts {join} WHERE why IS NULL"""
        )
        rows = self.run(
            """SELECT arm = 'challenger', count(*), count(*) FILTER (error OR NOT answered), count(*) FILTER (fallback),
                      count(*) FILTER (NOT answered AND NOT error)
               FROM firsts WHERE why IS NULL GROUP BY 1"""
        ).fetchall()
        for arm, events, errors, fallbacks, odd in rows:
            counts = counters.arms[arm]
            counts.events += events
            counts.errors += errors
            counts.fallbacks += fallbacks
            counts.non_finite += odd

    def _new_outcomes(self, now: float, counters: Counters) -> None:
        """Sort in what was told of events: of every number, what was received first counts."""
        at = "coalesce(occurred_at, received_at)"
        numbers = {"outcome": "outcome"} | {f"v_{name}": f"values['{name}']" for name in self.query.values}
        first = "".join(
            f", arg_min({number}, received_at) FILTER ({_usable(number)}) AS {column}, "
            f"arg_min({at}, received_at) FILTER ({_usable(number)}) AS {column}_at"
            for column, number in numbers.items()
        )
        odd = " OR ".join(f"NOT {_usable(number, 'true')}" for number in numbers.values())
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE told AS
            SELECT (hash(event_id) >> 1)::BIGINT AS id, arg_min({at}, received_at) AS told_at, min(received_at) AS heard_at
                   {first}, count(*) AS lines, count(*) FILTER ({odd}) AS odd
            FROM outcomes WHERE received_at <= $now GROUP BY 1""",
            now=now,
        )
        # Of an event that is done with, or never counted, nothing more is wanted.
        self.run(
            """CREATE OR REPLACE TEMP TABLE wanted AS
            SELECT told.*, pending.id IS NOT NULL AS waited, known.id IS NOT NULL AS again,
                   ids.counts AND pending.id IS NULL AS over, ids.id IS NULL AS orphan
            FROM told LEFT JOIN (FROM ids SEMI JOIN told USING (id)) AS ids USING (id)
            LEFT JOIN pending USING (id) LEFT JOIN known USING (id)"""
        )
        repeated, odd_lines = self.run(
            """SELECT sum(lines - CASE WHEN again OR over THEN 0 ELSE 1 END) FILTER (waited OR over),
                      sum(odd) FILTER (waited) FROM wanted"""
        ).fetchone()
        counters.repeated_outcomes += int(repeated or 0)
        counters.non_finite_outcomes += int(odd_lines or 0)
        self.run("DELETE FROM wanted WHERE NOT (waited OR orphan)")
        (again,) = self.run("SELECT count(*) FROM wanted WHERE again").fetchone()
        columns = [*numbers, *(f"{column}_at" for column in numbers)]
        if again:
            better = ", ".join(f"{column} = coalesce(known.{column}, wanted.{column})" for column in columns)
            self.run(f"UPDATE known SET {better} FROM wanted WHERE known.id = wanted.id AND wanted.again")
        listed = ", ".join(("id", "told_at", "heard_at", *columns))
        self.run(f"INSERT INTO known ({listed}) SELECT {listed} FROM wanted WHERE NOT again")

    def _new_pairs(self, counters: Counters) -> None:
        """Count the events whose outcome is known from now on."""
        rows = self.run(
            """SELECT arm, count(*) FILTER (told_at >= event_time), count(*) FILTER (told_at < event_time)
            FROM (SELECT arm, event_time, told_at FROM pending JOIN known USING (id) WHERE arrived
                  UNION ALL
                  SELECT arm, event_time, told_at FROM pending JOIN wanted USING (id) WHERE NOT arrived AND NOT again)
            GROUP BY arm"""
        ).fetchall()
        for arm, answered, before in rows:
            counters.arms[arm].answered += answered
            counters.outcomes_before_event += before

    def _new_units(self, counters: Counters) -> None:
        """Count the units that were not seen before: per arm, per arm and stage, and for the split."""
        self.run(
            """CREATE OR REPLACE TEMP TABLE seen AS SELECT DISTINCT stage, arm, unit FROM pending WHERE arrived;
            CREATE OR REPLACE TEMP TABLE fresh AS SELECT * FROM seen ANTI JOIN units USING (stage, arm, unit)"""
        )
        rows = self.run(
            "SELECT arm, count(DISTINCT unit) FROM (FROM fresh ANTI JOIN units USING (arm, unit)) GROUP BY arm"
        ).fetchall()
        for arm, count in rows:
            counters.arms[arm].units += count
        self.run("INSERT INTO units SELECT stage, arm, unit FROM fresh")
        for stage, arm, count in self.run("SELECT stage, arm, count(*) FROM fresh GROUP BY ALL").fetchall():
            counters.stage(stage)[arm] += count
        both = self.run(
            """SELECT stage, count(DISTINCT unit) FROM fresh JOIN units USING (stage, unit)
               WHERE fresh.arm <> units.arm GROUP BY stage"""
        ).fetchall()
        for stage, count in both:
            counters.stage(stage)[2] += count
        self._new_split(counters)

    def _new_split(self, counters: Counters) -> None:
        part = "".join(f" WHEN {stage} THEN {label}" for stage, label in self._parts.items())
        part = f"CASE stage{part} ELSE stage END" if part else "stage"
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE first_arms AS
            SELECT {part} AS part, (hash(pseudonym) >> 1)::BIGINT AS unit,
                   arg_min(arm = 'challenger', (received_at, id)) AS arm, list_distinct(list(stage)) AS stages
            FROM firsts WHERE why IS NULL GROUP BY 1, 2"""
        )
        for label, stages in self.run(
            "SELECT part, list_distinct(flatten(list(stages))) FROM first_arms GROUP BY part"
        ).fetchall():
            counters.split(label, stages)
        self.run(
            "CREATE OR REPLACE TEMP TABLE first_arms AS FROM first_arms ANTI JOIN split_units USING (part, unit)"
        )
        for label, arm, count in self.run(
            "SELECT part, arm, count(*) FROM first_arms GROUP BY ALL"
        ).fetchall():
            counters.split(label)[int(arm)] += count
        self.run("INSERT INTO split_units SELECT part, unit FROM first_arms")

    def _remember_the_past(self, exposed_at: float | None) -> None:
        """Sum up each unit's events from before the run exposed anybody, once, for metrics that ask for it."""
        if self._past_done or exposed_at is None:
            return
        self._past_done = True
        columns = ", ".join(column for column in ("outcome", *(f"v_{name}" for name in self.query.values)))
        at = "".join(
            f", CASE WHEN known.heard_at < $until THEN known.{column} END AS {column}, known.{column}_at"
            for column in columns.split(", ")
        )
        done = "".join(f", false AS done{index}" for index in self.query.labels)
        self.run(
            f"""CREATE OR REPLACE TEMP TABLE candidates AS
            SELECT id, event_time, 0 AS hour, 0 AS stage, 0 AS arm,
                   (hash(pseudonym) >> 1)::BIGINT AS unit, 0 AS bucket, 0 AS cohort,
                   prediction, latency_ms, cpu_ms, failed, coalesce(fallback, false) AS fallback, true AS arrived{done},
                   1e18 AS age, 0.0 AS told_at{at}
            FROM (SELECT (hash(event_id) >> 1)::BIGINT AS id, *, error IS NOT NULL OR NOT {_usable("prediction")} AS failed,
                         CASE WHEN regexp_full_match(unit, '[0-9a-f]{{32}}') THEN unit ELSE md5(unit) END AS pseudonym
                  FROM requests WHERE received_at < $until AND run IS DISTINCT FROM $run AND unit <> ''
                  QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY received_at) = 1)
            LEFT JOIN known USING (id)""",
            until=exposed_at, run=self.run_id,
        )  # fmt: skip
        self.run(f"CREATE OR REPLACE TEMP TABLE measured AS {self.measured_sql}")
        sums = ""
        for index, metric in enumerate(self.query.metrics):
            if metric.covariate:
                below = f"sum(z{index})" if metric.kind == "ratio" else f"count(y{index})"
                below = f"least({below}, 1)" if metric.per_unit else below
                sums += f", coalesce(sum(y{index}), 0), coalesce({below}, 0)"
        self.run(f"INSERT INTO past SELECT unit{sums} FROM measured GROUP BY unit")

    def _drop_lines(self, now: float) -> None:
        """Forget the lines that have been used; those of the past wait until it is known when it ended."""
        keep = (
            "run = $run AND received_at > $now"
            if self._past_done
            else "run IS DISTINCT FROM $run OR received_at > $now"
        )
        self.run(f"CREATE OR REPLACE TABLE requests AS FROM requests WHERE {keep}", run=self.run_id, now=now)
        self.run("CREATE OR REPLACE TABLE outcomes AS FROM outcomes WHERE received_at > $now", now=now)
        if not self._past_done:
            return
        known, pending = self.run(
            "SELECT (SELECT count(*) FROM known), (SELECT count(*) FROM pending)"
        ).fetchone()
        if known > 2 * pending + _ROOM:
            self.run(
                """CREATE OR REPLACE TABLE known AS FROM known
                   WHERE heard_at >= $oldest OR id IN (SELECT id FROM pending)""",
                oldest=now - _ORPHAN,
            )


def _usable(number: str, otherwise: str = "false") -> str:
    """Return SQL that tells a usable number from NaN and infinity; ``otherwise`` for null."""
    return f"coalesce(abs({number}) <= {LARGEST}, {otherwise})"
