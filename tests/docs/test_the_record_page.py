"""Everything that the page on the record tells people to type is typed here, in its order, on a run that was promoted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import answered, run
from tests.promoted import SIGNING_KEY, promoted
from understudy.record.chain import Kind

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "the-record.md").read_text()
MODEL, RUN = "flight-delay", "flight_delay-v2-1"


@pytest.fixture
def record(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A promoted run of the page's model, and the file that the page holds the ledger against."""
    monkeypatch.setenv("UNDERSTUDY_SIGNING_KEY", SIGNING_KEY)
    monkeypatch.chdir(home)
    _, run_id = promoted(MODEL, "flight_delay")
    assert run_id == RUN
    Path("certificate.json").write_text(run("certificate", "show", RUN, "--json").stdout)
    answered("store", "backup", str(home / "backups" / "store"))
    return home


def commands(home: Path) -> list[str]:
    blocks = re.findall(r"```shell\n(.*?)```", PAGE, re.DOTALL)
    return [line.replace("/backups/", f"{home}/backups/") for block in blocks for line in block.splitlines()]


def test_every_command_of_the_page_runs(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = commands(record)
    assert len(typed) >= 10
    for line in typed:
        command, _, file = line.partition(" > ")
        first, *rest = shlex.split(command)
        assert first == "understudy"
        if "restore" in rest:
            monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{record / 'empty.db'}")
        done = run(*rest)
        assert done.exit_code == 0, (line, done.output)
        if file:
            Path(file).write_bytes(done.stdout_bytes)
    assert {"ledger.jsonl", "run.jsonl", "morning.jsonl", "signer.pub"} <= {
        path.name for path in record.iterdir()
    }


def test_what_the_page_shows_is_what_is_printed(record: Path) -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    asked = next(line for line in commands(record) if "as-of" in line)
    assert run(*shlex.split(asked)[1:]).stdout.replace("  tests  ", "  ana  ") == shown


def test_the_page_explains_whatever_a_verification_can_find() -> None:
    from typing import get_args

    assert all(f"| `{kind}` |" in PAGE for kind in get_args(Kind))
