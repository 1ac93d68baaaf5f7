"""Holds a measured number against the limit that the spec tolerates."""

from __future__ import annotations

import math

from understudy.verdicts import Outcome, Verdict

__all__ = ["at_most"]


def at_most(name: str, value: float, limit: float, what: str) -> Verdict:
    """Judge a number that may not exceed a limit; both are kept, so that the judgement can be made again.

    Args:
        name: What was measured; reason codes begin with it.
        value: The measurement; one that is not finite was none.
        limit: The largest tolerated value.
        what: Follows the value in the sentence, such as ``"of the requests failed"``.
    """
    numbers = {"value": value if math.isfinite(value) else None, "limit": limit}
    if not math.isfinite(value):
        return Verdict(Outcome.ERROR, f"{name}_unmeasured", f"{name} could not be measured.", numbers, name)
    # Shares of counts meet their limit exactly now and then; rounding must not decide that.
    if value <= limit + 1e-12:
        return Verdict(
            Outcome.PASS, f"{name}_tolerated", f"{value:.4g} {what}; {limit:.4g} is tolerated.", numbers, name
        )
    return Verdict(
        Outcome.FAIL, f"{name}_too_high", f"{value:.4g} {what}; only {limit:.4g} is tolerated.", numbers, name
    )
