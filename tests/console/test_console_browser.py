"""The console as a person meets it: sign in to Airflow, open it from the navigation, see the model, press the button."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import Browser, ConsoleMessage, FrameLocator, Locator, Page, expect, sync_playwright

from tests.console import scenes
from tests.servers import start_mlflow
from understudy.processes.ports import HeldPort
from understudy.processes.process import Process
from understudy.settings import Settings
from understudy.stack.airflow_stack import airflow_settings
from understudy.stack.credentials import Credentials
from understudy.stack.environment import base_environment
from understudy.stack.local_http import answers
from understudy.store import Store, exposures, ledger

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.stack]

PATIENCE = 15_000
"""Milliseconds to wait for what needs a refresh of the page or a start of Airflow's."""

_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Site:
    """A running API server and the store that its console shows."""

    url: str
    store: Store
    settings: Settings
    passwords: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Airflow's API server with a migrated database and the DAGs of the checkout; nothing else runs."""
    folder = tmp_path_factory.mktemp("site")
    home, credentials = folder / "airflow", Credentials.keep_in(folder / "credentials.json")
    home.mkdir()
    (home / "passwords.json").write_text(json.dumps(credentials.passwords))
    with HeldPort() as port, start_mlflow(folder / "mlflow") as mlflow, pytest.MonkeyPatch.context() as patch:
        _register(mlflow)
        patch.setenv("UNDERSTUDY_HOME", str(folder / "understudy"))
        settings = Settings.from_env()
        env = base_environment(folder) | airflow_settings(home, port.url, port.number, credentials)
        env |= {"UNDERSTUDY_HOME": str(settings.home), "MLFLOW_TRACKING_URI": mlflow}
        env["UNDERSTUDY_GATEWAY_URLS"] = ","

        def airflow(*arguments: str) -> Process:
            log = home / f"{arguments[0]}.log"
            return Process(f"airflow {arguments[0]}", ["airflow", *arguments], env=env, log=log, cwd=home)

        for prepare in (("db", "migrate"), ("dags", "reserialize")):
            with airflow(*prepare) as process:
                process.wait_ready(lambda process=process: process.returncode == 0, 180)
        port.hand_over()
        store = Store.open(settings)
        with airflow("api-server") as server:
            server.wait_ready(lambda: answers(f"{port.url}/api/v2/version"), 180)
            yield Site(port.url, store, settings, credentials.passwords)
        store.close()


