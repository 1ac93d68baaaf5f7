"""The steps of a run, in order: each reads, decides, records and acts, and is safe to run again."""

from understudy.lifecycle import check_data as _check_data
from understudy.lifecycle import compare as _compare
from understudy.lifecycle import critical_path as _critical_path
from understudy.lifecycle import evaluate as _evaluate
from understudy.lifecycle import expose as _expose
from understudy.lifecycle import guard as _guard
from understudy.lifecycle import promote as _promote
from understudy.lifecycle import report as _report
from understudy.lifecycle import shadow as _shadow
from understudy.lifecycle import spike as _spike
from understudy.lifecycle.preregister import begin
from understudy.session import traced

abort = traced(_expose.abort)
check_data = traced(_check_data.check_data)
compare = traced(_compare.compare)
conclude_stage = traced(_expose.conclude_stage)
critical_path = traced(_critical_path.critical_path)
evaluate = traced(_evaluate.evaluate)
look = traced(_guard.look)
promote = traced(_promote.promote)
raise_exposure = traced(_expose.raise_exposure)
report = traced(_report.report)
shadow = traced(_shadow.shadow)
spike = traced(_spike.spike)

__all__ = [
    "abort",
    "begin",
    "check_data",
    "compare",
    "conclude_stage",
    "critical_path",
    "evaluate",
    "look",
    "promote",
    "raise_exposure",
    "report",
    "shadow",
    "spike",
]
