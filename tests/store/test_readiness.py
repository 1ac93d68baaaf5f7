"""What looks at rollback points found, and the feature sets, as the store has them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.declared import MODEL
from tests.store.conftest import Start
from understudy.errors import FeatureSetMismatch
from understudy.store import Store, exposures, feature_sets, ledger, readiness
from understudy.store.feature_sets import FeatureSet

SET = FeatureSet(MODEL, "first", (("wind", "double"), ("hour", "long")), "a" * 64, "c" * 64)


def test_the_newest_look_counts_and_none_is_overwritten(store: Store) -> None:
    good = readiness.Readiness("run", MODEL, "1", True, "It leads back.", (), 0.5, 1.0)
    bad = replace(good, ready=False, sentence="It does not.", problems=("one", "two"), at=0.5)
    with store.write() as connection:
        assert readiness.newest(connection, "run") is None
        for found in (good, bad):
            readiness.record(connection, found)
            assert readiness.newest(connection, "run") == found
        assert readiness.newest(connection, "other") is None


def test_a_feature_set_keeps_the_order_of_its_columns_and_never_changes(store: Store) -> None:
    with store.write() as connection:
        assert feature_sets.register(connection, SET, actor="Ada", at=1.0) == SET
        assert feature_sets.register(connection, SET, actor="Bob", at=2.0) == SET
        for other in (
            replace(SET, columns=SET.columns[::-1]),
            replace(SET, transformation="b" * 64),
            replace(SET, snapshot="b" * 64),
        ):
            with pytest.raises(FeatureSetMismatch):
                feature_sets.register(connection, other, actor="Ada", at=3.0)
        feature_sets.register(connection, replace(SET, name="a second"), actor="Ada", at=4.0)
        found = feature_sets.every(connection, MODEL)
        actions = [entry.action for entry in ledger.entries(connection)]
    assert [item.name for item in found] == ["first", "a second"]
    assert found[0] == SET
    assert actions == ["feature_set.registered"] * 2


def test_the_active_set_stays_through_everything_that_changes_what_is_served(
    store: Store, start: Start
) -> None:
    run = start()
    with store.write() as connection:
        before = exposures.set_feature_sets(connection, MODEL, "first", "second", at=1.0)
        assert exposures.set_feature_sets(connection, MODEL, "first", "second", at=2.0) == before
        mirrored = exposures.stand_by(connection, run.run_id, mirror=True, at=3.0)
        raised = exposures.raise_to(connection, run.run_id, 1, 5.0, 30.0, at=store.clock())
        dropped = exposures.drop(connection, MODEL, actor="a", reason="r", at=4.0)
        moved = exposures.set_champion(connection, MODEL, "3", at=5.0)
    served = [before, mirrored, raised, dropped, moved]
    assert [item.feature_set for item in served] == ["first"] * 5
    assert [item.challenger_feature_set for item in served] == ["second"] * 5
    assert [item.generation for item in served] == list(range(before.generation, before.generation + 5))
