"""Rehearses a policy before anybody is exposed: its error rates, its delays and the harm it lets through.

Pure: the champion's past (`History`) and a spec in, a `Report` out. The runs are judged by `understudy.policy` itself, many
at once; what is simulated is only the traffic and what the challenger does to it.

Example::

    report = rehearse(experiment, history, progress=lambda part, what: print(f"{part:.0%} {what}"))
    if not report.met:
        fix = smallest_fix(experiment, history, [item for item in report.ceilings if not item.met])
"""

from understudy.rehearsal.fixes import Fix, smallest_fix
from understudy.rehearsal.history import History
from understudy.rehearsal.plan import MetricPlan, StagePlan, plan_of
from understudy.rehearsal.rehearse import Progress, rehearse
from understudy.rehearsal.report import RULE, Ceiling, Delay, Report, Share, WorldResult
from understudy.rehearsal.worlds import Effect, Shape, Truth, World, worlds_of

__all__ = [
    "RULE",
    "Ceiling",
    "Delay",
    "Effect",
    "Fix",
    "History",
    "MetricPlan",
    "Progress",
    "Report",
    "Shape",
    "Share",
    "StagePlan",
    "Truth",
    "World",
    "WorldResult",
    "plan_of",
    "rehearse",
    "smallest_fix",
    "worlds_of",
]
