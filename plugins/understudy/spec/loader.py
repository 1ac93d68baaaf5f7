"""Reads experiment files and says exactly where and how one breaks a rule."""

from __future__ import annotations

import difflib
import types
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from understudy.errors import NoSuchExperiment, SpecInvalid
from understudy.spec.models import Experiment

__all__ = ["find", "load", "load_all", "validate_folder"]

_SUFFIXES = (".yaml", ".yml")
# The C parser where PyYAML was built with it: every DAG file parse reads every experiment.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(path: Path) -> Experiment:
    """Read one experiment file.

    Args:
        path: The YAML file; its stem must be the experiment's name.

    Returns:
        The typed experiment.

    Raises:
        SpecInvalid: With one line per broken rule: file, line, field, rule and fix.
    """
    try:
        root, content = _parse(path.read_text(encoding="utf-8"))
        _refuse_repeated_fields(path, root)
    except OSError as error:
        raise SpecInvalid(
            f"{path.name}: cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{path.name}:{_yaml_problem(error)}") from error
    except RecursionError as error:
        raise SpecInvalid(f"{path.name}:1: is nested too deeply to be an experiment. Flatten it.") from error
    if not isinstance(content, dict):
        raise SpecInvalid(
            f"{path.name}:1: the file must be a mapping of fields, but holds {type(content).__name__}."
        )
    try:
        experiment = Experiment.model_validate(content)
    except ValidationError as error:
        raise SpecInvalid("\n".join(_problems(path, root, error))) from error
    if experiment.name != path.stem:
        line = _line(root, ("name",))
        raise SpecInvalid(
            f"{path.name}:{line}: name: is {experiment.name!r}, but must be the file's own name {path.stem!r}. "
            "Rename one of them."
        )
    return experiment


def load_all(folder: Path) -> list[Experiment]:
    """Read every experiment file of a folder, in the order of their names.

    Raises:
        SpecInvalid: At least one file breaks a rule; all problems of all files are named.
    """
    experiments, problems = validate_folder(folder)
    if problems:
        raise SpecInvalid("\n".join(error.message for error in problems.values()))
    return experiments


def validate_folder(folder: Path) -> tuple[list[Experiment], dict[Path, SpecInvalid]]:
    """Read every experiment file of a folder and keep the good ones apart from the broken ones."""
    experiments: list[Experiment] = []
    problems: dict[Path, SpecInvalid] = {}
    for path in sorted(path for path in folder.glob("*") if path.suffix in _SUFFIXES):
        try:
            experiments.append(load(path))
        except SpecInvalid as error:
            problems[path] = error
    return experiments, problems


def find(folder: Path, name: str) -> Experiment:
    """Read the experiment of a given name.

    Raises:
        NoSuchExperiment: The folder has no such file; close names are offered.
        SpecInvalid: The file breaks a rule.
    """
    for suffix in _SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return load(path)
    known = sorted(path.stem for path in folder.glob("*") if path.suffix in _SUFFIXES)
    raise NoSuchExperiment(
        f"There is no experiment {name!r} in {folder}.{_did_you_mean(name, known)} "
        f"Known experiments: {', '.join(known) or 'none'}."
    )


def _parse(text: str) -> tuple[yaml.Node | None, Any]:
    """Parse a file once, into nodes that know their lines and into plain values."""
    parser = _LOADER(text)
    try:
        root = parser.get_single_node()
        return root, None if root is None else parser.construct_document(root)
    finally:
        parser.dispose()


def _problems(path: Path, root: yaml.Node | None, error: ValidationError) -> list[str]:
    """Return one sentence per broken rule, in the order of the file's lines."""
    found = [(_clean(problem["loc"]), problem) for problem in error.errors()]
    # A list whose items are broken is also reported as too short; only the items are worth reading.
    inner = {location[:depth] for location, _ in found for depth in range(1, len(location))}
    kept = [pair for pair in found if not (pair[1]["type"] == "too_short" and pair[0] in inner)]
    kept.sort(key=lambda pair: _line(root, pair[0]))
    return [_problem(path, root, location, problem) for location, problem in kept]


def _clean(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in location if not (isinstance(part, str) and part.startswith("function-")))


def _problem(path: Path, root: yaml.Node | None, location: tuple[int | str, ...], problem: Any) -> str:
    field = ".".join(str(part) for part in location) or "experiment"
    where = f"{path.name}:{_line(root, location)}: {field}"
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        allowed = _allowed_fields(location[:-1])
        return (
            f"{where}: unknown field.{_did_you_mean(str(location[-1]), allowed)} "
            f"Allowed here: {', '.join(allowed)}. Rename or remove it."
        )
    if kind == "missing":
        return f"{where}: required field is missing. Add it."
    rule = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(value, (dict, list, tuple)) or kind == "value_error" else f" (found {value!r})"
    hint = ""
    expected = problem.get("ctx", {}).get("expected")
    if expected and isinstance(value, str):
        hint = _did_you_mean(
            value, [word.strip("' ") for word in str(expected).replace(" or ", ",").split(",")]
        )
    return f"{where}: {rule}{shown}.{hint}"


def _refuse_repeated_fields(path: Path, node: yaml.Node | None) -> None:
    """Refuse a field that stands twice in one mapping: YAML would silently take the last one."""
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, line) != line:
                raise SpecInvalid(
                    f"{path.name}:{line}: {key.value}: stands here and in line {first[key.value]}. Only one of them could "
                    "count; remove the other."
                )
            _refuse_repeated_fields(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_fields(path, item)


def _line(root: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Return the line of the deepest part of a location that stands in the file."""
    node, line = root, 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _allowed_fields(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Experiment
    for part in location:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for argument in get_args(annotation) if (found := _model_in(argument))), None)


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    what = " ".join(str(getattr(error, "problem", None) or error).split())
    where = f"{mark.line + 1}: " if mark else " "
    return f"{where}not valid YAML: {what}. Check indentation, quotes and colons there, and that the file is UTF-8 text."
