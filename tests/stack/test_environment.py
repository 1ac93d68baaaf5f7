from __future__ import annotations

import json
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.stack.airflow_stack import airflow_settings
from understudy.stack.credentials import ROLES, Credentials
from understudy.stack.environment import REPO, base_environment


def test_settings_of_another_installation_do_not_leak_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = (
        "AIRFLOW_HOME",
        "AIRFLOW__CORE__EXECUTOR",
        "AIRFLOW_CONFIG",
        "MLFLOW_TRACKING_URI",
        "UNDERSTUDY_STORE_URL",
    )
    for name in foreign:
        monkeypatch.setenv(name, "foreign")
    assert not [name for name, value in base_environment(tmp_path).items() if value == "foreign"]


def test_commands_of_this_environment_are_found_first(tmp_path: Path) -> None:
    env = base_environment(tmp_path)
    found = subprocess.run(
        ["/bin/sh", "-c", "command -v airflow"], env=env, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).parent == Path(env["PATH"].split(":")[0])


@pytest.mark.parametrize("already", [None, "intranet.example"])
def test_local_addresses_never_go_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, already: str | None
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    if already:
        monkeypatch.setenv("NO_PROXY", already)
    parts = base_environment(tmp_path)["NO_PROXY"].split(",")
    assert "127.0.0.1" in parts
    assert already is None or already in parts


def test_airflow_local_settings_can_be_imported_by_every_server(tmp_path: Path) -> None:
    first = base_environment(tmp_path)["PYTHONPATH"].split(":")[0]
    assert Path(first) == REPO / "config"
    assert (REPO / "config" / "airflow_local_settings.py").exists()


def test_credentials_are_kept_and_only_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "credentials.json"
    first = Credentials.keep_in(path)
    assert Credentials.keep_in(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_an_older_installation_lacks_is_made_and_what_it_has_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    first = Credentials.keep_in(path)
    older = json.loads(path.read_text())
    del older["rollback_key"]
    path.write_text(json.dumps(older))
    made = Credentials.keep_in(path)
    assert made.rollback_key != first.rollback_key
    assert replace(made, rollback_key=first.rollback_key) == first
    assert Credentials.keep_in(path) == made


def test_credentials_of_two_installations_differ(tmp_path: Path) -> None:
    one, two = Credentials.keep_in(tmp_path / "one"), Credentials.keep_in(tmp_path / "two")
    assert one.pseudonym_key != two.pseudonym_key
    assert set(one.passwords) == set(ROLES)
    assert len(set(one.passwords.values())) == len(ROLES)


def test_the_fernet_keys_are_valid_fernet_keys(tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    made = Credentials.keep_in(tmp_path / "credentials.json")
    for key in (made.fernet_key, made.webhook_key):
        assert Fernet(key.encode()).decrypt(Fernet(key.encode()).encrypt(b"x")) == b"x"


def test_every_airflow_setting_is_one_that_airflow_knows(tmp_path: Path) -> None:
    """A misspelt option would be ignored in silence."""
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section.upper()}__{key.upper()}"
        for section, body in conf.configuration_description.items()
        for key in body["options"]
    }
    # read by the scheduler only when it is set, so Airflow's own list does not carry it per component
    optional = {"AIRFLOW__SCHEDULER__MP_START_METHOD"}
    made = Credentials.keep_in(tmp_path / "credentials.json")
    settings = airflow_settings(tmp_path, "http://127.0.0.1:1", 1, made)
    assert {name for name in settings if name != "AIRFLOW_HOME"} - known - optional == set()
    assert settings["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
