"""The hashes at which the gateway's arms begin are those at which flagd's buckets do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from understudy.exposure import TOTAL_WEIGHT, _edges, weights


@given(percent=st.floats(0, 100))
def test_an_arm_begins_with_the_first_hash_of_its_first_bucket(percent: float) -> None:
    challenger, unexposed, _ = weights(percent)
    for edge, bucket in zip(_edges(percent), (challenger, challenger + unexposed), strict=True):
        assert edge == 0 or (edge - 1) * TOTAL_WEIGHT >> 32 < bucket
        assert edge * TOTAL_WEIGHT >> 32 >= bucket
