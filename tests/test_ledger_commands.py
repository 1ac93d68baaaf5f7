"""Commands about the ledger: what is sound, what is not, and what was in force at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import declared
from tests.commands import answered, run
from tests.promoted import AT, promoted
from tests.store.conftest import past_the_triggers
from understudy.commands.instants import instant, shown
from understudy.errors import BadParameter
from understudy.session import session
from understudy.store import ledger

MODEL = declared.MODEL
ACTIONS = [
    "champion.adopted", "run.started", "exposure.raised", "champion.promoted", "run.promoted", "certificate.issued",
]  # fmt: skip


def cut(*, after: int) -> None:
    """Cut the tail off and set the head back, as somebody could who owns the database."""
    store = session().store
    with store.read() as connection:
        digest = ledger.entries(connection)[after - 1].digest
    past_the_triggers(
        store,
        "DELETE FROM ledger WHERE seq > :after",
        "UPDATE ledger_head SET seq = :after, digest = :digest",
        after=after,
        digest=digest,
    )


def export(home: Path, *arguments: str) -> Path:
    found = run("ledger", "export", *arguments)
    assert found.exit_code == 0, found.output
    path = home / f"ledger-{len(list(home.iterdir()))}.jsonl"
    path.write_bytes(found.stdout_bytes)
    return path


def test_a_sound_ledger_is_verified_and_shown(home: Path) -> None:
    promoted()
    found = answered("ledger", "verify")
    assert (found["entries"], found["first_broken"], found["head"]["seq"]) == (6, None, 6)
    assert found["held_against"] == 2  # the file beside the flag document, and the certificate in the store
    assert "6 entries, chain unbroken" in run("ledger", "verify").stdout
    assert [entry["action"] for entry in answered("ledger", "show", MODEL)] == ACTIONS
    assert answered("ledger", "show", "nobody") == []
    assert "2025-11-21T04:40:00.000Z" in run("ledger", "show").stdout


def test_a_broken_ledger_is_named_with_what_is_wrong_and_fails(home: Path) -> None:
    store, _ = promoted()
    past_the_triggers(store, "UPDATE ledger SET actor = 'somebody else' WHERE seq = 2")
    found = answered("ledger", "verify", code=1)
    assert (found["first_broken"], found["kind"]) == (2, "altered")
    told = run("ledger", "verify")
    assert (told.exit_code, "Entry 2 was altered" in told.stderr) == (1, True)


def test_a_cut_tail_is_found_by_what_is_kept_beside_the_flag_document(home: Path) -> None:
    promoted()
    cut(after=3)
    found = answered("ledger", "verify", code=1)
    assert (found["first_broken"], found["kind"]) == (4, "tail cut")


@pytest.mark.parametrize("keeper", ["certificate", "backup", "export"])
def test_a_cut_tail_is_found_by_what_was_handed_over_even_when_all_else_was_changed_too(
    home: Path, keeper: str
) -> None:
    store, run_id = promoted()
    path = home / keeper
    if keeper == "certificate":
        path.write_text(run("certificate", "show", run_id, "--json").stdout)
    elif keeper == "backup":
        run("store", "backup", str(path))
    else:
        path = export(home)
    cut(after=3)
    past_the_triggers(store, "DELETE FROM certificates")
    session().settings.ledger_head_path.unlink()
    assert answered("ledger", "verify")["first_broken"] is None
    found = answered("ledger", "verify", "--against", str(path), code=1)
    assert (found["first_broken"], found["kind"]) == (4, "tail cut")
    assert str(path) in found["sentence"] or run_id in found["sentence"]


def test_an_exported_ledger_is_verified_without_the_store(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_id = promoted()
    promoted("another")
    whole, part = export(home), export(home, "--run", run_id)
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", "unknown://nowhere")
    assert answered("ledger", "verify", "--file", str(whole))["entries"] == 12
    found = answered("ledger", "verify", "--file", str(part))
    assert (found["entries"], found["head"]["seq"], found["asked"]["run"]) == (5, 12, run_id)
    lines = part.read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:-1]))
    told = run("ledger", "verify", "--file", str(part))
    assert (told.exit_code, "tail cut" in told.stderr) == (1, True)
    part.write_text("nothing")
    assert answered("ledger", "verify", "--file", str(part), code=1)["error"]["code"] == "RECORD_UNREADABLE"
    assert answered("ledger", "verify", "--file", "/nowhere", code=1)["error"]["code"] == "RECORD_UNREADABLE"


def test_a_file_is_not_held_against_mlflow(home: Path) -> None:
    found = answered("ledger", "verify", "--file", "x", "--mlflow", code=1)
    assert found["error"]["code"] == "BAD_PARAMETER"


def test_mlflow_that_cannot_be_asked_is_an_error_and_no_success(home: Path) -> None:
    promoted()
    assert answered("ledger", "verify", "--mlflow", code=1)["error"]["code"] == "SETTING_MISSING"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), 12),
        (("--model", "another"), 6),
        (("--since", shown(AT + 20), "--until", str(AT + 30)), 6),
        (("--model", MODEL, "--since", "2025-11-21T05:40:20+01:00"), 4),
        (("--run", "nobody"), 0),
    ],
)
def test_what_is_exported_is_what_was_asked_for(home: Path, arguments: tuple[str, ...], shown: int) -> None:
    promoted()
    promoted("another")
    lines = export(home, *arguments).read_text().splitlines()
    assert sum(1 for line in lines if "entry" in json.loads(line)) == shown


def test_as_of_says_which_version_served_whom_and_why(home: Path) -> None:
    _, run_id = promoted()
    found: dict[str, Any] = answered("ledger", "as-of", MODEL, shown(AT + 25))
    assert found["sentence"] == "Version 2 served 10 % of units; version 1 served everybody else."
    assert (found["exposure"]["run_id"], found["exposure"]["stage"], found["lease"]) == (run_id, 1, "held")
    assert [entry["action"] for entry in found["why"]] == ["champion.adopted", "exposure.raised"]
    told = run("ledger", "as-of", MODEL, str(AT + 25)).stdout
    assert "Version 2 served 10 % of units" in told
    assert "entry 3" in told
    assert "Version 2 served everybody" in run("ledger", "as-of", MODEL, "2030-01-01T00:00:00Z").stdout
    assert "Nothing is on record" in run("ledger", "as-of", MODEL, "0").stdout


def test_as_of_says_which_version_served_a_unit(home: Path) -> None:
    promoted()
    versions = {
        answered("ledger", "as-of", MODEL, str(AT + 25), "--unit", f"u{n}", "--cohort", "origin=JFK")[
            "version"
        ]
        for n in range(30)
    }
    assert versions == {"1", "2"}
    assert "Unit u1 was served version" in run("ledger", "as-of", MODEL, str(AT + 25), "--unit", "u1").stdout
    assert "cannot be told" in run("ledger", "as-of", MODEL, "0", "--unit", "u1").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nobody", "0"), (MODEL, "yesterday"), (MODEL, "2026-11-21"), (MODEL, "2026-11-21T14:00:00"), (MODEL, "nan"),
        (MODEL, "inf"), (MODEL, "1e300"), (MODEL, "0", "--unit", "u", "--cohort", "JFK"),
    ],
)  # fmt: skip
def test_as_of_refuses_what_it_cannot_answer_with_the_fix(home: Path, arguments: tuple[str, ...]) -> None:
    promoted()
    assert answered("ledger", "as-of", *arguments, code=1)["error"]["code"] == "BAD_PARAMETER"


def test_a_time_is_unix_seconds_or_has_a_time_zone() -> None:
    assert instant("1763700000") == instant("2025-11-21T04:40:00Z") == instant("2025-11-21T05:40+01:00") == AT
    assert instant("20251121T044000Z") == AT
    assert instant("-1.5") == -1.5
    assert shown(AT + 0.25) == "2025-11-21T04:40:00.250Z"
    with pytest.raises(BadParameter, match="no time zone"):
        instant("2025-11-21T04:40:00")
