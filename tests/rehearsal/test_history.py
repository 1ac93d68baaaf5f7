"""What is known of the champion: the same whoever reads it, and honest about what lasts."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from tests.rehearsal.scenes import past
from understudy.rehearsal.history import History


def test_a_history_comes_back_from_its_arrays_with_the_same_digest() -> None:
    history = past()
    stored = io.BytesIO()
    np.savez_compressed(stored, **history.arrays())
    stored.seek(0)
    with np.load(stored, allow_pickle=False) as arrays:
        again = History.from_arrays(arrays)
    assert again.digest == history.digest
    assert again.to_dict() == history.to_dict()


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    arrays = past().arrays()
    with pytest.raises(ValueError, match="equally long"):
        History.from_arrays(arrays | {"at": arrays["at"][:-1]})
    with pytest.raises(KeyError):
        History.from_arrays({name: value for name, value in arrays.items() if name != "unit"})


def test_the_last_bits_of_a_number_do_not_change_the_digest_but_real_changes_do() -> None:
    history = past()
    assert history.with_values(numerator=history.numerator * (1 + 1e-15)).digest == history.digest
    assert history.with_values(numerator=history.numerator * (1 + 1e-6)).digest != history.digest
    assert history.with_values(span=history.span + 1).digest != history.digest


def test_the_summary_is_json_and_says_what_the_traffic_is_like() -> None:
    summary = past(units=400, events=6000, span=120.0).to_dict()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["events_per_second"] == pytest.approx(50)
    assert summary["events_per_unit"] == pytest.approx(15)
    assert summary["label_missing_share"] == pytest.approx(0.05, abs=0.02)
    assert summary["metrics"]["brier"]["value"] == pytest.approx(0.2, abs=0.02)
    assert set(summary["metrics"]) == {"brier", "errors"}


def test_what_makes_a_unit_peculiar_lasts_when_it_does_and_not_when_it_does_not() -> None:
    assert past(unit_spread=0.0, error_rate=0.0).persistence < 0.2
    assert past(unit_spread=0.3, error_rate=0.0).persistence > 0.9


def test_peers_share_their_usual_cohort_and_stand_by_activity() -> None:
    history = past()
    order, place, first, last = history.peers
    assert (order[place] == np.arange(history.units)).all()
    busy = np.bincount(history.unit)[order]
    for begin, end in {(int(a), int(b)) for a, b in zip(first, last, strict=True)}:
        assert (np.diff(busy[begin : end + 1]) >= 0).all()
    assert len({int(value) for value in first}) == 2
