"""What a user declares: typed models of an experiment file, its loader and its JSON Schema."""

from understudy.spec.decisions import Budget, Limits, Risk
from understudy.spec.loader import find, load, load_all, validate_folder
from understudy.spec.metrics import SERVED_VALUES, Better, Metric, MetricKind, Role
from understudy.spec.models import (
    Check,
    Data,
    Evaluation,
    Experiment,
    OffPolicy,
    Registry,
    Shadow,
    Stage,
    Traffic,
)

__all__ = [
    "SERVED_VALUES",
    "Better",
    "Budget",
    "Check",
    "Data",
    "Evaluation",
    "Experiment",
    "Limits",
    "Metric",
    "MetricKind",
    "OffPolicy",
    "Registry",
    "Risk",
    "Role",
    "Shadow",
    "Stage",
    "Traffic",
    "find",
    "load",
    "load_all",
    "validate_folder",
]
