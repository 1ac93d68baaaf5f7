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
    Traffic,
)
from understudy.spec.restoration import Consumer, Drill, Restoration, Scenario
from understudy.spec.serving import Breaker, CriticalPath, Headers, Spike, Trial
from understudy.spec.stages import Reach, Stage, reach_of

__all__ = [
    "SERVED_VALUES",
    "Better",
    "Breaker",
    "Budget",
    "Check",
    "Consumer",
    "CriticalPath",
    "Data",
    "Drill",
    "Evaluation",
    "Experiment",
    "Headers",
    "Limits",
    "Metric",
    "MetricKind",
    "OffPolicy",
    "Reach",
    "Registry",
    "Restoration",
    "Risk",
    "Role",
    "Scenario",
    "Shadow",
    "Spike",
    "Stage",
    "Traffic",
    "Trial",
    "find",
    "load",
    "load_all",
    "reach_of",
    "validate_folder",
]
