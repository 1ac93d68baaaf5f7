"""The console as a person meets it: sign in to Airflow, open it from the navigation, see the model, press the button."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, FrameLocator, Page, expect, sync_playwright

from tests.console import scenes
from understudy.settings import Settings
from understudy.stack.airflow_stack import airflow_settings
from understudy.stack.credentials import Credentials
from understudy.stack.environment import base_environment
from understudy.stack.local_http import answers
from understudy.stack.ports import HeldPort
from understudy.stack.process import Process
from understudy.store import Store, exposures

pytestmark = [pytest.mark.airflow, pytest.mark.browser, pytest.mark.stack]

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
    (home / "passwords.json").write_text(Credentials.keep_in(folder / "credentials.json").passwords_file())
    with HeldPort() as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_HOME", str(folder / "understudy"))
        settings = Settings.from_env()
        env = base_environment(folder) | airflow_settings(home, port.url, port.number, credentials)
        env |= {"UNDERSTUDY_HOME": str(settings.home), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}

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
    opened.on("console", lambda said: broken.append(said.text) if "understudy" in said.location["url"] and said.type == "error" else None)
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


def test_a_stranger_gets_nothing(site: Site) -> None:
    for path in ("", "fragment", "api/status", "reports/x"):
        assert httpx.get(f"{site.url}/understudy/{path}", trust_env=False).status_code == 401


def test_the_page_is_found_in_the_navigation_and_follows_the_store(page: Page, site: Site) -> None:
    run = scenes.prepare(site.store, "flight-delay")
    console = open_console(page)
    expect(console.get_by_role("heading", name="flight-delay")).to_be_visible()
    expect(console.get_by_text("Version 2 is being checked.")).to_be_visible()

    scenes.expose(site.store, run, 3, lease=600)
    expect(console.get_by_text("Version 2 answers 25 % of units.")).to_be_visible(timeout=15_000)
    expect(console.locator("li[aria-current=step]")).to_have_text("25 % the run is here")
    lease = console.locator(".lease strong")
    first = lease.inner_text()
    expect(lease).not_to_have_text(first)  # it counts down
    expect(console.get_by_text("the data does not decide yet")).to_be_visible()


def test_a_refresh_keeps_what_the_reader_is_looking_at(page: Page, site: Site) -> None:
    scenes.adopt(site.store, "flight-delay")
    console = open_console(page)
    expect(console.get_by_role("heading", name="flight-delay")).to_be_visible()
    page.set_viewport_size({"width": 800, "height": 300})
    console.locator("body").evaluate("() => { document.scrollingElement.scrollTop = 120 }")
    with site.store.write() as connection:
        exposures.set_champion(connection, "flight-delay", "9", at=site.store.clock())
    expect(console.get_by_text("Everyone is served by version 9.")).to_be_attached(timeout=15_000)
    assert console.locator("body").evaluate("() => document.scrollingElement.scrollTop") == 120


def test_the_rollback_button_leads_out_of_the_frame_to_airflows_own_form(page: Page, site: Site) -> None:
    scenes.adopt(site.store, "flight-delay")
    open_console(page).get_by_role("link", name="Roll back flight-delay").click()
    page.wait_for_url(f"{site.url}/dags/rollback")
    page.get_by_test_id("trigger-dag-button").click()
    expect(page.get_by_text("Registered model to roll back.")).to_be_visible(timeout=15_000)


def test_a_page_that_cannot_be_refreshed_says_so(page: Page, site: Site) -> None:
    scenes.adopt(site.store, "flight-delay")
    console = open_console(page)
    expect(console.get_by_role("heading", name="flight-delay")).to_be_visible()
    page.route("**/understudy/fragment", lambda route: route.abort())
    expect(console.get_by_role("alert")).to_contain_text("out of date", timeout=15_000)
    page.unroute("**/understudy/fragment")
    expect(console.get_by_role("alert")).to_be_hidden(timeout=15_000)
    page.context.clear_cookies()
    expect(console.get_by_role("alert")).to_contain_text("signed out", timeout=15_000)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, site: Site, width: int, tmp_path: Path) -> None:
    scenes.adopt(site.store, "flight-delay")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site.url}/understudy/")
    expect(page.get_by_role("heading", name="flight-delay")).to_be_visible()
    assert page.evaluate("() => document.scrollingElement.scrollWidth <= window.innerWidth")
