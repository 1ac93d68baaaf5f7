"""Files that are not on this machine: outcomes from a web server, partitions in another storage."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from tests.events.compacted import look, squeeze
from tests.events.test_evidence import world
from tests.events.test_increments import another_process
from tests.events.test_reader import MODEL
from tests.logged import logged_events
from tests.servers import free_port, wait_until
from understudy.errors import DataMissing
from understudy.events.imports import Columns, import_outcomes
from understudy.events.lookups import exposed_units, recent_requests
from understudy.events.retention import inventory, retain
from understudy.events.tables import opened_file


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server that hands out the files of a folder, whole or in parts."""
    folder, port = tmp_path / "web", free_port()
    folder.mkdir()
    app = Starlette(routes=[Mount("/", StaticFiles(directory=folder))])
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the web server")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("name", ["told.csv", "told.csv.gz", "told.parquet"])
def test_outcomes_come_from_a_web_server(tmp_path: Path, web: str, name: str) -> None:
    told = pd.DataFrame({"event_id": [f"e{n}" for n in range(3000)], "occurred_at": 5.0, "outcome": 1.0})
    path = tmp_path / "web" / name
    told.to_parquet(path, row_group_size=500) if name.endswith("parquet") else told.to_csv(path, index=False)
    for repeated in (False, True):
        with opened_file(f"{web}/{name}", lambda done, what: None) as rows:
            found = import_outcomes(tmp_path / MODEL, rows, Columns(), 9.0)
        assert (found.outcomes, found.repeated) == (3000, repeated)
    assert len(logged_events(tmp_path, MODEL, "outcomes")) == 3000


def test_a_file_that_the_web_server_does_not_have_is_a_clear_error(web: str) -> None:
    with (
        pytest.raises(DataMissing, match=r"told\.csv cannot be opened"),
        opened_file(f"{web}/told.csv", print),
    ):
        pass


@pytest.mark.parametrize("storage", ["", "memory://{}", "file://{}"])
def test_evidence_and_retention_are_the_same_wherever_partitions_are(tmp_path: Path, storage: str) -> None:
    place = f"bucket{tmp_path}/{MODEL}" if storage.startswith("memory") else tmp_path / "elsewhere" / MODEL
    world(tmp_path, events=120)
    before = look(tmp_path)
    asked = [
        recent_requests(tmp_path, MODEL, 999).to_dict("records"),
        exposed_units(tmp_path, MODEL, "x-v2-1"),
    ]
    squeeze(tmp_path, root=storage.format(place))
    another_process()
    after = look(tmp_path)
    assert (after.digest, after.quality) == (before.digest, before.quality)
    assert asked == [
        recent_requests(tmp_path, MODEL, 999).to_dict("records"),
        exposed_units(tmp_path, MODEL, "x-v2-1"),
    ]
    kept = inventory(tmp_path / MODEL)["kinds"]["requests"]
    assert kept["events"] > 100
    removed = retain(tmp_path / MODEL, days=1, now=4e9)
    assert removed.events >= kept["events"]
    assert recent_requests(tmp_path, MODEL, 999).empty
    if storage.startswith("memory"):
        import fsspec

        assert not fsspec.filesystem("memory").glob(f"/{place}/**/*.parquet")
    assert not list(tmp_path.rglob("*.parquet"))
