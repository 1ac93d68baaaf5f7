"""The tasks of the drill and of the audit say what they found and fail where somebody must act."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from understudy import session as sessions
from understudy.drill import run as room
from understudy.errors import AuditFailed, DrillFailed
from understudy.lifecycle import audit as audits
from understudy.lifecycle.audit import ERROR, WARNING, Finding
from understudy.orchestration.audit_task import AuditOperator
from understudy.orchestration.drill_task import DrilledModelsOperator, DrillOperator

CONTEXT = {
    "params": {"model": None, "scenarios": None},
    "dag_run": SimpleNamespace(
        triggering_user_name="ada", run_type="manual", conf={}, dag_id="d", run_id="r"
    ),
}


def result(passed: bool) -> dict[str, Any]:
    one = {"scenario": "slow", "passed": passed, "sentence": "slow: how it went."}
    return {"passed": passed, "sentence": "How the drill went.", "scenarios": [one]}


def drilled(monkeypatch: pytest.MonkeyPatch, passed: bool) -> list[tuple[str, ...]]:
    asked: list[tuple[str, ...]] = []

    def drill(model: str, scenarios: Sequence[str] = (), *, actor: str) -> dict[str, Any]:
        asked.append((model, *scenarios))
        return result(passed)

    monkeypatch.setattr(room, "drill", drill)
    return asked


def test_a_drill_that_passed_is_returned_and_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = drilled(monkeypatch, True)
    assert DrillOperator(task_id="drill", model="delay").execute(CONTEXT) == result(True)
    assert asked == [("delay",)]
    assert "slow: how it went." in capsys.readouterr().out


def test_what_the_form_asks_for_is_drilled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = drilled(monkeypatch, True)
    context = CONTEXT | {"params": {"model": "delay", "scenarios": ["slow"]}}
    assert DrilledModelsOperator(task_id="models").execute(context) == ["delay"]
    DrillOperator(task_id="drill", model="delay").execute(context)
    assert asked == [("delay", "slow")]


def test_a_drill_that_failed_fails_the_task_with_the_page_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    drilled(monkeypatch, False)
    with pytest.raises(DrillFailed, match=r"How the drill went\..*docs/runbooks/not-drilled\.md"):
        DrillOperator(task_id="drill", model="delay").execute(CONTEXT)


def test_the_models_are_those_that_can_be_drilled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "session", lambda: None)
    monkeypatch.setattr(room, "drilled_models", lambda doors: ["a", "b"])
    assert DrilledModelsOperator(task_id="models").execute(CONTEXT) == ["a", "b"]


def audited(monkeypatch: pytest.MonkeyPatch, *severities: str) -> None:
    found = [
        Finding(severity, "kind", "delay", "Something.", "docs/runbooks/x.md") for severity in severities
    ]
    monkeypatch.setattr(sessions, "session", lambda: None)
    monkeypatch.setattr(audits, "audit", lambda doors: found)


def test_an_audit_without_errors_returns_its_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    audited(monkeypatch, WARNING)
    (found,) = AuditOperator(task_id="audit").execute({})
    assert (found["severity"], found["runbook"]) == (WARNING, "docs/runbooks/x.md")


def test_an_audit_with_errors_fails_the_task_and_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    audited(monkeypatch, ERROR, ERROR, WARNING)
    with pytest.raises(AuditFailed, match=r"2 findings.*delay: Something\. See docs/runbooks/x\.md"):
        AuditOperator(task_id="audit").execute({})