def _register(mlflow: str) -> None:
    """Register two versions of a model; the second one is champion."""
    from mlflow import MlflowClient

    client = MlflowClient(mlflow, mlflow)
    client.create_registered_model("taxi-time")
    run = client.create_run("0")
    client.log_text(run.info.run_id, "flavors: {}", "model/MLmodel")
    for _ in range(2):
        client.create_model_version("taxi-time", f"{run.info.artifact_uri}/model", run.info.run_id)
    client.set_registered_model_alias("taxi-time", "champion", "2")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if _CHROMIUM is None:
        pytest.skip("No Chromium on this machine. Install one, for example with `apt-get install chromium`.")
    options = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=_CHROMIUM, args=[*options, "--no-proxy-server", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page of somebody who signed in with Airflow's own form; any error in a script of the console fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    opened = context.new_page()
    broken: list[str] = []

    def listen(said: ConsoleMessage) -> None:
        # A refused refresh is reported by the browser itself and is what some tests are about.
        if (
            said.type == "error"
            and "/understudy/" in said.location["url"]
            and "Failed to load" not in said.text
        ):
            broken.append(said.text)

    opened.on("console", listen)
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(site.url)
    opened.get_by_role("textbox", name="Username").fill("admin")
    opened.locator("input[name=password]").fill(site.passwords["admin"])
    opened.get_by_role("button", name="Sign in").click()
    opened.wait_for_url(lambda url: "login" not in url)
    yield opened
    context.close()
    assert not broken


def open_console(page: Page) -> FrameLocator:
    page.get_by_role("link", name="Understudy").click()
    return page.frame_locator("iframe[title='Understudy']")


def card(console: FrameLocator, model: str) -> Locator:
    return console.get_by_role("article", name=f"Model {model}")


def test_a_stranger_gets_nothing(site: Site) -> None:
    for path in ("", "fragment", "api/status", "reports/x"):
        assert httpx.get(f"{site.url}/understudy/{path}", trust_env=False).status_code == 401


def test_the_page_is_found_in_the_navigation_and_follows_the_store(page: Page, site: Site) -> None:
    run = scenes.prepare(site.store, "flight-delay")
    shown = card(open_console(page), "flight-delay")
    expect(shown.get_by_text("Version 2 is being checked.")).to_be_visible()

    scenes.expose(site.store, run, 3, lease=600)
    expect(shown.get_by_text("Version 2 answers 25 % of units.")).to_be_visible(timeout=PATIENCE)
    expect(shown.locator("li[aria-current=step]")).to_have_text("25 % the run is here")
    expect(shown.get_by_text("the data does not decide yet")).to_be_visible()
    lease = shown.locator(".lease strong")
    before = int(lease.inner_text().removesuffix(" s"))
    expect(lease).not_to_have_text(f"{before} s")
    assert int(lease.inner_text().removesuffix(" s")) < before


def test_a_refresh_keeps_what_the_reader_is_looking_at(page: Page, site: Site) -> None:
    scenes.adopt(site.store, "gate-change")
    console = open_console(page)
    shown = card(console, "gate-change")
    page.set_viewport_size({"width": 800, "height": 300})
    expect(shown).to_be_visible()
    root = console.locator("html")
    root.evaluate("html => { html.scrollTop = 120 }")
    shown.get_by_role("button", name="Roll back").evaluate("link => link.focus({ preventScroll: true })")
    with site.store.write() as connection:
        exposures.set_champion(connection, "gate-change", "9", at=site.store.clock())
    expect(shown.get_by_text("Everyone is served by version 9.")).to_be_attached(timeout=PATIENCE)
    assert root.evaluate("html => html.scrollTop") == 120
    expect(shown.get_by_role("button", name="Roll back")).to_be_focused()


def test_the_button_shows_the_plan_and_then_what_was_done_without_any_scheduler(
    page: Page, site: Site
) -> None:
    scenes.adopt(site.store, "taxi-time", "2")
    console = open_console(page)
    shown = card(console, "taxi-time")
    shown.get_by_role("button", name="Roll back").click()
    dialog = console.get_by_role("dialog", name="Roll back taxi-time")
    expect(dialog.get_by_text("Version 1 will serve everybody")).to_be_visible(timeout=PATIENCE)
    expect(
        dialog.get_by_text("exposure, registry, suites, serving, gateways, probe, consumers")
    ).to_be_visible()
    expect(dialog.get_by_text("about 5 s")).to_be_visible()
    dialog.get_by_label("Kind of incident").select_option("latency_spike")
    expect(dialog.get_by_text("exposure, serving, gateways, registry")).to_be_visible(timeout=PATIENCE)
    dialog.get_by_role("button", name="Roll back now").click()
    with site.store.read() as connection:
        assert exposures.find(connection, "taxi-time").champion == "2", "no reason, no rollback"
    dialog.get_by_label("What did you see?").fill("Taxis wait.")
    dialog.get_by_role("button", name="Roll back now").click()
    expect(dialog.get_by_text("Version 1 serves everybody again. Exposure was zero after")).to_be_visible(
        timeout=PATIENCE
    )
    expect(dialog.get_by_role("row", name="consumers")).to_contain_text(" s")
    expect(dialog.get_by_text("duration")).to_contain_text("met")
    dialog.get_by_role("button", name="Close").click()
    expect(shown.get_by_text("Everyone is served by version 1.")).to_be_visible(timeout=PATIENCE)
    with site.store.read() as connection:
        (done,) = ledger.entries(connection, model="taxi-time", actions=("rollback.finished",))
    assert (done.actor, done.reason) == ("admin", "latency_spike: Taxis wait.")


def test_a_model_that_cannot_be_rolled_back_is_named_and_nobody_is_exposed(page: Page, site: Site) -> None:
    scenes.expose(site.store, scenes.prepare(site.store, "lost-model"), 2, lease=600)
    console = open_console(page)
    card(console, "lost-model").get_by_role("button", name="Roll back").click()
    dialog = console.get_by_role("dialog")
    expect(dialog.get_by_text("The plan cannot be shown.")).to_be_visible(timeout=PATIENCE)
    dialog.get_by_label("What did you see?").fill("Nobody knows.")
    dialog.get_by_role("button", name="Roll back now").click()
    expect(dialog.get_by_role("status")).to_contain_text("no registered model 'lost-model'", timeout=PATIENCE)
    with site.store.read() as connection:
        assert not exposures.find(connection, "lost-model").exposed


def test_the_report_opens_beside_airflow_in_a_window_of_its_own(page: Page, site: Site) -> None:
    scenes.prepare(site.store, "late-bags")
    with page.context.expect_page() as opened:
        card(open_console(page), "late-bags").get_by_role("link", name="decision report").click()
    expect(opened.value.get_by_text("late-bags version 2")).to_be_visible()


def test_a_page_that_cannot_be_refreshed_says_so(page: Page, site: Site) -> None:
    scenes.adopt(site.store, "crew-rest")
    console = open_console(page)
    expect(card(console, "crew-rest")).to_be_visible()
    page.route("**/understudy/fragment", lambda route: route.fulfill(status=502, body="bad gateway"))
    expect(console.get_by_role("alert")).to_contain_text("out of date", timeout=PATIENCE)
    page.unroute("**/understudy/fragment")
    expect(console.get_by_role("alert")).to_be_hidden(timeout=PATIENCE)
    page.route("**/understudy/fragment", lambda route: route.fulfill(status=401, body="{}"))
    expect(console.get_by_role("alert")).to_contain_text("signed out", timeout=PATIENCE)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, site: Site, width: int) -> None:
    run = scenes.prepare(site.store, f"width-{width}", reason="long" * 100)
    scenes.expose(site.store, run, 2)
    scenes.roll_back(site.store, run, 2)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site.url}/understudy/")
    expect(page.get_by_role("article", name=f"Model width-{width}")).to_be_visible()
    assert page.evaluate("() => document.scrollingElement.scrollWidth <= window.innerWidth")
    within = (
        "() => [...document.querySelectorAll('.card')].every(card => card.scrollWidth <= card.clientWidth)"
    )
    assert page.evaluate(within)
