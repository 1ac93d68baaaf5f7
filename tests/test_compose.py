"""The compose topology cannot rot unseen: every command, flag, module, port and variable it names has to exist."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[1]
COMPOSE = (REPO / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[?-])(?P<rest>[^}]*))?\}")
KNOWN_PORTS = {"postgres": 5432, "redis": 6379}
SECRET = re.compile(r"PASSWORD$|SECRET|KEY$|TOKEN|AUTH$")
# `airflow celery` comes with a provider that only the production image has. These are its worker's options.
CELERY_WORKER = {"--queues", "--concurrency", "--autoscale", "--celery-hostname", "--skip-serve-logs"}
CELERY_PROVIDER_OPTIONS = {"AIRFLOW__CELERY__BROKER_URL", "AIRFLOW__CELERY__RESULT_BACKEND"}


def _filled(text: str) -> str:
    """The text as compose would read it with some value for every secret."""
    text = VARIABLE.sub(lambda found: found["rest"] if found["kind"] == "-" else "x" * 24, text)
    return text.replace("$$", "$")


def _command(service: str) -> list[str]:
    return [_filled(word) for word in SERVICES[service].get("command", [])]


def _environment(service: str) -> dict[str, str]:
    return {name: str(value) for name, value in SERVICES[service].get("environment", {}).items()}


def _option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


def _port(service: str) -> int | None:
    said = _option(_command(service), "--port")
    return int(said) if said else KNOWN_PORTS.get(service)


def _with_command(*start: str) -> list[str]:
    return [name for name in SERVICES if tuple(_command(name)[: len(start)]) == start]


@cache
def _locked() -> set[str]:
    text = (REPO / "requirements" / "production.txt").read_text()
    return {line.partition("==")[0] for line in text.splitlines() if re.match(r"[a-z0-9].*==", line)}


def test_the_topology_is_complete() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "mlflow", "airflow-init", "api-server", "scheduler", "dag-processor", "triggerer",
        "worker-default", "worker-evaluation", "gateway-1", "gateway-2",
    }  # fmt: skip


def test_every_command_is_one_that_the_tests_below_know() -> None:
    known = {"airflow", "mlflow", "python", "redis-server"}
    assert {_command(name)[0] for name in SERVICES if _command(name)} <= known


@pytest.mark.parametrize(
    "service", [name for name in _with_command("airflow") if "celery" not in _command(name)]
)
def test_airflow_understands_the_command(service: str) -> None:
    from airflow.cli.cli_parser import get_parser

    assert get_parser().parse_args(_command(service)[1:])


@pytest.mark.parametrize(
    "service", [name for name in SERVICES if "jobs" in SERVICES[name].get("healthcheck", {}).get("test", [])]
)
def test_airflow_understands_the_health_check(service: str) -> None:
    from airflow.cli.cli_parser import get_parser

    assert get_parser().parse_args(SERVICES[service]["healthcheck"]["test"][2:])


@pytest.mark.parametrize("service", _with_command("airflow", "celery"))
def test_a_celery_worker_uses_options_of_the_locked_provider(service: str) -> None:
    command = _command(service)
    assert command[:3] == ["airflow", "celery", "worker"]
    assert {word for word in command if word.startswith("--")} <= CELERY_WORKER
    assert "apache-airflow-providers-celery" in _locked()
    assert "celery" in _locked()


def test_every_queue_that_a_step_asks_for_has_a_worker() -> None:
    served = {_option(_command(name), "--queues") for name in _with_command("airflow", "celery")}
    asked = {"default"}
    for path in [
        *(REPO / "dags").glob("*.py"),
        *(REPO / "plugins" / "understudy" / "orchestration").glob("*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "queue" and isinstance(node.value, ast.Constant):
                asked.add(node.value.value)
    assert served == {"default", "evaluation"}
    assert asked <= served


def test_mlflow_understands_its_command_and_its_environment() -> None:
    from mlflow.cli import cli

    command = _command("mlflow")
    server = cli.commands[command[1]]
    options = {flag for parameter in server.params for flag in parameter.opts}
    variables = {name for parameter in server.params if (name := getattr(parameter, "envvar", None))}
    assert {word for word in command if word.startswith("--")} <= options
    assert "MLFLOW_BACKEND_STORE_URI" in variables
    known = variables | set(vars(importlib.import_module("mlflow.environment_variables")))
    assert {name for name in _environment("mlflow") if name.startswith("MLFLOW_")} <= known


def test_mlflow_lets_in_the_host_name_that_the_others_use() -> None:
    allowed = (_option(_command("mlflow"), "--allowed-hosts") or "").split(",")
    uses = {
        _environment(name)["MLFLOW_TRACKING_URI"].removeprefix("http://")
        for name in SERVICES
        if "MLFLOW_TRACKING_URI" in _environment(name)
    }
    assert uses
    for host in uses:
        assert any(fnmatch.fnmatch(host, pattern) for pattern in allowed), host


@pytest.mark.parametrize("service", _with_command("python"))
def test_a_python_command_runs_a_module_of_the_project_with_flags_it_has(service: str) -> None:
    command = _command(service)
    assert command[1] == "-m"
    assert importlib.util.find_spec(command[2]) is not None
    usage = subprocess.run(
        [sys.executable, "-m", command[2], "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert {word for word in command[3:] if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", usage))


def test_the_celery_application_that_the_health_check_asks_is_the_providers() -> None:
    for name in _with_command("airflow", "celery"):
        (check,) = SERVICES[name]["healthcheck"]["test"][1:]
        assert "airflow.providers.celery.executors.celery_executor.app" in check


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "airflow-init"])
def test_every_lasting_service_has_a_health_check_and_comes_back(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"]
    assert SERVICES[service]["restart"] == "unless-stopped"


@pytest.mark.parametrize("service", SERVICES)
def test_addresses_name_a_service_and_the_port_it_listens_on(service: str) -> None:
    check = " ".join(SERVICES[service].get("healthcheck", {}).get("test", []))
    for value in _environment(service).values():
        for host, port in re.findall(r"(?:://|@|,)(?:[\w:]*@)?([a-z][\w-]*):(\d+)", _filled(value)):
            assert host == "localhost" or _port(host) == int(port), value
    for port in re.findall(r"localhost:(\d+)", check):
        assert _port(service) == int(port)
    for published in SERVICES[service].get("ports", []):
        assert int(published.rpartition(":")[2]) == _port(service)


def test_published_ports_differ_and_stay_on_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    hosts = [port.rpartition(":")[0] for port in published]
    assert len(hosts) == len(set(hosts))
    assert all(host.startswith("127.0.0.1:") for host in hosts)


def test_every_gateway_is_told_to_those_who_must_reach_it() -> None:
    gateways = {
        f"http://{name}:{_port(name)}" for name in _with_command("python", "-m", "understudy.gateway")
    }
    assert len(gateways) == 2
    assert set(_environment("scheduler")["UNDERSTUDY_GATEWAY_URLS"].split(",")) == gateways


def test_dependencies_and_volumes_exist() -> None:
    volumes = set(yaml.safe_load(COMPOSE)["volumes"])
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= set(SERVICES)
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in volumes or (REPO / source).exists(), mount


def test_whoever_reads_or_writes_state_shares_its_volume() -> None:
    for name in SERVICES:
        home = _environment(name).get("UNDERSTUDY_HOME")
        assert home is None or f"understudy-home:{home}" in SERVICES[name]["volumes"]


def test_no_secret_has_a_value_in_the_file() -> None:
    for service in SERVICES:
        for name, value in _environment(service).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{[A-Z_]+:(\?[^}]*|-)\}", value), f"{service}: {name}"
            assert not re.search(r"://[^/@\s:$]*:(?!\$\{)[^/@\s]+@", value), f"{service}: {name}"
    assert "${REDIS_PASSWORD:?" in " ".join(SERVICES["redis"]["command"])


def test_every_variable_is_explained_and_every_explained_one_is_used() -> None:
    used = {found["name"] for found in VARIABLE.finditer(COMPOSE)}
    explained = set(re.findall(r"^([A-Z_]+)=", (REPO / ".env.example").read_text(), re.MULTILINE))
    assert used == explained


def test_every_variable_without_a_default_is_refused_when_missing() -> None:
    for found in VARIABLE.finditer(COMPOSE):
        assert found["kind"] in {"?", "-"}, found["name"]


def test_settings_of_understudy_are_ones_it_reads_and_none_is_forgotten() -> None:
    read = set(
        re.findall(r"\"(UNDERSTUDY_[A-Z_]+)\"", (REPO / "plugins" / "understudy" / "settings.py").read_text())
    )
    for service in ("scheduler", "worker-default", "triggerer", "api-server", "gateway-1"):
        # Who serves models holds no key that signs promotions, and one service alone takes what others sign.
        kept = {"UNDERSTUDY_SIGNING_KEY"} if service == "gateway-1" else set()
        kept |= {"UNDERSTUDY_WEBHOOK_KEY"} if service != "api-server" else set()
        assert {name for name in _environment(service) if name.startswith("UNDERSTUDY_")} == read - kept
        assert "MLFLOW_TRACKING_URI" in _environment(service)


def test_settings_of_airflow_are_ones_it_knows() -> None:
    from airflow.configuration import conf

    known = {
        f"AIRFLOW__{section.upper()}__{key.upper()}"
        for section, body in conf.configuration_description.items()
        for key in body["options"]
    }
    used = {name for service in SERVICES for name in _environment(service) if name.startswith("AIRFLOW__")}
    assert used <= known | CELERY_PROVIDER_OPTIONS


def test_images_are_pinned() -> None:
    lines = re.findall(r"^FROM (\S+)", (REPO / "Dockerfile").read_text(), re.MULTILINE)
    images = {service["image"] for service in SERVICES.values()} - {"understudy:local"}
    for image in [*lines, *images]:
        assert re.search(r":\d+\.\d+", image), image


def test_what_the_dockerfile_copies_exists_and_is_let_through() -> None:
    dockerfile = (REPO / "Dockerfile").read_text()
    allowed = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (REPO / source).exists(), source
        assert source in allowed, f"{source} is shut out by .dockerignore"
    assert {"dags", "plugins", "config", "experiments", "expectations"} <= set(copied)


def test_folders_that_volumes_cover_belong_to_the_user_of_the_image() -> None:
    made = re.search(r"install -d .*", (REPO / "Dockerfile").read_text())
    assert made
    for name, service in SERVICES.items():
        if service["image"] == "understudy:local":
            for mount in service.get("volumes", []):
                assert mount.split(":")[1] in made.group().split(), f"{name}: {mount}"


def test_the_python_of_the_image_is_one_the_project_supports() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    from packaging.specifiers import SpecifierSet

    for version in re.findall(r"^FROM python:(\d+\.\d+)", (REPO / "Dockerfile").read_text(), re.MULTILINE):
        assert f"{version}.0" in SpecifierSet(project["requires-python"])
