from __future__ import annotations

import pytest
from airflow.sdk import RetryAction

from understudy.errors import DataMissing, StepNotPassed, Unreachable
from understudy.orchestration.retries import RETRY_POLICY


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (Unreachable("MLflow does not answer."), RetryAction.RETRY),
        (StepNotPassed("evaluate", {"outcome": "FAIL", "sentence": "Worse."}), RetryAction.FAIL),
        (DataMissing("No rows."), RetryAction.FAIL),
        (OSError("connection reset"), RetryAction.DEFAULT),
    ],
)
def test_only_what_may_pass_by_itself_is_tried_again(error: Exception, action: RetryAction) -> None:
    assert RETRY_POLICY.evaluate(error, try_number=1, max_tries=2).action is action
