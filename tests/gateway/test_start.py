from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, SPEC, Registered, row, split
from tests.servers import free_port, start_gateway, wait_until
from understudy.errors import NoSuchExperiment, SpecInvalid
from understudy.exposure import Exposure, publish
from understudy.gateway.__main__ import main
from understudy.gateway.config import traffic_of
from understudy.spec import load_all


def experiments(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text.replace("delay_test", name))
    return folder


def test_experiments_of_one_model_must_read_requests_alike(tmp_path: Path) -> None:
    text = SPEC.format(model=MODEL)
    experiments(tmp_path, a=text, b=text.replace("cohorts: [origin]", "cohorts: [carrier]"))
    traffic = traffic_of(MODEL, load_all(tmp_path))
    assert traffic.cohorts == ("origin", "carrier")
    assert traffic.secret == {"tailnum", "pilot"}
    experiments(tmp_path, b=text.replace("private: [tailnum, pilot]", "private: [tailnum]"))
    with pytest.raises(SpecInvalid, match=r"a and b .* traffic\.private"):
        traffic_of(MODEL, load_all(tmp_path))


def test_a_model_without_an_experiment_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    experiments(tmp_path, a=SPEC.format(model=MODEL))
    with pytest.raises(NoSuchExperiment, match=r"'other'.*delay"):
        traffic_of("other", load_all(tmp_path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"UNDERSTUDY_PSEUDONYM_KEY": ""}, "UNDERSTUDY_PSEUDONYM_KEY"),
        ({"UNDERSTUDY_PSEUDONYM_KEY": "short"}, "at least 16"),
        ({"MLFLOW_TRACKING_URI": ""}, "MLFLOW_TRACKING_URI"),
    ],
)
def test_a_missing_setting_is_named_and_nothing_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    changes: dict[str, str],
    said: str,
) -> None:
    experiments(tmp_path, a=SPEC.format(model=MODEL))
    environment = {
        "UNDERSTUDY_HOME": str(tmp_path / "home"),
        "UNDERSTUDY_EXPERIMENTS": str(tmp_path),
        "UNDERSTUDY_PSEUDONYM_KEY": "a-key-of-enough-characters",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:1",
    }
    for name, value in (environment | changes).items():
        monkeypatch.setenv(name, value)
    assert main(["--model", MODEL]) == 2
    assert said in capsys.readouterr().err


def test_a_document_at_start_is_served_and_asks_no_alias(
    gateway_with: Callable[..., Any], registered: Registered, tmp_path: Path
) -> None:
    exposure = Exposure(model=MODEL, generation=41, champion=registered.better)
    publish(tmp_path / "flags.json", [exposure])
    with gateway_with(home=tmp_path, forked=False) as running:
        status = running.status()
        assert (status["generation"], status["champion"]) == (41, registered.better)


def test_without_a_registry_the_gateway_waits_says_so_and_refuses_politely(tmp_path: Path) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    experiments(folder, a=SPEC.format(model=MODEL))
    nowhere = f"http://127.0.0.1:{free_port()}"
    with start_gateway(tmp_path / "home", MODEL, nowhere, folder, ready=False, forked=False) as waiting:
        assert waiting.client.get("/ping").status_code == 404
        answer = waiting.client.post("/invocations", json=split([row(1)]))
        assert (answer.status_code, answer.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert waiting.client.get("/flags").status_code == 503
        status = wait_until(
            lambda: status if "alias" in ((status := waiting.status())["document_error"] or "") else None,
            "the complaint about the registry",
        )
        assert status["ready"] is False
        assert status["generation"] is None
