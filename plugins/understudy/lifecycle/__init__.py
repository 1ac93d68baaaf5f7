"""The steps of a run, in order: each reads, decides, records and acts, and is safe to run again."""

from understudy.lifecycle.check_data import check_data
from understudy.lifecycle.compare import compare
from understudy.lifecycle.evaluate import evaluate
from understudy.lifecycle.expose import abort, conclude_stage, raise_exposure
from understudy.lifecycle.guard import look
from understudy.lifecycle.preregister import begin
from understudy.lifecycle.promote import promote
from understudy.lifecycle.report import report
from understudy.lifecycle.shadow import shadow

__all__ = [
    "abort",
    "begin",
    "check_data",
    "compare",
    "conclude_stage",
    "evaluate",
    "look",
    "promote",
    "raise_exposure",
    "report",
    "shadow",
]
