"""The commands around the way back: what they show, and what they say where there is nothing to show."""

from __future__ import annotations

from pathlib import Path

from tests.commands import answered, exposed_run, run
from understudy.store import ledger


def test_in_a_fresh_installation_the_audit_finds_nothing(home: Path) -> None:
    assert answered("audit") == {"findings": []}
    assert "Nothing was found" in run("audit").stdout


def test_the_audit_shows_what_somebody_must_act_on_and_ends_with_one(home: Path) -> None:
    exposed_run()
    (home / "home" / "flags.json").write_text("{")
    found = answered("audit", code=1)["findings"]
    assert {"stale_flag", "not_looked_at"} <= {one["kind"] for one in found}
    told = run("audit")
    assert told.exit_code == 1
    assert "stale_flag" in told.stdout


def test_a_model_without_a_rollback_has_no_review(home: Path) -> None:
    exposed_run()
    assert answered("incident", "delay", code=1)["error"]["code"] == "NO_SUCH_ID"


def test_the_review_is_shown_or_written_to_a_file(home: Path) -> None:
    store = exposed_run()
    with store.write() as connection:
        plan = {"model": "delay", "target": "1", "why": "It was before."}
        ledger.append(
            connection,
            at=store.clock(),
            actor="Ada",
            action="rollback.started",
            model="delay",
            run_id="delay_test-v2-1",
            reason="it hurts",
            body={"plan": plan, "key": "k"},
        )
    assert answered("incident", "delay")["run_id"] == "delay_test-v2-1"
    assert "**The rollback has not ended.**" in run("incident", "delay").stdout
    page = home / "review.md"
    assert run("incident", "delay", "--file", str(page)).exit_code == 0
    assert "## Open questions" in page.read_text()


def test_the_history_of_a_model_is_its_change_log(home: Path) -> None:
    assert answered("history", "delay", code=1)["error"]["code"] == "NO_SUCH_VERSION"
    exposed_run()
    titles = [change["title"] for change in answered("history", "delay")]
    assert titles[0] == "Version under way: version 2"
    assert "# Change log of delay" in run("history", "delay").stdout


def test_an_error_with_a_page_names_it(home: Path) -> None:
    exposed_run()
    asked = ("rollback-point", "show", "delay_test-v2-1")
    assert answered(*asked, code=1)["error"]["runbook"] == "docs/runbooks/no-way-back.md"
    assert "See docs/runbooks/no-way-back.md." in run(*asked).stderr
    assert "runbook" not in answered("status", "nobody", code=1)["error"]
