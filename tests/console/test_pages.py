"""What the pages say in each situation, on the real application and a real store."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.console import scenes
from understudy.spec import Scenario
from understudy.store import Store, drills, exposures, ledger, runs
from understudy.store.drills import Drilled
from understudy.verdicts import Outcome, Verdict

pytestmark = pytest.mark.airflow

HTML = {"Accept": "text/html"}
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def _page(viewer: TestClient) -> str:
    answer = viewer.get("/understudy/", headers=HTML)
    assert answer.status_code == 200
    # Jinja breaks lines where HTML does not care.
    return re.sub(r"\s+", " ", answer.text)


def test_without_any_model_the_page_says_how_to_begin(viewer: TestClient, store: Store) -> None:
    assert "No model is known yet" in _page(viewer)
    assert viewer.get("/understudy/api/status").json() == {"models": []}


def test_a_model_without_a_run_is_served_by_its_champion(viewer: TestClient, store: Store) -> None:
    scenes.adopt(store, "flight-delay", "7")
    page = _page(viewer)
    assert "Everyone is served by version 7." in page
    assert "experiment__" not in page


def test_the_button_is_there_for_those_alone_who_may_trigger_the_rollback(
    viewer: TestClient, boss: TestClient, store: Store
) -> None:
    scenes.adopt(store, "flight-delay", "7")
    for path in ("/", "/fragment"):
        assert 'data-way-back="flight-delay"' in boss.get(f"/understudy{path}").text
        looked_at = viewer.get(f"/understudy{path}").text
        assert 'data-way-back="' not in looked_at
        assert "Rolling back takes the right to trigger the DAG" in looked_at


def test_each_step_of_a_rollback_is_told_by_its_name(viewer: TestClient, store: Store) -> None:
    scenes.adopt(store, "flight-delay", "7")
    with store.write() as connection:
        ledger.append(
            connection, at=store.clock(), actor="boss", action="rollback.step", model="flight-delay",
            reason="Drivers complain.", body={"step": "gateways"},
        )  # fmt: skip
    page = _page(viewer)
    assert "<code>rollback.step</code> gateways" in page
    (state,) = viewer.get("/understudy/api/status").json()["models"]
    assert [(entry["action"], entry["step"]) for entry in state["ledger"]][-1:] == [
        ("rollback.step", "gateways")
    ]


def test_an_exposed_run_shows_share_stage_lease_verdicts_and_ledger(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay")
    scenes.expose(store, run, 3)
    page = _page(viewer)
    assert "Version 2 answers 25 % of units." in page
    assert re.findall(r'<li class="(\w+)"(?: aria-current="step")?><span>(\d+) %', page) == [
        ("passed", "1"), ("passed", "5"), ("present", "25"), ("ahead", "50"), ("ahead", "100"),
    ]  # fmt: skip
    assert page.count('aria-current="step"') == 1
    assert "the data does not decide yet" in page
    assert re.search(r'class="lease" data-until="\d+"><strong>4[3-5] s', page)
    assert "exposure.raised" in page
    assert "Weather features are in." in page


def test_the_card_says_where_the_way_back_leads_and_whether_it_is_proven(
    viewer: TestClient, store: Store
) -> None:
    scenes.adopt(store, "no-point")
    for model, ready in (("unproven", None), ("proven", True), ("broken", False)):
        scenes.take_point(store, scenes.prepare(store, model), ready=ready)
    cards = {card[:20].split('"')[0]: card for card in _page(viewer).split('id="model-')[1:]}
    assert "No run has taken a rollback point yet." in cards["no-point"]
    assert "to version 1: Nobody has proven yet" in cards["unproven"]
    assert "leads to version 1, proven <time" in cards["proven"]
    assert 'class="lapsed">does not lead back</strong> to version 1: snapshot, datasets' in cards["broken"]


def test_the_card_says_how_far_the_way_back_was_practised(viewer: TestClient, store: Store) -> None:
    scenes.adopt(store, "churn", "7")
    assert "not above 5 %</strong> None of 18 scenarios was ever played." in _page(viewer)
    one = [Drilled("d", "churn", "7", scenario, True, "s", {}, store.clock()) for scenario in Scenario]
    with store.write() as connection:
        drills.record(connection, one, actor="ana", reason="a test")
    assert "not above 5 %" not in _page(viewer)
    assert "All 18 scenarios have passed." in _page(viewer)


RINGED = [scenes.LADDER[3] | {"ring": ["origin=JFK"]}, *scenes.LADDER]


def test_a_ring_is_named_wherever_the_page_says_who_sees_the_challenger(
    viewer: TestClient, store: Store
) -> None:
    scenes.adopt(store, "churn")
    run = scenes.prepare(store, "flight-delay", ladder=RINGED)
    scenes.expose(store, run, 1)
    page = _page(viewer)
    assert "Version 2 answers 50 % of origin=JFK and nobody else." in page
    assert re.search(r'class="badge live">[^<]* 50 % of origin=JFK ?<', page), page[page.find("badge") :][
        :200
    ]
    assert 'aria-current="step"><span>50 % <span class="quiet small">of origin=JFK</span>' in page
    assert "outside of origin=JFK" in page


def test_beside_everybody_else_a_ring_keeps_its_own_share_on_the_page(
    viewer: TestClient, store: Store
) -> None:
    run = scenes.prepare(store, "flight-delay", ladder=RINGED)
    scenes.expose(store, run, 2)
    page = _page(viewer)
    assert "Version 2 answers 1 % of units, 50 % of origin=JFK." in page
    assert "outside of origin=JFK" in page


def test_links_lead_to_airflow_mlflow_and_the_report_without_asking_any_of_them(
    viewer: TestClient, store: Store
) -> None:
    run = scenes.prepare(store, "flight-delay")
    page = _page(viewer)
    assert 'href="../dags/experiment__flight_delay"' in page
    assert 'href="../dags/experiment__flight_delay/runs/manual__2026-01-05T03%3A00%3A00%2B00%3A00"' in page
    assert 'href="http://127.0.0.1:9/#/runs/0f3c1b7e9d0a4c5e8b6f2a1d3c4e5f60"' in page
    assert f'href="reports/{run.run_id}"' in page


def test_a_lapsed_lease_is_an_alarm_and_nobody_counts_as_exposed(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay")
    scenes.expose(store, run, 2, lease=-1)
    page = _page(viewer)
    assert "The lease of version 2 has lapsed" in page
    assert '<article class="card alarm"' in page
    assert '<span class="badge alarm">lease lapsed</span>' in page
    state = viewer.get("/understudy/api/status").json()["models"][0]
    assert (state["percent"], state["lease_seconds_left"], state["lease_lapsed"]) == (0.0, 0.0, True)


def test_at_the_last_stage_the_holdback_is_not_hidden(viewer: TestClient, store: Store) -> None:
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 5)
    page = _page(viewer)
    assert "Version 2 answers 95 % of units." in page
    assert 'version 1 <span class="quiet">control</span> 5 %' in page


def test_a_rolled_back_run_says_why_and_where_it_stopped(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay")
    scenes.expose(store, run, 3)
    scenes.roll_back(store, run, 3)
    page = _page(viewer)
    assert "Everyone is served by version 1. The run of version 2 was rolled back." in page
    assert '<li class="stopped"><span>25 %</span>' in page
    assert "Rolled back at stage 3 to version 1: brier is worse by 0.031" in page
    assert "run.rolled_back" in page


def test_a_rollback_that_is_on_is_an_alarm(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay")
    scenes.expose(store, run, 3)
    with store.write() as connection:
        runs.set_state(connection, run.run_id, runs.RunState.ROLLING_BACK, store.clock())
        exposures.drop(connection, run.model, actor="ana", reason="pager", at=store.clock())
    assert "The rollback is on" in _page(viewer)


def test_exposure_without_a_run_behind_it_is_an_alarm(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay")
    scenes.expose(store, run, 3)
    with store.write() as connection:
        runs.end(connection, run, runs.RunState.FAILED, ending="gone", actor="tests", at=store.clock())
    page = _page(viewer)
    assert "No run stands behind it" in page
    assert '<article class="card alarm"' in page


def test_a_promoted_run_has_climbed_the_whole_ladder(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay")
    scenes.expose(store, run, 5)
    with store.write() as connection:
        runs.set_state(connection, run.run_id, runs.RunState.PROMOTING, store.clock())
        exposures.promote(connection, run.run_id, at=store.clock())
        promoted = runs.RunState.PROMOTED
        runs.end(connection, run, promoted, ending="Promoted.", actor="ana", at=store.clock())
    page = _page(viewer)
    assert "Everyone is served by version 2." in page
    assert page.count('<li class="passed">') == 5


def test_several_models_have_a_summary_on_top(viewer: TestClient, store: Store) -> None:
    scenes.adopt(store, "arrival-gate")
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 2)
    scenes.prepare(store, "taxi-time")
    page = _page(viewer)
    assert page.count("<article") == 3
    assert page.index('href="#model-arrival-gate"') < page.index("<article")


@pytest.mark.parametrize("path", ["/", "/fragment"])
def test_hostile_text_is_shown_and_never_run(viewer: TestClient, store: Store, path: str) -> None:
    run = scenes.prepare(store, f"m{EVIL}", actor=f"who{EVIL}", reason=f"why{EVIL}")
    scenes.expose(store, run, 1)
    scenes.roll_back(store, run, 1, reason=f"harm{EVIL}")
    answer = viewer.get(f"/understudy{path}", headers=HTML)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "<img" not in answer.text
    for field in ("m", "who", "why", "harm"):
        assert f"{field}&#34;&gt;&lt;script&gt;alert(1)" in answer.text


def test_the_report_is_rendered_and_locked_in(viewer: TestClient, store: Store) -> None:
    run = scenes.prepare(store, "flight-delay", reason=f"why{EVIL}")
    scenes.expose(store, run, 2)
    scenes.roll_back(store, run, 2)
    answer = viewer.get(f"/understudy/reports/{run.run_id}")
    assert answer.status_code == 200
    assert "Rolled back at stage 2" in answer.text
    assert "<script" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy


def test_an_unknown_report_is_a_clear_404(viewer: TestClient, store: Store) -> None:
    page = viewer.get("/understudy/reports/nothing", headers=HTML)
    assert page.status_code == 404
    assert "There is no such run" in page.text
    data = viewer.get("/understudy/reports/nothing")
    assert data.status_code == 404
    assert data.json()["error"]["code"] == "NO_SUCH_RUN"


@pytest.mark.parametrize("path", ["/", "/fragment", "/api/status", "/reports/x"])
def test_a_store_that_cannot_be_opened_is_a_503_without_a_traceback(
    viewer: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{tmp_path / 'file' / 'store.db'}")
    for headers in (HTML, {}):
        answer = viewer.get(f"/understudy{path}", headers=headers)
        assert answer.status_code == 503
        assert "STORE" in answer.text
        assert "UNDERSTUDY_STORE_URL" in answer.text
        assert "Traceback" not in answer.text
        assert answer.headers["cache-control"] == "no-store"


def test_a_store_that_is_lost_later_is_a_503_too(
    viewer: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert viewer.get("/understudy/api/status").status_code == 200
    with store.write() as connection:
        connection.exec_driver_sql("DROP TABLE exposures")
    answer = viewer.get("/understudy/api/status")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "STORE"
    assert "SELECT" not in answer.text


def test_an_unforeseen_error_gives_nothing_away(
    viewer: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from understudy.console import page

    def breaks(*_: Any) -> None:
        raise ZeroDivisionError("the password is secret")

    monkeypatch.setattr(page, "cards", breaks)
    answer = viewer.get("/understudy/", headers=HTML)
    assert answer.status_code == 500
    assert "the password is" not in answer.text
    assert "Traceback" not in answer.text


def test_the_page_works_without_mlflow_being_configured(
    viewer: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    scenes.prepare(store, "flight-delay")
    assert "MLflow run" not in _page(viewer)


def test_the_page_allows_only_its_own_script_and_no_other_place(viewer: TestClient, store: Store) -> None:
    scenes.prepare(store, "flight-delay")
    first, second = (viewer.get("/understudy/") for _ in range(2))
    policy = first.headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
    assert nonce is not None
    assert set(re.findall(r'<(?:script|style)[^>]*nonce="([\w-]+)"', first.text)) == {nonce[1]}
    assert nonce[1] not in second.text
    assert "unsafe" not in policy
    assert first.headers["x-frame-options"] == "SAMEORIGIN"
    loaded = re.findall(r'(?:src|<link[^>]+href)="([^"]*)"', first.text)
    assert loaded == []


def test_the_json_is_what_the_command_line_prints(viewer: TestClient, store: Store) -> None:
    from understudy.cli import app

    run = scenes.prepare(store, "flight-delay")
    with store.write() as connection:
        failed = Verdict(Outcome.ERROR, "r", "Could not measure.")
        scenes.look(store, run, 1, failed, "ROLL_BACK", connection=connection)
    printed = CliRunner().invoke(app, ["status", "--json"])
    assert json.loads(printed.stdout) == viewer.get("/understudy/api/status").json()


def test_of_many_looks_the_last_is_shown_and_of_a_long_ledger_the_end(
    viewer: TestClient, store: Store
) -> None:
    run = scenes.prepare(store, "flight-delay")
    with store.write() as connection:
        for number in range(30):
            seen = Verdict(Outcome.INCONCLUSIVE, "r", f"Look {number}.")
            scenes.look(store, run, 1, seen, "HOLD", connection=connection)
            entry = {"actor": "tests", "action": "noted", "model": run.model, "reason": f"Entry {number}."}
            ledger.append(connection, at=store.clock(), **entry)
    state = viewer.get("/understudy/api/status").json()["models"][0]
    steps = [(verdict["step"], verdict["sentence"]) for verdict in state["verdicts"]]
    assert [step for step, _ in steps] == ["preregister", "check_data", "evaluate", "shadow", "stage_1"]
    assert steps[-1] == ("stage_1", "Look 29.")
    assert [entry["reason"] for entry in state["ledger"]] == [f"Entry {number}." for number in range(18, 30)]
