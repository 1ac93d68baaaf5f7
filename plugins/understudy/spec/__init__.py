"""What a user declares: typed models of an experiment file, its loader and its JSON Schema."""

from understudy.spec.loader import find, load, load_all, validate_folder
from understudy.spec.models import (
    Check,
    Data,
    Evaluation,
    Experiment,
    Metric,
    MetricKind,
    Registry,
    Role,
    Shadow,
    Stage,
    Traffic,
)

__all__ = [
    "Check",
    "Data",
    "Evaluation",
    "Experiment",
    "Metric",
    "MetricKind",
    "Registry",
    "Role",
    "Shadow",
    "Stage",
    "Traffic",
    "find",
    "load",
    "load_all",
    "validate_folder",
]
