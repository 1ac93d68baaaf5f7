"""The house stays as planned: imports point down, DAG files stay light, files stay small."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "plugins" / "understudy"
DAGS = sorted((REPO / "dags").glob("*.py"))
OWN = [
    path
    for folder in ("plugins", "dags", "config", "examples", "bench", "tests")
    for path in sorted((REPO / folder).rglob("*.py"))
]
MIGRATIONS = PACKAGE / "store" / "migrations"
HEAVY = ("mlflow", "great_expectations", "sklearn", "scipy.stats", "duckdb", "pandas", "altair", "pyarrow")
MAX_LINES = 400
MAX_FUNCTION_LINES = 45  # past 40 a function should make one think, past this it has to go


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _short(path: Path) -> str:
    return str(path.relative_to(REPO))


def test_imports_only_point_down() -> None:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=REPO, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_there_are_dag_files() -> None:
    assert DAGS


@pytest.mark.parametrize("path", DAGS, ids=_short)
def test_a_dag_file_imports_neither_mlflow_nor_great_expectations(path: Path) -> None:
    roots = {name.partition(".")[0] for name in _imported(ast.parse(path.read_text()))}
    assert not roots & {"mlflow", "great_expectations", "sklearn", "pandas", "scipy", "duckdb"}


@pytest.fixture(scope="module")
def parse(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Parse every DAG file in a fresh process, as the DAG processor does, and tell what that imported."""
    home = tmp_path_factory.mktemp("parse")
    script = """
import importlib.util, json, sys, time
import airflow.sdk, airflow.dag_processing.dagbag
from airflow.sdk.definitions._internal.contextmanager import DagContext
before, began = set(sys.modules), time.perf_counter()
for number, path in enumerate(sys.argv[1:]):
    spec = importlib.util.spec_from_file_location(f"parsed_{number}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    DagContext.current_autoregister_module_name = module.__name__
    spec.loader.exec_module(module)
dags = sorted(dag.dag_id for dag, _ in DagContext.autoregistered_dags)
print(json.dumps({"seconds": time.perf_counter() - began, "modules": sorted(set(sys.modules) - before), "dags": dags}))
"""
    env = {**os.environ, "AIRFLOW_HOME": str(home), "UNDERSTUDY_HOME": str(home / "understudy")}
    env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # nobody listens there: a parse must not ask anybody
    began = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, DAGS)],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    print(
        f"parse of dags/: {answer['seconds']:.2f} s beyond importing airflow, {time.perf_counter() - began:.1f} s in all"
    )
    return answer


def test_parsing_the_dags_loads_nothing_heavy(parse: dict[str, object]) -> None:
    loaded = [
        name
        for name in parse["modules"]
        if any(name == heavy or name.startswith(heavy + ".") for heavy in HEAVY)
    ]
    assert not loaded


def test_parsing_finds_the_rollback_and_one_dag_for_each_experiment(parse: dict[str, object]) -> None:
    experiments = {f"experiment__{path.stem}" for path in (REPO / "experiments").glob("*.yaml")}
    found = set(parse["dags"])
    assert "rollback" in found
    assert len({dag for dag in found if dag.startswith("experiment__")}) == len(experiments)


@pytest.mark.parametrize("path", OWN, ids=_short)
def test_a_file_is_short_enough_to_read_in_one_go(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MAX_LINES


@pytest.mark.parametrize(
    "path", [path for path in OWN if PACKAGE in path.parents and MIGRATIONS not in path.parents], ids=_short
)
def test_a_function_does_one_thing(path: Path) -> None:
    long = [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := _body_lines(node)) > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", OWN, ids=_short)
def test_a_module_is_named_after_what_it_is_about(path: Path) -> None:
    assert path.stem not in {"utils", "util", "common", "helpers", "misc", "base", "types"}


def test_airflow_scans_nothing_under_plugins_but_the_registration_file() -> None:
    scanned = sorted(path.name for path in (REPO / "plugins").glob("*.py"))
    ignored = (REPO / "plugins" / ".airflowignore").read_text().splitlines()
    assert scanned == ["understudy_plugin.py"]
    assert "understudy/" in ignored


@pytest.mark.parametrize("path", OWN, ids=_short)
def test_no_file_names_a_path_of_one_machine(path: Path) -> None:
    text = path.read_text()
    assert not [
        name for name in ("/home/", "/Users/", "/root/") if name in text and path != Path(__file__).resolve()
    ]
