"""Experiment files: every broken rule is told with file, line, field, rule and fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import declared
from understudy.errors import NoSuchExperiment, SpecInvalid
from understudy.spec import find, load, load_all, validate_folder

FILE = "delay_test.yaml"


def text(**changes: Any) -> str:
    return yaml.safe_dump(declared.content(**changes), sort_keys=False)


def line_of(written: str, start: str) -> int:
    """Return the number of the first line that starts with a text, after its indentation."""
    return next(n for n, line in enumerate(written.splitlines(), 1) if line.lstrip(" -").startswith(start))


def problems(tmp_path: Path, written: str | bytes, name: str = FILE) -> list[str]:
    path = tmp_path / name
    path.write_bytes(written.encode() if isinstance(written, str) else written)
    with pytest.raises(SpecInvalid) as caught:
        load(path)
    return caught.value.message.splitlines()


def stages(*percents: float, **changes: Any) -> list[dict[str, Any]]:
    return [declared.content()["stages"][0] | {"percent": percent} | changes for percent in percents]


def metric(**changes: Any) -> list[dict[str, Any]]:
    """Return the metrics with the first one changed; a field set to None is left out."""
    first, *rest = declared.content()["metrics"]
    changed = {key: value for key, value in (first | changes).items() if value is not None}
    return [changed, *rest]


def traffic(**changes: Any) -> dict[str, Any]:
    return dict(declared.content()["traffic"]) | changes


BROKEN: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the file, the start of the line that is named, what is said)
    "a typo in a field": (
        text() + "hypotesis: x\n",
        "hypotesis",
        "unknown field. Did you mean 'hypothesis'?",
    ),
    "a typo deeper down": (
        text(stages=stages(5, soack="3s")),
        "soack",
        "stages.0.soack: unknown field. Did you mean 'soak'?",
    ),
    "an unknown metric kind": (
        text(metrics=metric(kind="briar")),
        "kind: briar",
        "(found 'briar'). Did you mean 'brier'?",
    ),
    "an unknown role": (
        text(metrics=metric(role="boss")),
        "role: boss",
        "'primary', 'guardrail' or 'watched'",
    ),
    "a missing field": (text(owner=None), "name", "owner: required field is missing. Add it."),
    "stages out of order": (text(stages=stages(25, 5)), "stages", "stages must climb, but are 25 → 5"),
    "a stage twice": (text(stages=stages(5, 5)), "stages", "without repeats"),
    "no stages": (text(stages=[]), "stages", "at least 1 item"),
    "a timeout as long as the soak": (
        text(stages=stages(5, soak="1m", timeout="60s")),
        "percent: 5",
        "timeout (60s) must be longer than soak (60s)",
    ),
    "a stage finer than the weights": (text(stages=stages(0.0001)), "percent", "0.001"),
    "a stage above everybody": (text(stages=stages(101)), "percent", "less than or equal to 100 (found 101)"),
    "a stage that is no number": (text(stages=stages(float("nan"))), "percent", "finite"),
    "a lease that one slow look would end": (
        text(lease="9s", look_every="5s", stale_after="1s"),
        "name",
        "lease (9s) must be at least twice look_every (5s)",
    ),
    "evidence staler than the lease": (
        text(stale_after="30s"),
        "name",
        "stale_after (30s) must be shorter than lease (30s)",
    ),
    "a metric twice": (text(metrics=metric(name="errors")), "metrics", "'errors' is declared twice"),
    "no primary": (
        text(metrics=metric(role="guardrail")),
        "metrics",
        "exactly one metric must have role primary",
    ),
    "two primaries": (
        text(metrics=[*declared.content()["metrics"], metric(name="other")[0]]),
        "metrics",
        "exactly one metric must have role primary",
    ),
    "no guardrail": (text(metrics=metric()[:1]), "metrics", "nothing could stop a harmful challenger"),
    "a guardrail without a margin": (text(metrics=metric(margin=None)), "name: brier", "needs `margin`"),
    "a margin of zero": (text(metrics=metric(margin=0)), "margin: 0", "greater than 0"),
    "a limit without latency": (text(metrics=metric(limit_ms=5)), "name: brier", "`limit_ms` belongs to"),
    "latency without a limit": (
        text(metrics=metric(kind="latency_over")),
        "name: brier",
        "latency_over needs it",
    ),
    "a check twice": (
        text(checks=[{"suite": "rows", "dataset": "holdout"}] * 2),
        "name",
        "'rows on holdout' is declared twice",
    ),
    "an unknown dataset": (
        text(checks=[{"suite": "rows", "dataset": "holdut"}]),
        "dataset",
        "Did you mean 'holdout'?",
    ),
    "a cron of six fields": (text(schedule="0 0 6 * * 1"), "schedule", "cron expression of five fields"),
    "no cron at all": (text(schedule="every monday"), "schedule", "cron expression of five fields"),
    "an impossible cron": (text(schedule="61 * * * *"), "schedule", "cron expression of five fields"),
    "an empty cron": (text(schedule=""), "schedule", "cron expression of five fields"),
    "a duration in words": (text(lease="ten minutes"), "lease", "write a number and a unit, like 30s"),
    "a duration without a unit": (text(lease="30"), "lease", "not a duration"),
    "a negative duration": (text(look_every=-5), "look_every", "greater than 0"),
    "a duration without end": (text(look_every=float("inf")), "look_every", "finite"),
    "an alpha that is no number": (text(alpha=float("nan")), "alpha", "finite"),
    "an alpha too large": (text(alpha=0.5), "alpha", "less than or equal to 0.2"),
    "a path that leaves the data folder": (
        text(data=declared.content()["data"] | {"holdout": "../../etc/passwd"}),
        "holdout",
        "leaves the data folder",
    ),
    "an absolute path": (
        text(data=declared.content()["data"] | {"reference": "/etc/passwd"}),
        "reference",
        "leaves the data folder",
    ),
    "a private cohort": (
        text(traffic=traffic(cohorts=["pilot"])),
        "traffic",
        "cohorts is written to the log",
    ),
    "the unit as a cohort": (text(traffic=traffic(cohorts=["tailnum"])), "traffic", "name another column"),
    "the unit as event id": (text(traffic=traffic(event_id="tailnum")), "traffic", "event_id is written"),
    "a name of another file": (text(name="other"), "name", "must be the file's own name 'delay_test'"),
    "a name no DAG can have": (text(name="Delay Test"), "name", "pattern"),
    "a field twice": (text() + "alpha: 0.05\nalpha: 0.2\n", "alpha: 0.2", "stands here and in line"),
    "a number as a field": (text() + "1: 2\n", "name", "Keys should be strings"),
}


@pytest.mark.parametrize(("written", "line", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_rule_is_told_with_its_line_and_what_to_do(
    tmp_path: Path, written: str, line: str, said: str
) -> None:
    (told,) = problems(tmp_path, written)
    assert told.startswith(f"{FILE}:{line_of(written, line)}: ")
    assert said in told


NO_YAML: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", f"{FILE}:1: the file must be a mapping of fields, but holds NoneType."),
    "a list": ("- a\n- b\n", f"{FILE}:1: the file must be a mapping of fields, but holds list."),
    "a sentence": ("Dear reader", f"{FILE}:1: the file must be a mapping of fields, but holds str."),
    "an open bracket": ("name: x\nstages: [1, 2\n", f"{FILE}:3: not valid YAML"),
    "a tab": ("name: x\n\tmodel: y\n", f"{FILE}:2: not valid YAML"),
    "two documents": ("name: x\n---\nname: y\n", f"{FILE}:2: not valid YAML"),
    "a tag that would run code": (
        "name: !!python/object/apply:os.system [ls]\n",
        f"{FILE}:1: not valid YAML: could not determine a constructor",
    ),
    "Latin-1": ("name: caf\xe9\n".encode("latin-1"), f"{FILE}: not valid YAML"),
    "bytes": (b"\x00\x01\x02", f"{FILE}: not valid YAML"),
    "too deep": ("[" * 5000 + "]" * 5000, f"{FILE}:1: is nested too deeply"),
    "itself": ("&a [*a]", f"{FILE}:1:"),
}


@pytest.mark.parametrize(("written", "said"), NO_YAML.values(), ids=NO_YAML.keys())
def test_what_is_no_experiment_file_at_all_is_one_clear_line(
    tmp_path: Path, written: str | bytes, said: str
) -> None:
    (told,) = problems(tmp_path, written)
    assert told.startswith(said)


def test_all_problems_of_a_file_are_told_at_once_in_the_order_of_its_lines(tmp_path: Path) -> None:
    written = text(alpha=9, stages=stages(5, soak="x"), owner="") + "lese: 3s\n"
    told = problems(tmp_path, written)
    lines = [int(problem.split(":")[1]) for problem in told]
    assert len(told) == 4
    assert lines == sorted(lines)


def test_a_file_that_is_not_there_or_not_a_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(SpecInvalid, match="cannot be read"):
            load(path)


DURATIONS = [("90s", 90.0), ("5m", 300.0), ("2h", 7200.0), ("7d", 604800.0), ("1.5 m", 90.0), (45, 45.0)]


@pytest.mark.parametrize(("written", "seconds"), DURATIONS)
def test_durations_are_read_as_seconds(written: object, seconds: float) -> None:
    assert declared.experiment(traffic=traffic(maturity=written)).traffic.maturity == seconds


@pytest.mark.parametrize("cron", [None, "0 6 * * 1", "*/5 * * * *", "@daily"])
def test_crons_of_five_fields_and_their_names_are_accepted(cron: str | None) -> None:
    assert declared.experiment(schedule=cron).schedule == cron


def test_a_folder_is_read_in_the_order_of_names_and_the_good_are_kept_from_the_broken(tmp_path: Path) -> None:
    for name in ("b", "a"):
        declared.write(tmp_path, name=name)
    assert [found.name for found in load_all(tmp_path)] == ["a", "b"]
    (tmp_path / "c.yml").write_text("nope: 1")
    (tmp_path / "notes.txt").write_text("not an experiment")
    good, broken = validate_folder(tmp_path)
    assert ([found.name for found in good], [path.name for path in broken]) == (["a", "b"], ["c.yml"])
    with pytest.raises(SpecInvalid, match=r"c\.yml"):
        load_all(tmp_path)


def test_an_unknown_experiment_is_answered_with_the_nearest_and_the_known(tmp_path: Path) -> None:
    declared.write(tmp_path)
    assert find(tmp_path, "delay_test").name == "delay_test"
    with pytest.raises(NoSuchExperiment, match=r"Did you mean 'delay_test'\? Known experiments: delay_test"):
        find(tmp_path, "delay_tset")
    with pytest.raises(NoSuchExperiment, match="Known experiments: none"):
        find(tmp_path / "nowhere", "delay_test")


LAYOUTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "sorted": lambda content: yaml.safe_dump(content),
    "in flow style": lambda content: yaml.safe_dump(content, default_flow_style=True, width=40),
    "with comments": lambda content: "# a comment\n\n" + yaml.safe_dump(content, indent=6),
    "with durations in seconds": lambda content: yaml.safe_dump(content | {"lease": 30, "look_every": 5.0}),
    "with defaults written out": lambda content: yaml.safe_dump(content | {"alpha": 0.05, "schedule": None}),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_digest_does_not_depend_on_the_layout(
    tmp_path: Path, layout: Callable[[dict[str, Any]], str]
) -> None:
    (tmp_path / FILE).write_text(layout(declared.content()))
    assert load(tmp_path / FILE).digest() == declared.experiment().digest()


@pytest.mark.parametrize(
    "changes", [{"alpha": 0.04}, {"owner": "x"}, {"stages": stages(1)}, {"lease": "31s"}]
)
def test_the_digest_changes_with_the_content(changes: dict[str, Any]) -> None:
    assert declared.experiment(**changes).digest() != declared.experiment().digest()


def test_the_digest_is_pinned() -> None:
    # Digests are in ledgers: the same content must give the same digest after every upgrade.
    assert declared.experiment().digest() == PINNED


PINNED = "2b20d016004498944cd116ed3472e2777cc1a31163d8025ded0e7131097f5de7"
