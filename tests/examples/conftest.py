"""Shared inputs: real flights, a small part of the year where the whole is not needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from examples.flights.flights import Flights, build, load, prepare
from tests.examples.gateway_double import RecordingGateway


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Flights:
    """The whole year, prepared once for all tests."""
    return prepare(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def raw() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Flights of April 1 to 20 with weather and airports, as the package ships them."""
    table, weather, airports = load()
    return table[(table["month"] == 4) & (table["day"] <= 20)].reset_index(drop=True), weather, airports


@pytest.fixture(scope="session")
def april(raw: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]) -> pd.DataFrame:
    return build(*raw)


@pytest.fixture
def gateway() -> Iterator[RecordingGateway]:
    server = RecordingGateway().open()
    yield server
    server.close()


@pytest.fixture
def small(flights: Flights, tmp_path: Path) -> Flights:
    """Traffic of two days only, so that a replay reaches its end."""
    (tmp_path / "flights").mkdir()
    traffic = flights.read("traffic")
    day = traffic["scheduled_at"] // 86_400
    part = Flights(tmp_path, {})
    traffic[day < day.iloc[0] + 2].to_parquet(part.path("traffic"), index=False)
    return part
