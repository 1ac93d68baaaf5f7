"""A person at the screen: signs in to Airflow, fills the form of an experiment, sees its run and the stages of another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.live.conftest import DAG
from tests.live.installation import Live
from understudy.store.runs import RunState

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.stack]

PATIENCE = 30_000
"""Milliseconds to wait for what Airflow's pages load in pieces."""

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = [
    "--no-sandbox", "--headless=new", "--disable-gpu", "--disable-background-networking",
    "--disable-dev-shm-usage", "--no-proxy-server",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if _CHROMIUM is None:
        pytest.skip("No Chromium on this machine. Install one, for example with `apt-get install chromium`.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=_CHROMIUM, args=_OPTIONS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, live: Live) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, locale="en-GB")
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    opened.goto(live.stack.airflow_url)
    opened.get_by_role("textbox", name="Username").fill("admin")
    opened.locator("input[name=password]").fill(live.stack.logins["admin"])
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url(lambda url: "login" not in url)
    yield opened
    context.close()


def picture(page: Page, name: str, tmp_path: Path) -> None:
    """Keep what a person would see, for whoever wants to look at it."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    page.screenshot(path=folder / f"{name}.png")


def test_the_form_starts_a_run_with_what_was_filled_in(page: Page, live: Live, tmp_path: Path) -> None:
    before = set(live.airflow.runs(DAG))
    page.goto(f"{live.stack.airflow_url}/dags/{DAG}")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_text("Version of bus-delay to try")).to_be_visible()
    expect(form.get_by_text("It is kept in the ledger beside your name.")).to_be_visible()
    form.locator("[name=element_version]").fill("5")
    form.locator("[name=element_reason]").fill("Filled in by hand.")
    picture(page, "form", tmp_path)
    form.get_by_role("button", name="Trigger").click()
    expect(form).to_be_hidden()

    (dag_run,) = live.until(lambda: set(live.airflow.runs(DAG)) - before, "a run in Airflow")
    assert live.airflow.runs(DAG)[dag_run]["conf"] == {"version": "5", "reason": "Filled in by hand."}
    run = live.until(lambda: live.run(dag_run), "the run in the store")
    assert (run.version, run.actor, run.reason) == ("5", "admin", "Filled in by hand.")
    assert live.ended(dag_run) == "failed"
    ended = live.run(dag_run)
    assert ended is not None
    assert ended.state is RunState.FAILED
    assert "has no signature" in (ended.ending or "")


def test_the_form_refuses_what_is_no_version(page: Page, live: Live) -> None:
    before = set(live.airflow.runs(DAG))
    page.goto(f"{live.stack.airflow_url}/dags/{DAG}")
    page.get_by_test_id("trigger-dag-button").click()
    form = page.get_by_role("dialog")
    form.locator("[name=element_version]").fill("the newest")
    form.get_by_role("button", name="Trigger").click()
    expect(page.get_by_text("does not match").first).to_be_visible()
    assert set(live.airflow.runs(DAG)) == before


def test_a_finished_run_shows_its_stages_as_groups(
    page: Page, live: Live, promoted: str, tmp_path: Path
) -> None:
    page.goto(f"{live.stack.airflow_url}/dags/{DAG}/runs/{promoted}")
    expect(page.get_by_role("link", name="stage_1.guard")).to_be_visible()
    picture(page, "grid", tmp_path)
    page.get_by_label("Show Graph").click()
    for stage in ("stage_1", "stage_2"):
        group = page.locator(f"[data-id={stage}]")
        expect(group).to_contain_text("Task Group")
        expect(group).to_contain_text("success", ignore_case=True)
    picture(page, "graph", tmp_path)
