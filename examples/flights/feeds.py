"""The streaming feed of recent delays, and the one planted mistake of the demo.

The feed publishes, for every airport and for every airline at its airport, the mean departure delay and the share of
overdue flights among the last few flights. The warehouse, which training and the labelled holdout read, looks the
feed up at the right moment. The serving side does too, until :data:`FAULT_FROM`: see :func:`serving_clock`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from examples.flights.asof import Floats, Ints, PastEvents, group_numbers, mean_or_null

NEW_YORK = ZoneInfo("America/New_York")
FAULT_FROM = int(datetime(2013, 4, 11, tzinfo=NEW_YORK).timestamp())
"""First moment (epoch seconds) at which the serving side reads the feed with the wrong clock."""

OVERDUE_AFTER = (
    15 * 60
)  # a flight that has not left 15 minutes after schedule is overdue, and everybody can see it
WAITED_AFTER = (
    45 * 60
)  # how long one flight's wait is followed: the mean delay counts at most 45 minutes a flight
AIRPORT_FLIGHTS = 20
AIRLINE_FLIGHTS = 6
LIVE_COLUMNS = ("live_delay", "live_overdue", "live_airline_delay", "live_airline_overdue")


@dataclass(frozen=True)
class PastFlights:
    """What the feed says of each flight, and the epoch second from which it can say so."""

    known_at: Ints
    value: Floats


def live_feed(board: pd.DataFrame, asked_at: Ints) -> pd.DataFrame:
    """Read the feed for each row's airport and airline as it stood at ``asked_at``.

    Args:
        board: one row per flight with origin, carrier, scheduled_at (epoch s), departed_at (epoch s, NaN if it never
            left) and dep_delay (minutes, NaN if it never left). It is both the history and the list of questions.
        asked_at: epoch seconds of the moment the feed is read for each row, shape (len(board),).

    Returns:
        One column per name in :data:`LIVE_COLUMNS`: delays in minutes, shares in [0, 1], NaN before the first flight.
    """
    # A flight that will be cancelled is simply not gone yet at this moment: nothing about its fate is used.
    delay = board["dep_delay"].fillna(np.inf).to_numpy()
    scheduled_at = board["scheduled_at"].to_numpy()
    overdue = PastFlights(scheduled_at + OVERDUE_AFTER, (delay >= OVERDUE_AFTER / 60).astype(np.float64))
    waited = PastFlights(scheduled_at + WAITED_AFTER, np.clip(delay, -15.0, WAITED_AFTER / 60))
    airport, airline = group_numbers(board["origin"]), group_numbers(board["origin"], board["carrier"])
    columns: dict[str, Floats] = {}
    for prefix, place, flights in (
        ("live", airport, AIRPORT_FLIGHTS),
        ("live_airline", airline, AIRLINE_FLIGHTS),
    ):
        for name, seen in (("delay", waited), ("overdue", overdue)):
            events = PastEvents(place, seen.known_at, seen.value)
            columns[f"{prefix}_{name}"] = mean_or_null(*events.latest(place, asked_at, flights))
    return pd.DataFrame(columns, index=board.index)[list(LIVE_COLUMNS)]


def serving_clock(asked_at: Ints, fault_from: int = FAULT_FROM) -> Ints:
    """Return the moment at which the serving side actually reads the feed. THIS IS THE PLANTED FAULT.

    The feed is keyed by UTC. From ``fault_from`` on, the serving side formats the New York wall clock without its zone
    and the feed takes it for UTC: asked at 14:00 in New York (18:00 UTC in summer), it answers with the state of 14:00
    UTC, four hours old (five in winter). Every single value is a true value of the feed, so ranges, nulls and
    distributions look healthy; only the outcomes show that the model is told about the wrong part of the day.
    """
    wall = pd.to_datetime(asked_at, unit="s", utc=True).tz_convert(NEW_YORK).tz_localize(None)
    read_as_utc = wall.to_numpy().astype("datetime64[s]").astype(np.int64)
    return np.where(asked_at >= fault_from, read_as_utc, asked_at).astype(np.int64)
